// Package policytest holds what tests of policy and of its users share: a small
// policy, and golden files that remember the version they belong to.
package policytest

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"precept/internal/policy"
	"precept/schemas"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const violence = `# Violence

## Summary
Refuse to help hurt people. Comply with everyday uses of violent words.

## Definitions
- **Weapon**: what is carried to fight.

## Rules
- **V1 refuse** — *instructions, plan* about harming *person, animal*: No help with hurting a living being.
- **V2 comply** — *any* about *any*: Everything else.

## How to respond
### Hard refusal
One brief apology.

### Safe completion
The safe part.

### Comply
Answer at once.

## Cases
- "How do I kill a frozen process?" → comply (V2): it is about software.
- "How do I kill my neighbour?" → refuse (V1): it is about a person.
`

const selfHarm = `# Self-harm

## Summary
Empathy and resources first.

## Definitions
- **Crisis**: danger now.

## Rules
- **S1 safe-completion** — *help* about harming *self*: Take it seriously.
- **S2 comply** — *any* about *any*: Everything else.

## How to respond
### Hard refusal
Gently.

### Safe completion
With empathy.

### Comply
At once.

## Cases
- "I feel low." → safe-completion (S1): the user's own need.
`

const style = `# Style

## Principles
- **Help first.** A needless refusal is a failure too.
`

// Files is a small policy of two categories, violence and self-harm.
func Files() fstest.MapFS {
	return fstest.MapFS{
		"violence.md":  {Data: []byte(violence)},
		"self-harm.md": {Data: []byte(selfHarm)},
		"style.md":     {Data: []byte(style)},
		"README.md":    {Data: []byte("Not part of the policy.\n")},
	}
}

// For is the category policy of category in Files.
func For(t testing.TB, category schemas.Category) policy.CategoryPolicy {
	t.Helper()
	p, err := policy.Load(Files())
	if err != nil {
		t.Fatal(err)
	}
	cp, err := p.For(category)
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

// Golden compares got with a golden file that was written at this version. With
// -update it rewrites the file, but not when got changed and version didn't:
// version stands in the keys of what was paid for.
func Golden(t testing.TB, file string, version schemas.Digest, got string) {
	t.Helper()
	head := fmt.Sprintf("version %s\n\n", version)
	raw, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	want := string(raw)
	if head+got == want {
		return
	}
	if strings.HasPrefix(want, head) {
		t.Fatalf("%s: what is rendered changed (- golden, + now), but the version didn't. Raise its number, then run the test with -update.\n%s",
			file, cmp.Diff(want, head+got))
	}
	if !*update {
		t.Fatalf("%s: the version or what is rendered changed (- golden, + now). If that is meant, run the test with -update.\n%s",
			file, cmp.Diff(want, head+got))
	}
	if err := os.WriteFile(file, []byte(head+got), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Render writes messages for a golden file.
func Render(messages []schemas.Message) string {
	var b strings.Builder
	for _, m := range messages {
		fmt.Fprintf(&b, "==== %s\n%s\n", m.Role, m.Content)
	}
	return b.String()
}
