// Package workflows says what happens in which order. Factory is one run: every
// stage from prompts to report, with the gates at which people decide. It is
// deterministic and does no I/O: rows never enter its history, only plans,
// counts and decisions do. It imports activities for their names only.
//
// A run hardly ever fails: when a stage has exhausted its retries the run waits
// at the failure gate, and resume goes on with what is missing.
package workflows
