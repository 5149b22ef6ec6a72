package workflows

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"precept/activities"
	"precept/schemas"
)

// stage plans a stage, runs its tasks in a window, and closes it with a manifest
// whose ledger adds up to what was planned.
func (f *factory) stage(ctx workflow.Context, stage schemas.Stage) error {
	f.stages = append(f.stages, schemas.StageProgress{Stage: stage})
	progress := &f.stages[len(f.stages)-1]
	part := f.carried.Open
	if part == nil || part.Stage != stage {
		part = &schemas.OpenStage{Stage: stage, Started: workflow.Now(ctx)}
		f.carried.Open = part
	}
	f.show(ctx)

	if part.Plan == nil {
		var plan schemas.PlanRef
		err := f.retrying(ctx, stage, func() error {
			return workflow.ExecuteActivity(planning(ctx, stage, "plan stage "+string(stage)), act.Plan, activities.PlanRequest{
				Run: f.id, Stage: stage, Spec: f.spec, Inputs: *f.carried.Inputs, Sums: f.carried.Sums, Draws: f.carried.Draws,
			}).Get(ctx, &plan)
		})
		if err != nil {
			return err
		}
		if want := f.planned(stage); plan.Planned != want {
			return fmt.Errorf("plan of stage %s has %d units, but what came before makes %d", stage, plan.Planned, want)
		}
		part.Plan = &plan
	}
	progress.Tasks = part.Plan.Tasks
	progress.Done = part.Next - len(part.Failed) - len(part.Pending)
	f.tell(progress, part)
	workflow.SetCurrentDetails(ctx, details(f.progress())) // no event of the history

	if err := f.tasks(ctx, part, progress); err != nil {
		return err
	}

	var sum schemas.StageSum
	err := f.retrying(ctx, stage, func() error {
		return workflow.ExecuteActivity(light(ctx, "close stage "+string(stage)), act.Manifest, activities.ManifestRequest{
			Run: f.id, Stage: stage, Plan: *part.Plan, Usage: part.Usage, Costs: part.Costs,
			Started: part.Started, Finished: workflow.Now(ctx),
		}).Get(ctx, &sum)
	})
	if err != nil {
		return err
	}
	if err := sum.Ledger.Check(part.Plan.Planned); err != nil {
		return fmt.Errorf("stage %s: %w", stage, err)
	}
	f.carried.Sums = append(f.carried.Sums, sum)
	if sum.Note != "" {
		f.note([]string{sum.Note})
	}
	f.carried.Open = nil
	delete(f.carried.Spent, stage) // the manifest has it all
	if f.spec.Quota.Accepted == 0 || stage.Before(schemas.StageSynthesize) || schemas.StageFilter.Before(stage) {
		delete(f.carried.Retry, stage) // the rounds of a quota come back to it
	}
	f.stages[len(f.stages)-1] = sum.Progress()
	f.show(ctx)
	return f.maybeContinue(ctx)
}

// planned computes a stage's ledger units from what came before it.
func (f *factory) planned(stage schemas.Stage) int64 {
	switch stage {
	case schemas.StageGenerate:
		return f.carried.Inputs.Generated
	case schemas.StageClassify:
		return f.carried.Inputs.Unlabelled + f.carried.Inputs.Checks + f.sum(schemas.StageGenerate).Ledger.Kept
	case schemas.StagePrompts:
		// The rows that came with their labels, and those that got one.
		return f.carried.Inputs.PromptRows - f.carried.Inputs.Unlabelled + f.sum(schemas.StageClassify).Ledger.Kept
	case schemas.StageSynthesize:
		return f.prompts() * int64(f.spec.Synthesize.Samples)
	case schemas.StageFilter:
		return f.sum(schemas.StageSynthesize).Ledger.Kept
	case schemas.StageCurate:
		return f.sum(schemas.StageFilter).Ledger.Kept
	case schemas.StageSFT:
		examples := f.sum(schemas.StageCurate).Ledger.Kept
		return examples + f.spec.SFT.Mix.Rows(examples, f.carried.Inputs.MixRows)
	case schemas.StageRL:
		return int64(f.spec.RL.Steps * f.spec.RL.PromptsPerStep * f.spec.RL.Generations)
	case schemas.StageSample:
		var n int64
		for _, arm := range f.spec.Evaluate.Arms {
			n += f.carried.Inputs.Sampled[arm]
		}
		return n
	case schemas.StageSFTSample, schemas.StageRLSample:
		// Every milestone, and what the training began with.
		return int64(f.sum(stage.Trained()).Milestones+1) * schemas.HeldOut(f.carried.Sums)
	case schemas.StageSFTGrade, schemas.StageRLGrade, schemas.StageGrade:
		return f.sum(stage.Samples()).Ledger.Kept
	}
	return 0
}

// tasks runs a stage's tasks from where part stands, a window at a time. Tasks
// that failed for good wait at the failure gate together, and only they run again: whole,
// or, where the spec or a person lets them, without the rows that failed.
func (f *factory) tasks(ctx workflow.Context, part *schemas.OpenStage, progress *schemas.StageProgress) error {
	without := false
	part.Unchecked = part.Unchecked || f.resumed(tripDigest(part))
	for {
		if limit := f.tripped(part); limit != "" {
			if err := f.pause(ctx, part, limit); err != nil {
				return err
			}
		}
		todo := part.Failed
		part.Failed = nil
		failure, broke := f.rounds(ctx, part, progress, todo, without)
		without = false
		if err := ctx.Err(); err != nil {
			return err
		}
		unfinished := failedForGood(part) == 0
		if broke && unfinished && len(part.Pending) == 0 {
			if err := f.broke(ctx, part); err != nil {
				return err
			}
			continue
		}
		if (part.Next < part.Plan.Tasks || len(part.Pending)+len(part.Failed) > 0) && unfinished && f.tripped(part) == "" {
			// The window closed early because the history is long.
			if err := f.continueAsNew(ctx); err != nil {
				return err
			}
		}
		if len(part.Failed) == 0 && part.Next >= part.Plan.Tasks && f.tripped(part) == "" {
			return nil
		}
		if !unfinished {
			if without = f.mayMiss(part); without {
				continue
			}
			verdict, err := f.failed(ctx, part, failure, missing(part.Failed))
			if err != nil {
				return err
			}
			without = verdict == schemas.DecisionApprove
			// Who resumes after a tripwire wants the stage to go on as it is.
			part.Unchecked = part.Unchecked || taskFailure(failure).Tripwire
		}
	}
}

// missing is how many rows the stage would end without, 0 where tasks failed for
// something else.
func missing(failed []schemas.FailedTask) (n int64) {
	for _, t := range failed {
		if t.Rows == 0 {
			return 0
		}
		n += t.Rows
	}
	return n
}

// mayMiss reports whether the spec lets the stage end without the rows that failed.
func (f *factory) mayMiss(part *schemas.OpenStage) bool {
	n := missing(part.Failed)
	return n > 0 && float64(part.Ledger.Missing()+n) <= f.spec.MaxFailed*float64(part.Plan.Planned)
}

// window runs the tasks that failed, without the rows that did where it may, and then those
// from part.Next on. It stops opening tasks when the history should be continued, when
// the budget is spent, or when a whole window has failed, a tripwire is hit or an account is
// refused (then the rest would most likely fail too), and returns the first failure once all open tasks
// have ended, and whether the budget is spent.
func (f *factory) window(ctx workflow.Context, part *schemas.OpenStage, progress *schemas.StageProgress, todo []schemas.FailedTask, without bool) (failure error, broke bool) {
	var (
		open  = workflow.NewSemaphore(ctx, int64(f.spec.Window))
		wg    = workflow.NewWaitGroup(ctx)
		purse = f.purse(part, todo)
	)
	// beside is how many tasks may be opened beside one.
	beside := func(others int) int { return max(0, min(f.spec.Window-1, others)) }
	// call runs a task until it has an outcome, or returns it as it stands.
	call := func(ctx workflow.Context, t schemas.FailedTask, grant *schemas.Cost, mayMiss int64) {
		defer wg.Done()
		defer open.Release(1)
		for {
			var result schemas.TaskResult
			over := f.asking(ctx, schemas.TaskTeller(part.Stage, t.Index))
			err := workflow.ExecuteActivity(working(ctx, part.Stage, t.Index, part.Plan.Tasks), taskActivity(part.Stage), activities.TaskRequest{
				Run: f.id, Stage: part.Stage, Plan: *part.Plan, Index: t.Index, Started: part.Started, Grant: grant, Unchecked: part.Unchecked,
				MayMiss: mayMiss, Retry: f.retries(part.Stage),
			}).Get(ctx, &result)
			over()
			if err != nil {
				told := taskFailure(err)
				before := t
				t = schemas.FailedTask{Index: t.Index, Rows: told.Rows, Usage: told.Usage, Costs: told.Costs}
				if told.Usage == (schemas.Usage{}) {
					t.Usage, t.Costs = before.Usage, before.Costs // at least
					if grant != nil {
						t.Granted = *grant // who knows
					}
				}
				purse.settle(t.Index, t.AtMost())
				part.Failed = append(part.Failed, t)
				f.tell(progress, part)
				if failure == nil || outweighs(told, taskFailure(failure)) {
					failure = err
				}
				return
			}
			purse.settle(t.Index, result.Usage.AtMost())
			if u := result.Unfinished; u != nil && u.Pending != nil {
				if grant != nil {
					purse.hold(t.Index, *grant, result.Usage.AtMost())
				}
				f.postpone(part, progress, schemas.FailedTask{Index: t.Index, Usage: result.Usage, Costs: result.Costs}, grant, *u.Pending)
				f.tell(progress, part)
				return
			}
			if result.Unfinished != nil {
				t = schemas.FailedTask{Index: t.Index, Usage: result.Usage, Costs: result.Costs, Unfinished: true, Needs: result.Unfinished.Needs}
				again := failure == nil && f.tripped(part) == "" && !f.shouldContinue(ctx)
				if again {
					if grant, again = f.granted(ctx, part.Stage, purse, t.Index, t.AtMost(), beside(part.Plan.Tasks-part.Next)); !again {
						broke = true
					}
				}
				if !again {
					part.Failed = append(part.Failed, t)
					f.tell(progress, part)
					return
				}
				continue
			}
			part.Ledger.Add(result.Ledger)
			if f.carried.Inputs.Categories <= schemas.CarriedCategories {
				part.ByCategory.AddAll(result.ByCategory)
				part.Costs.AddAll(result.Costs)
			}
			part.Usage.Add(result.Usage)
			f.note(result.Notes)
			progress.Done++
			if result.Found {
				progress.Found++
			} else {
				purse.end(result.Usage.Cost())
			}
			f.tell(progress, part)
			return
		}
	}
	launch := func(t schemas.FailedTask, others int, mayMiss int64) bool {
		if err := open.Acquire(ctx, 1); err != nil {
			failure = err
			return false
		}
		if f.tripped(part) != "" || taskFailure(failure).Account {
			open.Release(1)
			return false
		}
		grant, ok := purse.resume(t.Index)
		delete(part.Grants, t.Index)
		if !ok {
			grant, ok = f.granted(ctx, part.Stage, purse, t.Index, t.AtMost(), beside(others))
		}
		if !ok {
			open.Release(1)
			broke = true
			return false
		}
		wg.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) { call(ctx, t, grant, mayMiss) })
		return true
	}
	for len(todo) > 0 {
		t := todo[0]
		todo = todo[1:]
		var mayMiss int64
		if without {
			mayMiss = t.Rows
		}
		if broke || !launch(t, len(todo)+part.Plan.Tasks-part.Next, mayMiss) {
			part.Failed = append(part.Failed, t)
		}
	}
	for part.Next < part.Plan.Tasks && !broke && failedForGood(part) < f.spec.Window && len(part.Pending) < maxPending &&
		!endsWindow(taskFailure(failure)) && !f.shouldContinue(ctx) {
		if !launch(schemas.FailedTask{Index: part.Next}, part.Plan.Tasks-part.Next-1, 0) {
			break
		}
		part.Next++
	}
	wg.Wait(ctx)
	return failure, broke
}

// tell has the progress show what an open stage has come to.
func (f *factory) tell(progress *schemas.StageProgress, part *schemas.OpenStage) {
	progress.Ledger, progress.ByCategory = part.Ledger, part.ByCategory
	progress.Usage, progress.Projected = took(part), projected(part)
	progress.Costs = maps.Clone(part.Costs)
	for _, t := range part.Failed {
		progress.Costs.AddAll(t.Costs)
	}
	for _, index := range part.Pending {
		progress.Usage.Add(f.pending[index].Usage)
		progress.Costs.AddAll(f.pending[index].Costs)
	}
}

// failedForGood is how many tasks failed that more money would not help.
func failedForGood(part *schemas.OpenStage) (n int) {
	for _, t := range part.Failed {
		if !t.Unfinished {
			n++
		}
	}
	return n
}

// endsWindow reports whether a task's failure concerns the others too.
func endsWindow(f schemas.TaskFailure) bool { return f.Tripwire || f.Account }

// outweighs reports whether people are to be told f rather than other.
func outweighs(f, other schemas.TaskFailure) bool {
	return f.Account && !other.Account || f.Tripwire && !endsWindow(other)
}

// tripped names the limit that the rows of a stage's tasks are past together, empty where
// they are past none or a person has seen it.
func (f *factory) tripped(part *schemas.OpenStage) string {
	checks := part.Stage == schemas.StageGenerate || part.Stage == schemas.StageSynthesize || part.Stage == schemas.StageFilter
	if !checks || f.spec.Tripwires.Off || part.Unchecked {
		return ""
	}
	usage := took(part)
	if len(part.Pending) > 0 {
		usage.USD = 0 // what tasks took that have no rows yet tells nothing of what a row costs
	}
	return f.spec.Tripwires.Past(part.Ledger, usage)
}

// tripDigest is what people judge at a tripwire: the stage as it is planned.
func tripDigest(part *schemas.OpenStage) schemas.Digest {
	return schemas.DigestOf([]any{"tripwire", part.Stage, part.Plan.Digest})
}

// resumed reports whether a person has resumed after what has this digest.
func (f *factory) resumed(digest schemas.Digest) bool {
	return slices.ContainsFunc(f.carried.Decisions, func(d schemas.DecisionRecord) bool {
		return !d.Stale && d.Verdict == schemas.DecisionResume && d.Decision.Gate == schemas.GateFailure && d.Decision.Digest == digest
	})
}

// pause opens the failure gate for a tripwire of the stage as a whole.
func (f *factory) pause(ctx workflow.Context, part *schemas.OpenStage, limit string) error {
	text := fmt.Sprintf("tripwire: %s, of the %d rows so far (%s). Look at rejected rows with starter peek %s %s. To go on all the same, resume",
		limit, part.Ledger.Outcomes(), part.Ledger, schemas.ShellWord(string(f.id)), part.Stage)
	failure := temporal.NewNonRetryableApplicationError(text, string(schemas.InvalidInput), nil, schemas.TaskFailure{Tripwire: true})
	if _, err := f.failed(ctx, part, failure, 0); err != nil {
		return err
	}
	part.Unchecked = true
	return nil
}

// taskFailure is what a failed task tells beside its message; the zero value where it was
// not the task that failed.
func taskFailure(failure error) (f schemas.TaskFailure) {
	var app *temporal.ApplicationError
	if errors.As(failure, &app) && app.HasDetails() && app.Details(&f) != nil {
		return schemas.TaskFailure{}
	}
	return f
}

// taskActivity is the activity that does a stage's tasks.
func taskActivity(stage schemas.Stage) any {
	switch stage.Work() {
	case schemas.StageGenerate:
		return act.Generate
	case schemas.StageClassify:
		return act.Classify
	case schemas.StagePrompts:
		return act.Prompts
	case schemas.StageSynthesize:
		return act.Synthesize
	case schemas.StageFilter:
		return act.Filter
	case schemas.StageCurate:
		return act.Curate
	case schemas.StageSFT:
		return act.SFT
	case schemas.StageRL:
		return act.RL
	case schemas.StageSample:
		return act.Sample
	case schemas.StageGrade:
		return act.Grade
	}
	panic("stage " + string(stage) + " has no tasks")
}

// shouldContinue tells whether the history is long enough to start a new one.
func (f *factory) shouldContinue(ctx workflow.Context) bool {
	return workflow.GetInfo(ctx).GetContinueAsNewSuggested()
}

func (f *factory) maybeContinue(ctx workflow.Context) error {
	if !f.shouldContinue(ctx) {
		return nil
	}
	return f.continueAsNew(ctx)
}

// continueAsNew hands over to a new link of the chain. No activity is pending
// here; signals are drained and handlers finished first, so that nothing is lost.
func (f *factory) continueAsNew(ctx workflow.Context) error {
	if err := f.settle(ctx); err != nil {
		return err
	}
	return workflow.NewContinueAsNewError(ctx, FactoryName, f.spec, f.carried)
}
