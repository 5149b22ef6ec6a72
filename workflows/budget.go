package workflows

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"go.temporal.io/sdk/workflow"

	"precept/schemas"
)

// budget is what the run may spend in all: what people have last set for it, in each unit,
// else what its spec says. What was set for another budget of the spec doesn't count.
func (f *factory) budget() schemas.Cost {
	budget := schemas.Cost(f.spec.Budget)
	for _, d := range f.carried.Decisions {
		if d.Verdict == schemas.DecisionBudget && !d.Stale && d.Decision.Digest == f.budgetDigest() {
			budget = d.Decision.Budget(budget)
		}
	}
	return budget
}

// budgetDigest is what people judge when they set a budget: the spec's.
func (f *factory) budgetDigest() schemas.Digest { return schemas.DigestOf(f.spec.Budget) }

// checkBudget tells why a budget makes no sense; nil when it does.
func (f *factory) checkBudget(d schemas.Decision) error {
	named, spent := d.Budget(schemas.Cost{}), f.progress().Usage()
	switch {
	case d.By == "":
		return errors.New(`say who decides: {"gate":"budget","by":"YOUR NAME","usd":50}`)
	case d.Gate != "" && d.Gate != schemas.GateBudget:
		return fmt.Errorf("a budget is not set at gate %q", d.Gate)
	case d.USD == nil && d.Tokens == nil:
		return errors.New("no limit is named: say usd, tokens, or both; what is not named stays as it is")
	case !(named.USD >= 0) || math.IsInf(named.USD, 0) || named.Tokens < 0:
		return fmt.Errorf("$%v and %d tokens are no budget; 0 lifts a limit", named.USD, named.Tokens)
	case d.Opening != "" && !f.atBudget():
		return fmt.Errorf("opening %q is closed", d.Opening)
	case f.atBudget() && d.Opening != "" && d.Opening != f.waiting.ID:
		return fmt.Errorf("opening %q is closed; the one that waits is %q", d.Opening, f.waiting.ID)
	case d.Digest != "" && d.Digest != f.budgetDigest():
		return fmt.Errorf("digest %s is not of this run's budget; it is %s", d.Digest.Short(), f.budgetDigest())
	case !spent.AtMost().Within(named):
		return fmt.Errorf("a budget of %s is less than what is spent: %s; set a larger one", named, spending(spent, named))
	}
	return nil
}

// spending says what is spent, in the units of a limit.
func spending(u schemas.Usage, limit schemas.Cost) string {
	text := u.Cost().In(limit)
	if u.Unanswered > 0 || u.UnansweredUSD > 0 {
		text += fmt.Sprintf(", and at most %s more for %d calls to which no answer is known",
			schemas.Cost{USD: u.UnansweredUSD, Tokens: u.UnansweredTokens}.In(limit), u.Unanswered)
	}
	return text
}

// atBudget reports whether the run waits at its budget gate.
func (f *factory) atBudget() bool {
	return f.waiting != nil && f.waiting.Gate == schemas.GateBudget && f.answer == nil
}

// purse is the account of the stage that begins or goes on.
func (f *factory) purse(part *schemas.OpenStage, todo []schemas.FailedTask) *purse {
	p := newPurse(f.budget(), f.spent().AtMost())
	// The stage's own: tasks that are done, and those to be called again.
	p.spent = p.spent.Plus(part.Usage.AtMost())
	if len(part.Grants) > 0 {
		p.held = maps.Clone(part.Grants)
	}
	for _, t := range slices.Concat(part.Failed, todo) {
		if _, ok := p.held[t.Index]; !ok {
			p.spent = p.spent.Plus(t.AtMost())
		}
	}
	if n := int64(part.Next - len(part.Failed) - len(part.Pending) - len(todo)); n > 0 {
		p.done, p.took = n, part.Usage.Cost()
	}
	return p
}

// granted waits until a task can be granted something. It is not ok when nothing is left
// and no task is open that may return some. A nil grant sets no limit.
func (f *factory) granted(ctx workflow.Context, stage schemas.Stage, p *purse, index int, had schemas.Cost, beside int) (grant *schemas.Cost, ok bool) {
	for {
		p.limit = f.budget() // it may have been set
		if p.limit == (schemas.Cost{}) || !stage.Pays() {
			p.spent = p.spent.Minus(had)
			p.open[index] = schemas.Cost{}
			return nil, true
		}
		if g, ok := p.grant(index, had, beside); ok {
			return &g, true
		}
		turns, limit := p.turns, p.limit
		if len(p.open) == 0 {
			return nil, false
		}
		if workflow.Await(ctx, func() bool { return p.turns != turns || f.budget() != limit }) != nil {
			return nil, false
		}
	}
}

// broke opens the budget gate.
func (f *factory) broke(ctx workflow.Context, part *schemas.OpenStage) error {
	usage, budget := f.total(part), f.budget()
	if budget == (schemas.Cost{}) {
		return nil // it has just been lifted
	}
	raise := raised(budget, usage.AtMost(), part.Failed)
	question := fmt.Sprintf("Another call could exceed the budget of %s. So far the run has spent %s. Stage %s has done %d of %d tasks",
		budget.In(raise), spending(usage, budget), part.Stage, part.Next-len(part.Failed)-len(part.Pending), part.Plan.Tasks)
	if usd := projected(part); usd > 0 {
		question += fmt.Sprintf("; by its rows so far it takes %s in all", schemas.FormatDollars(usd))
	}
	question += fmt.Sprintf(". Set a larger budget for the whole run, such as %s, and it goes on; what was answered is not paid for again", raise)
	got, err := f.wait(ctx, schemas.Opening{Gate: schemas.GateBudget, Digest: f.budgetDigest(), Question: question, Takes: verdicts[schemas.GateBudget], Raise: &raise})
	if err != nil {
		return err
	}
	if got.verdict == schemas.DecisionAbort {
		return &endedError{schemas.StateAborted, noted("aborted at the budget gate by "+got.decision.By, got.decision.Note)}
	}
	return nil
}

// raised is a budget of the limits that were reached that lets the run go on: as much again
// as it had, beside what is spent.
func raised(budget, spent schemas.Cost, failed []schemas.FailedTask) (raise schemas.Cost) {
	var call schemas.Cost // that could not be sent
	for _, t := range failed {
		if t.Needs != (schemas.Cost{}) {
			call = call.Max(t.Needs.Minus(t.AtMost()))
		}
	}
	next := spent.Plus(call)
	raise = next.Plus(budget)
	raise = schemas.Cost{USD: schemas.Dollars(roundUp(raise.USD)), Tokens: int64(roundUp(float64(raise.Tokens)))}
	// Of two limits the one that the call is past; where none tells, the one that is nearer.
	usd, tokens := next.USD/budget.USD, float64(next.Tokens)/float64(budget.Tokens)
	if budget.USD == 0 || budget.Tokens > 0 && usd <= 1 && usd < tokens {
		raise.USD = 0
	}
	if budget.Tokens == 0 || budget.USD > 0 && tokens <= 1 && tokens < usd {
		raise.Tokens = 0
	}
	return raise
}

// roundUp rounds to two digits.
func roundUp(x float64) float64 {
	if x <= 0 {
		return x
	}
	unit := math.Pow(10, math.Floor(math.Log10(x))-1)
	return math.Ceil(x/unit-1e-6) * unit
}

// projected is what a stage will have cost, by its rows so far; 0 where nothing tells.
func projected(part *schemas.OpenStage) float64 {
	rows := part.Ledger.Outcomes()
	if part.Plan == nil || rows == 0 {
		return 0
	}
	return part.Usage.USD * float64(part.Plan.Planned) / float64(rows)
}

// spent is what the run is known to have spent on models that somebody else serves, but for
// the stage that is open.
func (f *factory) spent() (u schemas.Usage) {
	u.Add(f.carried.Probed)
	for _, stage := range schemas.Stages {
		if !stage.Pays() {
			continue
		}
		u.Add(f.carried.Spent[stage])
		u.Add(f.sum(stage).Usage)
	}
	return u
}

// total is that with what is open of a stage.
func (f *factory) total(part *schemas.OpenStage) schemas.Usage {
	u := f.spent()
	u.Add(took(part))
	return u
}

// took is what an open stage has taken, by tasks that are done and by those that are to be
// called again.
func took(part *schemas.OpenStage) schemas.Usage {
	u := part.Usage
	for _, t := range part.Failed {
		u.Add(t.Usage)
	}
	return u
}

// leave remembers what a stage has spent that is neither closed nor open any more.
func (f *factory) leave(stage schemas.Stage, u schemas.Usage) {
	if u == (schemas.Usage{}) || !stage.Pays() {
		return
	}
	if f.carried.Spent == nil {
		f.carried.Spent = map[schemas.Stage]schemas.Usage{}
	}
	sum := f.carried.Spent[stage]
	sum.Add(u)
	f.carried.Spent[stage] = sum
}
