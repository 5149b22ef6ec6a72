package llm

import (
	"math"
	"time"
)

// Demand is the part of the endpoint's limits that c would have used since Demand was last
// called, had its share been larger; 1 where requests waited for their share all the time.
func (c *Client) Demand() float64 {
	c.pace.mu.Lock()
	defer c.pace.mu.Unlock()
	return c.pace.allowance.demand(float64(c.pace.queued), time.Now())
}

// demand is what of the allowance was wanted since it was last called.
type demand struct {
	asked time.Time // when it was last called
	since time.Time // when a turn that could go began to wait for the allowance; zero while none does
	each  float64   // tokens of the turn that was looked at last
}

// holds records whether a turn waits for the allowance.
func (d *demand) holds(held bool, now time.Time) {
	if !held {
		d.since = time.Time{}
	} else if d.since.IsZero() {
		d.since = now
	}
}

func (a *allowance) demand(waiting float64, now time.Time) float64 {
	elapsed := now.Sub(a.wanted.asked).Seconds()
	part := max(a.requests.used(waiting, elapsed), a.tokens.used(waiting*a.wanted.each, elapsed))
	if held := a.wanted.since; !held.IsZero() && !held.After(a.wanted.asked) {
		part = 1
	}
	a.wanted.asked = now
	return part
}

// used is the part of the whole limit that was taken since it was last called, with what
// waits.
func (b *budget) used(waiting, elapsed float64) float64 {
	taken := b.taken - b.counted
	b.counted = b.taken
	limit := min(b.set, b.told)
	if math.IsInf(limit, 1) || elapsed <= 0 {
		return 0
	}
	return max(0, (taken+waiting)/(limit*elapsed))
}
