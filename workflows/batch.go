package workflows

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"precept/activities"
	"precept/schemas"
)

// In batch mode a task returns while its batches are under way, and gives up its place in
// the window: those of all tasks are under way at once. One timer stands for all that wait;
// when it fires one activity looks at all batches, and only tasks whose batches have ended
// are called again. So a day of waiting takes a few hundred events.

// maxPending bounds the tasks whose batches are under way, and so what a run carries.
const maxPending = 1000

// rounds runs tasks until none waits for batches any more. It ends early when the history
// is long, when what has failed so far is for people to see, when a tripwire is hit or an account is refused.
// Tasks whose grant is spent are called again with what others have returned.
func (f *factory) rounds(ctx workflow.Context, part *schemas.OpenStage, progress *schemas.StageProgress, todo []schemas.FailedTask, without bool) (failure error, broke bool) {
	failure, broke = f.window(ctx, part, progress, todo, without)
	for len(part.Pending) > 0 && failedForGood(part) < f.spec.Window && !endsWindow(taskFailure(failure)) &&
		f.tripped(part) == "" && ctx.Err() == nil && !f.shouldContinue(ctx) {
		ready, err := f.poll(ctx, part, progress)
		if err != nil {
			// They are called themselves when people have seen why.
			for _, index := range part.Pending {
				t := f.pending[index]
				t.Index, t.Granted = index, part.Grants[index]
				part.Failed = append(part.Failed, t)
			}
			part.Pending, part.Grants = nil, nil
			f.waits(part, progress, schemas.Pending{})
			return err, false
		}
		for _, t := range part.Failed {
			if t.Unfinished {
				ready = append(ready, t)
			}
		}
		part.Failed = slices.DeleteFunc(part.Failed, func(t schemas.FailedTask) bool { return t.Unfinished })
		next, short := f.window(ctx, part, progress, ready, false)
		if broke = short; failure == nil || outweighs(taskFailure(next), taskFailure(failure)) {
			failure = next
		}
	}
	return failure, broke
}

// postpone notes that a task waits for batches, which cost no more than its grant.
func (f *factory) postpone(part *schemas.OpenStage, progress *schemas.StageProgress, t schemas.FailedTask, grant *schemas.Cost, p schemas.Pending) {
	part.Pending = append(part.Pending, t.Index)
	if f.pending == nil {
		f.pending = map[int]schemas.FailedTask{}
	}
	f.pending[t.Index] = t
	if grant != nil {
		if part.Grants == nil {
			part.Grants = map[int]schemas.Cost{}
		}
		part.Grants[t.Index] = *grant
	}
	f.waits(part, progress, p)
}

// waits shows people what a stage waits for; p is added to what is shown.
func (f *factory) waits(part *schemas.OpenStage, progress *schemas.StageProgress, p schemas.Pending) {
	progress.Waiting = len(part.Pending)
	if progress.Waiting == 0 {
		progress.Pending = nil
		return
	}
	sum := schemas.Pending{}
	if progress.Pending != nil {
		sum = *progress.Pending
	}
	sum.Add(p)
	progress.Pending = &sum
}

// poll waits until it is time to look at batches, and returns the tasks to call.
func (f *factory) poll(ctx workflow.Context, part *schemas.OpenStage, progress *schemas.StageProgress) (ready []schemas.FailedTask, err error) {
	slices.Sort(part.Pending)
	if progress.Pending != nil { // else a link of the chain begins, and looks at once
		workflow.SetCurrentDetails(ctx, details(f.progress()))
		timer := workflow.NewTimerWithOptions(ctx, time.Duration(progress.Pending.After), workflow.TimerOptions{
			Summary: fmt.Sprintf("%d tasks wait for batches", len(part.Pending)),
		})
		if err := timer.Get(ctx, nil); err != nil {
			return nil, err
		}
	}
	var result activities.PollResult
	over := f.asking(ctx, schemas.TellerPoll)
	err = workflow.ExecuteActivity(polling(ctx, part.Stage), act.Poll, activities.PollRequest{
		Run: f.id, Stage: part.Stage, Plan: *part.Plan, Tasks: part.Pending,
	}).Get(ctx, &result)
	over()
	if err != nil {
		return nil, err
	}
	for _, index := range result.Ready {
		t := f.pending[index] // a link of the chain that has just begun doesn't know it
		t.Index, t.Granted = index, part.Grants[index]
		ready = append(ready, t)
	}
	part.Pending = slices.DeleteFunc(part.Pending, func(index int) bool { return slices.Contains(result.Ready, index) })
	progress.Pending = nil
	f.waits(part, progress, result.Pending)
	return ready, nil
}

// polling looks at batches: an outage of the provider or of the store is waited out, since
// nothing is lost by it.
func polling(ctx workflow.Context, stage schemas.Stage) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue:           stage.Queue(),
		StartToCloseTimeout: time.Hour,
		HeartbeatTimeout:    heartbeat,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval:        time.Second,
			BackoffCoefficient:     2,
			MaximumInterval:        time.Minute,
			NonRetryableErrorTypes: []string{string(schemas.InvalidInput), string(schemas.NotFound), string(schemas.Conflict)},
		},
		Summary: "look at batches",
	})
}

// checkBatches ends a run in batch mode whose endpoints take no batches before anything is
// spent.
func (f *factory) checkBatches(ctx workflow.Context) error {
	if f.spec.Mode != schemas.ModeBatch {
		return nil
	}
	return f.retrying(ctx, schemas.StagePrompts, func() error {
		over := f.asking(ctx, schemas.TellerBatches)
		err := workflow.ExecuteActivity(planning(ctx, schemas.StageSynthesize, "look whether endpoints take batches"), act.CheckBatches, f.spec).Get(ctx, nil)
		over()
		return err
	})
}

// cancelBatches has providers answer no more of the batches of a run that ends, as far as
// they can be told.
func (f *factory) cancelBatches(ctx workflow.Context) {
	part := f.carried.Open
	if part == nil || part.Plan == nil || !f.spec.ByBatch(part.Stage) {
		return
	}
	ctx, done := workflow.NewDisconnectedContext(ctx) // the run itself may be cancelled
	defer done()
	var n int
	err := workflow.ExecuteActivity(planning(ctx, part.Stage, "cancel batches"), act.CancelBatches, activities.CancelRequest{Run: f.id, Plan: *part.Plan}).Get(ctx, &n)
	if err != nil {
		f.carried.Notes = append(f.carried.Notes, "some batches of stage "+string(part.Stage)+" may go on at the provider: "+plain(err))
		workflow.GetLogger(ctx).Error("batches not cancelled", "error", err)
	} else if n > 0 {
		f.carried.Notes = append(f.carried.Notes, fmt.Sprintf("%d batches of stage %s were cancelled; what they had answered by then is read when the run is started again", n, part.Stage))
	}
}
