package llm

import (
	"regexp"
	"strings"
)

// CoT is the form in which a teacher is asked for its chain of thought. By default it is
// asked for a <think> block, and whichever form comes is read.
type CoT string

// The forms.
const (
	CoTThink    CoT = "think"    // a <think> block and nothing else; thoughts in a field are the model's own
	CoTField    CoT = "field"    // the model thinks by itself, in a field of the reply
	CoTSections CoT = "sections" // the headings "## Reasoning" and "## Answer"
)

// Read parts a teacher's answer in the form that it was asked for. It is more lenient
// than SplitCoT, for a teacher's reply is only material: all of it, chain of thought and
// answer, is judged, and an example writes both in the strict form. What a trained model
// says goes to users as it is, and must be in the strict form itself.
func (form CoT) Read(a Answer) (cot, answer string, ok bool) {
	switch form {
	case CoTThink:
		return SplitCoT(a.Content, "")
	case CoTField:
		if a.CoT == "" {
			return "", strings.TrimSpace(a.Content), false
		}
		return SplitCoT(a.Content, a.CoT)
	case CoTSections:
		if cot, answer, ok := splitSections(a.Content); ok {
			return cot, answer, true
		}
	}
	// What stands in the form that was asked for outweighs the model's own thoughts.
	cot, answer, ok = SplitCoT(a.Content, "")
	if !ok && strings.TrimSpace(a.CoT) != "" {
		return SplitCoT(a.Content, a.CoT)
	}
	for _, split := range []func(string) (string, string, bool){splitClosed, splitTags, splitSections} {
		if ok {
			break
		}
		if c, a, fits := split(a.Content); fits {
			cot, answer, ok = c, a, true
		}
	}
	if tagged := answerTags.FindStringSubmatch(answer); ok && tagged != nil && !strings.Contains(strings.ToLower(tagged[1]), "answer>") {
		answer = strings.TrimSpace(tagged[1])
	}
	return cot, answer, ok
}

var (
	answerTags = regexp.MustCompile(`(?is)^<answer>(.*)</answer>$`)
	tags       = regexp.MustCompile(`(?is)^<(reasoning|thinking|thought)>(.*?)</(reasoning|thinking|thought)>(.*)$`)

	// A heading is marked by #, by bold type or by a colon.
	reasoningHeading = heading(`reasoning|thinking|thoughts?|chain of thought|analysis`)
	answerHeading    = heading(`(?:final )?(?:answer|response)`)
)

func heading(names string) *regexp.Regexp {
	return regexp.MustCompile(`(?im)^[ \t]*(?:#{1,6}[ \t]*(?:\*\*)?(?:` + names + `)(?:\*\*)?:?(?:\*\*)?[ \t]*$|\*\*(?:` + names + `)(?::?\*\*|\*\*:)|(?:` + names + `):)`)
}

// splitClosed parts a text whose <think> stands in the prompt, where the chat template
// has put it.
func splitClosed(content string) (cot, answer string, ok bool) {
	before, after, closed := strings.Cut(content, thinkClose)
	return parts(before, after, closed)
}

// splitTags parts a text that begins with one <reasoning> block or the like.
func splitTags(content string) (cot, answer string, ok bool) {
	m := tags.FindStringSubmatch(strings.TrimSpace(content))
	if m == nil || !strings.EqualFold(m[1], m[3]) || tags.MatchString(strings.TrimSpace(m[4])) {
		return "", "", false
	}
	return parts(m[2], m[4], true)
}

// splitSections parts a text that begins with the heading of a reasoning and has one
// heading of an answer.
func splitSections(content string) (cot, answer string, ok bool) {
	content = strings.TrimSpace(content)
	reasoning := reasoningHeading.FindStringIndex(content)
	answers := answerHeading.FindAllStringIndex(content, 2)
	if reasoning == nil || reasoning[0] != 0 || len(answers) != 1 {
		return "", "", false
	}
	return parts(content[reasoning[1]:answers[0][0]], content[answers[0][1]:], true)
}

func parts(cot, answer string, ok bool) (string, string, bool) {
	cot, answer = strings.TrimSpace(cot), strings.TrimSpace(answer)
	return cot, answer, ok && cot != "" && !hasTag(cot) && !hasTag(answer)
}
