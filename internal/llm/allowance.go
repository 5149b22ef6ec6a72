package llm

import (
	"math"
	"net/http"
	"strconv"
	"time"
)

const (
	// shareCheck is how often the share is looked at while requests wait for it.
	shareCheck = 250 * time.Millisecond
	// Where nothing is learned yet: what a byte of a request and an answer are in tokens.
	tokensPerByte   = 0.3
	tokensPerAnswer = 500
)

// allowance is what an endpoint may be sent a minute, in requests and in tokens: what is
// configured or what its headers tell, whichever is less. This process may use its share of
// both. It is dealt out by the second: no more than a second's worth is saved up.
type allowance struct {
	share            func() float64
	requests, tokens budget
	perByte          float64 // tokens of a request
	perAnswer        float64 // tokens of an answer
	wanted           demand
}

// charge is what a turn takes of the allowance. Its tokens are an estimate until
// the answer tells.
type charge struct {
	tokens      float64
	requestsYet float64 // all that was taken, with this, when it was taken
	tokensYet   float64
}

// budget is one limit.
type budget struct {
	set   float64 // a second, as configured; +Inf without
	told  float64 // a second, as headers tell; +Inf where they don't
	share float64

	left  float64 // may be less than 0: an answer was longer than estimated
	at    time.Time
	taken float64 // ever
	// counted is what of taken the demand was told of.
	counted float64
}

func newAllowance(e Endpoint, share func() float64, now time.Time) allowance {
	if share == nil {
		share = func() float64 { return 1 }
	}
	return allowance{
		share: share, requests: newBudget(e.RPM, now), tokens: newBudget(e.TPM, now),
		perByte: tokensPerByte, perAnswer: tokensPerAnswer, wanted: demand{asked: now},
	}
}

func newBudget(perMinute int, now time.Time) budget {
	b := budget{set: math.Inf(1), told: math.Inf(1), share: 1, left: math.Inf(1), at: now}
	if perMinute > 0 {
		b.set = float64(perMinute) / 60
	}
	return b
}

// wait is how long it is until t may be sent, or until that is worth another look.
func (a *allowance) wait(t *turn, now time.Time) time.Duration {
	if t.bytes > 0 { // else it is a call that no model answers
		t.charge.tokens = float64(t.bytes)*a.perByte + a.perAnswer
	}
	a.wanted.each = t.charge.tokens
	if a.requests.unlimited() && a.tokens.unlimited() {
		return 0 // there is nothing to share
	}
	share := min(1, max(0, a.share()))
	return min(shareCheck, max(a.requests.wait(1, share, now), a.tokens.wait(t.charge.tokens, share, now)))
}

func (a *allowance) take(t *turn) {
	t.charge.requestsYet = a.requests.take(1)
	t.charge.tokensYet = a.tokens.take(t.charge.tokens)
}

// settle replaces what t was charged by what it took, and learns from the reply.
func (a *allowance) settle(t *turn, o outcome, now time.Time) {
	switch used := float64(o.usage.PromptTokens + o.usage.CompletionTokens); {
	case !o.sent:
		a.requests.give(1)
		a.tokens.give(t.charge.tokens)
	case throttled(o.err):
		a.tokens.give(t.charge.tokens)
	case used > 0:
		a.tokens.give(t.charge.tokens - used)
		a.perAnswer += (float64(o.usage.CompletionTokens) - a.perAnswer) / 16
		if o.usage.PromptTokens > 0 && t.bytes > 0 {
			a.perByte += (float64(o.usage.PromptTokens)/float64(t.bytes) - a.perByte) / 16
		}
	}
	if o.header != nil {
		a.requests.hear(o.header, "Requests", t.charge.requestsYet, t.sent, now)
		a.tokens.hear(o.header, "Tokens", t.charge.tokensYet, t.sent, now)
	}
}

// perSecond is what may be taken a second.
func (b *budget) perSecond() float64 { return min(b.set, b.told) * b.share }

func (b *budget) unlimited() bool { return math.IsInf(min(b.set, b.told), 1) }

// wait is how long it is until so much may be taken. More than is ever saved up may be
// taken when all of that is there.
func (b *budget) wait(amount, share float64, now time.Time) time.Duration {
	if b.unlimited() {
		return 0
	}
	b.share = share
	perSecond := b.perSecond()
	if perSecond == 0 {
		b.left, b.at = min(b.left, 0), now
		return shareCheck
	}
	most := max(1, perSecond)
	b.left = min(most, b.left+perSecond*now.Sub(b.at).Seconds())
	b.at = now
	lacks := min(amount, most) - b.left
	if lacks <= 1e-9 {
		return 0
	}
	return max(time.Microsecond, seconds(lacks/perSecond))
}

// take takes so much, and returns all that was ever taken.
func (b *budget) take(amount float64) float64 {
	b.left -= amount
	b.taken += amount
	return b.taken
}

func (b *budget) give(amount float64) {
	b.left += amount
	b.taken -= amount
}

// hear takes in a reply's headers: the limit of a minute, and what was left of it when
// the request was accepted. What was taken since then is not in that.
func (b *budget) hear(header http.Header, what string, yet float64, sent, now time.Time) {
	limit, err := strconv.ParseFloat(header.Get("X-Ratelimit-Limit-"+what), 64)
	if err != nil || !(limit > 0) {
		return
	}
	if reset, ok := resetIn(header.Get("X-Ratelimit-Reset-" + what)); ok && reset > time.Minute {
		b.told = math.Inf(1) // it is the limit of a day
		return
	}
	if b.told != limit/60 {
		b.told = limit / 60
		if math.IsInf(b.left, 1) {
			b.at = now
		}
	}
	remaining, err := strconv.ParseFloat(header.Get("X-Ratelimit-Remaining-"+what), 64)
	if err != nil || math.IsNaN(remaining) {
		return
	}
	refilled := min(limit, remaining+b.told*now.Sub(sent).Seconds())
	b.left = min(b.left, refilled*b.share-(b.taken-yet))
}

// resetIn reads a duration such as 6m0s, or a number of seconds.
func resetIn(text string) (time.Duration, bool) {
	if d, err := time.ParseDuration(text); err == nil {
		return d, true
	}
	s, err := strconv.ParseFloat(text, 64)
	return seconds(s), err == nil
}
