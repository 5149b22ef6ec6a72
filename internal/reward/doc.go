// Package reward serves the judge over HTTP to one training job.
//
// The server listens on loopback for the job alone, with a token. It parts every
// completion into chain of thought and answer and shows the judge the answer
// only: no pressure shapes the chain of thought (arXiv 2412.16339, section on
// RL). A judge that is unavailable gives null, never 0.
//
// Words used here:
//
//   - Term: one part of the reward; the reward is the weighted sum of its terms.
//   - Missing: a reward that is null since the judge could not be asked. It is
//     asked for again where the step is.
//   - Lost: a reward that is null since no reply of the judge could be read. Asking
//     again gives the same.
//   - Group: the completions of one prompt in a step, which GRPO compares.
//   - Flat: a step none of whose groups has two rewards that differ: it teaches
//     nothing.
package reward
