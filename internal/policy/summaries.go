package policy

import (
	"fmt"
	"strings"

	"precept/schemas"
)

// Summaries is what a model reads to tell a prompt's category: the summary of every one.
// Digest is over Text, so that it stays when the body of a category is edited.
type Summaries struct {
	Categories []schemas.Category
	Text       string
	Digest     schemas.Digest
}

// Summaries renders the summaries of all categories.
func (p *Policy) Summaries() Summaries {
	s := Summaries{Categories: p.Categories()}
	var b strings.Builder
	b.WriteString("<categories>\n")
	for _, c := range s.Categories {
		fmt.Fprintf(&b, "- **%s**: %s\n", c, p.categories[c].summary)
	}
	b.WriteString("</categories>\n")
	s.Text = b.String()
	s.Digest = schemas.DigestBytes([]byte(s.Text))
	return s
}
