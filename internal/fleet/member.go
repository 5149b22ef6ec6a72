package fleet

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"precept/internal/shard"
)

// Every member renews its lease at these times, unless Options say otherwise.
const (
	renewEvery = 2 * time.Second
	// A lease is lost when it was not renewed for so many renewals.
	renewals = 4
	// Who waits for room looks for it so many times between two renewals.
	looks = 4
	// idleAfter is how long a member stays that doesn't want to ask.
	idleAfter = time.Minute
)

// Options configure a member. Their zero value is fit for use.
type Options struct {
	// Demand returns the part of the endpoint's limits that was used since it was last
	// called, 1 where more would have been. Defaults to always 1.
	Demand func() float64
	// Renew is how often the lease is renewed. The lease time is four times that. It
	// defaults to 2s.
	Renew time.Duration
	// Log defaults to slog.Default().
	Log *slog.Logger

	now func() time.Time
}

// Member is this process among those that ask an endpoint.
type Member struct {
	store    shard.Store
	endpoint string
	worker   string
	options  Options
	running  sync.WaitGroup

	mu      sync.Mutex
	stop    context.CancelFunc // nil while it is not joined
	closed  bool
	asked   time.Time // when its share was last asked for
	share   float64
	renewed time.Time // when the last renewal that succeeded began
}

// New returns a member that joins when its share is first asked for. Worker tells people
// which process it is. Close it.
func New(store shard.Store, endpoint, worker string, o Options) *Member {
	if o.Demand == nil {
		o.Demand = func() float64 { return 1 }
	}
	if o.now == nil {
		o.now = time.Now
	}
	o.Renew = cmp.Or(o.Renew, renewEvery)
	o.Log = cmp.Or(o.Log, slog.Default()).With("endpoint", endpoint)
	return &Member{store: store, endpoint: endpoint, worker: worker, options: o}
}

func (m *Member) ttl() time.Duration { return renewals * m.options.Renew }

// Share is the part of the endpoint's limits that this process may use now. It is 0 until
// the others have made room. Ask again before each request: that also tells that there
// is something to send.
func (m *Member) Share() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.options.now()
	m.asked = now
	if m.closed {
		return 0
	}
	if m.stop == nil {
		ctx, stop := context.WithCancel(context.Background())
		m.stop, m.share = stop, 0
		m.running.Go(func() { m.run(ctx) })
	}
	// A fifth is left for what the caller does next.
	if shard.Elapsed(m.renewed, now) >= m.ttl()/5*4 {
		return 0
	}
	return m.share
}

// Close ends the membership: the share is 0 from now on, and others may have it. It waits
// no longer than a lease time for the store.
func (m *Member) Close() {
	m.mu.Lock()
	m.closed, m.share = true, 0
	if m.stop != nil {
		m.stop()
	}
	m.mu.Unlock()
	m.running.Wait()
}

// Close closes members together.
func Close(members ...*Member) {
	var closed sync.WaitGroup
	for _, m := range members {
		closed.Go(m.Close)
	}
	closed.Wait()
}

// run is a membership from when it joins until it leaves.
func (m *Member) run(ctx context.Context) {
	l := m.newLease()
	tick := time.NewTicker(m.options.Renew)
	defer tick.Stop()
	for {
		err := m.renew(ctx, l)
		if errors.Is(err, errBuried) {
			m.options.Log.Warn("the lease on the limits had run out; joining again", "lease", l.key)
			m.limit(0)
			l = m.newLease()
			err = m.renew(ctx, l)
		}
		if err != nil && ctx.Err() == nil {
			m.options.Log.Warn("the lease on the limits is not renewed yet; nothing is sent once it is too old", "lease", l.key, "error", err)
		}
		if m.await(ctx, l, tick.C); ctx.Err() != nil || m.idle() {
			break
		}
	}
	// The share is 0 for good.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.ttl())
	defer cancel()
	if err := m.store.Delete(ctx, l.key); err != nil {
		m.options.Log.Warn("the lease on the limits was not removed; others wait until it has run out", "lease", l.key, "error", err)
	}
}

// await waits for the time of the next renewal. Where the member has less than it claims, it
// looks more often, since others may have made room.
func (m *Member) await(ctx context.Context, l *lease, next <-chan time.Time) {
	for {
		var soon <-chan time.Time
		if m.has() < l.claim-1e-6 { // but for rounding
			soon = time.After(m.options.Renew / looks)
		}
		select {
		case <-next:
			return
		case <-ctx.Done():
			return
		case <-soon:
		}
		looking, cancel := context.WithTimeout(ctx, m.options.Renew)
		_ = m.look(looking, l) // the next renewal tells of errors
		cancel()
	}
}

// idle ends the membership where nobody has asked for long.
func (m *Member) idle() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.options.now().Sub(m.asked) < idleAfter {
		return false
	}
	m.stop()
	m.stop, m.share = nil, 0
	return true
}

// renew writes the lease, looks at the others', and moves the share to what all of them
// say. It does so twice where its part has changed, so that nobody waits for another renewal.
func (m *Member) renew(ctx context.Context, l *lease) error {
	ctx, cancel := context.WithTimeout(ctx, m.ttl()/2)
	defer cancel()
	if l.etag == "" {
		if err := l.look(ctx); err != nil {
			return err
		}
	}
	l.state.Demand = demandOf(m.options.Demand())
	for range 2 {
		claim := l.part()
		m.limit(claim)
		begun := m.options.now()
		if err := l.write(ctx, claim); err != nil {
			return err
		}
		m.fresh(begun)
		if err := m.look(ctx, l); err != nil {
			return err
		}
		if l.part() == claim {
			break
		}
	}
	return nil
}

// look looks at the others' leases, and raises the share as far as they leave room.
func (m *Member) look(ctx context.Context, l *lease) error {
	err := l.look(ctx)
	if err == nil {
		m.raise(min(l.part(), l.claim, 1-l.claimed()))
	}
	return err
}

// has is the share that the member has while its lease is fresh.
func (m *Member) has() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.share
}

// limit lowers the share to at most a part.
func (m *Member) limit(part float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.share = min(m.share, part)
}

// raise raises the share to at least a part.
func (m *Member) raise(part float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.share = max(m.share, part)
	}
}

// fresh records a renewal that began at a time.
func (m *Member) fresh(begun time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.renewed = begun
}
