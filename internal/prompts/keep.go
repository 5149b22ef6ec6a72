package prompts

import (
	"hash/fnv"
	"strings"
	"unicode"

	"precept/schemas"
)

// normal folds what doesn't make two prompts different.
func normal(messages []schemas.Message) string {
	var b strings.Builder
	for _, m := range messages {
		b.WriteString(m.Role)
		w := words(m.Content)
		if len(w) == 0 {
			w = []string{m.Content} // nothing but signs: they are what tells it from others
		}
		for _, w := range w {
			b.WriteByte(' ')
			b.WriteString(w)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func words(s string) []string {
	return strings.FieldsFunc(strings.ToLower(s), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '\''
	})
}

// Bucket is the bucket, of a power of two, that a prompt falls into. Duplicates
// of a category share one.
func Bucket(p schemas.Prompt, buckets int) int {
	h := fnv.New32a()
	h.Write([]byte(normal(p.Messages)))
	return int(h.Sum32()) & (buckets - 1)
}

// Buckets is the number of buckets for n rows with at most most in each on
// average.
func Buckets(n, most int) int {
	b := 1
	for b*most < n {
		b *= 2
	}
	return b
}

// Filter decides which prompts stay.
type Filter struct {
	seen  map[string]bool
	grams map[string]bool
}

// gram is how many words in a row, shared with a suite, remove a prompt; a
// shorter prompt is removed when a suite has the whole of it.
const gram = 8

// NewFilter returns a filter that removes duplicates and what overlaps suites.
func NewFilter(suites []schemas.Prompt) *Filter {
	f := &Filter{seen: map[string]bool{}, grams: map[string]bool{}}
	for _, p := range suites {
		for _, g := range grams(words(p.Text())) {
			f.grams[g] = true
		}
	}
	return f
}

// Reason tells why p goes, or is empty when it stays. Prompts are shown in import
// order: of duplicates the earliest stays.
func (f *Filter) Reason(p schemas.Prompt) schemas.Reason {
	n := string(p.Category) + "\n" + normal(p.Messages)
	if f.seen[n] {
		return schemas.ReasonDuplicate
	}
	f.seen[n] = true
	for _, g := range grams(words(p.Text())) {
		if f.grams[g] {
			return schemas.ReasonContaminated
		}
	}
	return ""
}

func grams(w []string) []string {
	if len(w) <= gram {
		return []string{strings.Join(w, " ")}
	}
	out := make([]string, 0, len(w)-gram+1)
	for i := 0; i+gram <= len(w); i++ {
		out = append(out, strings.Join(w[i:i+gram], " "))
	}
	return out
}
