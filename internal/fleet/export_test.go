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

// Has is the share that a member has while its lease is fresh; to ask for it is not to
// want it.
func (m *Member) Has() float64 { return m.has() }
