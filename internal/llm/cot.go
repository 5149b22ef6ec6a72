package llm

import "strings"

const (
	thinkOpen  = "<think>"
	thinkClose = "</think>"
)

// SplitCoT parts a reply into chain of thought and answer. It is ok when the
// chain of thought stands in a reasoning field of its own, or in exactly one
// closed <think> block at the start, and isn't empty.
//
// It is the form that is trained, and the only one in which a trained model is read.
//
// When it isn't ok, a judge must still see all that a user would see: the answer
// is everything outside the first closed block. A block that was never closed is
// all chain of thought, with what stands before it as the answer.
func SplitCoT(content, reasoning string) (cot, answer string, ok bool) {
	content = strings.TrimSpace(content)
	if cot = strings.TrimSpace(reasoning); cot != "" {
		return cot, content, !hasTag(content)
	}
	before, rest, opened := strings.Cut(content, thinkOpen)
	if !opened {
		return "", content, false
	}
	inside, after, closed := strings.Cut(rest, thinkClose)
	cot = strings.TrimSpace(inside)
	if !closed {
		return cot, strings.TrimSpace(before), false
	}
	answer = strings.TrimSpace(before + after)
	ok = before == "" && cot != "" && !hasTag(inside) && !hasTag(after)
	return cot, answer, ok
}

func hasTag(s string) bool {
	return strings.Contains(s, thinkOpen) || strings.Contains(s, thinkClose)
}
