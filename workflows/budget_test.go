package workflows

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
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
	w.OnActivity(act.Spent, mock.Anything, mock.Anything).Return(func(context.Context, schemas.RunID) (map[schemas.Stage]schemas.Usage, error) { return w.earlier, nil })
	spec := spec()
	spec.Until, spec.Window, spec.Budget.USD = schemas.StageSynthesize, window, usd
	return w, spec
}

func TestABudgetPausesAtItsGate(t *testing.T) {
	s := newSpenders(0.1, 5, 5, 5, 5, 5, 5)
	w, spec := spends(t, s, 12, 3)
	w.RegisterDelayedCallback(func() {
		p := w.progress(t)
		if p.Waiting == nil || p.Waiting.Gate != schemas.GateBudget || !strings.Contains(p.Waiting.Question, "could exceed the budget of $12.00: $12.00 spent") ||
			!strings.Contains(p.Waiting.Command, `--name set-budget --input '{"gate":"budget","by":"YOUR NAME","usd":DOLLARS}'`) {
			t.Errorf("waits for %+v", p.Waiting)
		}
		if got := s.total(); got != 12 {
			t.Errorf("$%v of 12 are spent", got)
		}
		// That does not help: it waits again.
		w.SignalWorkflow("resume", schemas.Decision{Gate: schemas.GateBudget, By: "ann"})
	}, time.Hour)
	w.at(2*time.Hour, "set-budget", schemas.Decision{Gate: schemas.GateBudget, By: "ann", USD: 40})
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
		{"as was set", schemas.DecisionRecord{Verdict: "set-budget", Decision: schemas.Decision{Gate: "budget", By: "ann", USD: 7, Digest: digest}}, 0, 7},
		{"set for another spec", schemas.DecisionRecord{Verdict: "set-budget", Decision: schemas.Decision{Gate: "budget", By: "ann", USD: 7, Digest: "x"}}, 0, 3},
		{"stale", schemas.DecisionRecord{Verdict: "set-budget", Stale: true, Decision: schemas.Decision{Gate: "budget", By: "ann", USD: 7, Digest: digest}}, 0, 3},
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
	w.at(time.Hour, "set-budget", schemas.Decision{By: "ann", USD: -1})
	w.at(time.Hour, "set-budget", schemas.Decision{USD: 50})
	w.at(time.Hour, "set-budget", schemas.Decision{Gate: "dataset", By: "ann", USD: 50})
	w.at(time.Hour, "approve", schemas.Decision{By: "ann", USD: 50})
	w.at(2*time.Hour, "set-budget", schemas.Decision{By: "ann", USD: 50})
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
