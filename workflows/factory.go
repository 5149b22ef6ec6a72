package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"precept/activities"
	"precept/schemas"
)

// FactoryName is the workflow type as people start it.
const FactoryName = "Factory"

var act *activities.Activities

// Factory is one run. It is started with one argument; carried is what an earlier
// link of its chain handed over.
func Factory(ctx workflow.Context, spec schemas.RunSpec, carried *schemas.Carried) (schemas.RunReport, error) {
	spec = spec.WithDefaults()
	if err := spec.Validate(); err != nil {
		return schemas.RunReport{}, invalid(err)
	}
	f := newFactory(ctx, spec, carried)
	if err := f.listen(ctx); err != nil {
		return schemas.RunReport{}, err
	}
	report, err := f.run(ctx)
	if err != nil {
		return schemas.RunReport{}, err
	}
	// Decisions that came in while the last step ran are recorded, not lost.
	f.drain(ctx)
	return report, workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) })
}

// factory is the state of one link of a run's chain.
type factory struct {
	id      schemas.RunID
	spec    schemas.RunSpec
	carried schemas.Carried

	stages  []schemas.StageProgress // finished stages and the current one
	state   string
	waiting *schemas.Opening
	answer  *answer // what was decided at the waiting gate
	writing int     // decisions being recorded
}

func newFactory(ctx workflow.Context, spec schemas.RunSpec, carried *schemas.Carried) *factory {
	info := workflow.GetInfo(ctx)
	f := &factory{
		id:    schemas.RunID(info.WorkflowExecution.ID),
		spec:  spec,
		state: schemas.StateRunning,
	}
	if carried != nil {
		f.carried = *carried
	} else {
		f.carried.Started = workflow.Now(ctx)
	}
	for _, s := range f.carried.Sums {
		f.stages = append(f.stages, closedStage(s))
	}
	return f
}

// run passes the stages in order. A run that people end says so in its report's
// state; only what nobody can mend is an error.
func (f *factory) run(ctx workflow.Context) (schemas.RunReport, error) {
	if err := f.open(ctx); err != nil {
		return f.ended(ctx, err)
	}
	for _, stage := range schemas.Stages {
		if f.skips(stage) || f.closed(stage) {
			continue
		}
		if stage == schemas.StageReport {
			break
		}
		if err := f.stage(ctx, stage); err != nil {
			return f.ended(ctx, err)
		}
		if stage == schemas.StageCurate && f.spec.Gates.Dataset {
			sum := f.sum(schemas.StageCurate)
			question := fmt.Sprintf("Is the dataset good to train on? %d examples (%s).", sum.Ledger.Kept, sum.Ledger)
			if err := f.gate(ctx, schemas.GateDataset, sum.Digest, question); err != nil {
				return f.ended(ctx, err)
			}
		}
	}
	report, err := f.report(ctx, schemas.StateRunning, "")
	if err != nil {
		return f.ended(ctx, err)
	}
	if f.spec.Gates.Release {
		digest := schemas.DigestOf(report.Evaluation)
		if err := f.gate(ctx, schemas.GateRelease, digest, "May the models be released? The report is at "+report.HTML+"."); err != nil {
			return f.ended(ctx, err)
		}
	}
	f.state = schemas.StateCompleted
	return f.finish(ctx, "")
}

// open copies what the run reads and recalls what was decided under this run ID.
func (f *factory) open(ctx workflow.Context) error {
	f.show(ctx)
	if f.carried.Inputs != nil {
		return nil
	}
	err := f.retrying(ctx, schemas.StagePrompts, func() error {
		var decisions []schemas.DecisionRecord
		if err := workflow.ExecuteActivity(light(ctx, "decisions so far"), act.Decisions, f.id).Get(ctx, &decisions); err != nil {
			return err
		}
		// What was decided while this ran comes after what is stored.
		for i := range f.carried.Decisions {
			f.carried.Decisions[i].Number += len(decisions)
		}
		f.carried.Decisions = append(decisions, f.carried.Decisions...)
		return nil
	})
	if err != nil {
		return err
	}
	var inputs schemas.InputsRef
	err = f.retrying(ctx, schemas.StagePrompts, func() error {
		return workflow.ExecuteActivity(light(ctx, "copy policy and prompts"), act.Import,
			activities.ImportRequest{Run: f.id, Spec: f.spec}).Get(ctx, &inputs)
	})
	if err != nil {
		return err
	}
	f.carried.Inputs = &inputs
	return nil
}

func (f *factory) report(ctx workflow.Context, state, note string) (schemas.RunReport, error) {
	var report schemas.RunReport
	err := f.retrying(ctx, schemas.StageReport, func() error {
		return workflow.ExecuteActivity(light(ctx, "write the report"), act.Report, activities.ReportRequest{
			Run: f.id, Spec: f.spec, Inputs: *f.carried.Inputs, Sums: f.carried.Sums,
			Decisions: f.carried.Decisions, State: state, Note: note,
		}).Get(ctx, &report)
	})
	return report, err
}

func (f *factory) finish(ctx workflow.Context, note string) (schemas.RunReport, error) {
	report, err := f.report(ctx, f.state, note)
	if err != nil {
		return report, err
	}
	f.show(ctx)
	return report, nil
}

// endedError ends a run by a person's decision.
type endedError struct{ state, note string }

func (e *endedError) Error() string { return e.state + ": " + e.note }

// ended turns a person's end into a report, and passes other errors on.
func (f *factory) ended(ctx workflow.Context, err error) (schemas.RunReport, error) {
	end, ok := err.(*endedError)
	if !ok {
		return schemas.RunReport{}, err
	}
	f.state = end.state
	if f.carried.Inputs == nil {
		f.show(ctx)
		return schemas.RunReport{Run: f.id, Name: f.spec.Name, State: f.state, Note: end.note}, nil
	}
	return f.finish(ctx, end.note)
}

func (f *factory) skips(stage schemas.Stage) bool {
	switch stage {
	case schemas.StageSFT:
		return f.spec.SFT.Skip
	case schemas.StageRL:
		return f.spec.RL.Skip
	case schemas.StageSample, schemas.StageGrade:
		return f.spec.Evaluate.Skip
	}
	return false
}

func (f *factory) closed(stage schemas.Stage) bool {
	for _, s := range f.carried.Sums {
		if s.Stage == stage {
			return true
		}
	}
	return false
}

// sum returns what a finished stage came to; the zero value when it didn't run.
func (f *factory) sum(stage schemas.Stage) schemas.StageSum {
	for _, s := range f.carried.Sums {
		if s.Stage == stage {
			return s
		}
	}
	return schemas.StageSum{}
}

func invalid(err error) error {
	return temporal.NewNonRetryableApplicationError(err.Error(), string(schemas.InvalidInput), err)
}

func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }
