// Package serving serves one model to one caller, OpenAI-compatibly and on loopback.
//
//   - Server: the program that answers: vllm, transformers, or precept, the trainer's own.
//   - Job: the model to serve, under which name.
//   - Adapter: low-rank weights beside a model, which vllm serves without merging them.
//   - Parser: what tells vllm's chain of thought from its answer.
//
// A server runs as package process says: a group of its own, without secrets, gone when its
// context ends. It counts as started when it answers; where it ends before, or takes too
// long, the error holds the end of its log.
//
// Only folders are served, weights only from safetensors, and no code that lies beside them is run.
package serving
