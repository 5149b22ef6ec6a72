package workflows

import (
	"maps"
	"slices"

	"precept/schemas"
)

// purse parts what a budget leaves among the tasks of a stage. A grant is what a task may
// spend in all, however often it is called. What is spent and what is granted to open
// tasks never exceed the limit together.
type purse struct {
	limit schemas.Cost         // 0 is none, in each unit
	spent schemas.Cost         // by all but open tasks
	open  map[int]schemas.Cost // the grants of open tasks
	held  map[int]schemas.Cost // the grants of tasks whose batches are under way
	done  int64                // tasks of the stage that have ended
	took  schemas.Cost         // by those
	last  map[int]call         // of tasks that returned for their grant
	turns int                  // how often a task has returned
}

// call is how a call of a task ended that returned for its grant.
type call struct{ grant, had schemas.Cost }

func newPurse(limit, spent schemas.Cost) *purse {
	return &purse{limit: limit, spent: spent, open: map[int]schemas.Cost{}, held: map[int]schemas.Cost{}, last: map[int]call{}}
}

// left is what is neither spent nor granted.
func (p *purse) left() schemas.Cost {
	left := p.limit.Minus(p.spent)
	for _, grants := range []map[int]schemas.Cost{p.open, p.held} {
		for _, index := range slices.Sorted(maps.Keys(grants)) { // dollars are rounded: a replay must sum them alike
			left = left.Minus(grants[index])
		}
	}
	return left
}

// hold keeps the grant of a task that has just been settled: its batches are under way, and
// cost it at most that.
func (p *purse) hold(index int, grant, had schemas.Cost) {
	p.spent = p.spent.Minus(had)
	p.held[index] = grant
}

// resume opens a task with the grant that was held for it.
func (p *purse) resume(index int) (*schemas.Cost, bool) {
	grant, ok := p.held[index]
	if ok {
		delete(p.held, index)
		p.open[index] = grant
	}
	return &grant, ok
}

// grant opens a task that has spent had before. Beside is how many may be opened beside
// it. It is not ok where what is left would do it no good: tasks that are open may
// return some. Where nothing is left and none is open, it may still find that it needs
// nothing, once.
func (p *purse) grant(index int, had schemas.Cost, beside int) (schemas.Cost, bool) {
	left := p.left()
	last, called := p.last[index]
	stuck := called && last.had == had
	usd, enough := p.part(p.limit.USD, left.USD, had.USD, p.took.USD, beside, stuck)
	tokens, also := p.part(float64(p.limit.Tokens), float64(left.Tokens), float64(had.Tokens), float64(p.took.Tokens), beside, stuck)
	if (!enough || !also) && (called || len(p.open) > 0) {
		return schemas.Cost{}, false
	}
	grant := had.Plus(schemas.Cost{USD: usd, Tokens: int64(tokens)}).Max(nothing)
	if p.limit.USD == 0 {
		grant.USD = 0
	}
	if p.limit.Tokens == 0 {
		grant.Tokens = 0
	}
	if stuck && !p.more(grant, last.grant) {
		return schemas.Cost{}, false // it got nowhere with as much
	}
	p.spent = p.spent.Minus(had)
	p.open[index] = grant
	return grant, true
}

// nothing is a grant that no request can be sent with; 0 would be no limit.
var nothing = schemas.Cost{USD: 1e-12, Tokens: 1}

// part is what a task gets of one unit beside what it had, and whether that will do. One
// that is stuck got nowhere with what it was granted last.
func (p *purse) part(limit, left, had, took float64, beside int, stuck bool) (part float64, ok bool) {
	if limit == 0 {
		return 0, true
	}
	if left <= 0 {
		return 0, false
	}
	want := left
	switch {
	case stuck:
	case p.done > 0 && took > 0:
		// The tasks of a stage are about as large as each other.
		mean := took / float64(p.done)
		want = max(1.25*mean-had, had, mean/4)
	case beside > 0 || len(p.open) > 0:
		// Nothing tells yet what a task takes.
		want = left / float64(2*(1+beside))
	}
	// Crumbs are not worth a call, while others may return more.
	return min(want, left), want <= 2*left || len(p.open) == 0
}

// more reports whether a grant is larger than another one in every unit that is limited.
func (p *purse) more(grant, other schemas.Cost) bool {
	return (p.limit.USD == 0 || grant.USD > other.USD) && (p.limit.Tokens == 0 || grant.Tokens > other.Tokens)
}

// settle takes a task's grant back. Had is what it has spent in all.
func (p *purse) settle(index int, had schemas.Cost) {
	p.last[index] = call{p.open[index], had}
	p.spent = p.spent.Plus(had)
	delete(p.open, index)
	p.turns++
}

// end notes what a task took that has ended.
func (p *purse) end(took schemas.Cost) {
	p.done++
	p.took = p.took.Plus(took)
}
