package activities

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sourcegraph/conc/pool"
	"go.temporal.io/sdk/activity"

	"precept/internal/llm"
	"precept/internal/shard"
	"precept/schemas"
)

// TaskRequest asks for one task of a plan.
type TaskRequest struct {
	Run   schemas.RunID   `json:"run"`
	Stage schemas.Stage   `json:"stage"`
	Plan  schemas.PlanRef `json:"plan"`
	Index int             `json:"index"`
}

// work is a task being done.
type work struct {
	*Activities
	plan  *schemas.Plan
	spec  schemas.RunSpec
	stage schemas.Stage
	schemas.Task
	lease *shard.Lease
	beat  *beat

	mu    sync.Mutex
	usage schemas.Usage
}

// leaseTTL bounds how long a dead worker keeps others from its task.
const leaseTTL = 15 * time.Second

// task does one task: it returns what is stored when its outputs are there, else
// holds the task's lease while do writes them.
func (a *Activities) task(ctx context.Context, req TaskRequest, do func(ctx context.Context, w *work) error) (schemas.TaskResult, error) {
	result, err := a.tryTask(ctx, req, do)
	if err != nil {
		return schemas.TaskResult{}, fail(err)
	}
	return result, nil
}

func (a *Activities) tryTask(ctx context.Context, req TaskRequest, do func(ctx context.Context, w *work) error) (result schemas.TaskResult, err error) {
	plan, err := a.loadPlan(ctx, req.Plan)
	if err != nil {
		return result, err
	}
	if req.Index >= len(plan.Tasks) {
		return result, schemas.Errorf("do task", req.Plan.Object, schemas.Internal, "it has %d tasks, not one numbered %d", len(plan.Tasks), req.Index)
	}
	task := plan.Tasks[req.Index]
	if result, ok, err := a.found(ctx, req.Stage, task); ok || err != nil {
		result.Found = true
		return result, err
	}

	w := &work{Activities: a, plan: plan, spec: plan.Spec, stage: req.Stage, Task: task, beat: startBeat(ctx)}
	defer w.beat.stop()
	w.beat.say("waiting for the task's lease")
	w.lease, err = shard.Acquire(ctx, a.store, task.Outputs[0].Key, shard.LeaseOptions{Holder: a.holder, TTL: leaseTTL})
	if err != nil {
		return result, err
	}
	defer func() {
		err = errors.Join(err, w.lease.Release(context.WithoutCancel(ctx)))
	}()
	w.beat.say("")
	// Another holder may have finished it meanwhile.
	if result, ok, err := a.found(ctx, req.Stage, task); ok || err != nil {
		result.Found = true
		return result, err
	}
	if err := do(ctx, w); err != nil {
		return result, err
	}
	result, ok, err := a.found(ctx, req.Stage, task)
	if err == nil && !ok {
		err = schemas.Errorf("do task", task.Title, schemas.Internal, "it ended without writing its outputs")
	}
	result.Usage = w.usage
	return result, err
}

// found looks for all outputs of a task.
func (a *Activities) found(ctx context.Context, stage schemas.Stage, t schemas.Task) (schemas.TaskResult, bool, error) {
	result := schemas.TaskResult{Title: t.Title}
	for _, o := range t.Outputs {
		if o.Kind == schemas.OutputModel {
			job, ok, err := a.job(ctx, o.Key)
			if !ok || err != nil {
				return result, false, err
			}
			result.Ledger.Add(job.Ledger)
			continue
		}
		ref, ok, err := shard.Find(ctx, a.store, stage, o.Key)
		if !ok || err != nil {
			return result, false, err
		}
		result.Rows += ref.Rows
		result.Ledger.Add(ref.Ledger)
	}
	return result, true, nil
}

// job reads the result of a training job.
func (a *Activities) job(ctx context.Context, key schemas.Key) (schemas.JobResult, bool, error) {
	var job schemas.JobResult
	err := shard.GetJSON(ctx, a.store, schemas.JobObject(key), &job)
	if schemas.KindOf(err) == schemas.NotFound {
		return job, false, nil
	}
	return job, err == nil, err
}

func (a *Activities) loadPlan(ctx context.Context, ref schemas.PlanRef) (*schemas.Plan, error) {
	a.mu.Lock()
	plan := a.plans[ref.Digest]
	a.mu.Unlock()
	if plan != nil {
		return plan, nil
	}
	plan = &schemas.Plan{}
	if err := shard.GetJSON(ctx, a.store, ref.Object, plan); err != nil {
		return nil, err
	}
	if got := schemas.DigestOf(plan); got != ref.Digest {
		return nil, schemas.Errorf("read plan", ref.Object, schemas.Conflict,
			"it has digest %s, the run expects %s: two runs with this ID are under way", got.Short(), ref.Digest.Short())
	}
	a.mu.Lock()
	clear(a.plans) // a worker works on one stage at a time, mostly
	a.plans[ref.Digest] = plan
	a.mu.Unlock()
	return plan, nil
}

// add sums what calls took.
func (w *work) add(u schemas.Usage) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.usage.Add(u)
}

// each does every row with many in flight. A row's error doesn't void its
// neighbours: they are asked and journaled, then the first error is returned.
// What concerns the account or the lease stops all.
func each[T any](ctx context.Context, w *work, rows []T, inFlight int, do func(ctx context.Context, i int, row T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w.beat.total(int64(len(rows)), "rows")
	var first error
	var mu sync.Mutex
	p := pool.New().WithMaxGoroutines(max(1, inFlight))
	for i, row := range rows {
		if ctx.Err() != nil {
			break
		}
		p.Go(func() {
			err := do(ctx, i, row)
			w.beat.add(1)
			if err == nil {
				return
			}
			mu.Lock()
			if first == nil {
				first = err
			}
			mu.Unlock()
			if stopsAll(err) {
				cancel(err)
			}
		})
	}
	p.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause // it outweighs a row's error that came before it
	}
	return first
}

// stopsAll reports whether an error concerns the account or the lease, not a row.
func stopsAll(err error) bool {
	return llm.IsAccount(err) || schemas.KindOf(err) == schemas.Conflict
}

// beat heartbeats a task by timer and tells people how far it is.
type beat struct {
	mu   sync.Mutex
	now  schemas.TaskProgress
	quit chan struct{}
	done chan struct{}
}

func startBeat(ctx context.Context) *beat {
	b := &beat{quit: make(chan struct{}), done: make(chan struct{})}
	activity.RecordHeartbeat(ctx, b.now)
	go func() {
		defer close(b.done)
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-b.quit:
				return
			case <-tick.C:
				b.mu.Lock()
				now := b.now
				b.mu.Unlock()
				activity.RecordHeartbeat(ctx, now)
			}
		}
	}()
	return b
}

func (b *beat) stop() { close(b.quit); <-b.done }

func (b *beat) set(p schemas.TaskProgress) { b.mu.Lock(); b.now = p; b.mu.Unlock() }

func (b *beat) say(note string) { b.mu.Lock(); b.now.Note = note; b.mu.Unlock() }

func (b *beat) total(n int64, unit string) {
	b.mu.Lock()
	b.now.Done, b.now.Total, b.now.Unit = 0, n, unit
	b.mu.Unlock()
}

func (b *beat) add(n int64) { b.mu.Lock(); b.now.Done += n; b.mu.Unlock() }
