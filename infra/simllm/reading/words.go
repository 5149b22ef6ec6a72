package reading

import (
	"strings"
	"unicode"
)

// tokenize splits text into lower-case words and marks of punctuation. A
// possessive becomes a token of its own, "'s".
func tokenize(text string) []token {
	text = strings.NewReplacer("’", "'", "‘", "'", "“", "\"", "”", "\"", "…", ".").Replace(text)
	var out []token
	fresh := true
	add := func(word string) {
		name := !fresh && word[0] >= 'A' && word[0] <= 'Z'
		word = strings.ToLower(word)
		owner := ""
		if strings.HasSuffix(word, "'s") && !contracted[word] {
			word, owner = strings.TrimSuffix(word, "'s"), "'s"
		} else if strings.HasSuffix(word, "s'") {
			word, owner = strings.TrimSuffix(word, "'"), "'s"
		}
		word = strings.Trim(word, "'-")
		if word == "" {
			return
		}
		out = append(out, token{word: word, forms: forms(word), name: name})
		if owner != "" {
			out = append(out, token{word: owner, forms: []string{owner}})
		}
		fresh = false
	}
	start := -1
	for i, r := range text {
		inside := unicode.IsLetter(r) || unicode.IsDigit(r) || r == '\'' || r == '-' || r == '+' || r == '&' || r == '/' && start >= 0
		if inside {
			if start < 0 {
				start = i
			}
			continue
		}
		if start >= 0 {
			add(text[start:i])
			start = -1
		}
		if strings.ContainsRune(".,?!:;()", r) {
			mark := string(r)
			out = append(out, token{word: mark, forms: []string{mark}})
			fresh = fresh || r != ','
		}
	}
	if start >= 0 {
		add(text[start:])
	}
	return out
}

var contracted = set("it's that's what's who's where's how's there's here's he's she's let's when's why's")

// forms lists a word and the base forms that it may be an inflection of.
func forms(w string) []string {
	out := []string{w}
	if base, ok := irregular[w]; ok {
		return append(out, base)
	}
	add := func(s string) {
		if len(s) > 1 {
			out = append(out, s)
		}
	}
	// stem adds the bases of a word that lost the ending "ed" or "ing".
	stem := func(s string) {
		if !strings.ContainsAny(s, "aeiouy") {
			return
		}
		n := len(s)
		if n > 2 && s[n-1] == s[n-2] && s[n-1] != 's' && s[n-1] != 'l' {
			add(s[:n-1])
		}
		add(s + "e")
		add(s)
		if n > 2 && s[n-1] == s[n-2] {
			add(s[:n-1])
		}
	}
	switch {
	case len(w) < 4:
		if len(w) == 3 && strings.HasSuffix(w, "s") {
			add(w[:2])
		}
	case strings.HasSuffix(w, "ies"):
		add(w[:len(w)-3] + "y")
		add(w[:len(w)-1])
	case strings.HasSuffix(w, "ves"):
		add(w[:len(w)-3] + "f")
		add(w[:len(w)-3] + "fe")
		add(w[:len(w)-1])
	case strings.HasSuffix(w, "es"):
		add(w[:len(w)-1])
		add(w[:len(w)-2])
	case strings.HasSuffix(w, "s") && !strings.HasSuffix(w, "ss"):
		add(w[:len(w)-1])
	case strings.HasSuffix(w, "ied"):
		add(w[:len(w)-3] + "y")
	case strings.HasSuffix(w, "ed"):
		stem(w[:len(w)-2])
	case strings.HasSuffix(w, "ing") && len(w) > 5:
		stem(w[:len(w)-3])
	}
	return out
}

var irregular = pairs(`stole steal stolen steal shot shoot beaten beat hung hang burnt burn bought buy made make wrote write
	written write broke break broken break hid hide hidden hide fought fight drove drive struck strike took take taken take
	blew blow blown blow slain slay slew slay sold sell got get stung sting bit bite bitten bite drew draw drawn draw
	men man women woman wives wife knives knife people people children children mice mice drugged drug
	forgot forget lying lie dying die dies die died die tying tie led lead told tell found find lit light
	threw throw thrown throw cut cut hit hit hurt hurt kept keep lent lend lost lose`)

func pairs(text string) map[string]string {
	words := strings.Fields(text)
	out := map[string]string{}
	for i := 0; i+1 < len(words); i += 2 {
		out[words[i]] = words[i+1]
	}
	return out
}

func set(text string) map[string]bool {
	out := map[string]bool{}
	for w := range strings.FieldsSeq(text) {
		out[w] = true
	}
	return out
}

// boundary holds the words and marks that end a noun phrase.
var boundary = set(`. , ? ! : ; ( ) in on at with without for from to by so because if when while who that which whose and or
	before after until than as into onto about using through during like but is are was were be been being off out over under
	behind beside near inside outside where how what why against of will would can could should must has have had do does did
	then via next tonight today tomorrow again now towards toward along across between among i she he they we it`)

// stop holds the words that carry no topic.
var stop = set(`a an the i me my mine you your he she it we us our they them their his her its this that these those is are was were be
	been being am do does did can could would should will may might must to of in on at for from by with about as and or if so
	not no what how why when where who which there here please tell give help want need like just very really some any one
	make get let than then too also into out up down off over under again more most such only own same`)

// ContentWords are the words of text that carry its topic, in their base form.
func ContentWords(text string) []string {
	var out []string
	for _, t := range tokenize(text) {
		if stop[t.word] || t.word == "'s" || len(t.word) < 2 {
			continue
		}
		out = append(out, t.forms[len(t.forms)-1])
	}
	return out
}
