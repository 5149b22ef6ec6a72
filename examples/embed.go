// Package examples embeds the built-in prompts and the built-in evaluation
// suite, which a run uses when its spec names no others.
package examples

import "embed"

// Prompts holds prompts/<category>.jsonl.
//
//go:embed prompts/*.jsonl
var Prompts embed.FS

// Suites holds suites/heldout.jsonl.
//
//go:embed suites/*.jsonl
var Suites embed.FS
