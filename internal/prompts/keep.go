package prompts

import (
	"hash/fnv"
	"io"
	"slices"
	"strings"
	"unicode"

	"precept/schemas"
)

// normal folds what doesn't make two prompts different.
func normal(messages []schemas.Message) string {
	var b strings.Builder
	for _, m := range messages {
		b.WriteString(m.Role)
		for _, w := range wordsOrSigns(m.Content) {
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

// Normal is what duplicates share: the category and the normal form.
func Normal(p schemas.Prompt) string { return string(p.Category) + "\n" + normal(p.Messages) }

// Bucket is the bucket, of a power of two, of a row with this normal form. Duplicates
// share one.
func Bucket(normal string, buckets int) int {
	h := fnv.New32a()
	io.WriteString(h, normal)
	return int(h.Sum32()) & (buckets - 1)
}

// Buckets is the number of buckets for n rows with at most most in each on
// average.
func Buckets(n, most int64) int {
	b := 1
	for int64(b)*most < n {
		b *= 2
	}
	return b
}

// Suites knows what evaluation suites consist of.
type Suites struct{ grams map[string]bool }

// overlap is how many words in a row, shared with a suite, remove a prompt; a
// shorter prompt is removed when a suite has the whole of it.
const overlap = 8

// NewSuites takes the prompts of all suites.
func NewSuites(prompts []schemas.Prompt) *Suites {
	s := &Suites{grams: map[string]bool{}}
	for _, p := range prompts {
		for _, g := range grams(textWords(p), overlap) {
			s.grams[g] = true
		}
	}
	return s
}

// Contaminate reports whether p shares a run of words with a suite.
func (s *Suites) Contaminate(p schemas.Prompt) bool {
	return slices.ContainsFunc(grams(textWords(p), overlap), func(g string) bool { return s.grams[g] })
}

// textWords are the words of the last user turn.
func textWords(p schemas.Prompt) []string { return wordsOrSigns(p.Text()) }

// wordsOrSigns are the words of a text. Of one of nothing but signs it is the text:
// they are what tells it from others.
func wordsOrSigns(s string) []string {
	if w := words(s); len(w) > 0 {
		return w
	}
	return []string{s}
}

// grams lists the runs of n words; a shorter text is one of its own.
func grams(w []string, n int) []string {
	if len(w) <= n {
		return []string{strings.Join(w, " ")}
	}
	out := make([]string, 0, len(w)-n+1)
	for i := 0; i+n <= len(w); i++ {
		out = append(out, strings.Join(w[i:i+n], " "))
	}
	return out
}
