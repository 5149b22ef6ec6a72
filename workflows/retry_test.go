package workflows

import (
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"

	"precept/activities"
	"precept/schemas"
)

// losing has a row of each of two tasks of the filter fail, until mended: the stage can
// end without them, or ask again.
func losing(w *world) (mend func()) {
	broken := true
	full := schemas.Ledger{Planned: 21, Kept: 21}
	w.sums[schemas.StageFilter] = full
	w.failing = func(r activities.TaskRequest) error {
		if r.Stage != schemas.StageFilter || r.Index == 2 {
			return nil
		}
		if !broken {
			w.sums[schemas.StageFilter] = full
			return nil
		}
		if r.MayMiss >= 1 {
			w.sums[schemas.StageFilter] = schemas.Ledger{Planned: 21, Kept: 19, Failed: map[schemas.Reason]int64{schemas.ReasonTimedOut: 2}}
			return nil
		}
		return temporal.NewNonRetryableApplicationError("no reply within 2m0s", string(schemas.Unavailable), nil, schemas.TaskFailure{Rows: 1})
	}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		broken = false
		for _, s := range []schemas.Stage{schemas.StageCurate, schemas.StageSFT, schemas.StageRL, schemas.StageSample, schemas.StageGrade} {
			delete(w.sums, s) // what they come to follows from the filter
		}
	}
}

func (w *world) waiting(t *testing.T) *schemas.Opening {
	t.Helper()
	v, err := w.QueryWorkflow(schemas.QueryProgress)
	if err != nil {
		t.Fatal(err)
	}
	var p schemas.Progress
	if err := v.Get(&p); err != nil {
		t.Fatal(err)
	}
	return p.Waiting
}

func TestAStageEndsWithoutRowsThatFailed(t *testing.T) {
	tests := []struct {
		name      string
		maxFailed float64
		asks      bool
	}{
		{"a person lets it", 0, true},
		{"the spec lets it", 0.1, false},
		{"the spec lets fewer", 0.05, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			losing(w)
			asked := false
			w.RegisterDelayedCallback(func() {
				o := w.waiting(t)
				if o == nil {
					return
				}
				asked = true
				if o.Gate != schemas.GateFailure || !slices.Contains(o.Takes, "approve") || !strings.Contains(o.Question, "the 2 rows that failed") {
					t.Errorf("waits for %+v", o)
				}
				w.SignalWorkflow("approve", schemas.Decision{Gate: schemas.GateFailure, By: "ann"})
			}, time.Hour)
			s := spec()
			s.MaxFailed = tt.maxFailed
			report := w.run(t, s)
			if got := report.Stages[2].Ledger; got.Kept != 19 || got.Missing() != 2 || asked != tt.asks {
				t.Errorf("the filter ended with %s, asked: %v", got, asked)
			}
			slices.Sort(w.done[schemas.StageFilter])
			if !slices.Equal(w.done[schemas.StageFilter], []int{0, 1, 2}) {
				t.Errorf("filter did tasks %v", w.done[schemas.StageFilter])
			}
		})
	}
}

func TestWhatIsNoMatterOfRowsCantBeLeftOut(t *testing.T) {
	w := newWorld(t)
	w.failing = func(r activities.TaskRequest) error {
		if r.Stage == schemas.StageFilter {
			return temporal.NewNonRetryableApplicationError("the account is closed", string(schemas.InvalidInput), nil, schemas.TaskFailure{})
		}
		return nil
	}
	w.at(time.Hour, "approve", schemas.Decision{By: "ann"})
	w.at(2*time.Hour, "abort", schemas.Decision{By: "ann"})
	s := spec()
	s.MaxFailed = 1
	if report := w.run(t, s); report.State != schemas.StateAborted {
		t.Errorf("ended as %q", report.State)
	}
	if len(w.records) != 2 || !w.records[0].Stale || !strings.Contains(w.records[0].Decision.Note, "takes [resume abort]") {
		t.Errorf("decisions: %+v", w.records)
	}
}

func TestARetryGoesBackToTheStage(t *testing.T) {
	w := newWorld(t)
	mend := losing(w)
	w.sums[schemas.StageRL] = schemas.Ledger{Planned: 64, Kept: 63, Failed: map[schemas.Reason]int64{schemas.ReasonJudgeUnavailable: 1}}
	s := gated()
	s.MaxFailed = 1
	w.RegisterDelayedCallback(func() {
		mend()
		w.SignalWorkflow("retry", schemas.Decision{By: "ann", Stage: schemas.StageSFT})                                      // has not been
		w.SignalWorkflow("retry", schemas.Decision{By: "ann", Stage: schemas.StageFilter, Reason: schemas.ReasonBadRequest}) // none such
		w.SignalWorkflow("retry", schemas.Decision{By: "ann", Reason: schemas.ReasonTimedOut})
	}, time.Hour)
	w.at(2*time.Hour, "approve", schemas.Decision{Gate: schemas.GateDataset, By: "ann"})
	w.at(150*time.Minute, "retry", schemas.Decision{By: "ann"}) // what is left is a rollout, which is not asked for again
	w.at(3*time.Hour, "approve", schemas.Decision{Gate: schemas.GateRelease, By: "ann"})
	report := w.run(t, s)
	if got := report.Stages[2].Ledger; report.State != schemas.StateCompleted || got.Kept != 21 {
		t.Errorf("ended as %q, the filter with %s", report.State, got)
	}
	stale := 0
	for _, r := range w.records {
		if r.Stale {
			stale++
		}
	}
	if stale != 3 {
		t.Errorf("%d decisions are stale, want 3: %+v", stale, w.records)
	}
	// The stages before it were not touched, those behind it were passed again.
	if n := len(w.done[schemas.StageSynthesize]); n != 3 {
		t.Errorf("synthesize did %d tasks", n)
	}
	if n := len(w.done[schemas.StageCurate]); n != 6 {
		t.Errorf("curate did %d tasks", n)
	}
}

// Whoever starts a run again to retry says so before its first stage.
func TestARetryAtTheStart(t *testing.T) {
	w := newWorld(t)
	var retried []*schemas.Reason
	w.failing = func(r activities.TaskRequest) error {
		if r.Stage == schemas.StageFilter {
			retried = append(retried, r.Retry)
		}
		return nil
	}
	w.at(0, "retry", schemas.Decision{By: "ann", Reason: schemas.ReasonTimedOut})
	w.run(t, spec())
	if len(retried) != 3 || retried[0] == nil || *retried[0] != schemas.ReasonTimedOut {
		t.Errorf("tasks were told to retry %v", retried)
	}
	if len(w.records) != 1 || w.records[0].Stale {
		t.Errorf("decisions: %+v", w.records)
	}
}
