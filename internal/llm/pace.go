package llm

import (
	"container/list"
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// maxPause bounds how long one reply can hold back a whole endpoint.
const maxPause = time.Minute

// pace decides when a request is sent, and to which replica. Requests wait in the
// order in which they came until the account is open, the allowance of the minute holds
// another one, and a replica has room.
type pace struct {
	patience time.Duration // how long a request waits for an endpoint that is out

	mu        sync.Mutex
	account   account
	allowance allowance
	replicas  []*replica
	queued    int         // turns that wait
	turns     int64       // so far
	answers   int64       // replies that were neither a failure nor a refusal of the account
	alarm     *time.Timer // gives turns when time alone has made room
	wakes     time.Time   // when the alarm rings; zero while it doesn't
}

// turn is a request's place in a queue, then its leave to be sent once.
type turn struct {
	prefix uint32 // of the text that it begins with
	bytes  int    // of the messages and what else is sent; 0 of a call of another API
	seen   int    // refusals of the account that its client knew of when it was made
	again  bool   // it was refused for being too much, and goes to the front
	hasty  bool   // it doesn't wait for an endpoint that is out

	order   int64     // by age
	begun   time.Time // when it first came
	since   time.Time // when it last came
	place   *list.Element
	granted chan struct{} // closed when it may be sent, or never will be
	err     error         // why it never will be

	replica   *replica // where it waits; then, where it goes
	failed    *replica // that failed it last
	sent      time.Time
	atOnce    int     // requests in flight to the replica, with this one
	perSecond float64 // the rate that it was sent at
	paced     bool    // that rate held it back, or would have held the next one
	early     bool    // one of the first requests to the replica
	charge    charge  // what it takes of the allowance
}

// outcome is what became of a turn.
type outcome struct {
	sent    bool
	aborted bool // by the caller: nothing is known of the endpoint
	err     error
	usage   Usage
	seconds float64
	header  http.Header
}

// outage is that a request waited as long as it may for an endpoint that is out.
type outage struct {
	since time.Time
	last  error
}

func (o *outage) Error() string {
	return fmt.Sprintf("out since %s; the last trial: %v", o.since.UTC().Format(time.TimeOnly), o.last)
}

func (o *outage) Unwrap() error { return o.last }

func newPace(e Endpoint, share func() float64, patience time.Duration) *pace {
	p := &pace{patience: patience, allowance: newAllowance(e, share, time.Now())}
	for _, url := range e.urls() {
		p.replicas = append(p.replicas, newReplica(url, e.atOnce(), &p.queued, time.Now()))
	}
	p.alarm = time.AfterFunc(time.Hour, p.ring)
	p.alarm.Stop()
	return p
}

// enter waits for t's turn, and asks now and then whether it still should. Whoever
// entered must leave.
func (p *pace) enter(ctx context.Context, t *turn, guard func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.granted, t.err = make(chan struct{}), nil
	p.mu.Lock()
	if err := p.account.closedTo(t); err != nil {
		p.mu.Unlock()
		return err
	}
	now := time.Now()
	if !t.again {
		p.turns++
		t.order = p.turns
	}
	if t.since = now; t.begun.IsZero() {
		t.begun = now
	}
	p.home(t).push(t, now)
	p.grant(now)
	p.mu.Unlock()
	select {
	case <-t.granted:
		return t.err
	default:
	}
	doubt := time.NewTicker(time.Second)
	defer doubt.Stop()
	for {
		select {
		case <-t.granted:
			return t.err
		case <-ctx.Done():
			return p.withdraw(t, ctx.Err())
		case <-doubt.C:
			if err := guard(); err != nil {
				return p.withdraw(t, err)
			}
		}
	}
}

// withdraw takes t out of its queue because of err, or gives back the turn that came at
// the same moment.
func (p *pace) withdraw(t *turn, err error) error {
	p.mu.Lock()
	if t.place != nil {
		t.replica.remove(t)
		p.mu.Unlock()
		return err
	}
	p.mu.Unlock()
	if t.err == nil {
		p.leave(t, outcome{})
	}
	return err
}

// leave gives t back. What became of it says how to go on.
func (p *pace) leave(t *turn, o outcome) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.allowance.settle(t, o, now)
	if o.sent && !o.aborted && !IsAccount(o.err) && (throttled(o.err) || !passing(o.err)) {
		p.answers++
	}
	if p.account.settle(t, o, now) {
		p.dismiss(p.account.refusal)
	}
	if t.replica.settle(t, o, now) {
		p.rehome(t.replica, now)
	}
	p.grant(now)
}

// ring is what the alarm does.
func (p *pace) ring() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakes = time.Time{}
	p.grant(time.Now())
}

// grant gives turns, the longest waiting first, for as long as there is room, and sets
// the alarm for when there may be more.
func (p *pace) grant(now time.Time) {
	var wait time.Duration
	for {
		t, r := p.next(now)
		if t == nil {
			break
		}
		if wait = p.allowance.wait(t, now); wait > 0 {
			break
		}
		t.replica.remove(t)
		r.take(t, now)
		p.allowance.take(t)
		p.account.take(t)
		close(t.granted)
	}
	p.loseHope(now)
	p.allowance.wanted.holds(wait > 0, now)
	if wait == 0 {
		wait = p.change(now)
	}
	if wait == 0 {
		return
	}
	if at := now.Add(wait); p.wakes.IsZero() || at.Before(p.wakes) {
		p.wakes = at
		p.alarm.Reset(wait)
	}
}

// next is the longest waiting turn that a replica has room for.
func (p *pace) next(now time.Time) (first *turn, where *replica) {
	if !p.account.admits() {
		return nil, nil
	}
	for _, r := range p.replicas {
		t := r.head()
		if t == nil || first != nil && first.order < t.order {
			continue
		}
		if to := p.destination(t, now); to != nil {
			first, where = t, to
		}
	}
	return first, where
}

// change is how long it is until time alone may make room; 0 is never.
func (p *pace) change(now time.Time) (wait time.Duration) {
	if p.queued == 0 {
		return 0
	}
	for _, r := range p.replicas {
		if w := r.change(now); w > 0 && (wait == 0 || w < wait) {
			wait = w
		}
	}
	return wait
}

// loseHope ends the turns that have waited too long while every replica is out. Those that
// can be its trials were given before.
func (p *pace) loseHope(now time.Time) {
	since := p.replicas[0].breaker.since
	for _, r := range p.replicas {
		if !r.breaker.open {
			return
		}
		if r.breaker.since.After(since) {
			since = r.breaker.since
		}
	}
	for _, r := range p.replicas {
		for _, t := range r.all() {
			if t.hasty || min(now.Sub(t.begun), now.Sub(since)) >= p.patience {
				r.end(t, &outage{since, r.breaker.last})
			}
		}
	}
}

// dismiss ends all turns that wait because of the account, except those that came to
// try it.
func (p *pace) dismiss(refusal error) {
	for _, r := range p.replicas {
		for _, t := range r.all() {
			if p.account.closedTo(t) != nil {
				r.end(t, refusal)
			}
		}
	}
}
