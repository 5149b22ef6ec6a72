package llm

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// maxPause bounds how long one reply can hold back a whole endpoint.
const maxPause = time.Minute

// pace holds back requests to one endpoint: at most so many at once, a number
// that halves when the endpoint says that it is too much and grows by one for
// every round of successes; none while the endpoint asked to be left alone; at
// most so many a minute.
type pace struct {
	rpm *meter // nil without a limit

	mu       sync.Mutex
	waiting  list.List // of chan struct{}, closed when its turn has come
	max      int
	limit    int
	inFlight int
	good     int       // successes since limit last moved
	cut      time.Time // when limit was last halved
	resume   time.Time // nothing is sent before it
	alarm    time.Time // when turns are given next without anybody leaving
}

func newPace(maxInFlight, rpm int, share func() float64) *pace {
	p := &pace{max: maxInFlight, limit: maxInFlight}
	if rpm > 0 {
		p.rpm = newMeter(rpm, share)
	}
	return p
}

// enter waits for its turn. Whoever entered must leave.
func (p *pace) enter(ctx context.Context) (entered time.Time, err error) {
	if err := ctx.Err(); err != nil {
		return time.Time{}, err
	}
	turn := make(chan struct{})
	p.mu.Lock()
	place := p.waiting.PushBack(turn)
	p.grant()
	p.mu.Unlock()
	select {
	case <-turn:
	case <-ctx.Done():
		p.mu.Lock()
		select {
		case <-turn: // at the same moment
			p.inFlight--
			p.grant()
		default:
			p.waiting.Remove(place)
		}
		p.mu.Unlock()
		return time.Time{}, ctx.Err()
	}
	if p.rpm != nil {
		if err := p.rpm.wait(ctx); err != nil {
			p.leave(time.Time{}, nil, false)
			return time.Time{}, err
		}
	}
	return time.Now(), nil
}

// grant gives turns to those who wait, in the order in which they came.
func (p *pace) grant() {
	for p.waiting.Len() > 0 && p.inFlight < p.limit {
		if pause := time.Until(p.resume); pause > 0 {
			if p.alarm != p.resume {
				p.alarm = p.resume
				time.AfterFunc(pause, func() {
					p.mu.Lock()
					defer p.mu.Unlock()
					p.grant()
				})
			}
			return
		}
		p.inFlight++
		close(p.waiting.Remove(p.waiting.Front()).(chan struct{}))
	}
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
	p.grant()
}
