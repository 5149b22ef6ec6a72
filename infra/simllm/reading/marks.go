package reading

import "strings"

// subjects says which classes of the lexicon the common names of policy categories stand
// for, as any speaker knows, and how much each tells: who speaks of killing may speak of
// anything, who speaks of a caliphate does not.
var subjects = map[string]map[string]float64{
	"violence":   {"violence": 0.8, "weapon": 0.9, "destroy": 0.6},
	"self-harm":  {"self": 0.3, "distress": 1.5, "crisis": 1.5},
	"harassment": {"demean": 1, "spy": 0.9, "private-data": 1},
	"extremism":  {"extremist": 2, "belief": 1.5},
	"erotic":     {"sexual": 1.5, "explicit": 1.5, "romance": 1, "adult-content": 1.5},
	"illicit":    {"theft": 0.7, "crime": 0.8, "contraband": 0.6, "account": 0.8},
	"advice":     {"medical": 1.2, "legal": 1.2, "money": 0.6, "drug": 0.6},
}

// Marks counts what a text touches, as far as words tell: the words that carry its topic,
// and the classes of the lexicon that its words belong to, harmless meanings included.
func Marks(text string) map[string]int {
	found := map[string]int{}
	for _, s := range world.spans(tokenize(text)) {
		for name, c := range world.names {
			if s.class.has(c) {
				found["class "+name]++
			}
		}
	}
	for _, w := range ContentWords(text) {
		if !asking[w] {
			found[w]++
		}
	}
	return found
}

// Subject tells by which marks a category's name is known, and how well.
func Subject(name string) map[string]float64 {
	marks := map[string]float64{}
	for word, classes := range subjects {
		if strings.Contains("-"+name+"-", "-"+word+"-") {
			for class, weight := range classes {
				marks["class "+class] = weight
			}
		}
	}
	return marks
}

// asking holds the words by which something is asked, whatever it is.
var asking = set(`mean explain write describe story fiction definition history fact law prevention research plan method way use word
	everyday help answer safely comply refuse people somebody without scene essay message work say ask find support`)
