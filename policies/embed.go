// Package policies holds the built-in safety policy: one Markdown file a
// category, and style.md, the principles that all categories share. README.md
// describes the format and is not part of the policy.
package policies

import "embed"

// FS is the built-in policy folder.
//
//go:embed *.md
var FS embed.FS
