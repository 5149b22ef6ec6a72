package workflows

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"precept/activities"
	"precept/schemas"
)

// spenders are a stage's tasks that cost money: each returns when its grant is spent, and
// goes on from there when it is called again.
type spenders struct {
	mu      sync.Mutex
	costs   []float64 // of whole tasks
	step    float64   // of one request
	spent   []float64
	granted map[int]float64
	most    float64 // that was ever spent and granted at once
	calls   int
}

func newSpenders(step float64, costs ...float64) *spenders {
	return &spenders{costs: costs, step: step, spent: make([]float64, len(costs)), granted: map[int]float64{}}
}

func (s *spenders) do(_ context.Context, r activities.TaskRequest) (schemas.TaskResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	limit := 1e9
	if r.Grant != nil {
		limit = r.Grant.USD
	}
	s.granted[r.Index] = limit
	total := 0.0
	for i, spent := range s.spent {
		total += max(spent, s.granted[i])
	}
	s.most = max(s.most, total)
	for s.spent[r.Index] < s.costs[r.Index] && s.spent[r.Index]+s.step <= limit {
		s.spent[r.Index] = schemas.Dollars(s.spent[r.Index] + s.step)
	}
	delete(s.granted, r.Index)
	result := schemas.TaskResult{Usage: schemas.Usage{Paid: int64(s.spent[r.Index]/s.step + 0.5), USD: s.spent[r.Index]}}
	if s.spent[r.Index] < s.costs[r.Index] {
		result.Unfinished = &schemas.Unfinished{Grant: true}
	}
	return result, nil
}

func (s *spenders) total() (sum float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, spent := range s.spent {
		sum = schemas.Dollars(sum + spent)
	}
	return sum
}

// spends has a run end with synthesize, whose tasks are s's.
func spends(t *testing.T, s *spenders, usd float64, window int) (*world, schemas.RunSpec) {
	w := newWorld(t)
	w.tasks = len(s.costs)
	w.only = map[schemas.Stage]func(context.Context, activities.TaskRequest) (schemas.TaskResult, error){schemas.StageSynthesize: s.do}
	spec := spec()
	spec.Until, spec.Window, spec.Budget.USD = schemas.StageSynthesize, window, usd
	return w, spec
}

func TestABudgetPausesAtItsGate(t *testing.T) {
	s := newSpenders(0.1, 5, 5, 5, 5, 5, 5)
	w, spec := spends(t, s, 12, 3)
	w.RegisterDelayedCallback(func() {
		p := w.progress(t)
		if p.Waiting == nil || p.Waiting.Gate != schemas.GateBudget || !strings.Contains(p.Waiting.Question, "could exceed the budget of $12.00. So far the run has spent $12.00. Stage") ||
			!strings.Contains(p.Waiting.Question, "such as $24.00") ||
			!strings.Contains(p.Waiting.Command, `--name set-budget --input '{"gate":"budget","by":"YOUR NAME","usd":24}'`) {
			t.Errorf("waits for %+v", p.Waiting)
		}
		if got := s.total(); got != 12 {
			t.Errorf("$%v of 12 are spent", got)
		}
		// That does not help: it waits again.
		w.SignalWorkflow("resume", schemas.Decision{Gate: schemas.GateBudget, By: "ann"})
	}, time.Hour)
	w.at(2*time.Hour, "set-budget", schemas.Decision{Gate: schemas.GateBudget, By: "ann", USD: new(40.0)})
	report := w.run(t, spec)
	if report.State != schemas.StateCompleted || s.total() != 30 || report.Stages[1].Usage.USD != 30 {
		t.Errorf("ended as %q with $%v spent and %+v told", report.State, s.total(), report.Stages[1].Usage)
	}
	if s.most > 40 {
		t.Errorf("$%v were spent and granted at once", s.most)
	}
	if n := len(w.records); n != 2 || w.records[1].Stale || w.records[1].Decision.Opening == "" {
		t.Errorf("%d decisions: %+v", n, w.records)
	}
}

func TestABudgetIsAbortedAt(t *testing.T) {
	w, spec := spends(t, newSpenders(1, 5, 5), 3, 3)
	w.at(time.Hour, "abort", schemas.Decision{By: "ann", Note: "enough"})
	if report := w.run(t, spec); report.State != schemas.StateAborted || !strings.Contains(report.Note, "budget gate by ann: enough") {
		t.Errorf("ended as %q: %s", report.State, report.Note)
	}
}

// What was decided, and what was spent, under the run's ID counts when it is started again.
func TestABudgetOutlivesItsRun(t *testing.T) {
	digest := schemas.DigestOf(schemas.BudgetSpec{USD: 3})
	tests := []struct {
		name    string
		stored  schemas.DecisionRecord
		earlier float64
		spends  float64 // before the gate
	}{
		{"as the spec says", schemas.DecisionRecord{}, 0, 3},
		{"as was set", schemas.DecisionRecord{Verdict: "set-budget", Decision: schemas.Decision{Gate: "budget", By: "ann", USD: new(7.0), Digest: digest}}, 0, 7},
		{"set for another spec", schemas.DecisionRecord{Verdict: "set-budget", Decision: schemas.Decision{Gate: "budget", By: "ann", USD: new(7.0), Digest: "x"}}, 0, 3},
		{"stale", schemas.DecisionRecord{Verdict: "set-budget", Stale: true, Decision: schemas.Decision{Gate: "budget", By: "ann", USD: new(7.0), Digest: digest}}, 0, 3},
		{"spent in part", schemas.DecisionRecord{}, 2, 1},
		{"spent", schemas.DecisionRecord{}, 5, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSpenders(0.5, 5, 5)
			w, spec := spends(t, s, 3, 2)
			w.stored = []schemas.DecisionRecord{tt.stored}
			w.earlier = map[schemas.Stage]schemas.Usage{schemas.StageFilter: {USD: tt.earlier}}
			w.at(time.Hour, "abort", schemas.Decision{By: "ann"})
			if report := w.run(t, spec); report.State != schemas.StateAborted || s.total() != tt.spends {
				t.Errorf("ended as %q with $%v spent, want %v", report.State, s.total(), tt.spends)
			}
		})
	}
}

func TestABudgetIsSetAtAnyTime(t *testing.T) {
	s := newSpenders(1, 5)
	w, spec := spends(t, s, 0, 2)
	spec.Until, spec.Gates.Dataset = schemas.StageCurate, true
	w.at(time.Hour, "set-budget", schemas.Decision{By: "ann", USD: new(-1.0)})
	w.at(time.Hour, "set-budget", schemas.Decision{USD: new(50.0)})
	w.at(time.Hour, "set-budget", schemas.Decision{Gate: "dataset", By: "ann", USD: new(50.0)})
	w.at(time.Hour, "approve", schemas.Decision{By: "ann", USD: new(50.0)})
	w.at(2*time.Hour, "set-budget", schemas.Decision{By: "ann", USD: new(50.0)})
	w.RegisterDelayedCallback(func() {
		if p := w.progress(t); p.Waiting == nil || p.Waiting.Gate != schemas.GateDataset || p.Budget == nil || p.Budget.USD != 50 {
			t.Errorf("waits for %+v with budget %+v", p.Waiting, p.Budget)
		}
	}, 3*time.Hour)
	w.at(4*time.Hour, "approve", schemas.Decision{By: "ann"})
	w.run(t, spec)
	var stale int
	for _, r := range w.records {
		if r.Stale {
			stale++
		}
	}
	if stale != 4 || len(w.records) != 6 {
		t.Errorf("%d of %d decisions are stale: %+v", stale, len(w.records), w.records)
	}
}

// What costs nothing goes on when nothing is left.
func TestWhatIsFoundNeedsNoBudget(t *testing.T) {
	s := newSpenders(1, 0, 0, 0, 0)
	w, spec := spends(t, s, 3, 2)
	w.earlier = map[schemas.Stage]schemas.Usage{schemas.StageFilter: {USD: 3}}
	spec.Until = schemas.StageCurate
	if report := w.run(t, spec); report.State != schemas.StateCompleted || s.calls != 4 {
		t.Errorf("ended as %q after %d calls", report.State, s.calls)
	}
}

// Whatever tasks cost, open grants and what is spent stay within the budget, and a run
// whose budget is enough ends without being paused.
func TestGrantsStayWithinTheBudget(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		step := 0.25
		costs := rapid.SliceOfN(rapid.Map(rapid.IntRange(0, 40), func(n int) float64 { return float64(n) * step }), 1, 12).Draw(rt, "costs")
		window := rapid.IntRange(1, 5).Draw(rt, "window")
		budget := float64(rapid.IntRange(1, 200).Draw(rt, "quarters")) * step
		s := newSpenders(step, costs...)
		w, spec := spends(t, s, budget, window)
		w.at(time.Hour, "abort", schemas.Decision{By: "ann"})
		report := w.run(t, spec)
		var need float64
		for _, c := range costs {
			need += c
		}
		if s.most > budget+1e-9 {
			rt.Errorf("$%v of %v were spent and granted at once", s.most, budget)
		}
		if want := min(need, budget); s.total() != want {
			rt.Errorf("$%v are spent, want %v of %v", s.total(), want, need)
		}
		if ended := report.State == schemas.StateCompleted; ended != (need <= budget) && need != budget {
			rt.Errorf("ended as %q with a budget of %v for %v", report.State, budget, need)
		}
		if most := 8*len(costs) + 20; s.calls > most {
			rt.Errorf("%d calls for %d tasks", s.calls, len(costs))
		}
	})
}

// A limit that a decision doesn't name stays as it is, one that is 0 is lifted, and what is
// less than what is spent is refused.
func TestABudgetIsSetALimitAtATime(t *testing.T) {
	w, spec := spends(t, newSpenders(1, 5), 20, 2)
	spec.Until, spec.Gates.Dataset, spec.Budget.Tokens = schemas.StageCurate, true, 1000
	var refused string
	steps := []struct {
		d    schemas.Decision
		want schemas.Cost
	}{
		{schemas.Decision{USD: new(50.0)}, schemas.Cost{USD: 50, Tokens: 1000}},
		{schemas.Decision{Tokens: new(int64(70))}, schemas.Cost{USD: 50, Tokens: 70}},
		{schemas.Decision{USD: new(4.5)}, schemas.Cost{USD: 50, Tokens: 70}}, // refused
		{schemas.Decision{}, schemas.Cost{USD: 50, Tokens: 70}},              // of nothing
		{schemas.Decision{USD: new(5.0)}, schemas.Cost{USD: 5, Tokens: 70}},
		{schemas.Decision{USD: new(0.0)}, schemas.Cost{Tokens: 70}},
		{schemas.Decision{Tokens: new(int64(0))}, schemas.Cost{}},
	}
	for i, step := range steps {
		step.d.By = "ann"
		at := time.Duration(i+1) * time.Hour
		w.at(at, "set-budget", step.d)
		w.RegisterDelayedCallback(func() {
			var got schemas.Cost
			if b := w.progress(t).Budget; b != nil {
				got = *b
			}
			if got != step.want {
				t.Errorf("after %s the budget is %+v, want %+v", step.d.Limits(), got, step.want)
			}
		}, at+time.Minute)
	}
	w.at(20*time.Hour, "approve", schemas.Decision{By: "ann"})
	w.run(t, spec)
	for _, r := range w.records {
		if r.Stale {
			refused += r.Decision.Note + "\n"
		}
	}
	want := "stale: a budget of $4.50 is less than what is spent: $5.00; set a larger one\n" +
		"stale: no limit is named: say usd, tokens, or both; what is not named stays as it is\n"
	if refused != want {
		t.Errorf("refused %q, want %q", refused, want)
	}
}

// The gate names the limits that were reached, each with a value that lets the run go on.
func TestRaised(t *testing.T) {
	needs := func(usd float64, tokens int64) []schemas.FailedTask {
		return []schemas.FailedTask{{Index: 1}, {
			Usage: schemas.Usage{USD: 1, PromptTokens: 100}, Needs: schemas.Cost{USD: 1 + usd, Tokens: 100 + tokens}, Unfinished: true,
		}}
	}
	for _, tt := range []struct {
		name                string
		budget, spent, want schemas.Cost
		failed              []schemas.FailedTask
	}{
		{"dollars", schemas.Cost{USD: 12}, schemas.Cost{USD: 12, Tokens: 900}, schemas.Cost{USD: 24}, nil},
		{"tokens", schemas.Cost{Tokens: 1000}, schemas.Cost{USD: 12, Tokens: 950}, schemas.Cost{Tokens: 2100}, needs(1, 100)},
		{"tokens of both", schemas.Cost{USD: 100, Tokens: 1000}, schemas.Cost{USD: 12, Tokens: 950}, schemas.Cost{Tokens: 2100}, needs(1, 100)},
		{"dollars of both", schemas.Cost{USD: 2, Tokens: 10000}, schemas.Cost{USD: 1.99, Tokens: 950}, schemas.Cost{USD: 4.1}, needs(0.05, 100)},
		{"both", schemas.Cost{USD: 2, Tokens: 1000}, schemas.Cost{USD: 1.99, Tokens: 950}, schemas.Cost{USD: 4.1, Tokens: 2100}, needs(0.05, 100)},
		{"the nearer one, where no task tells", schemas.Cost{USD: 2, Tokens: 1000}, schemas.Cost{USD: 1, Tokens: 950}, schemas.Cost{Tokens: 2000}, nil},
		{"spent long before", schemas.Cost{USD: 3}, schemas.Cost{USD: 50}, schemas.Cost{USD: 53}, nil},
		{"a call that costs more than the budget", schemas.Cost{USD: 0.01}, schemas.Cost{}, schemas.Cost{USD: 0.36}, needs(0.35, 0)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := raised(tt.budget, tt.spent, tt.failed); got != tt.want {
				t.Errorf("raised to %+v, want %+v", got, tt.want)
			}
		})
	}
}
