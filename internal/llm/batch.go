package llm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"

	"precept/schemas"
)

// Providers take many requests as a batch, a file of them, and answer it within a day,
// at a lower price. In batch mode Ask sends nothing: what the journal has no answer to goes
// to a Backlog, and is submitted when everybody has asked.

// What a batch takes at most. OpenAI takes 50,000 requests and 200 MB, others 100 MB.
const (
	maxLines = 50_000
	maxBytes = 100_000_000
)

// Backlog is the requests of one endpoint that are to be sent by batch. It may be used by
// many goroutines.
type Backlog struct {
	attempts int
	failures map[schemas.Key]*Failure

	mu     sync.Mutex
	lines  map[schemas.Key]line
	gaveUp bool
}

// line is a request of a batch.
type line struct {
	key   schemas.Key
	limit int // most tokens of the answer
	text  net.Buffers
}

// Failure is how often a request got an error in place of an answer by batch, and the last
// one.
type Failure struct {
	Times int          `json:"times"`
	Kind  schemas.Kind `json:"kind"`
	Late  bool         `json:"late,omitempty"` // the batch expired
	Text  string       `json:"text"`
}

// Add counts another failure.
func (f *Failure) Add(err error) {
	*f = Failure{Times: f.Times + 1, Kind: schemas.KindOf(err), Late: IsLate(err), Text: err.Error()}
	if fault := (*fault)(nil); errors.As(err, &fault) {
		f.Text = fault.text
	}
}

// final reports whether the request is not asked again.
func (f *Failure) final(attempts int) bool {
	return f.Times >= attempts || !f.Kind.Retryable()
}

// NewBacklog makes an empty backlog of c's requests. Those that failed as often as an
// online request is tried, or for what they are, get their error again and are not taken.
func (c *Client) NewBacklog(failures map[schemas.Key]*Failure) *Backlog {
	return &Backlog{attempts: c.attempts, failures: failures, lines: map[schemas.Key]line{}}
}

// Batched returns a client that puts requests without an answer into b, and sends nothing.
func (c *Client) Batched(b *Backlog) *Client {
	g := *c
	g.backlog = b
	return &g
}

var errPending = errors.New("the answer is to come by batch")

// IsPending reports whether err is that a request waits for a batch.
func IsPending(err error) bool { return errors.Is(err, errPending) }

// postpone takes a request that has no answer.
func (b *Backlog) postpone(ctx context.Context, c *Client, q question, body net.Buffers, key schemas.Key) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.failures[key]; f != nil && f.final(b.attempts) {
		b.gaveUp = true
		return c.fail(f.Kind, &fault{text: f.Text, late: f.Late}, "")
	}
	if _, ok := b.lines[key]; ok {
		return errPending
	}
	if c.payer != nil {
		if err := c.payer.Postpone(ctx, q.bill(key, body, true)); err != nil {
			return err
		}
	}
	head, err := json.Marshal(key)
	if err != nil {
		return schemas.E(opAsk, c.endpoint.Name, schemas.Internal, err)
	}
	text := net.Buffers{[]byte(`{"custom_id":`), head, []byte(`,"method":"POST","url":"/v1/chat/completions","body":`)}
	b.lines[key] = line{key, q.limit, append(append(text, body...), []byte("}\n"))}
	return errPending
}

// GaveUp reports whether a request got its error again, and was not taken.
func (b *Backlog) GaveUp() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.gaveUp
}

// Keys are the keys of its requests.
func (b *Backlog) Keys() []schemas.Key {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.lines))
}

// Part is as much of a backlog as one batch takes. All its requests have one limit of
// tokens, which their answers are kept with.
type Part struct {
	Limit int
	lines []line
	bytes int
}

// Requests is how many there are.
func (p Part) Requests() int64 { return int64(len(p.lines)) }

// Parts parts the backlog, in the order of the request keys.
func (b *Backlog) Parts() (parts []Part) {
	b.mu.Lock()
	defer b.mu.Unlock()
	lines := make([]line, 0, len(b.lines))
	for _, l := range b.lines {
		lines = append(lines, l)
	}
	slices.SortFunc(lines, func(x, y line) int { return cmp.Or(cmp.Compare(x.limit, y.limit), cmp.Compare(x.key, y.key)) })
	for _, l := range lines {
		last := len(parts) - 1
		if last < 0 || parts[last].Limit != l.limit || len(parts[last].lines) == maxLines || parts[last].bytes+size(l.text) > maxBytes {
			parts = append(parts, Part{Limit: l.limit})
			last++
		}
		parts[last].lines = append(parts[last].lines, l)
		parts[last].bytes += size(l.text)
	}
	return parts
}

func size(text net.Buffers) (n int) {
	for _, part := range text {
		n += len(part)
	}
	return n
}
