// Package report writes what came of a run: Render an HTML page that needs
// nothing beside it, Text the evaluation table for a terminal.
//
//   - Data: everything the page shows. It is chosen by the caller: the page shows
//     all samples and examples that it is given.
//   - Finding: a comparison of two arms in words. It claims a difference only
//     where the two 95% intervals don't overlap, which is stricter than a test
//     at 5%; else it says that no difference is shown.
//   - Caveat: what a reader must know before believing a figure: simulated
//     endpoints, or a grader that also filtered or rewarded. Each figure and
//     table of the evaluation carries them.
//
// Model text is shown as text: escaped, folded where it may be harmful, and cut
// at a length that is said.
package report
