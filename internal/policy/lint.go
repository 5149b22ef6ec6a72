package policy

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"precept/schemas"
)

// Finding is what is wrong with a policy or, where it is no error, might be better.
type Finding struct {
	File  string `json:"file"`
	Line  int    `json:"line,omitempty"` // 0: the whole file
	Error bool   `json:"error"`
	Text  string `json:"text"`
}

// Size is how much a model reads.
type Size struct {
	Category schemas.Category `json:"category"`
	Rules    int              `json:"rules"`
	Cases    int              `json:"cases"`
	Tokens   int              `json:"tokens"`         // of the category's file
	Message  int              `json:"message_tokens"` // of the whole system message that a teacher reads
}

// Linted is what Lint finds. Sizes are told of a policy that can be loaded.
type Linted struct {
	Findings []Finding `json:"findings"`
	Sizes    []Size    `json:"sizes"`
}

// Errors counts the findings that are errors.
func (l Linted) Errors() (n int) {
	for _, f := range l.Findings {
		if f.Error {
			n++
		}
	}
	return n
}

// CharactersPerToken is by what tokens are estimated: about what English text has with
// the vocabularies of today's models.
const CharactersPerToken = 4

// Tokens estimates how many tokens a text has.
func Tokens(text string) int {
	return (len([]rune(text)) + CharactersPerToken - 1) / CharactersPerToken
}

// maxSummary is how many words a summary should have at most: the messages of all other
// categories hold it.
const maxSummary = 90

// Lint looks for everything that is wrong with the policy in fsys, where Load stops at
// the first error, and for what isn't wrong but doubtful.
func Lint(fsys fs.FS) (Linted, error) {
	l := Linted{Findings: []Finding{}, Sizes: []Size{}}
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return l, schemas.E("lint policy", "", schemas.InvalidInput, err)
	}
	p := &Policy{files: map[string]string{}, categories: map[schemas.Category]document{}}
	styled := false
	for _, entry := range entries {
		name := entry.Name()
		styled = styled || name == styleFile
		if entry.IsDir() || path.Ext(name) != ".md" || strings.EqualFold(name, "README.md") {
			continue
		}
		l.Findings = append(l.Findings, p.lintFile(fsys, name)...)
	}
	if !styled {
		l.Findings = append(l.Findings, Finding{styleFile, 0, true, "the file is missing; it holds the principles of style that all categories share"})
	}
	l.Findings = append(l.Findings, p.checkRules()...)
	l.Findings = append(l.Findings, p.lintCases()...)
	for _, category := range p.Categories() {
		// Of a file that couldn't be read whole, what seems to be missing may not be.
		if !slices.ContainsFunc(l.Findings, func(f Finding) bool { return f.Error && f.File == string(category)+".md" }) {
			l.Findings = append(l.Findings, p.lintCategory(category)...)
		}
	}
	if len(p.categories) == 0 {
		l.Findings = append(l.Findings, Finding{".", 0, true, "no category file was found; write one <category>.md a category beside " + styleFile})
	}
	slices.SortStableFunc(l.Findings, func(x, y Finding) int { return cmp.Or(cmp.Compare(x.File, y.File), cmp.Compare(x.Line, y.Line)) })
	if l.Errors() > 0 {
		return l, nil
	}
	for _, category := range p.Categories() {
		cp, err := p.For(category)
		if err != nil {
			return l, err
		}
		doc := p.categories[category]
		l.Sizes = append(l.Sizes, Size{
			Category: category, Rules: len(doc.rules), Cases: len(doc.cases), Tokens: Tokens(doc.text),
			Message: Tokens(TeacherMessages(cp, schemas.Prompt{})[0].Content),
		})
	}
	return l, nil
}

// lintFile reads one file into p, whatever can be read of it.
func (p *Policy) lintFile(fsys fs.FS, name string) (findings []Finding) {
	category := schemas.Category(strings.TrimSuffix(name, ".md"))
	err := p.read(fsys, name)
	switch f := (fault{}); {
	case err == nil:
	case errors.As(err, &f) && (name == styleFile || p.files[name] == ""):
		findings = append(findings, Finding{name, f.line, true, f.err.Error()})
	case errors.As(err, &f):
		doc, faults := parseCategory(category, p.files[name])
		for _, f := range faults {
			findings = append(findings, Finding{name, f.line, true, f.err.Error()})
		}
		p.categories[category] = doc // for what can be checked all the same
	default:
		findings = append(findings, Finding{name, 0, true, err.Error()})
	}
	return findings
}

// lintCases looks for cases that contradict or repeat one another.
func (p *Policy) lintCases() (findings []Finding) {
	type place struct {
		file string
		Case
	}
	seen := map[string]place{}
	for _, category := range p.Categories() {
		file := string(category) + ".md"
		for _, c := range p.categories[category].cases {
			key := strings.Join(strings.Fields(strings.ToLower(strings.TrimRight(c.Text, " .!?"))), " ")
			other, ok := seen[key]
			switch {
			case !ok:
				seen[key] = place{file, c}
			case other.Action != c.Action:
				findings = append(findings, Finding{file, c.line, true,
					fmt.Sprintf("the case says %s, but %s:%d says %s to the same words", c.Action, other.file, other.line, other.Action)})
			default:
				findings = append(findings, Finding{file, c.line, false, fmt.Sprintf("the case stands in %s:%d too", other.file, other.line)})
			}
		}
	}
	return findings
}

// lintCategory looks for what is doubtful in one category.
func (p *Policy) lintCategory(category schemas.Category) (findings []Finding) {
	doc := p.categories[category]
	doubt := func(line int, format string, args ...any) {
		findings = append(findings, Finding{string(category) + ".md", line, false, fmt.Sprintf(format, args...)})
	}
	if n := len(strings.Fields(doc.summary)); n > maxSummary {
		doubt(doc.line("## Summary"), "the summary has %d words, more than %d; the messages of all other categories hold it", n, maxSummary)
	}
	shown := map[string]bool{}
	for _, other := range p.Categories() {
		for _, c := range p.categories[other].cases {
			shown[c.Rule] = true
		}
	}
	last := -1 // the first rule that fits everything
	for i, rule := range doc.rules {
		if !shown[rule.ID] {
			doubt(rule.line, "rule %s has no case", rule.ID)
		}
		if last >= 0 {
			doubt(rule.line, "no request comes to rule %s: rule %s before it fits them all", rule.ID, doc.rules[last].ID)
		} else if rule.fitsAll() {
			last = i
		}
	}
	if last < 0 && len(doc.rules) > 0 {
		doubt(doc.rules[len(doc.rules)-1].line, "no rule fits what is left; end with one of *any* about *any*")
	}
	return findings
}

// fitsAll reports whether no request passes by a rule.
func (r Rule) fitsAll() bool {
	return r.Purpose == "" && slices.Contains(r.Acts, "any") && slices.Contains(r.Kinds, "any")
}

// line is where a heading stands.
func (d document) line(heading string) int {
	for i, line := range strings.Split(d.text, "\n") {
		if line == heading {
			return i + 1
		}
	}
	return 0
}
