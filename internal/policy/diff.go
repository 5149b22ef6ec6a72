package policy

import (
	"fmt"
	"maps"
	"slices"

	"precept/schemas"
)

// Change is what becomes of a category policy from one policy to another.
type Change struct {
	Category schemas.Category `json:"category"`
	From     schemas.Digest   `json:"from,omitempty"` // empty: the category is new
	To       schemas.Digest   `json:"to,omitempty"`   // empty: it is gone
	Why      []string         `json:"why,omitempty"`  // the parts that differ
}

// Same reports whether models read the same.
func (c Change) Same() bool { return c.From == c.To }

// Diff compares what models read of two policies, a change for every category of either.
func Diff(a, b *Policy) ([]Change, error) {
	all := maps.Clone(a.categories)
	maps.Copy(all, b.categories)
	var out []Change
	for _, category := range slices.Sorted(maps.Keys(all)) {
		c := Change{Category: category}
		for _, side := range []struct {
			p  *Policy
			to *schemas.Digest
		}{{a, &c.From}, {b, &c.To}} {
			if _, ok := side.p.categories[category]; !ok {
				continue
			}
			cp, err := side.p.For(category)
			if err != nil {
				return nil, err
			}
			*side.to = cp.Digest
		}
		switch {
		case c.From == "":
			c.Why = []string{"it is new"}
		case c.To == "":
			c.Why = []string{"it is gone"}
		case !c.Same():
			c.Why = differing(a, b, category)
		}
		out = append(out, c)
	}
	return out, nil
}

// differing names the parts of what models read for a category that differ.
func differing(a, b *Policy, category schemas.Category) (why []string) {
	if a.categories[category].text != b.categories[category].text {
		why = append(why, string(category)+".md")
	}
	all := maps.Clone(a.categories)
	maps.Copy(all, b.categories)
	for _, other := range slices.Sorted(maps.Keys(all)) {
		x, before := a.categories[other]
		y, after := b.categories[other]
		switch {
		case other == category:
		case !before:
			why = append(why, fmt.Sprintf("%s.md is new", other))
		case !after:
			why = append(why, fmt.Sprintf("%s.md is gone", other))
		case x.name != y.name || x.summary != y.summary:
			why = append(why, fmt.Sprintf("the summary in %s.md", other))
		}
	}
	if a.style != b.style {
		why = append(why, styleFile)
	}
	return why
}
