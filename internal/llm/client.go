package llm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	openai "github.com/sashabaranov/go-openai"

	"precept/schemas"
)

const (
	defaultAttempts = 4
	firstBackoff    = 500 * time.Millisecond
	maxBackoff      = 30 * time.Second
)

// Options are the parts of a Client. Only Journal is needed.
type Options struct {
	Journal  Journal
	Attempts int // of one request; defaults to 4
	// Offline makes a client that answers from the journal alone, and sends nothing.
	Offline bool

	// Transport sends the HTTP requests. Defaults to a pool of connections of
	// the client's own.
	Transport http.RoundTripper
}

// Client asks one endpoint. It may be used by many goroutines; all clients made
// from it by Guarded share its pace.
type Client struct {
	endpoint Endpoint
	redact   func(string) string // takes the key out of a text
	api      *openai.Client
	journal  Journal
	attempts int
	offline  bool
	pace     *pace
	flights  *flights
	last     *atomic.Pointer[Served]
	guard    func() error
	payer    Payer // nil: nobody keeps account
}

// minSecret is the length from which a key is taken for a secret. Servers that
// want no key are often given a word such as "none".
const minSecret = 8

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
	c := &Client{endpoint: e, journal: o.Journal, attempts: o.Attempts, offline: o.Offline, flights: newFlights(), last: new(atomic.Pointer[Served]), guard: func() error { return nil }}
	if c.attempts <= 0 {
		c.attempts = defaultAttempts
	}
	key := ""
	if e.APIKeyEnv != "" && !o.Offline {
		key = strings.TrimSpace(os.Getenv(e.APIKeyEnv))
		if key == "" {
			return fail("the environment variable %s that api_key_env names is empty", e.APIKeyEnv)
		}
	}
	c.redact = func(text string) string {
		if len(key) >= minSecret {
			text = strings.ReplaceAll(text, key, "[key]")
		}
		return keyLike.ReplaceAllString(text, "[key]")
	}
	inFlight := e.MaxInFlight
	if inFlight == 0 {
		inFlight = defaultMaxInFlight
	}
	c.pace = newPace(inFlight, e.RPM)
	base := o.Transport
	if base == nil {
		pool := http.DefaultTransport.(*http.Transport).Clone()
		// All connections stay open: answers come in waves.
		pool.MaxIdleConns, pool.MaxIdleConnsPerHost = 0, inFlight
		base = pool
	}
	config := openai.DefaultConfig(key)
	config.BaseURL = e.BaseURL
	config.HTTPClient = &http.Client{
		Transport: transport{base},
		// A redirect is a wrong base_url, and may carry the key elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c.api = openai.NewClientWithConfig(config)
	return c, nil
}

// Guarded returns a client that calls guard before each request it sends, and
// sends nothing when guard fails. It shares c's pace, journal, requests in flight
// and connections.
func (c *Client) Guarded(guard func() error) *Client {
	g := *c
	g.guard = guard
	return &g
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
		return Answer{}, Meta{}, schemas.E("ask endpoint", c.endpoint.Name, schemas.InvalidInput, err)
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
		return Answer{}, meta, schemas.E("ask endpoint", c.endpoint.Name, schemas.InvalidInput, err)
	}
	bill := q.bill(meta.Key, body)
	if c.offline {
		c.missing(ctx, bill)
		return Answer{}, meta, errMissing
	}
	if answer, err = c.persist(ctx, body, bill); err != nil {
		return Answer{}, meta, err
	}
	answer.Limit = q.limit
	meta.USD = answer.USD
	// The key may be taken by an answer that this limit leaves no room for.
	key := meta.Key
	if found || answer.limited() {
		key = q.limitedKey(meta.Key)
	}
	raw, err := json.Marshal(answer)
	if err != nil {
		return answer, meta, schemas.E("journal answer", string(key), schemas.Internal, err)
	}
	return answer, meta, c.journal.Append(key, raw)
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
		return schemas.E("ask endpoint", c.endpoint.Name, schemas.InvalidInput, errors.New(text))
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
func (c *Client) persist(ctx context.Context, body net.Buffers, bill Bill) (Answer, error) {
	for attempt := 1; ; attempt++ {
		answer, err := c.turn(ctx, body, bill)
		if err == nil || !passing(err) || attempt == c.attempts || ctx.Err() != nil {
			return answer, err
		}
		pause := max(backoff(attempt), RetryAfter(err))
		deadline, bounded := ctx.Deadline()
		if pause > maxPause || bounded && time.Until(deadline) < pause {
			return answer, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return answer, err
		}
	}
}

// passing reports whether err came from the endpoint and may pass.
func passing(err error) bool {
	var f *fault
	return errors.As(err, &f) && schemas.KindOf(err).Retryable()
}

func throttled(err error) bool { return schemas.KindOf(err) == schemas.RateLimited }

// backoff doubles with every attempt, with jitter, so that workers part.
func backoff(attempt int) time.Duration {
	full := min(firstBackoff<<min(attempt-1, 10), maxBackoff)
	return full/2 + rand.N(full/2)
}

// turn waits for its turn and sends body once.
func (c *Client) turn(ctx context.Context, body net.Buffers, bill Bill) (answer Answer, err error) {
	entered, err := c.pace.enter(ctx)
	if err != nil {
		return Answer{}, c.unavailable(err, "waiting to send: %v", err)
	}
	sent := false
	defer func() { c.pace.leave(entered, err, sent) }()
	if err := c.journal.Ready(ctx); err != nil {
		return Answer{}, err
	}
	return c.pay(ctx, bill, func() (Answer, error) {
		sent = true
		return c.send(ctx, body)
	})
}

func (c *Client) send(ctx context.Context, body net.Buffers) (Answer, error) {
	attempt, cancel := context.WithTimeout(ctx, c.endpoint.AnswerWithin())
	defer cancel()
	x := &exchange{body: body}
	start := time.Now()
	// The transport sends body; an empty request passes go-openai's checks of
	// model names whatever the model is.
	resp, err := c.api.CreateChatCompletion(x.into(attempt), openai.ChatCompletionRequest{})
	if x.status == 0 {
		return Answer{}, c.sendError(ctx, attempt, err)
	}
	answer, err := c.read(x, resp, err)
	answer.Seconds = time.Since(start).Seconds()
	if err == nil && answer.Model != "" {
		c.last.Store(&Served{answer.Model, answer.Fingerprint})
	}
	return answer, err
}

// read makes an answer or an error of a whole reply. decodeErr is go-openai's.
func (c *Client) read(x *exchange, resp openai.ChatCompletionResponse, decodeErr error) (Answer, error) {
	if x.status < 200 || x.status > 299 {
		p, ok := readProblem(x.reply)
		if !ok {
			p.text = describe(x.reply)
		}
		return c.refused(x.status, p, x.header)
	}
	if len(resp.Choices) == 0 {
		// Some gateways put the error of the server behind them into a 200.
		if p, ok := readProblem(x.reply); ok {
			if status := p.status(); status != 0 {
				return c.refused(status, p, x.header)
			}
			if p.content() || p.tooLong(http.StatusBadRequest) {
				return c.refused(http.StatusBadRequest, p, x.header)
			}
			return Answer{}, c.unavailable(nil, "HTTP %d with an error: %s", x.status, p.text)
		}
	}
	var more struct {
		Choices []struct {
			Message struct {
				Reasoning json.RawMessage `json:"reasoning"`
			} `json:"message"`
		} `json:"choices"`
	}
	if decodeErr == nil {
		decodeErr = json.Unmarshal(x.reply, &more)
	}
	if decodeErr != nil {
		return Answer{}, c.unavailable(nil, "HTTP %d with what is no chat completion: %s", x.status, describe(x.reply))
	}
	if len(resp.Choices) == 0 {
		return Answer{}, c.unavailable(nil, "HTTP %d without a choice", x.status)
	}
	choice := resp.Choices[0]
	switch choice.FinishReason {
	case "error", "abort":
		return Answer{}, c.unavailable(nil, "the server stopped in the middle of the answer (finish_reason %s)", choice.FinishReason)
	}
	message := choice.Message
	answer := Answer{
		Content:      message.Content,
		CoT:          message.ReasoningContent,
		FinishReason: string(choice.FinishReason),
		Refusal:      message.Refusal != "" || choice.FinishReason == openai.FinishReasonContentFilter,
		Model:        resp.Model,
		Fingerprint:  resp.SystemFingerprint,
		Usage: Usage{
			PromptTokens:     int64(resp.Usage.PromptTokens),
			CompletionTokens: int64(resp.Usage.CompletionTokens),
		},
	}
	for _, part := range message.MultiContent {
		answer.Content += part.Text
	}
	if answer.Content == "" {
		answer.Content = message.Refusal
	}
	if answer.CoT == "" {
		var reasoning string
		if json.Unmarshal(more.Choices[0].Message.Reasoning, &reasoning) == nil {
			answer.CoT = reasoning
		}
	}
	if details := resp.Usage.PromptTokensDetails; details != nil {
		answer.Usage.CachedTokens = int64(details.CachedTokens)
	}
	return answer, nil
}

// refused is the answer or error of a reply whose status is no success.
func (c *Client) refused(status int, p problem, header http.Header) (Answer, error) {
	if p.tooLong(status) {
		return Answer{Content: c.clean(p.text), FinishReason: finishTooLong}, nil
	}
	if refusedContent(status, p) {
		return Answer{Content: c.clean(p.text), FinishReason: string(openai.FinishReasonContentFilter), Refusal: true}, nil
	}
	return Answer{}, c.refusedError(status, p, header)
}

// describe says what a reply that is no JSON looks like.
func describe(reply []byte) string {
	text := strings.TrimSpace(string(reply))
	switch {
	case text == "":
		return "an empty body"
	case strings.HasPrefix(text, "<"):
		return "a page of HTML or XML"
	}
	return fmt.Sprintf("%.80q", text)
}
