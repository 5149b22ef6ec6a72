package workflows

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/temporal"

	"precept/activities"
	"precept/schemas"
)

// midStage has the filter's third task fail when its first two are done, each for a dollar,
// after two stages that cost three each and an earlier run that had spent two; the task that
// fails has cost a half.
func midStage(t *testing.T) *world {
	w := newWorld(t)
	w.earlier = map[schemas.Stage]schemas.Usage{schemas.StageGrade: {Paid: 2, USD: 2}}
	w.result.Costs = schemas.Costs{"violence": {USD: 1}}
	w.took = func(activities.TaskRequest) schemas.Usage { return schemas.Usage{Paid: 1, USD: 1} }
	w.failing = func(r activities.TaskRequest) error {
		if r.Stage != schemas.StageFilter || r.Index != 2 {
			return nil
		}
		return temporal.NewNonRetryableApplicationError("the disk is full.", string(schemas.Internal), nil, schemas.TaskFailure{
			Usage: schemas.Usage{Paid: 1, USD: 0.5}, Costs: schemas.Costs{"violence": {USD: 0.5}},
		})
	}
	return w
}

// However a run ends in the middle of a stage, its report, its progress and its search
// attribute say the same of what it spent.
func TestARunThatEndsInMidStageTellsWhatItSpent(t *testing.T) {
	tests := []struct {
		name  string
		end   func(*world)
		state string
		usd   float64 // by the filter
	}{
		{"aborted", func(w *world) { w.at(time.Hour, "abort", schemas.Decision{By: "ann"}) }, schemas.StateAborted, 2.5},
		{"cancelled", func(w *world) { w.RegisterDelayedCallback(w.CancelWorkflow, time.Hour) }, schemas.StateCancelled, 2.5},
		{"failed", func(w *world) {
			w.failing = func(activities.TaskRequest) error { return nil }
			w.sums[schemas.StageFilter] = schemas.Ledger{Planned: 1000, Kept: 1}
		}, schemas.StateFailed, 3},
		{"cut off, with a record in the store", func(w *world) {
			w.RegisterDelayedCallback(w.CancelWorkflow, time.Hour)
			w.recorded = &schemas.Usage{Paid: 4, USD: 4.25}
		}, schemas.StateCancelled, 4.25},
		{"aborted, and no report can be written", func(w *world) {
			w.at(time.Hour, "abort", schemas.Decision{By: "ann"})
			w.unreported = temporal.NewNonRetryableApplicationError("no space left", string(schemas.Unavailable), nil)
		}, schemas.StateAborted, 2.5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := midStage(t)
			tt.end(w)
			var attribute float64
			w.OnUpsertTypedSearchAttributes(mock.Anything).Return(nil).Run(func(args mock.Arguments) {
				if usd, ok := args.Get(0).(temporal.SearchAttributes).GetFloat64(attrUSD); ok {
					attribute = usd
				}
			})
			w.ExecuteWorkflow(FactoryName, spec(), nil)
			var report schemas.RunReport
			if w.GetWorkflowResult(&report) != nil {
				if len(w.reports) == 0 {
					t.Fatal("no report was written")
				}
				report = w.reports[len(w.reports)-1] // the store's
			}
			if report.State != tt.state || report.Open == nil || report.Open.Stage != schemas.StageFilter || report.Open.Usage.USD != tt.usd {
				t.Fatalf("the report says %q: %q of %+v", report.State, report.Note, report.Open)
			}
			if len(report.Open.Costs) == 0 {
				t.Error("nothing says which category it was spent on")
			}
			want := 2 + 6 + tt.usd // earlier, in the two stages before, and in this one
			if got := report.Progress().Usage().USD; got != want {
				t.Errorf("the report has $%v, want %v", got, want)
			}
			if attribute != want {
				t.Errorf("the search attribute has $%v, want %v", attribute, want)
			}
			p := w.progress(t)
			if d := cmp.Diff(report.Progress().Usage(), p.Usage()); d != "" || p.State != tt.state || p.Waiting != nil {
				t.Errorf("progress is %q and spent (- the report, + progress)\n%s", p.State, d)
			}
		})
	}
}

// A task that fails without a word has spent at least what it had told before.
func TestASilentFailureKeepsWhatWasTold(t *testing.T) {
	w := midStage(t)
	told := w.failing
	silent := false
	w.failing = func(r activities.TaskRequest) error {
		if err := told(r); err != nil && silent {
			return temporal.NewNonRetryableApplicationError("the worker is gone", string(schemas.Internal), nil)
		} else {
			silent = err != nil
			return err
		}
	}
	w.at(time.Hour, "resume", schemas.Decision{By: "ann"})
	w.at(2*time.Hour, "abort", schemas.Decision{By: "ann"})
	report := w.run(t, spec())
	if report.Open == nil || report.Open.Usage.USD != 2.5 || report.Open.Costs["violence"].USD != 2.5 {
		t.Errorf("the filter has %+v", report.Open)
	}
}

// What a provider says ends as it likes, and what nobody noted leaves no colon.
func TestQuestionsHaveOneFullStop(t *testing.T) {
	r := newRefusing(t)
	r.at(30*time.Minute, "abort", schemas.Decision{By: "ann"})
	r.RegisterDelayedCallback(func() {
		if o := r.waiting(t); o == nil || strings.Contains(o.Question, "..") || !strings.Contains(o.Question, "then resume. Endpoint judge") {
			t.Errorf("asks %+v", o)
		}
	}, 20*time.Minute)
	r.run(t, spec())
	w := newWorld(t)
	w.at(time.Hour, "abort", schemas.Decision{By: "ann"})
	if report := w.run(t, gated()); report.Note != "aborted at the dataset gate by ann" {
		t.Errorf("noted %q", report.Note)
	}
}

// A stage that is being planned, or has ended, is not said to have done so many tasks of so many.
func TestDetailsCountTasksWhereThereIsSomethingToCount(t *testing.T) {
	got := details(schemas.Progress{Stages: []schemas.StageProgress{
		{Stage: schemas.StagePrompts, Tasks: 2, Done: 2, Closed: true}, {Stage: schemas.StageSynthesize, Tasks: 3, Done: 1}, {Stage: schemas.StageFilter},
	}})
	for _, want := range []string{"| prompts | all 2 |", "| synthesize | 1 of 3 |", "| filter | being planned |"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}
