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

// Probe asks r, or for a word where it has no messages, to learn who answers, and how. It
// is sent whatever the journal holds, and not journaled. It may try an account that is
// refused.
func (c *Client) Probe(ctx context.Context, r Request) (Answer, Meta, error) {
	if len(r.Messages) == 0 {
		r.Messages = []schemas.Message{{Role: "user", Content: "Say OK."}}
	}
	q, err := c.endpoint.question(r)
	if err != nil {
		return Answer{}, Meta{}, schemas.E(opAsk, c.endpoint.Name, schemas.InvalidInput, err)
	}
	body, err := q.body()
	if err != nil {
		return Answer{}, Meta{}, schemas.E(opAsk, c.endpoint.Name, schemas.InvalidInput, err)
	}
	apart := *c
	apart.seen = c.pace.refusals()
	apart.last = new(atomic.Pointer[Served]) // it is no answer that is kept
	answer, err := apart.persist(ctx, q, body, q.bill("", body, false))
	return answer, Meta{Key: q.key(), USD: answer.USD}, err
}

// Served is what the endpoint said of itself.
func (a Answer) Served() Served { return Served{a.Model, a.Fingerprint} }
