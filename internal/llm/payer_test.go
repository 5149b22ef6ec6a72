package llm

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"precept/schemas"
)

// purse is a Payer that writes down what it is told.
type purse struct {
	token   string
	refuse  error
	sent    []Bill
	settled []schemas.Usage
	found   []bool // own
}

func (p *purse) Token() string { return p.token }

func (p *purse) Send(_ context.Context, b Bill) error {
	p.sent = append(p.sent, b)
	return p.refuse
}

func (p *purse) Settle(_ context.Context, _ Bill, u schemas.Usage) { p.settled = append(p.settled, u) }

func (p *purse) Found(_ context.Context, _ Bill, _ schemas.Usage, own bool) {
	p.found = append(p.found, own)
}

func (p *purse) Postpone(_ context.Context, b Bill) error { return p.refuse }

func (p *purse) Received(_ context.Context, u schemas.Usage) { p.settled = append(p.settled, u) }

func (p *purse) Missing(context.Context, Bill, Request) {}

func priced(e *Endpoint, _ *Options) { e.InputUSD, e.CachedUSD, e.OutputUSD = 1, 0.5, 2 }

func TestAnAnswerTellsWhoPaid(t *testing.T) {
	c, journal := serve(t, respond(http.StatusOK, hello), priced)
	ann, bob := &purse{token: "ann"}, &purse{token: "bob"}
	for _, p := range []*purse{ann, bob, ann} {
		if _, _, err := c.Paying(p).Ask(t.Context(), ask("Hi")); err != nil {
			t.Fatal(err)
		}
	}
	if len(ann.settled) != 1 || ann.settled[0].USD != 18e-6 || len(ann.found) != 1 || !ann.found[0] || len(bob.sent) != 0 || len(bob.found) != 1 || bob.found[0] {
		t.Errorf("ann %+v, bob %+v", ann, bob)
	}
	// Answers of before nobody was named are nobody's.
	key := keyOf(t, c.Endpoint(), ask("old"))
	if err := journal.Append(key, []byte(`{"content":"Old","finish_reason":"stop","usage":{"prompt_tokens":1,"completion_tokens":1},"seconds":1}`)); err != nil {
		t.Fatal(err)
	}
	nobody := &purse{}
	if _, meta, err := c.Paying(nobody).Ask(t.Context(), ask("old")); err != nil || !meta.Cached || nobody.found[0] {
		t.Errorf("%+v, %v, %+v", meta, err, nobody)
	}
}

func TestABillBoundsWhatARequestTakes(t *testing.T) {
	c, _ := serve(t, respond(http.StatusOK, hello), priced)
	p := &purse{token: "ann"}
	r := ask("Hi")
	r.MaxTokens = 100
	if _, _, err := c.Paying(p).Ask(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	b := p.sent[0]
	e := c.Endpoint()
	if b.Limit != 100 || b.Bytes < 60 || b.Most.Tokens != b.Bytes+100 || b.Most.USD != e.Price(Usage{PromptTokens: b.Bytes, CompletionTokens: 100}, false) {
		t.Errorf("the bill is %+v", b)
	}
	for _, tt := range []struct {
		extra map[string]any
		limit int64
	}{{map[string]any{"max_tokens": 7.0}, 7}, {map[string]any{"max_tokens": nil}, unlimited}} {
		e.Extra = tt.extra
		q, err := e.question(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := q.body()
		if err != nil {
			t.Fatal(err)
		}
		if got := q.bill("", body, false).Limit; got != tt.limit {
			t.Errorf("with %v an answer has %d tokens at most, want %d", tt.extra, got, tt.limit)
		}
	}
}

func TestAPayerMayRefuse(t *testing.T) {
	c, _ := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("it was sent") })
	p := &purse{refuse: errors.New("no more")}
	if _, _, err := c.Paying(p).Ask(t.Context(), ask("Hi")); !errors.Is(err, p.refuse) || len(p.settled) != 0 {
		t.Errorf("%v, settled %v", err, p.settled)
	}
	// What the guard holds back took nothing.
	held := errors.New("held back")
	p = &purse{}
	_, _, err := c.Guarded(func() error { return held }).Paying(p).Ask(t.Context(), ask("Hi"))
	if !errors.Is(err, held) || len(p.settled) != 1 || p.settled[0] != (schemas.Usage{}) {
		t.Errorf("%v, settled %v", err, p.settled)
	}
}
