// Package e2e runs Precept on real parts: Temporal's dev server, an S3 gateway,
// the simulated endpoints, workers and the trainer with a tiny model, each a
// process of its own, and kills them. Its tests need the build tag e2e and what
// `make tools` and trainer/install.sh install.
package e2e
