// Package garbage finds what nothing in a store refers to, and removes it.
//
//   - Root: an object that says what is needed. All runs' manifests and inputs are
//     roots, and so are the plans of runs under way. A root that can't be read ends
//     everything: it never passes for one that refers to nothing.
//   - Reference: the key of an object, or the folder of many, that a root names or
//     that is reached from it.
//   - Young: written less than a grace period ago. Young objects are no garbage, and
//     young plans and jobs are roots, whoever wrote them: a run writes first and names
//     afterwards.
//   - Garbage: what no root reaches and is not young. A folder is garbage as a whole.
//
// What lies under runs/ is garbage only when the run is forgotten. The journal's
// segments hold answers that were paid for: only those are garbage that another segment
// has replaced, or that are older than a person says. Keys that are not of Precept's
// layout are counted, and left alone.
package garbage
