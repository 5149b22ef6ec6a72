package llm

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"

	"precept/schemas"
)

// Payer keeps account of a client's requests. It may be used by many goroutines.
type Payer interface {
	// Token marks in the journal the answers that it pays for.
	Token() string
	// Send is called before a request is sent. It may wait, and fails where nothing may
	// be sent.
	Send(context.Context, Bill) error
	// Settle tells, once for every Send that did not fail, what the request took: an
	// answer, nothing, or, where nobody knows, at most what its bill says.
	Settle(context.Context, Bill, schemas.Usage)
	// Found tells of an answer from the journal: what it took, and whether this payer
	// has paid for it, now or before.
	Found(ctx context.Context, bill Bill, took schemas.Usage, own bool)
	// Postpone is called before a request is put into a batch. It fails where it may not.
	Postpone(context.Context, Bill) error
	// Received tells of an answer that a batch has brought.
	Received(ctx context.Context, took schemas.Usage)
	// Missing tells of a request that an offline client would have sent.
	Missing(context.Context, Bill, Request)
}

// Bill is what a request can take. Most is no estimate but a bound: a token is a byte of
// the request at least.
type Bill struct {
	Key      schemas.Key // empty where no answer is kept
	Endpoint Endpoint
	Bytes    int64 // that are sent; 0 where the answer was found
	Limit    int64 // most tokens of the answer
	Most     schemas.Cost
}

// Paying returns a client that keeps account with p. It shares all with c, as Guarded
// does.
func (c *Client) Paying(p Payer) *Client {
	g := *c
	g.payer = p
	return &g
}

// unlimited is how many tokens an answer is taken to have at most where the request sets no limit.
const unlimited = 1 << 17

// bill is q's, whose body is given, online or by batch.
func (q question) bill(key schemas.Key, body net.Buffers, batch bool) Bill {
	b := Bill{Key: key, Endpoint: q.endpoint, Limit: q.endpoint.Limit(q.limit)}
	for _, part := range body {
		b.Bytes += int64(len(part))
	}
	e := q.endpoint
	e.InputUSD = max(e.InputUSD, e.CachedUSD) // some charge more for what enters their cache
	e.CachedUSD = 0
	b.Most = schemas.Cost{
		USD:    e.price(Answer{Usage: Usage{PromptTokens: b.Bytes, CompletionTokens: b.Limit}, Batch: batch}),
		Tokens: b.Bytes + b.Limit,
	}
	return b
}

// Limit is how many tokens an answer of e has at most where so many are asked for, 0 being
// any number: the configuration has the last word.
func (e Endpoint) Limit(asked int) int64 {
	if v, ok := e.Extra[e.limitField()]; ok {
		if n, ok := number(v); ok {
			return n
		}
		return unlimited
	}
	return cmp.Or(int64(asked), unlimited)
}

func number(v any) (int64, bool) {
	switch n := v.(type) {
	case float64:
		return int64(n), true
	case int:
		return int64(n), true
	}
	return 0, false
}

// pay sends a request if guard and payer let it, and has the payer settle it.
func (c *Client) pay(ctx context.Context, bill Bill, send func() (Answer, error)) (Answer, error) {
	if c.payer == nil {
		if err := c.guard(); err != nil {
			return Answer{}, err
		}
		answer, err := send()
		answer.USD = c.endpoint.price(answer)
		return answer, err
	}
	if err := c.payer.Send(ctx, bill); err != nil {
		return Answer{}, err
	}
	var took schemas.Usage
	defer func() { c.payer.Settle(ctx, bill, took) }()
	// The guard comes last: the payer may have waited.
	if err := c.guard(); err != nil {
		return Answer{}, err
	}
	took = unknown(bill)
	answer, err := send()
	if err != nil {
		if f := (*fault)(nil); errors.As(err, &f) && f.unbilled {
			took = schemas.Usage{}
		}
		return answer, err
	}
	answer.USD, answer.Payer = c.endpoint.price(answer), c.payer.Token()
	took = answer.took()
	if answer.Usage == (Usage{}) && !answer.Refusal && !answer.TooLong() {
		// It doesn't say what it took.
		took.UnansweredTokens, took.UnansweredUSD = bill.Most.Tokens, bill.Most.USD
	}
	return answer, nil
}

// Price is what tokens cost at e, online or by batch.
func (e Endpoint) Price(u Usage, batch bool) float64 { return e.price(Answer{Usage: u, Batch: batch}) }

// unknown is what a request may have taken that was sent and got no answer.
func unknown(b Bill) schemas.Usage {
	return schemas.Usage{Unanswered: 1, UnansweredTokens: b.Most.Tokens, UnansweredUSD: b.Most.USD}
}

func (c *Client) found(ctx context.Context, key schemas.Key, q question, a Answer) {
	if c.payer != nil {
		c.payer.Found(ctx, Bill{Key: key, Endpoint: q.endpoint, Limit: int64(q.limit)}, a.took(), a.Payer != "" && a.Payer == c.payer.Token())
	}
}

// received marks an answer that a batch has brought, and has the payer count it.
func (c *Client) received(ctx context.Context, a *Answer) {
	a.USD = c.endpoint.price(*a)
	if c.payer != nil {
		a.Payer = c.payer.Token()
		c.payer.Received(ctx, a.took())
	}
}

func (c *Client) missing(ctx context.Context, bill Bill, r Request) {
	if c.payer != nil && !c.recorded {
		c.payer.Missing(ctx, bill, r)
	}
}

// unbilled reports whether a reply of this status says that the model did nothing. A
// gateway that gave up waiting doesn't know.
func unbilled(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusBadGateway, http.StatusGatewayTimeout, 499, 524:
		return false
	}
	return status >= 300
}

// unsent reports whether a request failed before any of it was sent.
func unsent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

type categoryKey struct{}

// InCategory returns a context whose requests are accounted to a category.
func InCategory(ctx context.Context, c schemas.Category) context.Context {
	return context.WithValue(ctx, categoryKey{}, c)
}

// CategoryOf is the category that ctx's requests are accounted to; empty for none.
func CategoryOf(ctx context.Context) schemas.Category {
	c, _ := ctx.Value(categoryKey{}).(schemas.Category)
	return c
}
