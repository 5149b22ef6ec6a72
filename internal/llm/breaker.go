package llm

import (
	"math/rand/v2"
	"time"
)

// outageAfter is how many failures in a row, with no reply of another kind between them,
// are an outage. A server that fails one request in three does it once in 40 million.
const outageAfter = 16

// maxTrialPause is the longest pause between trials: nobody waits much longer than
// an outage lasts.
const maxTrialPause = 10 * time.Second

// breaker stops asking a replica that only fails. It lets a single trial through after
// a pause that doubles; the first reply that is no failure closes it.
type breaker struct {
	open   bool
	since  time.Time
	last   error     // of the failures
	failed int       // in a row
	begun  time.Time // the first of these
	trial  *turn     // under way
	retry  time.Time
	tries  int
}

// admits reports whether another request may be sent.
func (b *breaker) admits(now time.Time) bool {
	return !b.open || b.trial == nil && !now.Before(b.retry)
}

func (b *breaker) take(t *turn) {
	if b.open {
		b.trial = t
	}
}

// ended frees the place of a trial, whatever came of it.
func (b *breaker) ended(t *turn) {
	if b.trial == t {
		b.trial = nil
	}
}

// fail notes a failure, and reports whether it opens b.
func (b *breaker) fail(t *turn, err error, now time.Time) (opened bool) {
	if b.failed == 0 {
		b.begun = now
	}
	b.last = err
	b.failed++
	tried := b.trial == t
	b.ended(t)
	switch {
	case b.open && tried:
		b.tries++
	case !b.open && b.failed >= outageAfter:
		opened = true
		b.open, b.since, b.tries = true, now, 1
	default:
		return false // it was sent before that
	}
	b.retry = now.Add(min(backoff(b.tries), jitter(maxTrialPause)))
	return opened
}

// answer notes a reply that is no failure, and reports whether it closes b.
func (b *breaker) answer(t *turn) (closed bool) {
	b.ended(t)
	closed = b.open
	b.open, b.failed = false, 0
	return closed
}

// backoff doubles with every attempt.
func backoff(attempt int) time.Duration {
	return jitter(min(firstBackoff<<min(attempt-1, 10), maxBackoff))
}

// jitter is half of d and a part of the rest, so that workers part.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2) }
