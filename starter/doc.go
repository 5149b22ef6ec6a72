// Starter is a friendly shell over what the Temporal CLI can also do with a run:
// start it, watch it, answer its gates, look at its rows, fetch its report.
//
//   - Server: the Temporal server as the commands see it.
//   - Sight: what one look at a run saw: its progress, its open tasks, its end,
//     or who did not answer.
//   - View: a sight made ready to be shown, with times and estimates.
//   - Screen: where a watch shows views: redrawn bars on a terminal, lines or
//     JSON elsewhere.
//   - Archive: what the store has of a run, its rows apart. Comparison: what two
//     archives, and the rows of their SFT sets, differ in.
//
// Prompts and answers are shown only where a person asks for them.
package main
