// Package e2e runs Precept on real parts: Temporal's dev server, an S3 gateway,
// the simulated endpoints, workers and the trainer with a tiny model, each a
// process of its own, and kills, freezes and starves them. Its tests need the build
// tag e2e and what `make tools build` and trainer/install.sh install; the environment
// variable PRECEPT_BIN names a folder of programs to take in their place.
package e2e
