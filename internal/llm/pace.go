package llm

import (
	"context"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxPause bounds how long one reply can hold back a whole endpoint.
const maxPause = time.Minute

// pace holds back requests to one endpoint: at most so many at once, a number
// that halves when the endpoint says that it is too much and grows by one for
// every round of successes; none while the endpoint asked to be left alone; at
// most so many a minute.
type pace struct {
	rpm *rate.Limiter // nil without a limit

	mu       sync.Mutex
	changed  chan struct{} // closed and renewed whenever a waiter should look again
	max      int
	limit    int
	inFlight int
	good     int       // successes since limit last moved
	cut      time.Time // when limit was last halved
	resume   time.Time // nothing is sent before it
}

func newPace(maxInFlight, rpm int) *pace {
	p := &pace{changed: make(chan struct{}), max: maxInFlight, limit: maxInFlight}
	if rpm > 0 {
		perSecond := float64(rpm) / 60
		p.rpm = rate.NewLimiter(rate.Limit(perSecond), int(max(1, math.Floor(perSecond))))
	}
	return p
}

// enter waits for its turn. Whoever entered must leave.
func (p *pace) enter(ctx context.Context) (entered time.Time, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return time.Time{}, err
		}
		p.mu.Lock()
		pause := time.Until(p.resume)
		if pause <= 0 && p.inFlight < p.limit {
			p.inFlight++
			p.mu.Unlock()
			break
		}
		changed := p.changed
		p.mu.Unlock()
		if err := wait(ctx, pause, changed); err != nil {
			return time.Time{}, err
		}
	}
	if p.rpm != nil {
		if err := p.rpm.Wait(ctx); err != nil {
			p.leave(time.Time{}, nil, false)
			return time.Time{}, err
		}
	}
	return time.Now(), nil
}

// wait returns when pause is over (if there is one), something changed, or ctx
// is done.
func wait(ctx context.Context, pause time.Duration, changed <-chan struct{}) error {
	var over <-chan time.Time
	if pause > 0 {
		timer := time.NewTimer(pause)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-over:
	case <-changed:
	}
	return nil
}

// leave gives the turn back. err is how the request ended; sent tells whether it
// was sent at all.
func (p *pace) leave(entered time.Time, err error, sent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inFlight--
	if after := RetryAfter(err); after > 0 {
		if at := time.Now().Add(min(after, maxPause)); at.After(p.resume) {
			p.resume = at
		}
	}
	switch {
	case !sent:
	case throttled(err):
		// Requests that were in flight at the last cut say nothing new.
		if entered.After(p.cut) {
			p.limit = max(1, p.limit/2)
			p.cut = time.Now()
			p.good = 0
		}
	case err == nil:
		if p.good++; p.good >= p.limit && p.limit < p.max {
			p.limit++
			p.good = 0
		}
	}
	close(p.changed)
	p.changed = make(chan struct{})
}
