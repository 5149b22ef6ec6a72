// Package judge asks a model for its opinion of a completion. One code serves
// the filter, the reward of RL and the grading of an evaluation; a role says
// which.
//
// Words used here:
//
//   - Role: what the opinion is for. It picks the rubric, what the judge sees
//     and how a vote's scores are folded. Only the filter sees the chain of
//     thought.
//   - Vote: one judge call's opinion.
//   - Lost vote: a call whose reply could not be read, after one request to
//     repair it, or that the provider refused.
//   - Classifier: a judge that tells a prompt's category and intent by the
//     summaries of all categories; a majority of its votes decides.
//   - Result: the votes on one completion; its score is their minimum. The filter's
//     also says whether to keep the completion: if every vote could be read, and
//     none is under the threshold.
//   - Early: voting ends at the first vote behind which the verdict can't change. For
//     the filter that is one under the threshold, or a lost one; for the others one
//     of 0. What is decided is the same as with all votes; the filter's score is
//     the minimum of those that were asked for.
package judge
