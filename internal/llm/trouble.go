package llm

import (
	"strings"
	"time"
)

// Trouble is that an endpoint answers nobody: since when, and what it said last.
type Trouble struct {
	Since time.Time
	Says  string
}

// A replica is in trouble when its breaker is open or, where few ask it, after so many
// failures in a row over so long a time.
const (
	troubleAfter = 4
	troubleTime  = 3 * time.Second
)

// Trouble is what is wrong with the endpoint; nil where it answers, or where nobody has
// asked it enough to tell.
func (c *Client) Trouble() *Trouble {
	since, err := c.pace.trouble(time.Now())
	if err == nil {
		return nil
	}
	return &Trouble{since, strings.TrimPrefix(err.Error(), opAsk+" "+c.endpoint.Name+": ")}
}

// Answers is how often the endpoint has replied other than by a failure or a refusal of the
// account.
func (c *Client) Answers() int64 {
	c.pace.mu.Lock()
	defer c.pace.mu.Unlock()
	return c.pace.answers
}

func (p *pace) trouble(now time.Time) (since time.Time, last error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.account.refusal != nil {
		return p.account.since, p.account.refusal
	}
	for _, r := range p.replicas {
		b := r.breaker
		if !b.open && (b.failed < troubleAfter || now.Sub(b.begun) < troubleTime) {
			return time.Time{}, nil
		}
		if last == nil || b.begun.After(since) {
			since, last = b.begun, b.last // all of them have failed since
		}
	}
	return since, last
}
