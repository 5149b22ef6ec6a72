// Package rulebook holds a category policy as a judge reads it.
//
//   - Rule: a decision for requests of some acts about some kinds; one that
//     says "harming" or "harmful" holds for harmful requests only.
//   - Case: an example request with its rule; a request that is nearly the same
//     is decided like it.
//   - Verdict: the rule that decides a request, and its decision.
package rulebook
