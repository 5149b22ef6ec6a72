package fleet

import "time"

// Clocked has a member live by another clock.
func (o Options) Clocked(now func() time.Time) Options {
	o.now = now
	return o
}

// TTL is the lease time of members with the standard options.
const TTL = renewals * renewEvery

// What tests need of the insides.
const (
	RenewEvery  = renewEvery
	IdleAfter   = idleAfter
	LeastDemand = leastDemand
)

// Part and DemandOf are how the limits are dealt.
var (
	Part     = part
	DemandOf = demandOf
)

// Used is the share that a member last came to, fresh or not, without wanting it.
func (m *Member) Used() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.share
}
