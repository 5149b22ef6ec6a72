package llm

import (
	"math"
	"time"
)

const (
	// firstAtOnce is how many requests a replica gets at once before it is known.
	firstAtOnce = 8
	// firstRate is how many it gets a second.
	firstRate = 512
	// doubling is how long growth takes to double: from 8 to 1,024 at once in under two
	// seconds, and refusals, which come fast, stop it long before the next doubling.
	doubling = 250 * time.Millisecond
	// growthTick is how often a growing ceiling is looked at while nothing else happens.
	growthTick = 20 * time.Millisecond
	// holdRequests is how many requests must be accepted for each one that was refused before
	// more is tried, and holdFor and holdAtMost bound how long that takes.
	holdRequests = 60
	holdFor      = 3 * time.Second
	holdAtMost   = 20 * time.Second
	// enough is how many requests must have been accepted to tell a rate by.
	enough = 10
	// silence is after how long without one accepted what is known is of before.
	silence = 5 * time.Second
	// fresh is how old a request may be that proves how many are accepted at once.
	fresh = 2 * time.Second
	// probeBy is the first step above what is known.
	probeBy = 0.01
	// learnFor is how long a replica may be asked too much while it isn't known.
	learnFor = 5 * time.Second
	// manyRefusals, and as many more as make up 50 ms, are a change: all is learned anew.
	manyRefusals = 10
	// leastRate is what is always tried, in requests a second.
	leastRate = 1. / 60
	// rateMargin keeps the pace a little below the rate that was measured.
	rateMargin = 0.995
)

// ceiling is how much a replica takes before it refuses (HTTP 429): so many requests at
// once and so many a second, both unknown. It begins low and doubles, so that a burst is
// stopped by the first refusals and not by the last. A refusal tells one of the two: where
// more were in flight than was accepted lately, the number at once, until lowering that
// doesn't help; else the rate, which is measured rather than guessed: between two refusals
// a server's bucket went from empty to empty, so what it accepted between them is its
// rate. Then the ceiling holds until enough was accepted to pay for another refusal, and
// grows again, at first by a hundredth, then ever faster. What a pause cost that the replica
// asked for is made up for afterwards, since its bucket was filled meanwhile.
type ceiling struct {
	most float64 // at once
	rate float64 // a second

	left float64   // requests that rate allows now
	at   time.Time // when it was that many

	// Growth
	growing  bool
	step     float64       // by which it began
	pressed  time.Duration // for how long requests have pressed since
	born     time.Time     // since when it is learned
	since    time.Time     // the last refusal
	paid     int           // requests accepted since then
	refusals int           // since it last grew

	// The number at once
	proven, provenBefore int       // most in flight of what was accepted, this second and the one before
	provenAt             time.Time // when the second began
	lowered              time.Time // when it was, since it last grew

	// The rate
	from     time.Time     // when the count began
	lost     time.Duration // of that, by pauses that nothing makes up for
	sent     float64       // and not refused
	bounced  float64       // refused
	measured time.Time     // last

	// Pauses
	heard    time.Time     // when a request was last found to be accepted
	silences int           // refusals since then that left nothing in flight
	paused   time.Time     // until when the replica asked to be left alone
	catchUp  time.Time     // until when twice the rate makes up for that
	steady   bool          // there was a whole hold before the pause
	spurned  int           // refusals in a row of who caught up
	strict   bool          // it doesn't let us catch up
	price    time.Duration // how long to hold for a pause that nothing makes up for
}

func newCeiling(now time.Time) ceiling {
	return ceiling{left: firstAtOnce, most: firstAtOnce / 2, rate: firstRate / 2, growing: true, step: 1, at: now, provenAt: now, born: now, heard: now, from: now, since: now}
}

// excess is what growth adds, as a share.
func (c *ceiling) excess() float64 {
	if !c.growing {
		return 0
	}
	return c.step * math.Exp2(min(50, float64(c.pressed)/float64(doubling)))
}

// atOnce is how many requests may be in flight.
func (c *ceiling) atOnce() float64 { return c.most * (1 + c.excess()) }

// perSecond is how many requests may be sent a second.
func (c *ceiling) perSecond() float64 {
	if c.catchingUp() {
		return 2 * c.rate
	}
	return c.rate * (1 + c.excess())
}

// advance moves c to now. It grows only while requests press against it.
func (c *ceiling) advance(now time.Time, pressed bool) {
	passed := now.Sub(c.at)
	if passed <= 0 {
		return
	}
	c.at = now
	if now.Before(c.paused) {
		return
	}
	if c.growing && pressed {
		c.pressed += passed
	}
	if held := min(now.Sub(c.since), now.Sub(c.paused)); !c.growing {
		switch young := c.young(now); {
		case young && held >= doubling:
			c.grow(10 * probeBy)
		case !young && held >= max(holdFor, c.price) && (c.paid >= holdRequests*min(c.refusals, 2) || held >= holdAtMost):
			c.grow(probeBy)
		}
	}
	perSecond := c.perSecond()
	burst := max(1, perSecond*0.01) // no timer is finer
	if c.left < burst {
		c.left = min(burst, c.left+perSecond*passed.Seconds())
	}
}

// young reports whether c is still learned.
func (c *ceiling) young(now time.Time) bool { return now.Sub(c.born) < learnFor }

func (c *ceiling) grow(step float64) {
	c.growing, c.step, c.pressed, c.refusals, c.lowered = true, step, 0, 0, time.Time{}
}

// wait is how long it is until the rate allows another request.
func (c *ceiling) wait() time.Duration {
	if c.left >= 1-1e-9 {
		return 0
	}
	return max(time.Microsecond, seconds((1-c.left)/c.perSecond()))
}

func (c *ceiling) take(t *turn) {
	c.left--
	c.sent++
	t.perSecond, t.paced = c.perSecond(), c.left < 1
}

// giveBack forgets t, which was not sent, or refused.
func (c *ceiling) giveBack(t *turn) {
	if !t.sent.Before(c.from) {
		c.sent--
	}
}

// accepted notes that t was not refused.
func (c *ceiling) accepted(t *turn, now time.Time) {
	if now.Sub(c.provenAt) > time.Second {
		c.proven, c.provenBefore, c.provenAt = 0, c.proven, now
	}
	if now.Sub(t.sent) < fresh {
		c.proven = max(c.proven, t.atOnce)
	}
	c.paid++
	if c.silences > 2 && now.Sub(c.heard) > silence {
		*c = newCeiling(now) // what is known is of before
	}
	c.silences, c.heard = 0, now
}

// refused learns from a refusal of t, which leaves others in flight, with how long the
// replica asked to be left alone, and returns how long nothing should be sent.
func (c *ceiling) refused(t *turn, others int, pause time.Duration, now time.Time) time.Duration {
	c.giveBack(t)
	c.bounced++
	c.refusals++
	byNumber := c.isNumber(t)
	byRate := !byNumber || t.paced && c.measured.IsZero()
	grown := 1 + c.excess() // which stays with the one that isn't to blame
	if !byRate {
		accepted := c.sent / max(doubling, c.counted(now)).Seconds()
		c.rate = min(c.rate*grown, max(c.rate, 4*accepted))
	} else if !t.sent.Before(c.measured) { // else it says nothing new
		c.measure(t, now)
	}
	if byNumber { // which begins another count
		c.lower(t, others, now)
	} else {
		c.most *= grown
	}
	if c.growing {
		c.count(now)
	}
	if c.refusals == manyRefusals+int(c.rate/20) && now.Sub(c.born) > 2*learnFor {
		c.born = now
	}
	steady := now.Sub(c.since) >= holdFor
	c.growing, c.since, c.paid, c.price = false, now, 0, 0
	if pause > 0 {
		c.pause(pause, steady, byRate || t.paced, now)
		return pause
	}
	if others > 0 {
		return 0
	}
	c.silences++
	return jitter(growthTick << min(c.silences, 10))
}

// isNumber reports whether the number at once is to blame for the refusal of t.
func (c *ceiling) isNumber(t *turn) bool {
	proven := 0.95 * float64(max(c.proven, c.provenBefore)) // refusals may have been in flight too
	helps := c.lowered.IsZero() || c.sent < enough || t.sent.Sub(c.lowered) < 500*time.Millisecond
	return float64(t.atOnce) > proven && helps
}

// lower sets the number at once by a refusal of t.
func (c *ceiling) lower(t *turn, others int, now time.Time) {
	proven := min(max(c.proven, c.provenBefore), t.atOnce-1)
	c.most = float64(max(1, others, proven))
	if c.lowered.IsZero() {
		c.lowered = now
		c.count(now)
	}
}

// measure sets the rate by a refusal of t.
func (c *ceiling) measure(t *turn, now time.Time) {
	if !c.growing && c.sent < enough && (c.sent < 2 || c.bounced < enough) {
		return // too little to go by
	}
	if c.catchingUp() {
		c.spurned++
		c.strict = c.strict || c.steady || c.spurned > 3
	} else {
		c.spurned = 0
	}
	rate := c.sent / c.counted(now).Seconds()
	if c.growing && t.perSecond > 1.25*rate {
		rate = t.perSecond // it may be far from what was held
	}
	c.rate = max(leastRate, c.rate/8, rate*rateMargin)
	c.left = min(c.left, 0)
	c.measured = now
	c.count(now)
}

// pause notes that the replica asks to be left alone for so long.
func (c *ceiling) pause(pause time.Duration, steady, byRate bool, now time.Time) {
	until := now.Add(pause)
	if !until.After(c.paused) {
		return
	}
	if c.strict {
		c.lost += min(pause, until.Sub(c.paused))
	} else {
		c.catchUp, c.steady = until.Add(pause), steady
	}
	if c.strict || !byRate {
		c.price = 25 * pause
	}
	c.paused = until
}

// count begins to count anew.
func (c *ceiling) count(now time.Time) { c.from, c.sent, c.bounced, c.lost = now, 0, 0, 0 }

// counted is for how long it has counted, without pauses that nothing made up for.
func (c *ceiling) counted(now time.Time) time.Duration {
	return max(time.Millisecond, now.Sub(c.from)-c.lost)
}

func (c *ceiling) catchingUp() bool { return c.at.Before(c.catchUp) && c.at.After(c.paused) }
