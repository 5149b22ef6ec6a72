// Package prompts reads prompts from files of others and decides which of them
// stay.
//
//   - Import: a JSON Lines, CSV or Parquet file whose columns are mapped to
//     Precept's.
//   - Conversation: a list of turns; the prompt is what stands up to the user's
//     last one.
//   - Normal form: a prompt's text in lower case with white space and
//     punctuation folded; what duplicates are told by.
//   - Decontamination: a training prompt that shares a long run of words with an
//     evaluation suite is removed, so that a suite measures what was not trained.
package prompts
