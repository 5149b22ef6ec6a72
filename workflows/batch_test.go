package workflows

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"precept/activities"
	"precept/schemas"
)

// batched is a world whose tasks of synthesize and filter wait for batches: every call but
// the last of so many returns unfinished.
type batched struct {
	*world
	calls     map[schemas.Stage]map[int]int // by task
	polls     [][]int                       // the tasks of each
	at        []time.Time                   // of polls
	timers    []time.Duration
	ready     func(tasks []int) []int
	cancelled []activities.CancelRequest
	unpolled  error
}

func newBatched(t *testing.T, rounds int) *batched {
	b := &batched{world: newWorld(t), calls: map[schemas.Stage]map[int]int{}, ready: func(tasks []int) []int { return tasks }}
	b.world.pending = func(r activities.TaskRequest) *schemas.Pending {
		if r.Stage != schemas.StageSynthesize && r.Stage != schemas.StageFilter {
			return nil
		}
		if b.calls[r.Stage] == nil {
			b.calls[r.Stage] = map[int]int{}
		}
		if b.calls[r.Stage][r.Index]++; b.calls[r.Stage][r.Index] < rounds {
			return &schemas.Pending{After: schemas.Duration(time.Minute), Requests: 10}
		}
		return nil
	}
	b.OnActivity(act.CheckBatches, mock.Anything, mock.Anything).Return(nil).Maybe()
	b.OnActivity(act.Poll, mock.Anything, mock.Anything).Return(func(_ context.Context, r activities.PollRequest) (activities.PollResult, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.unpolled != nil {
			return activities.PollResult{}, b.unpolled
		}
		b.polls, b.at = append(b.polls, r.Tasks), append(b.at, b.Now())
		ready := b.ready(r.Tasks)
		result := activities.PollResult{Ready: ready}
		if n := len(r.Tasks) - len(ready); n > 0 {
			result.Pending = schemas.Pending{After: schemas.Duration(10 * time.Minute), Requests: int64(10 * n), Answered: 1}
		}
		return result, nil
	}).Maybe()
	b.OnActivity(act.CancelBatches, mock.Anything, mock.Anything).Return(func(_ context.Context, r activities.CancelRequest) (int, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.cancelled = append(b.cancelled, r)
		return 3, nil
	}).Maybe()
	b.SetOnTimerScheduledListener(func(_ string, d time.Duration) { b.timers = append(b.timers, d) })
	return b
}

func batchSpec() schemas.RunSpec {
	s := spec()
	s.Mode, s.Until = schemas.ModeBatch, schemas.StageFilter
	return s
}

// One timer and one look stand for all tasks that wait, and hold no place in the window.
func TestTasksWaitForBatchesByOneTimer(t *testing.T) {
	w := newBatched(t, 3)
	s := batchSpec()
	s.Window = 1
	report := w.run(t, s)
	if report.State != schemas.StateCompleted {
		t.Fatalf("ended as %q", report.State)
	}
	for _, stage := range []schemas.Stage{schemas.StageSynthesize, schemas.StageFilter} {
		if d := cmp.Diff(map[int]int{0: 3, 1: 3, 2: 3}, w.calls[stage]); d != "" {
			t.Errorf("%s: calls (- want, + got):\n%s", stage, d)
		}
	}
	all := []int{0, 1, 2}
	if d := cmp.Diff([][]int{all, all, all, all}, w.polls); d != "" {
		t.Errorf("polls (- want, + got):\n%s", d)
	}
	if d := cmp.Diff([]time.Duration{time.Minute, time.Minute, time.Minute, time.Minute}, w.timers); d != "" {
		t.Errorf("timers (- want, + got):\n%s", d)
	}
	// What a task tells in the end includes what its unfinished calls took.
	if got := report.Stages[1].Usage.Paid; got != 3 {
		t.Errorf("synthesize has paid for %d calls", got)
	}
	if len(w.cancelled) != 0 {
		t.Errorf("a run that ends well cancels %v", w.cancelled)
	}
}

// Tasks whose batches go on are not called, and people see what they wait for.
func TestOnlyTasksThatAreReadyAreCalled(t *testing.T) {
	w := newBatched(t, 2)
	looked := 0
	w.ready = func(tasks []int) []int {
		if looked++; looked < 4 {
			return nil
		}
		return tasks[:1]
	}
	var waits []string
	w.RegisterDelayedCallback(func() {
		v, err := w.QueryWorkflow(schemas.QueryProgress)
		if err != nil {
			t.Error(err)
			return
		}
		var p schemas.Progress
		if err := v.Get(&p); err != nil {
			t.Error(err)
		}
		waits = append(waits, p.Stages[1].WaitsFor())
	}, 5*time.Minute)
	w.run(t, batchSpec())
	if d := cmp.Diff(map[int]int{0: 2, 1: 2, 2: 2}, w.calls[schemas.StageSynthesize]); d != "" {
		t.Errorf("calls (- want, + got):\n%s", d)
	}
	if d := cmp.Diff([]string{"3 tasks wait for batches: 1 of 30 requests answered"}, waits); d != "" {
		t.Error(d)
	}
	if w.timers[0] != time.Minute || w.timers[1] != 10*time.Minute {
		t.Errorf("timers %v", w.timers)
	}
}

// A run that ends while batches are under way has them cancelled: aborted at its gate, or
// cancelled itself.
func TestBatchesAreCancelledWithTheRun(t *testing.T) {
	t.Run("aborted", func(t *testing.T) {
		w := newBatched(t, 100)
		w.ready = func([]int) []int { return nil }
		w.failing = func(r activities.TaskRequest) error {
			if r.Stage == schemas.StageSynthesize && r.Index == 0 {
				return temporal.NewNonRetryableApplicationError("no", string(schemas.Unavailable), nil)
			}
			return nil
		}
		s := batchSpec()
		s.Window = 1 // a whole window has failed: people are asked at once
		w.RegisterDelayedCallback(func() {
			if w.waiting(t) == nil {
				t.Error("the run doesn't wait")
			}
			w.SignalWorkflow("abort", schemas.Decision{By: "ann"})
		}, time.Hour)
		report := w.run(t, s)
		if report.State != schemas.StateAborted || len(w.cancelled) != 1 || w.cancelled[0].Plan.Object != string(schemas.StageSynthesize) {
			t.Errorf("ended as %q, cancelled %+v", report.State, w.cancelled)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		w := newBatched(t, 100)
		w.ready = func([]int) []int { return nil }
		w.RegisterDelayedCallback(w.CancelWorkflow, time.Hour)
		w.ExecuteWorkflow(FactoryName, batchSpec(), nil)
		if err := w.GetWorkflowError(); !temporal.IsCanceledError(err) || len(w.cancelled) != 1 {
			t.Errorf("ended with %v, cancelled %+v", err, w.cancelled)
		}
	})
	t.Run("online", func(t *testing.T) {
		w := newBatched(t, 0)
		w.failing = func(activities.TaskRequest) error {
			return temporal.NewNonRetryableApplicationError("no", string(schemas.Unavailable), nil)
		}
		w.RegisterDelayedCallback(func() { w.SignalWorkflow("abort", schemas.Decision{By: "ann"}) }, time.Hour)
		if w.run(t, spec()); len(w.cancelled) != 0 {
			t.Errorf("cancelled %+v", w.cancelled)
		}
	})
}

// What fails waits at the gate until no task waits for batches any more.
func TestAFailedTaskWaitsForTheOthersBatches(t *testing.T) {
	w := newBatched(t, 3)
	down := true
	w.failing = func(r activities.TaskRequest) error {
		if r.Stage == schemas.StageSynthesize && r.Index == 1 && down {
			return temporal.NewNonRetryableApplicationError("no", string(schemas.Unavailable), nil)
		}
		return nil
	}
	w.RegisterDelayedCallback(func() {
		o := w.waiting(t)
		if o == nil || o.Gate != schemas.GateFailure || len(w.done[schemas.StageSynthesize]) != 2 {
			t.Errorf("waits for %+v after %v", o, w.done)
		}
		w.mu.Lock()
		down = false
		w.mu.Unlock()
		w.SignalWorkflow("resume", schemas.Decision{By: "ann"})
	}, time.Hour)
	if report := w.run(t, batchSpec()); report.State != schemas.StateCompleted {
		t.Errorf("ended as %q", report.State)
	}
}

// Where batches can't be looked at, people are asked, and then the tasks are called.
func TestBatchesThatCannotBeLookedAt(t *testing.T) {
	w := newBatched(t, 2)
	w.unpolled = temporal.NewNonRetryableApplicationError("the key is refused", string(schemas.InvalidInput), nil)
	for _, at := range []time.Duration{time.Hour, 2 * time.Hour} {
		w.RegisterDelayedCallback(func() {
			if o := w.waiting(t); o == nil || !strings.Contains(o.Question, "the key is refused") {
				t.Errorf("waits for %+v", o)
			}
			w.SignalWorkflow("resume", schemas.Decision{By: "ann"})
		}, at)
	}
	if report := w.run(t, batchSpec()); report.State != schemas.StateCompleted {
		t.Errorf("ended as %q", report.State)
	}
}

// The chain goes on while batches are under way, and its next link looks at them at once.
func TestContinueAsNewWhileBatchesAreUnderWay(t *testing.T) {
	w := newBatched(t, 2)
	w.sums[schemas.StagePrompts] = schemas.Ledger{Planned: promptRows, Kept: promptRows}
	w.ready = func([]int) []int {
		w.SetContinueAsNewSuggested(true)
		return nil
	}
	w.ExecuteWorkflow(FactoryName, batchSpec(), nil)
	var next *workflow.ContinueAsNewError
	if err := w.GetWorkflowError(); !errors.As(err, &next) {
		t.Fatalf("got %v, want a continuation", err)
	}
	if len(w.cancelled) != 0 {
		t.Errorf("the continuation cancels %v", w.cancelled)
	}
	var s schemas.RunSpec
	var carried *schemas.Carried
	if err := converter.GetDefaultDataConverter().FromPayloads(next.Input, &s, &carried); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]int{0, 1, 2}, carried.Open.Pending); d != "" || carried.Open.Next != 3 {
		t.Errorf("carries %+v", carried.Open)
	}
	again := newBatched(t, 1)
	maps.Copy(again.sums, w.sums)
	again.ExecuteWorkflow(FactoryName, s, carried)
	var report schemas.RunReport
	if err := again.GetWorkflowResult(&report); err != nil {
		t.Fatal(err)
	}
	slices.Sort(again.done[schemas.StageSynthesize])
	if report.State != schemas.StateCompleted || !slices.Equal(again.done[schemas.StageSynthesize], []int{0, 1, 2}) || len(again.timers) != 0 {
		t.Errorf("ended as %q after %v and timers %v", report.State, again.done, again.timers)
	}
}

// What a run carries stays small with as many tasks under way as there may be.
func TestCarriedWithManyTasksUnderWay(t *testing.T) {
	open := schemas.OpenStage{}
	for i := range maxPending + 200 { // a window more may come back at once
		open.Pending = append(open.Pending, 1_000_000+i)
	}
	raw, err := json.Marshal(open)
	if err != nil || len(raw) > 16<<10 {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
}

func TestAnEndpointWithoutBatchesEndsTheRun(t *testing.T) {
	w := newWorld(t)
	w.OnActivity(act.CheckBatches, mock.Anything, mock.Anything).Return(
		temporal.NewNonRetryableApplicationError("it has no Batch API", string(schemas.InvalidInput), nil))
	w.ExecuteWorkflow(FactoryName, batchSpec(), nil)
	if err := w.GetWorkflowError(); err == nil || !strings.Contains(fmt.Sprint(err), "it has no Batch API") || len(w.done) != 0 {
		t.Errorf("got %v after %v", err, w.done)
	}
}
