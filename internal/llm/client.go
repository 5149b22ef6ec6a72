package llm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	openai "github.com/sashabaranov/go-openai"

	"precept/schemas"
)

const (
	defaultAttempts = 4
	firstBackoff    = 500 * time.Millisecond
	maxBackoff      = 30 * time.Second
	defaultPatience = time.Minute

	// refusalsPerAttempt is how many refusals as too much for the moment use up an attempt.
	refusalsPerAttempt = 4
)

// Options are the parts of a Client. Only Journal is needed.
type Options struct {
	Journal Journal
	// Attempts are how often one request is sent; defaults to 4. That the endpoint refuses it
	// as too much for the moment counts for a quarter.
	Attempts int
	// Offline makes a client that answers from the journal alone, and sends nothing.
	Offline bool

	// Share is the part of the endpoint's requests and tokens a minute that this process
	// may use now; nil is all.
	Share func() float64
	// Patience is how long a request waits for an endpoint that is out, and has failed
	// many in a row; defaults to a minute.
	Patience time.Duration

	// Transport sends the HTTP requests. Defaults to a pool of connections of
	// the client's own.
	Transport http.RoundTripper
}

// Client asks one endpoint. It may be used by many goroutines; all clients made
// from it by Guarded share its pace.
type Client struct {
	endpoint Endpoint
	hide     func(string) string // takes the key out of a text; a function, since it is never printed
	journal  Journal
	attempts int
	offline  bool
	recorded bool // it is offline since another one is asked what it lacks
	pace     *pace
	flights  *flights
	prefixes *prefixes
	last     *atomic.Pointer[Served]
	guard    func() error
	payer    Payer    // nil: nobody keeps account
	backlog  *Backlog // in batch mode: what is to be sent
	seen     int      // refusals of the account before this client was guarded
	hasty    bool     // it waits for no endpoint that is out
}

// NewClient makes a client for e. It sends nothing.
func NewClient(e Endpoint, o Options) (*Client, error) {
	if err := e.Check(); err != nil {
		return nil, err
	}
	fail := func(format string, args ...any) (*Client, error) {
		return nil, schemas.Errorf("open endpoint", e.Name, schemas.InvalidInput, format, args...)
	}
	if o.Journal == nil {
		return fail("it has no journal to keep answers in")
	}
	c := &Client{endpoint: e, journal: o.Journal, attempts: o.Attempts, offline: o.Offline, flights: newFlights(), prefixes: newPrefixes(), last: new(atomic.Pointer[Served]), guard: func() error { return nil }}
	if c.attempts <= 0 {
		c.attempts = defaultAttempts
	}
	key := ""
	if e.APIKeyEnv != "" && !o.Offline {
		key = strings.TrimSpace(os.Getenv(e.APIKeyEnv))
		if key == "" {
			return fail("the environment variable %s that api_key_env names is empty", e.APIKeyEnv)
		}
		if strings.ContainsFunc(key, unicode.IsControl) {
			return fail("the environment variable %s that api_key_env names holds a line break or another control character", e.APIKeyEnv)
		}
	}
	c.hide = newSecret(key).hide
	c.pace = newPace(e, o.Share, cmp.Or(o.Patience, defaultPatience))
	base := o.Transport
	if base == nil {
		pool := http.DefaultTransport.(*http.Transport).Clone()
		// All connections stay open: answers come in waves.
		pool.MaxIdleConns, pool.MaxIdleConnsPerHost = 0, e.atOnce()
		pool.MaxResponseHeaderBytes = 1 << 20
		base = pool
	}
	sends := transport{base: base}
	config := openai.DefaultConfig(key)
	if e.APIKeyHeader != "" {
		config = openai.DefaultConfig("")
		sends.header, sends.key = e.APIKeyHeader, key
	}
	config.HTTPClient = &http.Client{
		Transport: sends,
		// A redirect is a wrong base_url, and may carry the key elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for _, r := range c.pace.replicas {
		config.BaseURL = r.url
		r.api = openai.NewClientWithConfig(config)
	}
	return c, nil
}

// Guarded returns a client that calls guard before each request it sends, and
// sends nothing when guard fails. It shares c's pace, journal, requests in flight
// and connections. Where the account is refused, it may try it once more.
func (c *Client) Guarded(guard func() error) *Client {
	g := *c
	g.guard = guard
	g.seen = c.pace.refusals()
	return &g
}

// Hasty returns a client that doesn't wait for an endpoint that is out, since another one
// can be asked in its place. It shares all else with c.
func (c *Client) Hasty() *Client {
	h := *c
	h.hasty = true
	return &h
}

// Recorded returns a client that answers from the journal alone, and doesn't tell of what
// is missing. It shares all else with c.
func (c *Client) Recorded() *Client {
	r := *c
	r.offline, r.recorded = true, true
	return &r
}

// Endpoint is the endpoint that c asks.
func (c *Client) Endpoint() Endpoint { return c.endpoint }

// Ask answers r from the journal, or sends it and journals the answer; of equal
// requests at the same time one is sent. Errors that may pass are retried a few
// times; what is left is an error whose kind says whether later may be better.
// The guard's and the journal's errors are returned as they are.
func (c *Client) Ask(ctx context.Context, r Request) (Answer, Meta, error) {
	if err := c.check(r); err != nil {
		return Answer{}, Meta{}, err
	}
	q, err := c.endpoint.question(r)
	if err != nil {
		return Answer{}, Meta{}, schemas.E(opAsk, c.endpoint.Name, schemas.InvalidInput, err)
	}
	meta := Meta{Key: q.key()}
	if err := c.flights.enter(ctx, meta.Key); err != nil {
		return Answer{}, meta, c.unavailable(err, "waiting for an equal request: %v", err)
	}
	defer c.flights.leave(meta.Key)
	answer, found, err := c.recall(ctx, meta.Key)
	if err != nil {
		return Answer{}, meta, err
	}
	if found && q.holds(answer) {
		meta.Cached = true
		c.found(ctx, meta.Key, q, answer)
		return answer, meta, nil
	}
	if limited, ok, err := c.recall(ctx, q.limitedKey(meta.Key)); ok || err != nil {
		if meta.Cached = ok; ok {
			c.found(ctx, meta.Key, q, limited)
		}
		return limited, meta, err
	}
	body, err := q.body()
	if err != nil {
		return Answer{}, meta, schemas.E(opAsk, c.endpoint.Name, schemas.InvalidInput, err)
	}
	bill := q.bill(meta.Key, body, false)
	if c.offline {
		c.missing(ctx, bill, r)
		return Answer{}, meta, errMissing
	}
	if c.backlog != nil {
		return Answer{}, meta, c.backlog.postpone(ctx, c, q, body, bill.Key)
	}
	if c.endpoint.cachesPrefixes() {
		read, err := c.prefixes.enter(ctx, q.begun)
		if err != nil {
			return Answer{}, meta, c.unavailable(err, "waiting for the first request of its prefix: %v", err)
		}
		defer read()
	}
	if answer, err = c.persist(ctx, q, body, bill); err != nil {
		return Answer{}, meta, err
	}
	answer.Limit = q.limit
	meta.USD = answer.USD
	// The key may be taken by an answer that this limit leaves no room for.
	key := meta.Key
	if found || answer.limited() {
		key = q.limitedKey(meta.Key)
	}
	return answer, meta, c.record(key, answer)
}

// record journals an answer.
func (c *Client) record(key schemas.Key, answer Answer) error {
	raw, err := json.Marshal(answer)
	if err != nil {
		return schemas.E("journal answer", string(key), schemas.Internal, err)
	}
	return c.journal.Append(key, raw)
}

var errMissing = errors.New("the journal has no answer")

// IsMissing reports whether err is an offline client's, that the journal has no answer.
func IsMissing(err error) bool { return errors.Is(err, errMissing) }

// recall looks for an answer in the journal.
func (c *Client) recall(ctx context.Context, key schemas.Key) (answer Answer, ok bool, err error) {
	raw, ok, err := c.journal.Lookup(ctx, key)
	if !ok || err != nil {
		return answer, false, err
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return answer, false, schemas.E("read journaled answer", string(key), schemas.Internal, err)
	}
	return answer, true, nil
}

func (c *Client) check(r Request) error {
	fail := func(text string) error {
		return schemas.E(opAsk, c.endpoint.Name, schemas.InvalidInput, errors.New(text))
	}
	finite := func(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }
	switch {
	case len(r.Messages) == 0:
		return fail("the request has no messages")
	case !finite(r.Temperature) || !finite(r.TopP):
		return fail("temperature or top_p is no number")
	}
	return nil
}

// persist sends body until there is an answer, an error that no retry mends, or
// no attempt left.
func (c *Client) persist(ctx context.Context, q question, body net.Buffers, bill Bill) (Answer, error) {
	t := &turn{prefix: q.begun.prefix, bytes: int(bill.Bytes), seen: c.seen, hasty: c.hasty}
	left := refusalsPerAttempt * (c.attempts - 1)
	for failures := 1; ; failures++ {
		if err := c.enter(ctx, t); err != nil {
			return Answer{}, err
		}
		answer, err := c.turn(ctx, t, body, bill)
		if t.again = throttled(err); t.again {
			left--
			failures--
		} else {
			left -= refusalsPerAttempt
		}
		if err == nil || !passing(err) || left < 0 || ctx.Err() != nil {
			return answer, err
		}
		pause := RetryAfter(err)
		if !t.again {
			pause = max(pause, backoff(failures))
		}
		deadline, bounded := ctx.Deadline()
		if pause > maxPause || bounded && time.Until(deadline) < pause {
			return answer, err
		}
		if t.again {
			continue // the pace holds it back
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return answer, err
		}
	}
}

// enter waits for t's turn.
func (c *Client) enter(ctx context.Context, t *turn) error {
	err := c.pace.enter(ctx, t, c.guard)
	if out := (*outage)(nil); errors.As(err, &out) || err != nil && err == ctx.Err() {
		return c.unavailable(err, "waiting to send: %v", err)
	}
	return err
}

// passing reports whether err came from the endpoint and may pass.
func passing(err error) bool {
	var f *fault
	return errors.As(err, &f) && schemas.KindOf(err).Retryable()
}

func throttled(err error) bool { return schemas.KindOf(err) == schemas.RateLimited }

// turn sends body once, as t allows.
func (c *Client) turn(ctx context.Context, t *turn, body net.Buffers, bill Bill) (answer Answer, err error) {
	x := &exchange{body: body}
	sent := false
	defer func() {
		c.pace.leave(t, outcome{sent, ctx.Err() != nil, err, answer.Usage, answer.Seconds, x.header})
	}()
	if err := c.journal.Ready(ctx); err != nil {
		return Answer{}, err
	}
	return c.pay(ctx, bill, func() (Answer, error) {
		sent = true
		return c.send(ctx, t.replica.api, x)
	})
}

func (c *Client) send(ctx context.Context, api *openai.Client, x *exchange) (Answer, error) {
	within := c.endpoint.AnswerWithin()
	attempt, end := context.WithTimeoutCause(ctx, within, noReply(within))
	defer end()
	if c.endpoint.Stream {
		var cancel context.CancelCauseFunc
		attempt, cancel = context.WithCancelCause(attempt)
		defer cancel(nil)
		x.body, x.silence = c.endpoint.streamed(x.body), c.endpoint.timeout()
		x.alarm = time.AfterFunc(x.silence, func() { cancel(fmt.Errorf("no reply, or no more of it, within %s", x.silence)) })
		defer x.alarm.Stop()
	}
	start := time.Now()
	// The transport sends the body; an empty request passes go-openai's checks of
	// model names whatever the model is.
	_, err := api.CreateChatCompletion(x.into(attempt), openai.ChatCompletionRequest{})
	if x.status == 0 {
		return Answer{}, c.sendError(ctx, attempt, err)
	}
	answer, err := c.read(x)
	answer.Seconds = time.Since(start).Seconds()
	if err == nil && answer.Model != "" {
		c.last.Store(&Served{answer.Model, answer.Fingerprint})
	}
	return answer, err
}
