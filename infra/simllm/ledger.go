package main

import (
	"encoding/json"
	"net/http"
	"sync"
)

// counts is one line of the ledger. Unique and Repeated split Requests by the
// SHA-256 of the whole body; the Paid figures do the same for requests that
// were answered with 200 to the last byte, which is what a provider bills.
type counts struct {
	Requests         int64 `json:"requests"`
	Unique           int64 `json:"unique"`
	Repeated         int64 `json:"repeated"`
	Paid             int64 `json:"paid"`
	PaidUnique       int64 `json:"paid_unique"`
	PaidRepeated     int64 `json:"paid_repeated"`
	Errors           int64 `json:"errors"`
	PromptTokens     int64 `json:"prompt_tokens"`
	CachedTokens     int64 `json:"cached_tokens"`
	CompletionTokens int64 `json:"completion_tokens"`
	InFlight         int64 `json:"in_flight"`
	// Batched and its tokens are the part of Paid that came by batch, at its price.
	Batched                 int64 `json:"batched"`
	BatchedPromptTokens     int64 `json:"batched_prompt_tokens"`
	BatchedCompletionTokens int64 `json:"batched_completion_tokens"`
}

// digest is the first half of a body's SHA-256: enough to tell bodies apart,
// and small enough to remember millions.
type digest [16]byte

// seen counts how often a body was asked and how often it was paid for.
type seen struct{ asked, paid uint16 }

// maxBodies bounds the ledger's memory (about 50 bytes a body). Past it, new
// bodies are no longer remembered and Exact turns false.
const maxBodies = 4 << 20

type ledger struct {
	mu      sync.Mutex
	bodies  map[digest]seen
	total   counts
	byModel map[string]*counts
	exact   bool
	epoch   int
	serves  func(model string) bool
}

func newLedger(serves func(model string) bool) *ledger {
	l := &ledger{serves: serves}
	l.reset()
	return l
}

// reset forgets everything but the requests still in flight, which end in a
// ledger that no longer knows them and are not counted.
func (l *ledger) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bodies = map[digest]seen{}
	l.total = counts{}
	l.byModel = map[string]*counts{}
	l.exact = true
	l.epoch++
}

// entry is one request between its arrival and its end.
type entry struct {
	model string
	body  digest
	// nth is how often the same body was asked before.
	nth   int
	epoch int
}

// open records the arrival of a request.
func (l *ledger) open(model string, body digest) entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, known := l.bodies[body]
	e := entry{model: model, body: body, nth: int(s.asked), epoch: l.epoch}
	for _, c := range l.lines(model) {
		c.Requests++
		c.InFlight++
		if known {
			c.Repeated++
		} else {
			c.Unique++
		}
	}
	if s.asked < 1<<16-1 {
		s.asked++
	}
	l.store(body, s, known)
	return e
}

// close records its end; a nil usage is an error.
func (l *ledger) close(e entry, u *usage) { l.end(e, u, false) }

// closeBatched is close for a request of a batch.
func (l *ledger) closeBatched(e entry, u *usage) { l.end(e, u, true) }

func (l *ledger) end(e entry, u *usage, batched bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.epoch != l.epoch {
		return
	}
	s, known := l.bodies[e.body]
	for _, c := range l.lines(e.model) {
		c.InFlight--
		if u == nil {
			c.Errors++
			continue
		}
		c.Paid++
		if s.paid == 0 {
			c.PaidUnique++
		} else {
			c.PaidRepeated++
		}
		c.PromptTokens += int64(u.PromptTokens)
		c.CachedTokens += int64(u.Details.CachedTokens)
		c.CompletionTokens += int64(u.CompletionTokens)
		if batched {
			c.Batched++
			c.BatchedPromptTokens += int64(u.PromptTokens)
			c.BatchedCompletionTokens += int64(u.CompletionTokens)
		}
	}
	if u != nil && known && s.paid < 1<<16-1 {
		s.paid++
		l.bodies[e.body] = s
	}
}

func (l *ledger) store(d digest, s seen, known bool) {
	if !known && len(l.bodies) >= maxBodies {
		l.exact = false
		return
	}
	l.bodies[d] = s
}

// lines are the lines that a request of model is counted in. Unknown models
// share one line, so that a client can't grow the ledger by inventing names.
func (l *ledger) lines(model string) [2]*counts {
	if !l.serves(model) {
		model = "unknown"
	}
	c := l.byModel[model]
	if c == nil {
		c = &counts{}
		l.byModel[model] = c
	}
	return [2]*counts{&l.total, c}
}

// snapshot is the body of GET /ledger.
type snapshot struct {
	counts
	// Exact is false once more distinct bodies came than the ledger remembers.
	Exact     bool              `json:"exact"`
	Simulated bool              `json:"simulated"`
	ByModel   map[string]counts `json:"by_model"`
}

func (l *ledger) snapshot() snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := snapshot{counts: l.total, Exact: l.exact, Simulated: true, ByModel: map[string]counts{}}
	for m, c := range l.byModel {
		s.ByModel[m] = *c
	}
	return s
}

func (l *ledger) serveGet(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	// A client that went away has no use for the error.
	_ = json.NewEncoder(w).Encode(l.snapshot())
}

func (l *ledger) serveReset(w http.ResponseWriter, _ *http.Request) {
	l.reset()
	w.WriteHeader(http.StatusNoContent)
}
