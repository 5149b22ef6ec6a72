package llm

import (
	"context"
	"sync/atomic"

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

// Last is what the endpoint has said in the last answer that it sent; the zero value
// where it has sent none, or doesn't say.
func (c *Client) Last() Served {
	if s := c.last.Load(); s != nil {
		return *s
	}
	return Served{}
}

// Probe asks the endpoint for a word, as a request like r is asked, to learn which model
// answers. It is sent whatever the journal holds, and not journaled.
func (c *Client) Probe(ctx context.Context, r Request) (Served, error) {
	r.Messages = []schemas.Message{{Role: "user", Content: "Say OK."}}
	q, err := c.endpoint.question(r)
	if err != nil {
		return Served{}, schemas.E("ask endpoint", c.endpoint.Name, schemas.InvalidInput, err)
	}
	body, err := q.body()
	if err != nil {
		return Served{}, schemas.E("ask endpoint", c.endpoint.Name, schemas.InvalidInput, err)
	}
	apart := *c
	apart.last = new(atomic.Pointer[Served]) // it is no answer that is kept
	answer, err := apart.persist(ctx, body, q.bill("", body, false))
	return Served{answer.Model, answer.Fingerprint}, err
}
