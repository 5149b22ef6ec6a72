package main

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"

	"precept/internal/llm/llmtest"
)

// faults are the shares (0 to 1) of requests that meet each fault of the
// endpoint. They exclude each other; their sum should stay under 1.
type faults struct {
	limit, fail, stall, cut, refusal, garbage, odd float64
}

type fault int

const (
	noFault fault = iota
	limitFault
	failFault
	stallFault
	cutFault
	refusalFault
	garbageFault
	oddFault
)

// draw picks the fault of the nth asking of a body. What a client retries
// (429, 500, stalls, cuts, a judge's garbage) depends on n, so that a retry can
// succeed. What a client takes for the final answer (the provider's refusal, a
// teacher's garbage) depends on the body alone, so that asking again after a
// crash gives the same row.
func (f faults) draw(body digest, nth int, judge bool) fault {
	transport := []share{{f.limit, limitFault}, {f.fail, failFault}, {f.stall, stallFault}, {f.cut, cutFault}}
	content := []share{{f.refusal, refusalFault}, {f.odd, oddFault}}
	if judge {
		transport = append(transport, share{f.garbage, garbageFault})
	} else {
		content = append(content, share{f.garbage, garbageFault})
	}
	if got := pick(rng(body, 1+uint64(nth)<<8), transport); got != noFault {
		return got
	}
	return pick(rng(body, 2), content)
}

// odd is the reply of another server that is given in place of the answer, if one is. One
// that holds no answer is given once only.
func (f fault) odd(body digest, nth int) (llmtest.Reply, bool) {
	if f != oddFault {
		return llmtest.Reply{}, false
	}
	reply := oddReplies[rng(body, 5).IntN(len(oddReplies))]
	return reply, !reply.Fails || nth == 0
}

// oddReplies are about one request. Others would end a run's calls.
var oddReplies = slices.DeleteFunc(slices.Clone(llmtest.Replies), func(r llmtest.Reply) bool { return r.Stop })

// said is an answer's text, parted.
func (r *chatResponse) said() llmtest.Answer {
	m := r.Choices[0].Message
	a := llmtest.Answer{Model: r.Model, CoT: m.Reasoning + m.ReasoningContent, PromptTokens: r.Usage.PromptTokens, CompletionTokens: r.Usage.CompletionTokens}
	if m.Content != nil {
		a.Text = *m.Content
	}
	if think, text, closed := strings.Cut(a.Text, "</think>"); closed {
		a.CoT, a.Text = strings.TrimSpace(strings.TrimPrefix(think, "<think>")), strings.TrimSpace(text)
	}
	return a
}

type share struct {
	part float64
	is   fault
}

func pick(r *rand.Rand, shares []share) fault {
	x := r.Float64()
	for _, s := range shares {
		if x < s.part {
			return s.is
		}
		x -= s.part
	}
	return noFault
}

// rng is a random source that follows from a body and a salt alone.
func rng(body digest, salt uint64) *rand.Rand {
	hi := binary.BigEndian.Uint64(body[:8])
	lo := binary.BigEndian.Uint64(body[8:])
	return rand.New(rand.NewPCG(hi, lo^salt*0x9e3779b97f4a7c15))
}
