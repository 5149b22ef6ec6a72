package llm

import "math"

const (
	// queueAim is the latency, over that of an idle replica, that a replica is held at when it
	// queues: half as many requests wait as are served, so that it never runs dry. Between
	// queueNone and queueMuch nothing is changed.
	queueAim  = 1.5
	queueNone = 1.25
	queueMuch = 1.75
	// prefillWork is what a request costs beside the tokens of its answer, in tokens.
	prefillWork = 16
	// minReplies is how many replies a round has at least.
	minReplies = 20
)

// gradient holds back requests that would only wait in the replica's own queue (vLLM never
// says 429). It compares the seconds that a token takes with what they were when few
// requests were in flight, in rounds: as many replies as are in flight for the change
// to tell, as many again to measure. Slower tokens alone are no proof, since large
// batches slow each request and serve more of all: a cut is on trial for a round. Where
// its requests are as much faster as they are fewer, they were waiting, and it stays. Where
// they aren't, it is undone, and what they take is the new measure. So what is not proven
// to queue is never held back, however widely latencies vary.
type gradient struct {
	max   float64
	limit float64
	base  timing // of a replica without a queue

	early  sample // of the first requests
	settle int    // replies to wait for before measuring
	began  float64
	now    sample
	trial  *timing // what was before a cut that is on trial
}

// timing is what a token takes with so many requests at once.
type timing struct {
	atOnce float64
	second float64 // of a token
	spread float64 // relative standard error of that
}

// sample sums replies up.
type sample struct {
	n             int
	atOnce        float64
	seconds, work float64
	ss, sw, ww    float64 // sums of products
}

func (s *sample) add(atOnce int, seconds, work float64) {
	s.n++
	s.atOnce += float64(atOnce)
	s.seconds += seconds
	s.work += work
	s.ss += seconds * seconds
	s.sw += seconds * work
	s.ww += work * work
}

func (s *sample) timing() timing {
	t := s.seconds / s.work
	residuals := max(0, s.ss-2*t*s.sw+t*t*s.ww)
	return timing{s.atOnce / float64(s.n), t, math.Sqrt(residuals) / s.seconds}
}

func newGradient(atOnce int) gradient {
	return gradient{max: float64(atOnce), limit: float64(atOnce)}
}

// learn takes in a reply.
func (g *gradient) learn(atOnce int, u Usage, seconds float64) {
	work := float64(u.CompletionTokens) + prefillWork
	if seconds <= 0 {
		return
	}
	if g.base.second == 0 {
		if atOnce <= firstAtOnce {
			g.early.add(atOnce, seconds, work)
		}
		if g.early.n >= firstAtOnce {
			g.base = g.early.timing()
			g.begin(atOnce)
		}
		return
	}
	if float64(atOnce) < g.began/1.25 || float64(atOnce) > g.began*1.25 {
		g.begin(atOnce) // it isn't steady
		return
	}
	if g.settle--; g.settle > 0 {
		return
	}
	g.now.add(atOnce, seconds, work)
	if g.now.n >= max(minReplies, int(g.began)) {
		g.decide(g.now.timing())
		g.begin(atOnce)
	}
}

// begin begins a round.
func (g *gradient) begin(atOnce int) {
	g.began, g.settle, g.now = float64(atOnce), atOnce, sample{}
}

// decide sets the limit by what a round has shown.
func (g *gradient) decide(now timing) {
	if before := g.trial; before != nil {
		g.trial = nil
		faster, fewer := math.Log(before.second/now.second), math.Log(before.atOnce/now.atOnce)
		changed := faster < -max(0.1, 2*math.Hypot(before.spread, now.spread))
		if !changed && faster < 0.7*fewer {
			g.base = *before
			g.base.second /= queueNone
			g.limit = min(g.max, before.atOnce*queueNone)
			return
		}
	}
	stretch := now.second / g.base.second
	switch doubt := math.Exp(2 * math.Hypot(now.spread, g.base.spread)); {
	case stretch > queueMuch*doubt:
		g.trial = &now
		g.limit = max(1, now.atOnce*queueAim/stretch)
	case stretch < queueNone:
		if g.base.spread > now.spread || stretch < 1 {
			g.base.spread = max(now.spread, g.base.spread*0.9)
		}
		g.base.second += (now.second - g.base.second) / 8
		if now.atOnce > 0.8*g.limit {
			g.limit = min(g.max, g.limit*1.5)
		}
	}
}
