// Package process runs a program beside this one, once or as several ranks: a group of its own with an environment
// that its caller gives, whose output is kept in a log. When its context ends, the group
// is asked to end, and killed when it doesn't; when this program dies, the kernel kills it.
package process
