package llm

import (
	"context"
	"sync"
	"time"
)

// prefixes has the first request of a prefix, which is a policy, go ahead of all others
// with it: they find it in the provider's cache then. Sent together, each is read and
// paid in full.
type prefixes struct {
	mu    sync.Mutex
	known map[uint32]chan struct{} // closed when the first request was answered
}

const (
	leastPrefix = 4 << 10          // bytes; providers cache 1,024 tokens or more
	maxAhead    = 10 * time.Second // how long the first request is waited for
	maxPrefixes = 1 << 12
)

func newPrefixes() *prefixes {
	return &prefixes{known: map[uint32]chan struct{}{}}
}

// enter waits until begun was read once. Whoever entered calls read when it was.
func (p *prefixes) enter(ctx context.Context, begun first) (read func(), err error) {
	if len(begun.json) < leastPrefix {
		return func() {}, nil
	}
	p.mu.Lock()
	ahead, known := p.known[begun.prefix]
	if !known {
		if len(p.known) >= maxPrefixes {
			clear(p.known)
		}
		ahead = make(chan struct{})
		p.known[begun.prefix] = ahead
	}
	p.mu.Unlock()
	if !known {
		return func() { close(ahead) }, nil
	}
	late := time.NewTimer(maxAhead)
	defer late.Stop()
	select {
	case <-ahead:
	case <-late.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return func() {}, nil
}
