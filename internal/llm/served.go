package llm

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"precept/schemas"
)

// Served is what an endpoint says of the model that answers: its resolved name and, where
// it has one, the fingerprint of what runs it.
type Served struct {
	Model       string `json:"model"`
	Fingerprint string `json:"fingerprint,omitempty"`
}

func (s Served) String() string {
	if s.Fingerprint == "" {
		return s.Model
	}
	return s.Model + " (fingerprint " + s.Fingerprint + ")"
}

// seen collects what endpoints said.
type seen struct {
	mu  sync.Mutex
	all map[Served]bool
}

func (s *seen) add(served Served) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[Served]bool{}
	}
	s.all[served] = true
}

// Seen is what the endpoint has said in the answers that it sent so far.
func (c *Client) Seen() []Served {
	c.seen.mu.Lock()
	defer c.seen.mu.Unlock()
	return slices.SortedFunc(maps.Keys(c.seen.all), func(x, y Served) int { return strings.Compare(x.String(), y.String()) })
}

// Probe asks the endpoint for a word, to learn which model answers. It is sent whatever
// the journal holds, and not journaled.
func (c *Client) Probe(ctx context.Context) (Served, error) {
	q, err := c.endpoint.question(Request{Messages: []schemas.Message{{Role: "user", Content: "Say OK."}}, MaxTokens: 16})
	if err != nil {
		return Served{}, schemas.E("ask endpoint", c.endpoint.Name, schemas.InvalidInput, err)
	}
	body, err := q.body()
	if err != nil {
		return Served{}, schemas.E("ask endpoint", c.endpoint.Name, schemas.InvalidInput, err)
	}
	apart := *c
	apart.seen = &seen{} // it is no answer that is kept
	answer, err := apart.persist(ctx, body)
	return Served{answer.Model, answer.Fingerprint}, err
}
