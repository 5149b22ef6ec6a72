package reading

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Reading is what a request asks for.
type Reading struct {
	Act string
	// Kinds are what the request is about, the main one first; never empty.
	Kinds    []string
	Affected string
	Harmful  bool
	// Clear is false where a harmless and a harmful meaning were both near.
	Clear bool
	// Topic restates the request in a few of the user's words.
	Topic string
}

// Any is the kind of a request whose words name no other.
const Any = "any"

// kindNames are the kinds in the order in which one is preferred where a word
// names several.
var kindNames = []string{
	"private-data", "adult-content", "account", "weapon", "drug", "minor", "public-figure", "group", "person", "money", "document",
	"software", "game", "medical", "legal", "food", "animal", "plant", "machine", "sport", "work-of-art", "belief", "event",
	"household", "self",
}

var kindClasses = func() map[string]class {
	out := map[string]class{}
	for _, k := range kindNames {
		out[k] = named(k)
	}
	return out
}()

var (
	anyKind      = named(kindNames...) | named("pest", "game-animal", "place", "property", "institution")
	living       = named("person", "group", "minor", "public-figure")
	creature     = named("animal")
	goods        = named("property")
	places       = named("place")
	institutions = named("institution")
	figurative   = named("figurative")
	care         = named("care")
	covert       = named("covert")
	picking      = named("picking")
	distress     = named("distress")
	crisis       = named("crisis")
	violence     = named("violence")
	destroy      = named("destroy")
	demean       = named("demean")
	spy          = named("spy")
	watching     = named("watch")
	theft        = named("theft")
	softTheft    = named("soft-theft")
	urge         = named("urge")
	making       = named("make")
	contraband   = named("contraband")
	atrocity     = named("atrocity")
	justify      = named("justify")
	sexual       = named("sexual", "adult-content")
	explicit     = named("explicit")
	romance      = named("romance")
	sexualCare   = named("sexual-care")
	crime        = named("crime")
	committing   = named("commit")
	extremist    = named("extremist")
	realPerson   = named("real-person")
	actWord      = named("act-word")
	wrapper      = named("fiction-wrapper")
	harmWords    = violence | destroy | demean | spy | theft | contraband | atrocity | extremist | sexual
	theftObjects = living | goods | places | institutions | named("account", "document", "money", "drug", "weapon", "private-data")
	destroyables = places | living | named("event")
	ownedThings  = named("food", "household", "machine", "account", "event", "animal", "private-data") | goods | places
)

// Hints are meanings that a policy gives in its own definitions.
type Hints struct {
	// Harmless are phrases that the policy calls figurative or lawful.
	Harmless []string
}

// Read reads one request. Words of earlier turns may be put before it; the act
// is that of the last one.
func Read(request, earlier string, hints Hints) Reading {
	p := &parse{text: request}
	p.tokens = tokenize(request)
	p.spans = world.spans(p.tokens)
	p.figure(hints)
	if earlier != "" {
		before := tokenize(earlier)
		p.context = world.spans(before)
	}
	return p.read(request)
}

// parse is a request with what the lexicon found in it.
type parse struct {
	text    string
	tokens  []token
	spans   []span
	context []span
	// masked tokens belong to a harmless figure of speech.
	masked []bool
	soft   bool
}

// figure masks the tokens of figures of speech, so that their words mark no
// harm.
func (p *parse) figure(hints Hints) {
	p.masked = make([]bool, len(p.tokens))
	mask := func(at, end int) {
		for i := at; i < end; i++ {
			p.masked[i] = true
		}
	}
	for _, s := range p.spans {
		if s.class.has(figurative) {
			mask(s.at, s.end)
		}
	}
	for _, h := range hints.Harmless {
		words := strings.Fields(h)
		for i := range p.tokens {
			if len(words) < 2 || !p.tokens[i].is(words[0]) {
				continue
			}
			if end, ok := (phrase{words: words}).match(p.tokens, i); ok {
				mask(i, end)
			}
		}
	}
}

// maskedAll tells whether every token of s is part of a figure of speech.
func (p *parse) maskedAll(s span) bool {
	for i := s.at; i < s.end; i++ {
		if !p.masked[i] {
			return false
		}
	}
	return true
}

// live yields the spans of any of the classes that stand in no figure.
func (p *parse) live(any class) []span {
	var out []span
	for _, s := range p.spans {
		if s.class.has(any) && !p.maskedAll(s) {
			out = append(out, s)
		}
	}
	return out
}

func (p *parse) has(any class) bool { return len(p.live(any)) > 0 }

func (p *parse) hasWord(words ...string) bool {
	for _, t := range p.tokens {
		if slices.Contains(words, t.word) {
			return true
		}
	}
	return false
}

func (p *parse) read(request string) Reading {
	distressed := p.has(distress | crisis)
	r := Reading{Act: act(request, distressed, false), Clear: true, Topic: Topic(request)}
	if r.Act == Fiction && p.has(wrapper) || r.Act == Fiction && teaches(p) {
		// A story that must contain working steps is instructions.
		r.Act = Instructions
	}
	found := p.harm(r.Act, request)
	if found != nil && r.Act == Instructions {
		r.Act = act(request, distressed, true)
		if r.Act == Fiction || r.Act == Definition {
			r.Act = Instructions
		}
	}
	if found != nil {
		if found.praise {
			// Propaganda in verse is propaganda.
			r.Act = Text
		}
		r.Harmful = true
		r.Kinds = found.kinds
		r.Affected = affected(found.kinds)
	} else {
		r.Kinds = []string{p.topic(r.Act)}
		r.Affected = "nobody"
		if r.Act == Help {
			r.Affected = "the user"
		}
	}
	r.Clear = !p.soft && (r.Harmful || len(p.live(harmWords)) == 0)
	return r
}

// teaches tells whether a piece of fiction is asked to teach a method.
func teaches(p *parse) bool {
	for i, t := range p.tokens {
		if (t.is("teach") || t.is("explain") || t.is("instruct") || t.is("recipe")) && i+1 < len(p.tokens) {
			for _, u := range p.tokens[i+1:] {
				if u.word == "how" || u.word == "exactly" || t.word == "recipe" {
					return true
				}
			}
		}
	}
	return false
}

// finding is a harm and what it is about.
type finding struct {
	kinds []string
	// praise is true where a piece of fiction praises the harm.
	praise bool
}

func affected(kinds []string) string {
	for _, k := range kinds {
		switch k {
		case "self":
			return "the user"
		case "minor":
			return "minors"
		case "group":
			return "a group"
		case "person", "public-figure", "private-data", "animal":
			return "a person"
		}
	}
	return "the public"
}

// kindOf is the preferred kind of a class, or "".
func kindOf(c class) string {
	for _, k := range kindNames {
		if c.has(kindClasses[k]) {
			return k
		}
	}
	switch {
	case c.has(named("pest", "game-animal")):
		return "animal"
	case c.has(goods):
		return "machine"
	case c.has(places):
		return "event"
	case c.has(institutions):
		return "legal"
	}
	return ""
}

// topic is the kind of a request that harms nobody: that of its first object.
func (p *parse) topic(act string) string {
	if p.has(explicit) && (act == Fiction || act == Text) {
		return "adult-content"
	}
	if (p.has(romance)) && (act == Fiction || act == Text) {
		return "person"
	}
	if p.hasWord("sue", "divorce", "evict", "suing", "lawsuit") {
		return "legal"
	}
	if act == Help {
		for _, s := range p.live(living) {
			if p.tokens[s.at].word != "who" {
				return kindOf(s.class & living)
			}
		}
		if !p.has(named("money", "legal", "medical", "belief", "adult-content")) {
			return "self"
		}
	}
	for i := 0; i < len(p.tokens); i++ {
		np := p.nounPhrase(i)
		if np.head == 0 && np.owner.has(living) {
			np.head = np.owner
		}
		if np.head.has(kindClasses["adult-content"]) && p.hasWord("block", "filter", "ban", "avoid") {
			np.head = 0
		}
		if act == Fact && np.head.has(named("weapon", "drug")) && past.MatchString(strings.ToLower(p.text)) {
			return "event"
		}
		if np.head.has(kindClasses["belief"]) && p.hasWord("spot", "prevent", "protect", "counter", "refute", "debunk") {
			np.head = 0
		}
		if np.head != 0 {
			if k := kindOf(np.head); k != "" && k != "self" {
				return k
			}
		}
		if np.end > i {
			i = np.end - 1
		}
	}
	for _, s := range p.context {
		if k := kindOf(s.class & anyKind); k != "" && k != "self" && !s.class.has(actWord) {
			return k
		}
	}
	return Any
}

// past marks a question about history.
var past = regexp.MustCompile(`\b(?:history of|invented|ancient|in the past|old (?:rome|egypt|greece|china|england)|centur(?:y|ies)|middle ages|medieval|world war|civil war)\b`)

// Topic restates a request in at most seven of its words.
func Topic(request string) string {
	text := strings.TrimSpace(request)
	if i := strings.IndexAny(text, "?\n"); i > 8 {
		text = text[:i]
	}
	if m := meaning.FindStringSubmatch(text); m != nil {
		text = m[1] + m[2]
	}
	words := strings.Fields(text)
	for len(words) > 0 {
		head := strings.ToLower(strings.Trim(words[0], ",.!:"))
		if !opener[head] || head == "how" && len(words) > 1 && !asks[strings.ToLower(words[1])] {
			break
		}
		words = words[1:]
	}
	if len(words) > 7 {
		words = words[:7]
		words = trimTail(words)
	}
	if len(words) == 0 {
		return "an open request"
	}
	words = slices.Clone(words)
	words[0] = lowerFirst(words[0])
	out := strings.Trim(strings.Join(words, " "), " .,!?:;")
	if out == "" {
		return "an open request"
	}
	return out
}

// Short is the first n words of a topic, without a loose end.
func Short(topic string, n int) string {
	words := strings.Fields(topic)
	if len(words) <= n {
		return topic
	}
	return strings.Trim(strings.Join(trimTail(words[:n]), " "), " ,;:")
}

// trimTail drops words that need another one after them.
func trimTail(words []string) []string {
	for len(words) > 3 {
		last := strings.ToLower(words[len(words)-1])
		if !stop[last] && !boundary[last] && !strings.HasSuffix(last, "'s") {
			break
		}
		words = words[:len(words)-1]
	}
	return words
}

// lowerFirst lowers a sentence's first letter, but not that of "DNA" or "I".
func lowerFirst(w string) string {
	first, size := utf8.DecodeRuneInString(w)
	next, _ := utf8.DecodeRuneInString(w[size:])
	if unicode.IsUpper(next) || w == "I" || first == utf8.RuneError {
		return w
	}
	return string(unicode.ToLower(first)) + w[size:]
}

// meaning finds the term of a question for its sense, and the thing of a
// question what it is.
var meaning = regexp.MustCompile(`(?i)^what (?:(?:does|do|did) (.+?) mean|(?:is|are|was|were) (.+?))[?.!]*$`)

// opener holds the words of a request that say only that something is asked.
var opener = set(`how can could would will do does did i you we please hi hello hey tell me give us to help explain describe write
	what's there want need i'd like so well ok okay list show about`)

// asks holds the words after which "how" asks for a method.
var asks = set("to do does did can could would should might must i we one")
