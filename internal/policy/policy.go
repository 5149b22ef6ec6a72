package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"precept/schemas"
)

const styleFile = "style.md"

// maxFile bounds a policy file: all of it goes into every request.
const maxFile = 256 << 10

// Policy is a policy that was read and checked.
type Policy struct {
	files      map[string]string // by name, line ends normalised
	categories map[schemas.Category]document
	style      string
}

// CategoryPolicy is what a model reads for the prompts of one category. Digest
// is over Text.
type CategoryPolicy struct {
	Category schemas.Category `json:"category"`
	Text     string           `json:"text"`
	Digest   schemas.Digest   `json:"digest"`
}

// Load reads the category files and style.md from the top of fsys. README.md and
// files that aren't Markdown are no part of the policy. An error names the file
// and, where there is one, the line.
func Load(fsys fs.FS) (*Policy, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, schemas.E("load policy", "", schemas.InvalidInput, err)
	}
	p := &Policy{files: map[string]string{}, categories: map[schemas.Category]document{}}
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() || path.Ext(name) != ".md" || strings.EqualFold(name, "README.md") {
			continue
		}
		if err := p.read(fsys, name); err != nil {
			return nil, schemas.E("load policy", name, schemas.InvalidInput, err)
		}
	}
	if p.style == "" {
		return nil, schemas.Errorf("load policy", styleFile, schemas.InvalidInput, "the file is missing").
			WithHint("Write the principles of style that all categories share into it.")
	}
	if len(p.categories) == 0 {
		return nil, schemas.Errorf("load policy", "", schemas.InvalidInput, "no category file was found").
			WithHint("Write one <category>.md a category beside %s.", styleFile)
	}
	if wrong := p.checkRules(); len(wrong) > 0 {
		f := wrong[0]
		return nil, schemas.Errorf("load policy", "", schemas.InvalidInput, "%s:%d: %s", f.File, f.Line, f.Text)
	}
	return p, nil
}

func (p *Policy) read(fsys fs.FS, name string) error {
	raw, err := fs.ReadFile(fsys, name)
	if err != nil {
		return err
	}
	text, err := normalise(raw)
	if err != nil {
		return err
	}
	p.files[name] = text
	if name == styleFile {
		p.style = text
		return parseStyle(text)
	}
	category := schemas.Category(strings.TrimSuffix(name, ".md"))
	if !slug.MatchString(string(category)) {
		return errors.New("a category file's name is lower-case words joined by '-'")
	}
	doc, faults := parseCategory(category, text)
	if len(faults) > 0 {
		return faults[0]
	}
	p.categories[category] = doc
	return nil
}

// checkRules checks what no file can tell alone: that a rule's ID is used once,
// and that every case names a rule of the same decision.
func (p *Policy) checkRules() (findings []Finding) {
	wrong := func(category schemas.Category, line int, format string, args ...any) {
		findings = append(findings, Finding{string(category) + ".md", line, true, fmt.Sprintf(format, args...)})
	}
	type place struct {
		category schemas.Category
		rule     Rule
	}
	seen := map[string]place{}
	for _, category := range p.Categories() {
		for _, rule := range p.categories[category].rules {
			if other, ok := seen[rule.ID]; ok {
				wrong(category, rule.line, "rule %s is in %s.md too; an ID is used once in a policy", rule.ID, other.category)
				continue
			}
			seen[rule.ID] = place{category, rule}
		}
	}
	for _, category := range p.Categories() {
		for _, c := range p.categories[category].cases {
			rule, ok := seen[c.Rule]
			switch {
			case !ok:
				wrong(category, c.line, "the case names rule %s, which no category has", c.Rule)
			case rule.rule.Action != c.Action:
				wrong(category, c.line, "the case says %s, but rule %s says %s", c.Action, c.Rule, rule.rule.Action)
			}
		}
	}
	return findings
}

// Categories lists the policy's categories, sorted.
func (p *Policy) Categories() []schemas.Category {
	return slices.Sorted(maps.Keys(p.categories))
}

// Files are the policy's files by name, as they were read but for line ends.
// Loading them gives the same policy.
func (p *Policy) Files() map[string]string { return maps.Clone(p.files) }

// Digest names the whole policy.
func (p *Policy) Digest() schemas.Digest { return schemas.DigestOf(p.files) }

// Rules lists a category's rules in the order in which they decide; nil for an
// unknown category.
func (p *Policy) Rules(category schemas.Category) []Rule {
	return slices.Clone(p.categories[category].rules)
}

// Cases lists a category's cases in their order; nil for an unknown category.
func (p *Policy) Cases(category schemas.Category) []Case {
	return slices.Clone(p.categories[category].cases)
}

// For renders what a model reads for the prompts of category.
func (p *Policy) For(category schemas.Category) (CategoryPolicy, error) {
	doc, ok := p.categories[category]
	if !ok {
		return CategoryPolicy{}, schemas.Errorf("look up category", string(category), schemas.NotFound,
			"the policy has no such category").WithHint("It has: %s.", strings.Join(p.names(), ", "))
	}
	var b strings.Builder
	b.WriteString(doc.text)
	b.WriteString("\n## Other categories\n\n")
	for _, other := range p.Categories() {
		if other != category {
			fmt.Fprintf(&b, "- **%s**: %s\n", p.categories[other].name, p.categories[other].summary)
		}
	}
	b.WriteString("\n")
	b.WriteString(p.style)
	text := b.String()
	return CategoryPolicy{
		Category: category,
		Text:     text,
		Digest:   schemas.DigestBytes([]byte(text)),
	}, nil
}

func (p *Policy) names() (names []string) {
	for _, category := range p.Categories() {
		names = append(names, string(category))
	}
	return names
}
