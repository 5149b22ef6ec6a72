// Package reward serves the judge over HTTP to one training job.
//
// The server listens on loopback for the job alone, with a token. It parts every
// completion into chain of thought and answer and shows the judge the answer
// only: no pressure shapes the chain of thought (arXiv 2412.16339, section on
// RL). A judge that is unavailable gives null, never 0.
package reward
