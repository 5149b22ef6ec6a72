package llm

import (
	"container/list"
	"hash/crc32"
	"time"

	openai "github.com/sashabaranov/go-openai"
)

// spillAfter is how long a replica must turn requests away before they go to another
// one, and how long it must not before they stay again.
const spillAfter = time.Second

// replica is one of an endpoint's base URLs. It has a queue, what it bears at once and a
// second as learned from its refusals and its latency, and a breaker.
type replica struct {
	url  string
	hash uint32
	api  *openai.Client
	max  int

	waiting  list.List // of *turn
	queued   *int      // turns that wait at all replicas
	inFlight int
	resume   time.Time // nothing is sent before it
	ceiling  ceiling
	gradient gradient
	breaker  breaker

	crowded time.Time // since when it turns requests away
	full    time.Time // when it last did
	spilled time.Time // when one of those last went to another
}

func newReplica(url string, atOnce int, queued *int, now time.Time) *replica {
	return &replica{url: url, hash: crc32.ChecksumIEEE([]byte(url)), max: atOnce, queued: queued, ceiling: newCeiling(now), gradient: newGradient(atOnce)}
}

// affinity ranks replicas for requests that begin with the same text (a rendezvous
// hash): the prefix stays in one replica's cache, in every process, and when one dies,
// only its own prefixes move.
func (r *replica) affinity(prefix uint32) uint64 {
	x := uint64(prefix)<<32 | uint64(r.hash)
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// home is where t waits: the best replica for its prefix of those that aren't out and that
// haven't just failed it.
func (p *pace) home(t *turn) *replica {
	return p.best(t, func(r *replica) bool { return !r.breaker.open && r != t.failed })
}

// best is the best replica for t that will do, or else the best one.
func (p *pace) best(t *turn, do func(*replica) bool) (best *replica) {
	if len(p.replicas) == 1 {
		return p.replicas[0]
	}
	will := false
	for _, r := range p.replicas {
		switch ok := do(r); {
		case best == nil, ok && !will, ok == will && r.affinity(t.prefix) > best.affinity(t.prefix):
			best, will = r, ok
		}
	}
	return best
}

// destination is where t, the head of a queue, can go now, if anywhere: as a trial to a replica
// that is out; to where it waits; or elsewhere, where that has been full for long.
func (p *pace) destination(t *turn, now time.Time) *replica {
	home := t.replica
	for _, r := range p.replicas {
		if r.breaker.open && r != t.failed && r.room(now) {
			return r
		}
	}
	if home.room(now) {
		return home
	}
	if len(p.replicas) == 1 || !home.turnsAway(now) {
		return nil
	}
	spill := func(r *replica) bool { return r.waiting.Len() == 0 && r.room(now) }
	r := p.best(t, spill)
	if !spill(r) {
		return nil
	}
	home.spilled = now
	return r
}

// rehome moves what waits for a replica that is out.
func (p *pace) rehome(r *replica, now time.Time) {
	for _, t := range r.all() {
		if to := p.home(t); to != r {
			r.remove(t)
			to.push(t, now)
		}
	}
}

func (r *replica) push(t *turn, now time.Time) {
	t.replica = r
	*r.queued++
	if t.again {
		t.place = r.waiting.PushFront(t)
	} else {
		t.place = r.waiting.PushBack(t)
	}
	if r.inFlight >= r.limit() {
		r.turnAway(now)
	}
}

func (r *replica) remove(t *turn) {
	r.waiting.Remove(t.place)
	t.place = nil
	*r.queued--
}

// end ends t without its being sent.
func (r *replica) end(t *turn, err error) {
	r.remove(t)
	t.err = err
	close(t.granted)
}

// head is the turn that has waited longest.
func (r *replica) head() *turn {
	if front := r.waiting.Front(); front != nil {
		return front.Value.(*turn)
	}
	return nil
}

// all is the turns that wait, as a list of its own.
func (r *replica) all() (all []*turn) {
	for e := r.waiting.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(*turn))
	}
	return all
}

// turnAway notes that a request has to wait.
func (r *replica) turnAway(now time.Time) {
	if now.Sub(r.full) > spillAfter {
		r.crowded = now
	}
	r.full = now
}

// turnsAway reports whether r has been full for long.
func (r *replica) turnsAway(now time.Time) bool {
	if t := r.head(); t != nil && now.Sub(t.since) >= spillAfter {
		return true
	}
	return r.breaker.open || !r.crowded.IsZero() && now.Sub(r.crowded) >= spillAfter && now.Sub(r.full) <= spillAfter
}

// limit is how many requests r bears at once.
func (r *replica) limit() int {
	return max(1, int(min(float64(r.max), r.ceiling.atOnce(), r.gradient.limit)))
}

// advance moves r to now. What waits for it presses against its ceiling, and so does what
// spills over from it or would spill over to it.
func (r *replica) advance(now time.Time) {
	full := float64(r.inFlight+1) > r.ceiling.atOnce()
	r.ceiling.advance(now, r.waiting.Len() > 0 || full && (*r.queued > 0 || now.Sub(r.spilled) < spillAfter))
}

// room reports whether another request may be sent now.
func (r *replica) room(now time.Time) bool {
	r.advance(now)
	return !now.Before(r.resume) && r.breaker.admits(now) && r.inFlight < r.limit() && r.ceiling.wait() == 0
}

// change is how long it is until r may have room without a request's leaving it; 0 is
// never.
func (r *replica) change(now time.Time) (wait time.Duration) {
	sooner := func(d time.Duration) {
		if d > 0 && (wait == 0 || d < wait) {
			wait = d
		}
	}
	if now.Before(r.resume) {
		return r.resume.Sub(now)
	}
	if r.breaker.open {
		sooner(r.breaker.retry.Sub(now))
		sooner(time.Second) // for those that lose hope
		return wait
	}
	if r.inFlight < r.limit() {
		sooner(r.ceiling.wait())
	} else if r.ceiling.growing && r.limit() < r.max {
		sooner(growthTick)
	}
	if t := r.head(); t != nil {
		sooner(r.crowded.Add(spillAfter).Sub(now))
		sooner(t.since.Add(spillAfter).Sub(now))
	}
	return wait
}

func (r *replica) take(t *turn, now time.Time) {
	r.inFlight++
	t.replica, t.sent, t.atOnce = r, now, r.inFlight
	r.ceiling.take(t)
	r.gradient.take(t)
	r.breaker.take(t)
}

// settle learns from what became of t, and reports whether r is found to be out.
func (r *replica) settle(t *turn, o outcome, now time.Time) (out bool) {
	r.advance(now)
	r.inFlight--
	r.gradient.ended(t)
	if !o.sent || o.aborted {
		r.ceiling.giveBack(t)
		r.breaker.ended(t)
		return false
	}
	pause := min(RetryAfter(o.err), maxPause)
	switch {
	case throttled(o.err):
		r.breaker.answer(t)
		pause = max(pause, r.ceiling.refused(t, r.inFlight, pause, now))
	case passing(o.err):
		t.failed = r
		out = r.breaker.fail(t, o.err, now)
	default:
		if r.breaker.answer(t) {
			r.ceiling = newCeiling(now) // what was out may bear less now
		}
		r.ceiling.accepted(t, now)
		if o.err == nil {
			r.gradient.learn(t, o.usage, o.seconds)
		}
	}
	if at := now.Add(pause); at.After(r.resume) {
		r.resume = at
	}
	return out
}
