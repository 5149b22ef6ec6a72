package llm

import (
	"time"

	"precept/schemas"
)

// account says whether the provider serves us at all. An account condition closes it: no
// request mends that, so nothing is sent but one trial at a time, by clients that were
// guarded after the refusal, on behalf of whoever believes that it was mended. A trial that
// is answered opens it.
type account struct {
	refusal  error     // in the provider's words; nil while the account is open
	since    time.Time // of the first refusal
	refusals int
	trial    *turn // under way
}

// closedTo is the refusal where t may not try the account.
func (a *account) closedTo(t *turn) error {
	if t.seen < a.refusals {
		return a.refusal
	}
	return nil
}

// admits reports whether a turn may be given.
func (a *account) admits() bool { return a.refusal == nil || a.trial == nil }

func (a *account) take(t *turn) {
	if a.refusal != nil {
		a.trial = t
	}
}

// settle learns from what became of t, and reports whether the account was refused anew.
func (a *account) settle(t *turn, o outcome, now time.Time) (refused bool) {
	tried := a.trial == t
	if tried {
		a.trial = nil
	}
	switch {
	case !o.sent || o.aborted:
		return false
	case IsAccount(o.err):
		if a.refusal != nil && !tried {
			return false // it was sent before that
		}
		if a.refusal == nil {
			a.since = now
		}
		a.refusal = o.err
		a.refusals++
		return true
	case tried && (o.err == nil || !schemas.KindOf(o.err).Retryable()):
		a.refusal = nil
	}
	return false
}

// refusals is how often the account was refused.
func (p *pace) refusals() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.account.refusals
}
