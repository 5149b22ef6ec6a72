package llm

import "math"

// How much slower than without a queue a replica's tokens may come.
const (
	// queueAim is what a replica that queues is held at: half as many requests wait as are
	// served, so that it never runs dry. Between queueNone and queueMuch nothing is changed.
	queueAim  = 1.5
	queueNone = 1.25
	queueMuch = 1.75
	// queueShare is by how much faster requests must be for each part fewer of them, in logarithms,
	// for those that were held back to have been waiting. It is 1 where all of them were.
	queueShare = 0.7
	// doubts is how many standard errors a difference must be beyond.
	doubts = 3
	// prefillWork is what a request costs beside the tokens of its answer, in tokens.
	prefillWork = 16
	// minReplies is how many replies a round has at least, and heldRounds for how many
	// rounds a limit stands before more is tried.
	minReplies = 20
	heldRounds = 8
)

// gradient holds back requests that would only wait in the replica's own queue (vLLM never
// says 429). It compares the seconds that a token takes with what they were while few
// requests were in flight, in rounds: as many replies as are in flight for a change
// to tell, as many again to measure. It takes the mean of logarithms, which the few very
// long answers don't sway. Slower tokens alone are no proof, since large batches slow each
// request down and serve more of all: a cut is on trial for a round. Where requests became as
// much faster as they became fewer, they had been waiting, and it stays. Where they
// didn't, it is undone, and what they take is what others are compared with. So what isn't
// proven to queue isn't held back, however widely latencies vary.
type gradient struct {
	max   float64
	limit float64

	base   timing  // without a queue
	early  sample  // of the first requests
	asked  int     // of these under way
	began  float64 // in flight when the round began
	settle int     // replies of the round still to be left out
	round  sample
	trial  *timing // what was before a cut that is on trial
	held   int     // rounds without a change of a limit
}

// timing is the logarithm of the seconds that a token takes, with so many requests in
// flight, and its standard error.
type timing struct {
	atOnce, log, err float64
}

// sample sums replies up.
type sample struct {
	n, atOnce, log, squares float64
}

func (s *sample) add(atOnce, log float64) {
	s.n++
	s.atOnce += atOnce
	s.log += log
	s.squares += log * log
}

func (s *sample) timing() timing {
	mean := s.log / s.n
	return timing{s.atOnce / s.n, mean, math.Sqrt(max(0, s.squares/s.n-mean*mean) / s.n)}
}

func newGradient(atOnce int) gradient {
	return gradient{max: float64(atOnce), limit: float64(atOnce)}
}

// take notes that t is sent. The first requests are told apart, since the first replies
// would be the short ones.
func (g *gradient) take(t *turn) {
	if t.early = t.atOnce <= firstAtOnce && int(g.early.n)+g.asked < firstAtOnce; t.early {
		g.asked++
	}
}

// ended notes that t has ended, whatever came of it.
func (g *gradient) ended(t *turn) {
	if t.early {
		g.asked--
	}
}

// learn takes in the reply to t.
func (g *gradient) learn(t *turn, u Usage, seconds float64) {
	if seconds <= 0 {
		return
	}
	log, n := math.Log(seconds/(float64(u.CompletionTokens)+prefillWork)), float64(t.atOnce)
	switch {
	case t.early:
		if g.early.add(n, log); g.early.n == firstAtOnce {
			g.base = g.early.timing()
			g.begin(n)
		}
	case g.early.n < firstAtOnce:
	case n < g.began/queueNone || n > g.began*queueNone:
		g.begin(n) // it isn't steady
	case g.settle > 0:
		g.settle--
	default:
		if g.round.add(n, log); g.round.n >= max(minReplies, g.began) {
			g.decide(g.round.timing())
			g.begin(n)
		}
	}
}

// begin begins a round with so many in flight.
func (g *gradient) begin(atOnce float64) {
	g.began, g.settle, g.round = atOnce, int(atOnce), sample{}
}

// decide sets the limit by what a round has shown.
func (g *gradient) decide(now timing) {
	if g.undo(now) {
		return
	}
	slower, doubt := now.log-g.base.log, math.Hypot(now.err, g.base.err)
	if slower < math.Log(queueNone)+doubt {
		g.base.log += (now.log - g.base.log) / 8
		g.base.err = max(now.err/2, g.base.err*7/8)
	}
	switch g.held++; {
	case slower > math.Log(queueMuch)+doubts*doubt:
		g.trial, g.held = &now, 0
		g.limit = max(1, now.atOnce*queueAim/math.Exp(slower))
	case slower < math.Log(queueNone) || g.held >= heldRounds:
		g.grow(now)
	}
}

// grow raises the limit if it is what holds requests back.
func (g *gradient) grow(now timing) {
	g.held = 0
	if now.atOnce > 0.8*g.limit {
		g.limit = min(g.max, g.limit*1.5)
	}
}

// undo ends a trial, and reports whether the cut was undone: it made nothing faster.
func (g *gradient) undo(now timing) bool {
	before := g.trial
	if g.trial = nil; before == nil {
		return false
	}
	faster, fewer := before.log-now.log, math.Log(before.atOnce/now.atOnce)
	doubt := doubts * math.Hypot(before.err, now.err)
	if -faster > max(0.1, doubt) || // the replica itself has changed
		faster > max(queueShare*fewer, min(doubt, fewer)) {
		return false
	}
	g.base = *before
	g.base.log -= math.Log(queueNone)
	g.limit = min(g.max, before.atOnce*queueNone)
	return true
}
