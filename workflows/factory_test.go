package workflows

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"precept/activities"
	"precept/schemas"
)

// world is a test environment whose activities do nothing but count: every stage
// has three tasks and keeps all but one unit, rejected as "not best".
type world struct {
	*testsuite.TestWorkflowEnvironment
	mu      sync.Mutex              // activities run beside each other
	done    map[schemas.Stage][]int // tasks done, in order
	records []schemas.DecisionRecord
	stored  []schemas.DecisionRecord
	failing func(activities.TaskRequest) error
	planned func(schemas.Stage, int64) int64
	sums    map[schemas.Stage]schemas.Ledger
	inputs  schemas.InputsRef
	result  schemas.TaskResult // of every task
	took    func(activities.TaskRequest) schemas.Usage
	tasks   int // of a stage; by default 3
	only    map[schemas.Stage]func(context.Context, activities.TaskRequest) (schemas.TaskResult, error)
	earlier map[schemas.Stage]schemas.Usage // spent under the run's ID before
	// pending is what a task waits for in place of doing anything; nil for nothing.
	pending func(activities.TaskRequest) *schemas.Pending
	// unreported is why no report can be written.
	unreported error
	note       string // of every stage
	// held has one prompt held out for dev, rather than be not the best, and training leave
	// two milestones.
	held    bool
	reports []schemas.RunReport
	// recorded is what the store has of what the stage took in which the run ends.
	recorded *schemas.Usage
}

const promptRows = 12

func newWorld(t *testing.T) *world {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	w := &world{
		TestWorkflowEnvironment: suite.NewTestWorkflowEnvironment(),
		done:                    map[schemas.Stage][]int{},
		failing:                 func(activities.TaskRequest) error { return nil },
		planned:                 func(_ schemas.Stage, n int64) int64 { return n },
		pending:                 func(activities.TaskRequest) *schemas.Pending { return nil },
		sums:                    map[schemas.Stage]schemas.Ledger{},
	}
	w.SetTestTimeout(20 * time.Second)
	w.RegisterWorkflowWithOptions(Factory, workflow.RegisterOptions{Name: FactoryName})
	w.RegisterActivity(&activities.Activities{})
	w.OnActivity(act.Decisions, mock.Anything, mock.Anything).Return(func(context.Context, schemas.RunID) ([]schemas.DecisionRecord, error) {
		return w.stored, nil
	})
	w.OnActivity(act.RecordDecision, mock.Anything, mock.Anything, mock.Anything).Return(func(_ context.Context, _ schemas.RunID, d schemas.DecisionRecord) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.records = append(w.records, d)
		return nil
	})
	w.inputs = schemas.InputsRef{
		Object: "inputs", Policy: "policy", PromptRows: promptRows,
		Sampled: map[schemas.Arm]int64{schemas.ArmBase: 5, schemas.ArmBasePolicy: 2, schemas.ArmSFT: 5, schemas.ArmRL: 5},
	}
	w.OnActivity(act.Import, mock.Anything, mock.Anything).Return(func(context.Context, activities.ImportRequest) (schemas.InputsRef, error) {
		return w.inputs, nil
	})
	w.OnActivity(act.Plan, mock.Anything, mock.Anything).Return(func(_ context.Context, r activities.PlanRequest) (schemas.PlanRef, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		n := w.planned(r.Stage, expected(r))
		l := schemas.Ledger{Planned: n, Kept: n}
		if n > 1 {
			reason := schemas.ReasonNotBest
			if w.held && r.Stage == schemas.StagePrompts {
				reason = schemas.ReasonDev
			}
			l = schemas.Ledger{Planned: n, Kept: n - 1, Rejected: map[schemas.Reason]int64{reason: 1}}
		}
		if _, ok := w.sums[r.Stage]; !ok {
			w.sums[r.Stage] = l
		}
		return schemas.PlanRef{Object: string(r.Stage), Digest: "d", Tasks: cmp.Or(w.tasks, 3), Planned: n}, nil
	})
	for _, task := range []any{act.Generate, act.Classify, act.Prompts, act.Synthesize, act.Filter, act.Curate, act.SFT, act.RL, act.Sample, act.Grade} {
		w.OnActivity(task, mock.Anything, mock.Anything).Return(func(ctx context.Context, r activities.TaskRequest) (schemas.TaskResult, error) {
			if do := w.only[r.Stage]; do != nil {
				return do(ctx, r)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if err := w.failing(r); err != nil {
				return schemas.TaskResult{}, err
			}
			if p := w.pending(r); p != nil {
				return schemas.TaskResult{Usage: schemas.Usage{Paid: 1}, Unfinished: &schemas.Unfinished{Pending: p}}, nil
			}
			w.done[r.Stage] = append(w.done[r.Stage], r.Index)
			result := w.result
			result.Usage = schemas.Usage{Paid: 1}
			if w.took != nil {
				result.Usage = w.took(r)
			}
			return result, nil
		})
	}
	w.OnActivity(act.Manifest, mock.Anything, mock.Anything).Return(func(_ context.Context, r activities.ManifestRequest) (schemas.StageSum, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		sum := schemas.StageSum{Stage: r.Stage, Tasks: 3, Digest: schemas.DigestOf(r.Stage), Ledger: w.sums[r.Stage], Usage: r.Usage, Note: w.note}
		if w.held && (r.Stage == schemas.StageSFT || r.Stage == schemas.StageRL) {
			sum.Milestones = 2
		}
		return sum, nil
	})
	w.OnActivity(act.Report, mock.Anything, mock.Anything).Return(func(_ context.Context, r activities.ReportRequest) (schemas.RunReport, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		report := schemas.RunReport{Run: r.Run, State: r.State, Note: r.Note, Stages: r.Sums, Probed: r.Probed, Notes: r.Notes, Open: r.Open, Spent: r.Spent}
		if w.recorded != nil && r.Open != nil {
			report.Open.Usage = *w.recorded
		}
		w.reports = append(w.reports, report)
		return report, w.unreported
	})
	w.OnActivity(act.Spent, mock.Anything, mock.Anything).Return(func(context.Context, schemas.RunID) (map[schemas.Stage]schemas.Usage, error) {
		return w.earlier, nil
	})
	return w
}

// expected repeats, by hand, what each stage owes given what came before.
func expected(r activities.PlanRequest) int64 {
	kept := map[schemas.Stage]int64{}
	for _, s := range r.Sums {
		kept[s.Stage] = s.Ledger.Kept
	}
	switch r.Stage {
	case schemas.StageGenerate:
		return 7
	case schemas.StageClassify:
		return 5 + 3 + kept[schemas.StageGenerate]
	case schemas.StagePrompts:
		if r.Inputs.Unlabelled > 0 {
			return promptRows - 5 + kept[schemas.StageClassify]
		}
		return promptRows
	case schemas.StageSynthesize:
		return kept[schemas.StagePrompts] * 2
	case schemas.StageFilter:
		return kept[schemas.StageSynthesize]
	case schemas.StageCurate:
		return kept[schemas.StageFilter]
	case schemas.StageSFT:
		return kept[schemas.StageCurate]
	case schemas.StageRL:
		return 8 * 2 * 4
	case schemas.StageSFTSample, schemas.StageRLSample:
		return 1 * (1 + 2) // what is held out, asked of the start and two milestones
	case schemas.StageSFTGrade:
		return kept[schemas.StageSFTSample]
	case schemas.StageRLGrade:
		return kept[schemas.StageRLSample]
	case schemas.StageSample:
		return 5 + 2 + 5 + 5
	}
	return kept[schemas.StageSample]
}

func (w *world) run(t *testing.T, spec schemas.RunSpec) schemas.RunReport {
	t.Helper()
	w.ExecuteWorkflow(FactoryName, spec, nil)
	if !w.IsWorkflowCompleted() {
		t.Fatal("the run did not end")
	}
	if err := w.GetWorkflowError(); err != nil {
		t.Fatal(err)
	}
	var report schemas.RunReport
	if err := w.GetWorkflowResult(&report); err != nil {
		t.Fatal(err)
	}
	return report
}

// progress asks the run where it stands.
func (w *world) progress(t *testing.T) (p schemas.Progress) {
	t.Helper()
	v, err := w.QueryWorkflow(schemas.QueryProgress)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Get(&p); err != nil {
		t.Fatal(err)
	}
	return p
}

// at sends a signal some time after the start; the test's clock jumps there.
func (w *world) at(d time.Duration, name string, decision schemas.Decision) {
	w.RegisterDelayedCallback(func() { w.SignalWorkflow(name, decision) }, d)
}

func spec() schemas.RunSpec { return schemas.RunSpec{Name: "test"} }

func gated() schemas.RunSpec {
	s := spec()
	s.Gates = schemas.GatesSpec{Dataset: true, Release: true}
	return s
}

func TestRunPassesAllStages(t *testing.T) {
	generates := spec()
	generates.Prompts.Generate.Per = 2
	for _, tt := range []struct {
		spec  schemas.RunSpec
		first schemas.Stage
	}{{spec(), schemas.StagePrompts}, {generates, schemas.StageGenerate}} {
		w := newWorld(t)
		w.inputs.Generated, w.inputs.Unlabelled, w.inputs.Checks = 7, 5, 3
		if tt.first == schemas.StagePrompts {
			w.inputs.Generated, w.inputs.Unlabelled, w.inputs.Checks = 0, 0, 0
		}
		w.note, w.held = "look", true
		report := w.run(t, tt.spec)
		if report.State != schemas.StateCompleted {
			t.Errorf("state is %q", report.State)
		}
		var stages []schemas.Stage
		for _, s := range report.Stages {
			stages = append(stages, s.Stage)
		}
		if want := schemas.Stages[slices.Index(schemas.Stages, tt.first) : len(schemas.Stages)-1]; !slices.Equal(stages, want) {
			t.Errorf("stages %v, want %v", stages, want)
		}
		for _, s := range stages {
			slices.Sort(w.done[s])
			if !slices.Equal(w.done[s], []int{0, 1, 2}) {
				t.Errorf("stage %s did tasks %v", s, w.done[s])
			}
		}
		if !slices.Equal(report.Notes, []string{"look"}) {
			t.Errorf("the stages' note became %q", report.Notes)
		}
	}
}

// Where nothing was held out, nobody chooses among milestones.
func TestRunWithoutADevSplit(t *testing.T) {
	skips := spec()
	skips.Dev.Skip = true
	for _, tt := range []struct {
		name string
		spec schemas.RunSpec
		held bool
	}{{"too few prompts", spec(), false}, {"skipped", skips, true}} {
		w := newWorld(t)
		w.held = tt.held
		for _, s := range w.run(t, tt.spec).Stages {
			if s.Stage.Trained() != "" {
				t.Errorf("%s: the run passed stage %s", tt.name, s.Stage)
			}
		}
	}
}

// The release gate asks again where another milestone was chosen.
func TestTheReleaseGateJudgesTheChoice(t *testing.T) {
	digests := map[schemas.Digest]bool{}
	for _, held := range []bool{false, true} {
		w := newWorld(t)
		w.held = held
		s := spec()
		s.Gates.Release = true
		w.RegisterDelayedCallback(func() {
			digests[w.progress(t).Waiting.Digest] = true
			w.SignalWorkflow("approve", schemas.Decision{Gate: schemas.GateRelease, By: "ann"})
		}, time.Hour)
		w.run(t, s)
	}
	if len(digests) != 2 {
		t.Errorf("with and without a choice the gate judges %v", digests)
	}
}

func TestGates(t *testing.T) {
	approve := func(g schemas.Gate) schemas.Decision { return schemas.Decision{Gate: g, By: "ann"} }
	curated := schemas.DigestOf(schemas.StageCurate)
	tests := []struct {
		name   string
		spec   schemas.RunSpec
		stored []schemas.DecisionRecord
		send   func(w *world)
		state  string
		note   string
		stale  int
	}{
		{"approved", gated(), nil, func(w *world) {
			w.at(time.Hour, "approve", approve(schemas.GateDataset))
			w.at(2*time.Hour, "approve", approve(schemas.GateRelease))
		}, schemas.StateCompleted, "", 0},
		{"rejected", gated(), nil, func(w *world) {
			w.at(time.Hour, "reject", schemas.Decision{Gate: schemas.GateDataset, By: "ann", Note: "too few"})
		}, schemas.StateRejected, "too few", 0},
		{"a bare decision binds to what waits", gated(), nil, func(w *world) {
			w.at(time.Hour, "approve", schemas.Decision{By: "ann"})
			w.at(2*time.Hour, "approve", schemas.Decision{By: "ann"})
		}, schemas.StateCompleted, "", 0},
		{"wrong gate, wrong digest, closed opening and no name are stale", gated(), nil, func(w *world) {
			w.at(time.Hour, "approve", approve(schemas.GateRelease))
			w.at(time.Hour+time.Minute, "approve", schemas.Decision{Gate: schemas.GateDataset, By: "ann", Digest: "other"})
			w.at(time.Hour+2*time.Minute, "approve", schemas.Decision{Gate: schemas.GateDataset, By: "ann", Opening: "dataset-0-x"})
			w.at(time.Hour+3*time.Minute, "approve", schemas.Decision{Gate: schemas.GateDataset})
			w.at(time.Hour+4*time.Minute, "resume", approve(schemas.GateDataset))
			w.at(2*time.Hour, "approve", approve(schemas.GateDataset))
			w.at(3*time.Hour, "approve", approve(schemas.GateRelease))
		}, schemas.StateCompleted, "", 5},
		{"a decision before the gate opens approves nothing", gated(), nil, func(w *world) {
			w.at(0, "approve", approve(schemas.GateDataset))
			w.at(time.Hour, "abort", schemas.Decision{By: "ann", Note: "enough"})
		}, schemas.StateAborted, "enough", 1},
		{"a stored decision on the same data counts", gated(), []schemas.DecisionRecord{
			{Number: 1, Verdict: "approve", Decision: schemas.Decision{Gate: schemas.GateDataset, By: "ann", Digest: curated}},
		}, func(w *world) { w.at(time.Hour, "approve", approve(schemas.GateRelease)) }, schemas.StateCompleted, "", 0},
		{"a stored decision on other data doesn't", gated(), []schemas.DecisionRecord{
			{Number: 1, Verdict: "approve", Decision: schemas.Decision{Gate: schemas.GateDataset, By: "ann", Digest: "old"}},
		}, func(w *world) { w.at(time.Hour, "reject", schemas.Decision{By: "ann", Note: "changed"}) }, schemas.StateRejected, "changed", 0},
		{"timeout approves where the spec says so", schemas.RunSpec{Name: "x", Gates: schemas.GatesSpec{Dataset: true, Timeout: schemas.Duration(time.Hour), OnTimeout: "approve"}},
			nil, func(*world) {}, schemas.StateCompleted, "", 0},
		{"timeout rejects where the spec says so", schemas.RunSpec{Name: "x", Gates: schemas.GatesSpec{Dataset: true, Timeout: schemas.Duration(time.Hour), OnTimeout: "reject"}},
			nil, func(*world) {}, schemas.StateRejected, "nobody decided", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.stored = tt.stored
			tt.send(w)
			report := w.run(t, tt.spec)
			if report.State != tt.state || !strings.Contains(report.Note, tt.note) {
				t.Errorf("ended as %q (%s), want %q (%s)", report.State, report.Note, tt.state, tt.note)
			}
			stale := 0
			for _, r := range w.records {
				if r.Stale {
					stale++
				}
			}
			if stale != tt.stale {
				t.Errorf("%d decisions are stale, want %d: %+v", stale, tt.stale, w.records)
			}
		})
	}
}

func TestUpdateSaysAtOnceWhatMakesNoSense(t *testing.T) {
	w := newWorld(t)
	var refused error
	var accepted any
	update := func(name string, d schemas.Decision) {
		w.UpdateWorkflow(name, fmt.Sprint(d), &testsuite.TestUpdateCallback{
			OnReject: func(err error) { refused = err }, OnAccept: func() {},
			OnComplete: func(v any, err error) { accepted = v },
		}, d)
	}
	w.RegisterDelayedCallback(func() { update("approve", schemas.Decision{Gate: schemas.GateRelease, By: "ann"}) }, time.Hour)
	w.RegisterDelayedCallback(func() { update("approve", schemas.Decision{Gate: schemas.GateDataset, By: "ann"}) }, 2*time.Hour)
	w.at(3*time.Hour, "approve", schemas.Decision{Gate: schemas.GateRelease, By: "ann"})
	w.run(t, gated())
	if refused == nil || !strings.Contains(refused.Error(), `waits at gate "dataset"`) {
		t.Errorf("refused with %v", refused)
	}
	record, ok := accepted.(schemas.DecisionRecord)
	if !ok || record.Decision.Digest != schemas.DigestOf(schemas.StageCurate) {
		t.Errorf("accepted with %+v", accepted)
	}
}

func TestFailedTasksRunAgainAlone(t *testing.T) {
	w := newWorld(t)
	down := true
	w.failing = func(r activities.TaskRequest) error {
		if r.Stage == schemas.StageFilter && r.Index == 1 && down {
			return temporal.NewNonRetryableApplicationError("the judge is down", string(schemas.Unavailable), nil)
		}
		return nil
	}
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
		if p.Waiting == nil || p.Waiting.Gate != schemas.GateFailure || !strings.Contains(p.Waiting.Question, "the judge is down") ||
			!strings.Contains(p.Waiting.Command, "--name resume") {
			t.Errorf("waits for %+v", p.Waiting)
		}
		w.mu.Lock()
		down = false
		w.mu.Unlock()
		w.SignalWorkflow("resume", schemas.Decision{By: "ann"})
	}, time.Hour)
	w.run(t, spec())
	slices.Sort(w.done[schemas.StageFilter])
	if !slices.Equal(w.done[schemas.StageFilter], []int{0, 1, 2}) {
		t.Errorf("filter did tasks %v, each should be done once", w.done[schemas.StageFilter])
	}
}

func TestWhatDoesNotAddUpStopsTheRun(t *testing.T) {
	t.Run("plan", func(t *testing.T) {
		w := newWorld(t)
		w.planned = func(s schemas.Stage, n int64) int64 {
			if s == schemas.StageFilter {
				n++
			}
			return n
		}
		w.ExecuteWorkflow(FactoryName, spec(), nil)
		if err := w.GetWorkflowError(); err == nil || !strings.Contains(err.Error(), "plan of stage filter has 22 units, but what came before makes 21") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("ledger", func(t *testing.T) {
		w := newWorld(t)
		w.sums[schemas.StageFilter] = schemas.Ledger{Planned: 21, Kept: 20}
		w.ExecuteWorkflow(FactoryName, spec(), nil)
		if err := w.GetWorkflowError(); err == nil || !strings.Contains(err.Error(), "ledger does not add up: 21 units planned, 20 have an outcome") {
			t.Errorf("got %v", err)
		}
	})
}

func TestBadSpecEndsBeforeAnything(t *testing.T) {
	w := newWorld(t)
	w.ExecuteWorkflow(FactoryName, schemas.RunSpec{Name: "x", Window: -1}, nil)
	var app *temporal.ApplicationError
	if err := w.GetWorkflowError(); !errors.As(err, &app) || app.Type() != string(schemas.InvalidInput) || !strings.Contains(err.Error(), "window is -1") {
		t.Errorf("got %v", err)
	}
}

func TestContinueAsNewCarriesOn(t *testing.T) {
	w := newWorld(t)
	w.SetContinueAsNewSuggested(true)
	w.ExecuteWorkflow(FactoryName, gated(), nil)
	var next *workflow.ContinueAsNewError
	if err := w.GetWorkflowError(); !errors.As(err, &next) {
		t.Fatalf("got %v, want a continuation", err)
	}
	if len(w.done[schemas.StagePrompts]) != 0 {
		t.Errorf("tasks %v were done although the history was long", w.done)
	}
}

// A link of the chain may begin just behind a stage: its gate is still asked.
func TestTheNextLinkAsksTheGate(t *testing.T) {
	w := newWorld(t)
	carried := &schemas.Carried{Inputs: &schemas.InputsRef{
		PromptRows: promptRows, Sampled: map[schemas.Arm]int64{schemas.ArmBase: 5, schemas.ArmBasePolicy: 2, schemas.ArmSFT: 5, schemas.ArmRL: 5},
	}}
	for _, stage := range []schemas.Stage{schemas.StagePrompts, schemas.StageSynthesize, schemas.StageFilter, schemas.StageCurate} {
		carried.Sums = append(carried.Sums, schemas.StageSum{Stage: stage, Digest: schemas.DigestOf(stage), Ledger: schemas.Ledger{Planned: 9, Kept: 9}})
	}
	w.at(time.Hour, "reject", schemas.Decision{Gate: schemas.GateDataset, By: "ann", Note: "seen"})
	w.ExecuteWorkflow(FactoryName, gated(), carried)
	var report schemas.RunReport
	if err := w.GetWorkflowResult(&report); err != nil {
		t.Fatal(err)
	}
	if report.State != schemas.StateRejected || len(w.done) != 0 {
		t.Errorf("ended as %q after tasks %v", report.State, w.done)
	}
}

// A link that begins within a stage does what is left of it.
func TestTheNextLinkGoesOnWithinAStage(t *testing.T) {
	w := newWorld(t)
	w.sums[schemas.StagePrompts] = schemas.Ledger{Planned: promptRows, Kept: promptRows}
	carried := &schemas.Carried{
		Inputs: &schemas.InputsRef{PromptRows: promptRows, Sampled: map[schemas.Arm]int64{schemas.ArmBase: 5, schemas.ArmBasePolicy: 2, schemas.ArmSFT: 5, schemas.ArmRL: 5}},
		Open: &schemas.OpenStage{
			Stage: schemas.StagePrompts, Next: 2, Failed: []schemas.FailedTask{{Index: 0}}, Usage: schemas.Usage{Paid: 1},
			Plan: &schemas.PlanRef{Tasks: 3, Planned: promptRows},
		},
	}
	w.ExecuteWorkflow(FactoryName, spec(), carried)
	var report schemas.RunReport
	if err := w.GetWorkflowResult(&report); err != nil {
		t.Fatal(err)
	}
	slices.Sort(w.done[schemas.StagePrompts])
	if got := w.done[schemas.StagePrompts]; !slices.Equal(got, []int{0, 2}) {
		t.Errorf("the link did tasks %v, want those that were left", got)
	}
	if got := report.Stages[0].Usage.Paid; got != 3 {
		t.Errorf("the stage paid for %d calls, want those of both links", got)
	}
}

func TestAnAbortNeedsNoReport(t *testing.T) {
	w := newWorld(t)
	w.unreported = temporal.NewNonRetryableApplicationError("no space left", string(schemas.Unavailable), nil)
	w.at(time.Hour, "abort", schemas.Decision{By: "ann", Note: "enough"})
	report := w.run(t, gated())
	if report.State != schemas.StateAborted || !strings.Contains(report.Note, "enough") || !strings.Contains(report.Note, "no space left") {
		t.Errorf("ended as %q: %s", report.State, report.Note)
	}
}

func TestATripwirePausesTheStageOnce(t *testing.T) {
	w := newWorld(t)
	w.took = func(r activities.TaskRequest) schemas.Usage { return schemas.Usage{Paid: 12} }
	w.failing = func(r activities.TaskRequest) error {
		if r.Stage == schemas.StageFilter && !r.Unchecked {
			return temporal.NewNonRetryableApplicationError("tripwire: 0% were kept", string(schemas.InvalidInput), nil, schemas.TaskFailure{Usage: schemas.Usage{Paid: 10}, Tripwire: true})
		}
		return nil
	}
	w.at(time.Hour, "resume", schemas.Decision{By: "ann"})
	report := w.run(t, spec())
	if report.State != schemas.StateCompleted {
		t.Errorf("ended as %q", report.State)
	}
	slices.Sort(w.done[schemas.StageFilter])
	if !slices.Equal(w.done[schemas.StageFilter], []int{0, 1, 2}) {
		t.Errorf("filter did tasks %v", w.done[schemas.StageFilter])
	}
	// What a task tells in the end includes what it has told before.
	if got := report.Stages[2].Usage.Paid; got != 3*12 {
		t.Errorf("filter has paid for %d calls", got)
	}
}

func TestUntil(t *testing.T) {
	w := newWorld(t)
	spec := spec()
	spec.Until = schemas.StageCurate
	report := w.run(t, spec)
	if report.State != schemas.StateCompleted || len(report.Stages) != 4 || len(w.done[schemas.StageSFT]) != 0 {
		t.Errorf("ended as %q after %d stages: %v", report.State, len(report.Stages), w.done)
	}
}

// A decision that can't be read, or names what no decision has, decides nothing.
func TestAMisspeltDecisionIsStale(t *testing.T) {
	w := newWorld(t)
	send := func(at time.Duration, payload any) {
		w.RegisterDelayedCallback(func() { w.SignalWorkflow("approve", payload) }, at)
	}
	send(time.Hour, map[string]string{"gaet": "release", "by": "ann"})
	send(2*time.Hour, map[string]string{"gate": "dataset", "by": "ann", "openin": "dataset-1-0"})
	send(3*time.Hour, "dataset")
	w.at(4*time.Hour, "reject", schemas.Decision{Gate: schemas.GateDataset, By: "ann", Note: "no"})
	if report := w.run(t, gated()); report.State != schemas.StateRejected {
		t.Errorf("ended as %q", report.State)
	}
	var notes []string
	for _, r := range w.records {
		if r.Stale {
			notes = append(notes, r.Decision.Note)
		}
	}
	if len(notes) != 3 || !strings.Contains(notes[0], `unknown field "gaet"`) || !strings.Contains(notes[1], `unknown field "openin"`) {
		t.Errorf("stale decisions: %q", notes)
	}
}

func TestAFailedRunSaysSo(t *testing.T) {
	w := newWorld(t)
	w.planned = func(s schemas.Stage, n int64) int64 { return n + 1 }
	w.ExecuteWorkflow(FactoryName, spec(), nil)
	v, err := w.QueryWorkflow(schemas.QueryProgress)
	if err != nil {
		t.Fatal(err)
	}
	var p schemas.Progress
	if err := v.Get(&p); err != nil || p.State != schemas.StateFailed {
		t.Errorf("the state is %q, %v", p.State, err)
	}
}

// A run that begins at sft passes no stage before it, but asks whether what it begins
// with is good to train on.
func TestFrom(t *testing.T) {
	w := newWorld(t)
	w.OnActivity(act.Adopt, mock.Anything, mock.Anything).Return(activities.AdoptResult{
		Sums:      []schemas.StageSum{{Stage: schemas.StageCurate, Adopted: true, Digest: "own", Ledger: schemas.Ledger{Planned: 9, Kept: 9}}},
		Simulated: []string{"sim-judge", "sim-teacher"},
	}, nil)
	s := gated()
	s.From = schemas.FromSpec{Stage: schemas.StageSFT, Run: "other"}
	w.at(time.Hour, "retry", schemas.Decision{By: "ann"}) // nothing failed here
	w.at(2*time.Hour, "approve", schemas.Decision{Gate: schemas.GateDataset, Digest: "own", By: "ann"})
	w.at(3*time.Hour, "approve", schemas.Decision{Gate: schemas.GateRelease, By: "ann"})
	report := w.run(t, s)
	if report.State != schemas.StateCompleted || len(report.Stages) != 5 || len(w.done[schemas.StagePrompts])+len(w.done[schemas.StageCurate]) != 0 {
		t.Errorf("ended as %q after %d stages: %v", report.State, len(report.Stages), w.done)
	}
}

// Recorded answers of another model are used only when a person says so.
func TestAnotherModelAsks(t *testing.T) {
	w := newWorld(t)
	w.inputs.Hosted = []string{"teacher"}
	w.OnActivity(act.Served, mock.Anything, mock.Anything).Return(schemas.Served{
		Changed: []string{"endpoint teacher answers as gpt-2, and was gpt-1"}, Notes: []string{"endpoint judge has another fingerprint"},
	}, nil)
	w.RegisterDelayedCallback(func() {
		o := w.waiting(t)
		if o == nil || o.Gate != schemas.GateModels || !strings.Contains(o.Question, "answers as gpt-2") || len(w.done) != 0 {
			t.Errorf("waits for %+v after %v", o, w.done)
		}
		w.SignalWorkflow("approve", schemas.Decision{By: "ann"})
	}, time.Hour)
	if report := w.run(t, spec()); report.State != schemas.StateCompleted {
		t.Errorf("ended as %q", report.State)
	}
}

// Tasks too small to be checked one by one are checked together, and only once.
func TestATripwireOfTheStage(t *testing.T) {
	w := newWorld(t)
	w.result = schemas.TaskResult{Ledger: schemas.Ledger{Planned: 10, Kept: 1, Rejected: map[schemas.Reason]int64{schemas.ReasonRefused: 9}}}
	s := spec()
	s.Until, s.Window, s.Tripwires.After = schemas.StageFilter, 1, 15
	waited := 0
	w.RegisterDelayedCallback(func() {
		o := w.waiting(t)
		if o == nil || !strings.Contains(o.Question, `tripwire: 90% were rejected as "refused"`) || !strings.Contains(o.Question, "of the 20 rows so far") ||
			len(w.done[schemas.StageSynthesize]) != 2 {
			t.Errorf("waits for %+v after %v", o, w.done)
		}
		waited++
		w.SignalWorkflow("resume", schemas.Decision{By: "ann"})
	}, time.Hour)
	w.RegisterDelayedCallback(func() {
		if w.waiting(t) == nil || len(w.done[schemas.StageFilter]) != 2 {
			t.Errorf("the filter was not stopped: %v", w.done)
		}
		w.SignalWorkflow("resume", schemas.Decision{By: "ann"})
	}, 2*time.Hour)
	if report := w.run(t, s); report.State != schemas.StateCompleted || len(w.done[schemas.StageSynthesize]) != 3 || waited != 1 {
		t.Errorf("ended as %q after %v", report.State, w.done)
	}
}

// Rows that are found are checked too, unless a person has resumed this very stage before.
func TestATripwireOfFoundRows(t *testing.T) {
	for _, resumed := range []bool{false, true} {
		w := newWorld(t)
		w.result = schemas.TaskResult{Found: true, Ledger: schemas.Ledger{Planned: 10, Kept: 1, Rejected: map[schemas.Reason]int64{schemas.ReasonRefused: 9}}}
		s := spec()
		s.Until, s.Tripwires.After = schemas.StageSynthesize, 15
		if resumed {
			w.stored = []schemas.DecisionRecord{{Number: 1, Verdict: "resume", Decision: schemas.Decision{
				Gate: schemas.GateFailure, By: "ann", Digest: schemas.DigestOf([]any{"tripwire", schemas.StageSynthesize, "d"}),
			}}}
		}
		// Nothing has failed that could be asked for again.
		w.at(time.Hour, "retry", schemas.Decision{By: "ann"})
		w.at(2*time.Hour, "abort", schemas.Decision{By: "ann"})
		want := schemas.StateAborted
		if resumed {
			want = schemas.StateCompleted
		}
		if report := w.run(t, s); report.State != want {
			t.Errorf("resumed before: %v, ended as %q", resumed, report.State)
		}
	}
}
