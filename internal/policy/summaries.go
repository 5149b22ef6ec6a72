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

// Case is an example request of a policy, with its decision and the rule that decides it.
type Case struct {
	Request string
	Action  schemas.Action
	Rule    string
}

// Cases lists a category's cases in the order of its file; nil for an unknown category.
func (p *Policy) Cases(category schemas.Category) (cases []Case) {
	for _, c := range p.categories[category].cases {
		cases = append(cases, Case{c.request, c.action, c.rule})
	}
	return cases
}
