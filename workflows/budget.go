package workflows

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"go.temporal.io/sdk/workflow"

	"precept/schemas"
)

// budget is what the run may spend in all: what people have last set for it, else what its
// spec says. What was set for another budget of the spec doesn't count.
func (f *factory) budget() schemas.Cost {
	for _, d := range slices.Backward(f.carried.Decisions) {
		if d.Verdict == schemas.DecisionBudget && !d.Stale && d.Decision.Digest == f.budgetDigest() {
			return schemas.Cost{USD: d.Decision.USD, Tokens: d.Decision.Tokens}
		}
	}
	return schemas.Cost(f.spec.Budget)
}

// budgetDigest is what people judge when they set a budget: the spec's.
func (f *factory) budgetDigest() schemas.Digest { return schemas.DigestOf(f.spec.Budget) }

// checkBudget tells why a budget makes no sense; nil when it does.
func (f *factory) checkBudget(d schemas.Decision) error {
	switch {
	case d.By == "":
		return errors.New(`say who decides: {"gate":"budget","by":"YOUR NAME","usd":50}`)
	case d.Gate != "" && d.Gate != schemas.GateBudget:
		return fmt.Errorf("a budget is not set at gate %q", d.Gate)
	case !(d.USD >= 0) || math.IsInf(d.USD, 0) || d.Tokens < 0:
		return fmt.Errorf("$%v and %d tokens are no budget; 0 sets no limit", d.USD, d.Tokens)
	case d.Opening != "" && !f.atBudget():
		return fmt.Errorf("opening %q is closed", d.Opening)
	case f.atBudget() && d.Opening != "" && d.Opening != f.waiting.ID:
		return fmt.Errorf("opening %q is closed; the one that waits is %q", d.Opening, f.waiting.ID)
	case d.Digest != "" && d.Digest != f.budgetDigest():
		return fmt.Errorf("digest %s is not of this run's budget; it is %s", d.Digest.Short(), f.budgetDigest())
	}
	return nil
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
	usage := f.total(part)
	question := fmt.Sprintf("Another call could exceed the budget of %s: %s spent so far", amount(f.budget(), f.budget()), amount(usage.Cost(), f.budget()))
	if usage.Unanswered > 0 || usage.UnansweredUSD > 0 {
		question += fmt.Sprintf(", and at most %s more for %d calls to which no answer is known",
			amount(schemas.Cost{USD: usage.UnansweredUSD, Tokens: usage.UnansweredTokens}, f.budget()), usage.Unanswered)
	}
	question += fmt.Sprintf(". Stage %s has done %d of %d tasks", part.Stage, part.Next-len(part.Failed)-len(part.Pending), part.Plan.Tasks)
	if usd := projected(part); usd > 0 {
		question += fmt.Sprintf("; by its rows so far it takes %s in all", dollars(usd))
	}
	question += ". Set a larger budget for the whole run, and it goes on; what was answered is not paid for again"
	got, err := f.wait(ctx, schemas.Opening{Gate: schemas.GateBudget, Digest: f.budgetDigest(), Question: question, Takes: verdicts[schemas.GateBudget]})
	if err != nil {
		return err
	}
	if got.verdict == schemas.DecisionAbort {
		return &endedError{schemas.StateAborted, fmt.Sprintf("aborted at the budget gate by %s: %s", got.decision.By, got.decision.Note)}
	}
	return nil
}

// amount writes a cost in the units that a limit has.
func amount(c, limit schemas.Cost) string {
	var parts []string
	if limit.USD > 0 {
		parts = append(parts, dollars(c.USD))
	}
	if limit.Tokens > 0 {
		parts = append(parts, fmt.Sprintf("%d tokens", c.Tokens))
	}
	return strings.Join(parts, " and ")
}

func dollars(usd float64) string {
	if usd != 0 && usd < 1 {
		return fmt.Sprintf("$%.4f", usd)
	}
	return fmt.Sprintf("$%.2f", usd)
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
