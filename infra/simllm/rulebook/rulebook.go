package rulebook

import (
	"regexp"
	"slices"
	"strings"

	"precept/infra/simllm/reading"
)

// The decisions of a rule.
const (
	Refuse  = "refuse"
	Safe    = "safe-completion"
	Comply  = "comply"
	anyWord = "any"
)

// Rule is one line of a policy's rules.
type Rule struct {
	ID, Decision string
	Acts, Kinds  []string
	// Harmful rules hold for harmful requests only.
	Harmful bool
	// Words are the sentences for a human reader.
	Words string
}

// Case is one example of a policy.
type Case struct {
	Request, Decision, RuleID string
	act                       string
	words                     map[string]bool
}

// Book is a category policy.
type Book struct {
	Category string
	Rules    []Rule
	Cases    []Case
	// Terms are the definitions, by their term in lower case.
	Terms map[string]string
	hints reading.Hints
}

// Verdict is what a book says about one request.
type Verdict struct {
	RuleID, Decision string
	// Case is true when an example of the policy decided.
	Case bool
	reading.Reading
}

var (
	ruleLine = regexp.MustCompile(`^- \*\*([A-Z]{1,2}\d+) (refuse|safe-completion|comply)\*\* — \*([^*]+)\* about ([^*:]*)\*([^*]+)\*:? ?(.*)$`)
	caseLine = regexp.MustCompile(`^- "(.+?)" → (refuse|safe-completion|comply) \(([A-Z]{1,2}\d+)\)`)
	termLine = regexp.MustCompile(`^- \*\*([^*]+)\*\*: (.*)$`)
	harmful  = regexp.MustCompile(`\b(?:harming|harmful)\b`)
	harmless = regexp.MustCompile(`\b(?:figurative|everyday|game use|humane|lawful)\b`)
)

// Find cuts the policy block out of a system message; ok is false when it has
// none.
func Find(system string) (category, text string, ok bool) {
	_, rest, ok := strings.Cut(system, `<policy category="`)
	if !ok {
		return "", "", false
	}
	category, rest, ok = strings.Cut(rest, `">`)
	if !ok {
		return "", "", false
	}
	text, _, _ = strings.Cut(rest, "</policy>")
	return category, text, true
}

// Parse reads the text of a policy block.
func Parse(category, text string) *Book {
	b := &Book{Category: category, Terms: map[string]string{}}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if m := ruleLine.FindStringSubmatch(line); m != nil {
			b.Rules = append(b.Rules, Rule{
				ID: m[1], Decision: m[2], Acts: list(m[3]), Kinds: list(m[5]), Harmful: harmful.MatchString(m[4]), Words: m[6],
			})
			continue
		}
		if m := caseLine.FindStringSubmatch(line); m != nil {
			b.Cases = append(b.Cases, Case{
				Request: m[1], Decision: m[2], RuleID: m[3],
				act: reading.Read(m[1], "", reading.Hints{}).Act, words: content(m[1]),
			})
			continue
		}
		if m := termLine.FindStringSubmatch(line); m != nil && len(b.Rules) == 0 {
			b.term(m[1], m[2])
		}
	}
	return b
}

// term keeps a definition; the phrases of a harmless use are hints.
func (b *Book) term(name, meaning string) {
	name = strings.ToLower(name)
	b.Terms[name] = meaning
	if !harmless.MatchString(name) {
		return
	}
	for _, part := range strings.FieldsFunc(strings.ToLower(meaning), func(r rune) bool { return strings.ContainsRune(",;.:", r) }) {
		words := strings.Fields(part)
		words = slices.DeleteFunc(words, func(w string) bool { return w == "or" || w == "and" })
		if len(words) >= 2 && len(words) <= 4 {
			b.hints.Harmless = append(b.hints.Harmless, strings.Join(words, " "))
		}
	}
}

func list(s string) []string {
	var out []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// Rule finds a rule by its ID.
func (b *Book) Rule(id string) (Rule, bool) {
	for _, r := range b.Rules {
		if r.ID == id {
			return r, true
		}
	}
	return Rule{}, false
}

// Decide decides a request; earlier holds the user's turns before it. A book
// without rules complies with everything, with no rule to cite.
func (b *Book) Decide(request, earlier string) Verdict {
	v := Verdict{Reading: reading.Read(request, earlier, b.hints), Decision: Comply}
	if c, ok := b.near(request, v.Act); ok {
		v.Case, v.Clear = true, true
		v.RuleID, v.Decision = c.RuleID, c.Decision
		// The rule is the norm, the case its illustration.
		if r, known := b.Rule(c.RuleID); known {
			v.Decision = r.Decision
		}
		return v
	}
	for _, r := range b.Rules {
		if r.fits(v.Reading) {
			v.RuleID, v.Decision = r.ID, r.Decision
			return v
		}
	}
	return v
}

func (r Rule) fits(q reading.Reading) bool {
	if r.Harmful && !q.Harmful || !slices.Contains(r.Acts, anyWord) && !slices.Contains(r.Acts, q.Act) {
		return false
	}
	if slices.Contains(r.Kinds, anyWord) {
		return true
	}
	kinds := q.Kinds
	if !q.Harmful {
		kinds = kinds[:1]
	}
	return slices.ContainsFunc(kinds, func(k string) bool { return slices.Contains(r.Kinds, k) })
}

// near finds the case that a request repeats but for small words.
func (b *Book) near(request, act string) (Case, bool) {
	words := content(request)
	for _, c := range b.Cases {
		shared := 0
		for w := range words {
			if c.words[w] {
				shared++
			}
		}
		// One word more or less is allowed, one exchanged is another request.
		more, less := len(words)-shared, len(c.words)-shared
		if c.act == act && shared >= 2 && more+less <= 1 && (more+less == 0 || shared >= 4) {
			return c, true
		}
	}
	return Case{}, false
}

func content(s string) map[string]bool {
	out := map[string]bool{}
	for _, w := range reading.ContentWords(s) {
		out[w] = true
	}
	return out
}
