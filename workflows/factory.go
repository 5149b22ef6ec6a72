package workflows

import (
	"errors"
	"fmt"
	"slices"

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
	for back := (*rewindError)(nil); errors.As(err, &back); {
		f.rewind(back.stage)
		report, err = f.run(ctx)
	}
	if err != nil {
		return schemas.RunReport{}, err
	}
	return report, f.settle(ctx)
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
	// pending is what tasks have taken that wait for batches.
	pending map[int]schemas.FailedTask
	// outages is what open activities tell of endpoints.
	outages map[schemas.Teller][]schemas.Outage
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
		f.stages = append(f.stages, s.Progress())
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
		if stage == schemas.StageReport {
			break
		}
		if !f.passes(stage) && !f.closed(stage) {
			continue
		}
		if !f.closed(stage) {
			if err := f.draw(ctx, stage); err != nil {
				return f.ended(ctx, err)
			}
			if err := f.stage(ctx, stage); err != nil {
				return f.ended(ctx, err)
			}
		}
		// Not only when the stage has just closed: a new link of the chain may begin here.
		if stage == schemas.StageCurate && f.spec.Gates.Dataset {
			sum := f.sum(schemas.StageCurate)
			question := fmt.Sprintf("Is the dataset good to train on? %d examples (%s).", sum.Ledger.Kept, sum.Ledger)
			if err := f.gate(ctx, schemas.GateDataset, sum.Digest, question); err != nil {
				return f.ended(ctx, err)
			}
		}
	}
	var report schemas.RunReport
	write := func(state string) error {
		return f.retrying(ctx, schemas.StageReport, func() (err error) {
			report, err = f.report(ctx, state, "")
			return err
		})
	}
	if err := write(schemas.StateRunning); err != nil {
		return f.ended(ctx, err)
	}
	if f.spec.Gates.Release {
		// What is released are the models, so that another model is another question.
		if err := f.gate(ctx, schemas.GateRelease, schemas.DigestOf(append(f.models(), report.Evaluation)), "May the models be released? The report is at "+report.HTML+"."); err != nil {
			return f.ended(ctx, err)
		}
	}
	if err := write(schemas.StateCompleted); err != nil {
		return f.ended(ctx, err)
	}
	f.state = schemas.StateCompleted
	f.show(ctx)
	return report, nil
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
		// What was decided while this ran comes after what is stored, unless it was
		// stored in time to be among it.
		for _, d := range f.carried.Decisions {
			if !slices.ContainsFunc(decisions, func(stored schemas.DecisionRecord) bool { return schemas.DigestOf(stored) == schemas.DigestOf(d) }) {
				d.Number = len(decisions) + 1
				decisions = append(decisions, d)
			}
		}
		f.carried.Decisions = decisions
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
	if err := f.adopt(ctx, &inputs); err != nil {
		return err
	}
	f.note(inputs.Notes)
	if err := f.checkBatches(ctx); err != nil {
		return err
	}
	if err := f.meet(ctx, inputs); err != nil {
		return err
	}
	// What an earlier execution under this ID has spent counts, too. Runs that began under an
	// older version asked for it only where they had a budget.
	if workflow.GetVersion(ctx, "earlier spending", workflow.DefaultVersion, 1) > workflow.DefaultVersion || f.budget() != (schemas.Cost{}) {
		err := f.retrying(ctx, schemas.StagePrompts, func() error {
			return workflow.ExecuteActivity(light(ctx, "what was spent so far"), act.Spent, f.id).Get(ctx, &f.carried.Spent)
		})
		if err != nil {
			return err
		}
	}
	f.carried.Inputs = &inputs
	return nil
}

// meet looks who answers for the hosted models, before recorded answers are used beside
// new ones.
func (f *factory) meet(ctx workflow.Context, inputs schemas.InputsRef) error {
	if len(inputs.Hosted) == 0 {
		return nil
	}
	var served schemas.Served
	for {
		served = schemas.Served{}
		err := f.retrying(ctx, schemas.StagePrompts, func() error {
			over := f.asking(ctx, schemas.TellerServed)
			err := workflow.ExecuteActivity(planning(ctx, schemas.StageSynthesize, "look who answers"), act.Served,
				activities.ServedRequest{Spec: f.spec, Policy: inputs.Policy}).Get(ctx, &served)
			over()
			return err
		})
		if err != nil {
			return err
		}
		f.carried.Probed.Add(served.Usage)
		again, err := f.unfit(ctx, served.Unfit)
		if err != nil {
			return err
		}
		if !again {
			break
		}
	}
	f.note(served.Notes)
	f.show(ctx)
	if len(served.Changed) == 0 {
		return nil
	}
	question := then(listed(served.Changed), "Use recorded answers all the same? To ask anew, give the endpoint another revision in the workers' configuration, or start with refresh.")
	return f.gate(ctx, schemas.GateModels, schemas.DigestOf(served.Changed), question)
}

// adopt takes the results that the run begins with, in place of the stages before its
// first.
func (f *factory) adopt(ctx workflow.Context, inputs *schemas.InputsRef) error {
	if f.spec.From.Stage == "" {
		return nil
	}
	options := light(ctx, "take what the run begins with")
	if f.spec.From.Model != "" {
		options = planning(ctx, schemas.StageSFT, "take what the run begins with") // only a gpu worker can tell a model's weights
	}
	var result activities.AdoptResult
	err := f.retrying(ctx, f.spec.From.Stage, func() error {
		return workflow.ExecuteActivity(options, act.Adopt, activities.AdoptRequest{Run: f.id, Spec: f.spec, Inputs: *inputs}).Get(ctx, &result)
	})
	if err != nil {
		return err
	}
	f.carried.Sums, inputs.Simulated, f.carried.Notes = result.Sums, result.Simulated, result.Notes
	f.stages = nil // after a retry they were taken before
	for _, s := range result.Sums {
		f.stages = append(f.stages, s.Progress())
	}
	f.show(ctx)
	return nil
}

func (f *factory) report(ctx workflow.Context, state, note string) (report schemas.RunReport, err error) {
	req := activities.ReportRequest{
		Run: f.id, Spec: f.spec, Inputs: *f.carried.Inputs, Sums: f.carried.Sums,
		Decisions: f.carried.Decisions, Notes: f.carried.Notes, Probed: f.carried.Probed,
		Open: f.unclosed(), Spent: f.carried.Spent, State: state, Note: note,
	}
	if req.Open != nil {
		req.Started = f.carried.Open.Started
	}
	if err = workflow.ExecuteActivity(light(ctx, "write the report"), act.Report, req).Get(ctx, &report); err != nil {
		return report, err
	}
	if report.Open != nil {
		f.stages[len(f.stages)-1] = *report.Open // tasks that were cut off have told the store alone
	}
	return report, nil
}

// unclosed is the stage in which the run ends, as far as it came; nil between stages.
func (f *factory) unclosed() *schemas.StageProgress {
	if f.carried.Open == nil || len(f.stages) == 0 || f.current() != f.carried.Open.Stage {
		return nil
	}
	open := f.stages[len(f.stages)-1]
	open.Projected, open.Waiting, open.Pending = 0, 0, nil // nothing more is to come
	return &open
}

// endedError ends a run by a person's decision.
type endedError struct{ state, note string }

func (e *endedError) Error() string { return e.state + ": " + e.note }

// ended closes the run with a report, which is its result where a person has ended it. What
// nobody can mend, and a cancellation, stay errors; the store has their report.
func (f *factory) ended(ctx workflow.Context, err error) (schemas.RunReport, error) {
	if back := (*rewindError)(nil); errors.As(err, &back) || workflow.IsContinueAsNewError(err) {
		return schemas.RunReport{}, err
	}
	f.cancelBatches(ctx)
	end, decided := err.(*endedError)
	switch {
	case decided:
	case temporal.IsCanceledError(err):
		end = &endedError{schemas.StateCancelled, "the run was cancelled"}
	default:
		end = &endedError{schemas.StateFailed, plain(err)}
	}
	f.state, f.waiting = end.state, nil // one that is cancelled at a gate waits no more
	report := schemas.RunReport{
		Run: f.id, Name: f.spec.Name, State: f.state, Note: end.note, Stages: f.carried.Sums, Decisions: f.carried.Decisions,
		Notes: f.carried.Notes, Probed: f.carried.Probed, Open: f.unclosed(), Spent: f.carried.Spent,
	}
	if f.carried.Inputs != nil {
		closing, done := workflow.NewDisconnectedContext(ctx) // the run itself may be cancelled
		defer done()
		if written, err := f.report(closing, f.state, end.note); err == nil {
			report = written
		} else {
			// The run has ended; that its report can't be written doesn't reopen it.
			workflow.GetLogger(ctx).Error("report not written", "error", err)
			report.Simulated = f.carried.Inputs.Simulated
			report.Note = join(end.note, "no report could be written: "+plain(err))
		}
	}
	f.show(ctx)
	if !decided {
		return schemas.RunReport{}, err
	}
	return report, nil
}

// passes reports whether the run passes stage: milestones are chosen only where prompts were
// held out for it.
func (f *factory) passes(stage schemas.Stage) bool {
	return f.spec.Passes(stage) && (stage.Trained() == "" || schemas.HeldOut(f.carried.Sums) > 0)
}

// models are the digests of what was trained, and of what was chosen of it.
func (f *factory) models() []any {
	digests := []any{f.sum(schemas.StageSFT).Digest, f.sum(schemas.StageRL).Digest}
	for _, stage := range []schemas.Stage{schemas.StageSFTGrade, schemas.StageRLGrade} {
		if f.closed(stage) {
			digests = append(digests, f.sum(stage).Digest)
		}
	}
	return digests
}

func (f *factory) closed(stage schemas.Stage) bool {
	return slices.ContainsFunc(f.carried.Sums, func(s schemas.StageSum) bool { return s.Stage == stage })
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
