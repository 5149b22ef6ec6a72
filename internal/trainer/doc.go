// Package trainer runs the Python process that trains and serves, and speaks its
// protocol.
//
//   - Job: what the process is to do, one JSON file. Its fields are documented in
//     trainer/precept_trainer/job.py, whose names they share.
//   - Event: one JSON line of the process's standard output. Everything else it
//     prints goes to its log.
//
// A job is one process, or as many as it says: then each has a rank, as torchrun would give it, all are one
// group, and the first one speaks for them. torchrun itself puts them into sessions of their own, where
// no signal to the group reaches them, and hides how they ended.
//
// A process is a group of its own with a clean environment: it gets no secrets
// but those a job names. When its context ends it is asked to leave a checkpoint
// and then killed; when the worker dies, the kernel kills it.
package trainer
