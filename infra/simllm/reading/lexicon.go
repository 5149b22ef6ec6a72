package reading

import (
	_ "embed"
	"slices"
	"strings"
)

//go:embed lexicon.txt
var lexiconText string

// class is a set of lexicon classes.
type class uint64

func (c class) has(any class) bool { return c&any != 0 }

// phrase is one entry of the lexicon.
type phrase struct {
	words []string
	// gap allows up to three words between the first word and the rest.
	gap   bool
	class class
}

type lexicon struct {
	names   map[string]class
	phrases map[string][]phrase
}

var world = parseLexicon(lexiconText)

// named is the class of a name that the lexicon must have; a typing error in
// this package is found when the program starts.
func named(names ...string) class {
	var c class
	for _, n := range names {
		one, ok := world.names[n]
		if !ok {
			panic("reading: the lexicon has no class " + n)
		}
		c |= one
	}
	return c
}

func parseLexicon(text string) *lexicon {
	l := &lexicon{names: map[string]class{}, phrases: map[string][]phrase{}}
	merged := map[string]class{}
	var order []string
	for line := range strings.Lines(text) {
		name, words, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		c, known := l.names[name]
		if !known {
			c = 1 << len(l.names)
			l.names[name] = c
		}
		for entry := range strings.SplitSeq(words, ",") {
			entry = strings.TrimSpace(entry)
			if entry == "" {
				continue
			}
			if merged[entry] == 0 {
				order = append(order, entry)
			}
			merged[entry] |= c
		}
	}
	for _, entry := range order {
		l.add(entry, merged[entry])
	}
	return l
}

func (l *lexicon) add(entry string, c class) {
	p := phrase{class: c}
	for _, t := range tokenize(entry) {
		p.words = append(p.words, t.word)
	}
	if before, after, ok := strings.Cut(entry, " ~"); ok {
		p.gap = true
		p.words = nil
		for _, t := range append(tokenize(before), tokenize(after)...) {
			p.words = append(p.words, t.word)
		}
	}
	if len(p.words) > 0 {
		l.phrases[p.words[0]] = append(l.phrases[p.words[0]], p)
	}
}

// token is one word, number or mark of punctuation.
type token struct {
	word string
	// forms are the word and what it may be an inflection of.
	forms []string
	// name is true for a capitalized word inside a sentence.
	name bool
}

func (t token) is(words ...string) bool {
	for _, f := range t.forms {
		if slices.Contains(words, f) {
			return true
		}
	}
	return false
}

// span is a lexicon entry found in a text: tokens at to end-1.
type span struct {
	at, end int
	class   class
}

// spans finds every entry of the lexicon in tokens, longest first at a place.
// A shorter entry inside a longer one that begins at the same word is dropped.
func (l *lexicon) spans(tokens []token) []span {
	var out []span
	for i, t := range tokens {
		var found []span
		longest := 0
		for n, f := range t.forms {
			for _, p := range l.phrases[f] {
				end, ok := p.match(tokens, i)
				if !ok {
					continue
				}
				found = append(found, span{i, end, p.class})
				if !p.gap {
					longest = max(longest, end-i)
				}
			}
			// The word itself is better than what it may be derived from.
			if n == 0 && len(found) > 0 && longest == 1 {
				break
			}
		}
		for _, s := range found {
			if s.end-s.at >= longest {
				out = append(out, s)
			}
		}
	}
	return out
}

func (p phrase) match(tokens []token, i int) (end int, ok bool) {
	if i+len(p.words) > len(tokens) {
		return 0, false
	}
	if len(p.words) == 1 {
		return i + 1, true
	}
	rest := p.words[1:]
	widest := 0
	if p.gap {
		widest = 3
	}
	for skip := 0; skip <= widest; skip++ {
		start := i + 1 + skip
		if start+len(rest) > len(tokens) {
			return 0, false
		}
		if skip > 0 && boundary[tokens[start-1].word] {
			return 0, false
		}
		hit := true
		for k, w := range rest {
			if !tokens[start+k].is(w) {
				hit = false
				break
			}
		}
		if hit {
			return start + len(rest), true
		}
	}
	return 0, false
}
