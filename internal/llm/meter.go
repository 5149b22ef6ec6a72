package llm

import (
	"context"
	"sync"
	"time"
)

// meter lets so many requests a minute through: this process's share of a limit. What
// the share is now counts for everybody who waits, too.
type meter struct {
	perSecond float64
	share     func() float64
	front     chan struct{} // holds whoever is next

	mu      sync.Mutex
	tokens  float64
	at      time.Time // when tokens was counted
	waiting int
	since   time.Time // when somebody began to wait, where somebody does
	sent    int       // since demand was asked for
	asked   time.Time
}

// meterEvery bounds how long the share is taken for unchanged.
const meterEvery = 100 * time.Millisecond

func newMeter(rpm int, share func() float64) *meter {
	now := time.Now()
	m := &meter{perSecond: float64(rpm) / 60, share: share, front: make(chan struct{}, 1), at: now, asked: now}
	m.tokens = m.burst(1)
	return m
}

// burst is what gathers while nothing is sent: a second's requests.
func (m *meter) burst(share float64) float64 {
	if share <= 0 {
		return 0
	}
	return max(1, m.perSecond*share)
}

// wait waits until a request may be sent.
func (m *meter) wait(ctx context.Context) error {
	m.queue(+1)
	defer m.queue(-1)
	select {
	case m.front <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-m.front }()
	for {
		pause := m.take()
		if pause == 0 {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *meter) queue(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.waiting == 0 {
		m.since = time.Now()
	}
	m.waiting += n
}

// take takes a token, or tells when to try again.
func (m *meter) take() time.Duration {
	share := m.share()
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	rate := m.perSecond * share
	m.tokens = min(m.tokens+now.Sub(m.at).Seconds()*rate, m.burst(share))
	m.at = now
	if m.tokens >= 1 {
		m.tokens--
		m.sent++
		return 0
	}
	if rate <= 0 {
		return meterEvery
	}
	return min(meterEvery, time.Duration((1-m.tokens)/rate*float64(time.Second))+time.Microsecond)
}

// demand is the part of the whole limit that would have been used since it was last called,
// and 1 where somebody waited all the time.
func (m *meter) demand() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	demand := float64(m.sent+m.waiting) / (m.perSecond * now.Sub(m.asked).Seconds())
	if m.waiting > 0 && !m.since.After(m.asked) {
		demand = 1
	}
	m.sent, m.asked = 0, now
	return demand
}

// Demand is the part of the endpoint's limits that c would have used since Demand was last
// called; 1 where requests waited for its share of them all the time, and where it has none.
func (c *Client) Demand() float64 {
	if c.pace.rpm == nil {
		return 1
	}
	return c.pace.rpm.demand()
}
