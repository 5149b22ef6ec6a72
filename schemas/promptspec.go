package schemas

import "slices"

// ClassifySpec is the judge's part where prompts come without a category or an intent, or
// are generated.
type ClassifySpec struct {
	Judge     Role `json:"judge,omitempty" jsonschema:"description=An endpoint of the worker's configuration\\, or a route without intents and categories" jsonschema_extras:"default=sim-judge"`
	Votes     int  `json:"votes,omitempty" jsonschema:"default=3,description=Judge calls a prompt; more than half must agree"`
	MaxTokens int  `json:"max_tokens,omitempty" jsonschema:"default=512,description=Longest reply of the judge"`
	Check     int  `json:"check,omitempty" jsonschema:"description=Labelled prompts\\, drawn from the imports\\, that the judge classifies too\\, without seeing their labels; how often it agrees is reported; by default none"`
}

// GenerateSpec asks the teacher for prompts.
type GenerateSpec struct {
	Teacher     Role       `json:"teacher,omitempty" jsonschema:"description=An endpoint of the worker's configuration\\, or routes" jsonschema_extras:"default=sim-teacher"`
	Per         int        `json:"per,omitempty" jsonschema:"description=Prompts that are asked for in each category and intent; 0 generates none. Those that the judge takes for another category or intent are rejected"`
	Categories  []Category `json:"categories,omitempty" jsonschema:"description=By default all of the policy"`
	Intents     []Intent   `json:"intents,omitempty" jsonschema:"enum=harmful,enum=borderline,enum=benign,description=By default all"`
	Languages   []string   `json:"languages,omitempty" jsonschema:"description=By default en"`
	Styles      []Style    `json:"styles,omitempty" jsonschema:"description=How the user goes about it; by default all"`
	Seed        int64      `json:"seed,omitempty" jsonschema:"description=Another seed gives other combinations of persona\\, phrasing\\, length\\, style and language"`
	Temperature *float64   `json:"temperature,omitempty" jsonschema:"default=1"`
	MaxTokens   int        `json:"max_tokens,omitempty" jsonschema:"default=1024"`
}

// Style is how the user of a generated prompt goes about it.
type Style string

// The styles. All but the first two try to get around a policy.
const (
	StylePlain      Style = "plain"
	StyleContext    Style = "context"
	StyleRolePlay   Style = "role-play"
	StyleFiction    Style = "fiction"
	StyleAuthority  Style = "authority"
	StyleResearch   Style = "research"
	StyleHypothesis Style = "hypothesis"
	StyleStepwise   Style = "stepwise"
)

// Styles lists all styles.
var Styles = []Style{
	StylePlain, StyleContext, StyleRolePlay, StyleFiction, StyleAuthority, StyleResearch, StyleHypothesis, StyleStepwise,
}

// Generates reports whether the run asks its teacher for prompts.
func (s RunSpec) Generates() bool { return s.Prompts.Generate.Per > 0 }

// Classifies reports whether the judge classifies prompts of the run.
func (s RunSpec) Classifies() bool {
	unlabelled := slices.ContainsFunc(s.Prompts.Imports, func(in Import) bool { return in.Classify })
	return unlabelled || s.Prompts.Classify.Check > 0 || s.Generates()
}

func (s *RunSpec) promptDefaults() {
	if s.Classifies() {
		c := &s.Prompts.Classify
		defRole(&c.Judge, "sim-judge")
		def(&c.Votes, 3)
		def(&c.MaxTokens, 512)
	}
	if s.Generates() {
		g := &s.Prompts.Generate
		defRole(&g.Teacher, "sim-teacher")
		defPtr(&g.Temperature, 1)
		def(&g.MaxTokens, 1024)
		if len(g.Intents) == 0 {
			g.Intents = Intents
		}
		if len(g.Languages) == 0 {
			g.Languages = []string{"en"}
		}
		if len(g.Styles) == 0 {
			g.Styles = Styles
		}
	}
}

func (s RunSpec) validatePrompts(v *violations) {
	c, g := s.Prompts.Classify, s.Prompts.Generate
	v.atLeast("prompts.classify.check", int64(c.Check), 0)
	v.atLeast("prompts.generate.per", int64(g.Per), 0)
	if s.Classifies() {
		v.between("prompts.classify.votes", float64(c.Votes), 1, 25)
		v.atLeast("prompts.classify.max_tokens", int64(c.MaxTokens), 1)
		if t := c.Judge[0]; len(c.Judge) > 1 || len(t.Intents) > 0 || len(t.Categories) > 0 {
			v.add("prompts.classify.judge", "goes by intents or categories, which are what it is to tell; name one route for all prompts")
		}
	} else if DigestOf(c) != DigestOf(ClassifySpec{}) {
		v.add("prompts.classify", `is of no use: set "classify": true for an import, or check`)
	}
	if !s.Generates() {
		if g.Per == 0 && DigestOf(g) != DigestOf(GenerateSpec{}) {
			v.add("prompts.generate.per", "is missing; say how many prompts are asked for in each category and intent")
		}
		return
	}
	v.between("prompts.generate.per", float64(g.Per), 1, 1_000_000)
	v.between("prompts.generate.temperature", *g.Temperature, 0, 2)
	v.atLeast("prompts.generate.max_tokens", int64(g.MaxTokens), 1)
	distinct(v, "prompts.generate.categories", g.Categories, nil)
	distinct(v, "prompts.generate.intents", g.Intents, Intents)
	distinct(v, "prompts.generate.languages", g.Languages, nil)
	distinct(v, "prompts.generate.styles", g.Styles, Styles)
}

// distinct checks a list of words: each stands once, is not empty, and is one of those
// that are known, where they are.
func distinct[T ~string](v *violations, field string, list, known []T) {
	for i, word := range list {
		switch {
		case word == "":
			v.add(field, "has an empty word")
		case slices.Contains(list[:i], word):
			v.add(field, "has %q twice", word)
		case known != nil && !slices.Contains(known, word):
			v.add(field, "has %q; there are %v", word, known)
		}
	}
}

// isLabelled refuses to have the judge label what its own answers are measured by, or what
// is a data set already.
func (in Import) isLabelled(v *violations, field string) {
	if in.Classify {
		v.add(field+".classify", "is for prompts.imports alone; give every row a category and an intent")
	}
	if in.MaxTurns != 0 || in.MaxChars != 0 {
		v.add(field, "cuts conversations (max_turns, max_chars), which is for prompts.imports alone")
	}
}
