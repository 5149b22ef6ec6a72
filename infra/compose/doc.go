// Package compose holds the files that docker-compose.yml mounts, and the tests that keep
// them and it together.
package compose
