package llm

import (
	"context"
	"hash/maphash"
	"sync"
	"time"
)

// prefixes has the first request of a prefix, which is a policy, go ahead of all others
// with it: they find it in the provider's cache then. Sent together, each is read and
// paid in full.
type prefixes struct {
	seed maphash.Seed

	mu    sync.Mutex
	known map[uint64]chan struct{} // closed when the first request was answered
}

const (
	leastPrefix = 4 << 10          // bytes; providers cache 1,024 tokens or more
	maxAhead    = 10 * time.Second // how long the first request is waited for
	maxPrefixes = 1 << 12
)

func newPrefixes() *prefixes {
	return &prefixes{seed: maphash.MakeSeed(), known: map[uint64]chan struct{}{}}
}

// enter waits until prefix was read once. Whoever entered calls read when it was.
func (p *prefixes) enter(ctx context.Context, prefix []byte) (read func(), err error) {
	if len(prefix) < leastPrefix {
		return func() {}, nil
	}
	key := maphash.Bytes(p.seed, prefix)
	p.mu.Lock()
	first, known := p.known[key]
	if !known {
		if len(p.known) >= maxPrefixes {
			clear(p.known)
		}
		first = make(chan struct{})
		p.known[key] = first
	}
	p.mu.Unlock()
	if !known {
		return func() { close(first) }, nil
	}
	late := time.NewTimer(maxAhead)
	defer late.Stop()
	select {
	case <-first:
	case <-late.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return func() {}, nil
}
