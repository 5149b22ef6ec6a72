package activities

import (
	"cmp"
	"context"
	"encoding/json"
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
	stop  <-chan struct{} // closed when the worker begins to stop
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

	w := &work{
		Activities: a, plan: plan, spec: plan.Spec, stage: req.Stage, Task: task,
		beat: startBeat(ctx), stop: activity.GetWorkerStopChannel(ctx),
	}
	defer w.beat.stop()
	w.beat.say("waiting for the task's lease")
	w.lease, err = shard.Acquire(ctx, a.store, task.Outputs[0].Key, shard.LeaseOptions{Holder: a.holder, TTL: leaseTTL})
	if err != nil {
		return result, err
	}
	defer func() { w.release(context.WithoutCancel(ctx)) }()
	w.beat.say("")
	// Another holder may have finished it meanwhile, or got some answers.
	if result, ok, err := a.found(ctx, req.Stage, task); ok || err != nil {
		result.Found, result.Usage = true, w.beat.usage()
		return result, err
	}
	if !w.lease.First() {
		if err := a.journal.Refresh(ctx); err != nil {
			return result, err
		}
	}
	if err := do(ctx, w); err != nil {
		return result, err
	}
	result, ok, err := a.found(ctx, req.Stage, task)
	if err == nil && !ok {
		err = schemas.Errorf("do task", task.Title, schemas.Internal, "it ended without writing its outputs")
	}
	result.Usage = w.beat.usage()
	return result, err
}

// release lets others have the task. Who takes it finds every answer that was paid
// for. What fails here is made up for by time: the journal writes again, and a lease
// runs out.
func (w *work) release(ctx context.Context) {
	log := activity.GetLogger(ctx)
	if err := w.journal.Flush(ctx); err != nil {
		log.Warn("answers are not journaled yet", "task", w.Title, "error", err)
	}
	if err := w.lease.Release(ctx); err != nil {
		log.Warn("lease not released", "task", w.Title, "error", err)
	}
}

// errStopping ends a task whose worker stops.
var errStopping = schemas.Errorf("do task", "", schemas.Unavailable, "the worker stops; another one goes on with it")

// guard tells whether the task may still send a request.
func (w *work) guard() error {
	select {
	case <-w.stop:
		return errStopping
	default:
		return w.lease.Check()
	}
}

// untilStop returns a context that ends when the worker begins to stop: for what has
// something to put away first, such as a checkpoint.
func (w *work) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-w.stop:
			cancel(errStopping)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// client is the client of an endpoint for this task. It must be the model, asked in
// the way, that the plan made the task's keys of.
func (w *work) client(name string) (*llm.Client, error) {
	client, err := w.Activities.client(name)
	if err != nil {
		return nil, err
	}
	var planned struct {
		Models []model `json:"models"`
	}
	if err := json.Unmarshal(w.Lineage, &planned); err != nil {
		return nil, schemas.E("read lineage", w.Title, schemas.Internal, err)
	}
	here := asked(client.Endpoint())
	for _, m := range planned.Models {
		if schemas.DigestOf(m) == schemas.DigestOf(here) {
			return client.Guarded(w.guard), nil
		}
	}
	return nil, schemas.Errorf("open endpoint", name, schemas.Conflict,
		"this worker's configuration has %s asked with %v, but the stage was planned for %v", here.Identity, here.Sent, planned.Models).
		WithHint("Give all workers one configuration. To go on with the new one, terminate the run and start it again under its ID.")
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

// each does every row with many in flight. A row's error doesn't void its
// neighbours: they are asked and journaled, then the first error is returned. No
// further row is begun after an error that concerns more than a row, or when so many
// rows have failed in a row that the others would fail too; those in flight are
// waited for, since they are paid for.
func each[T any](ctx context.Context, w *work, rows []T, inFlight int, do func(ctx context.Context, i int, row T) error) error {
	inFlight = max(1, inFlight)
	w.beat.total(int64(len(rows)), "rows")
	var (
		mu     sync.Mutex
		first  error // of a row
		end    error // of the task
		failed int   // rows since the last one that succeeded
	)
	note := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			failed = 0
			return
		}
		failed++
		first = cmp.Or(first, err)
		if end == nil && (stopsAll(err) || failed >= max(outage, inFlight)) {
			end = err
		}
	}
	ended := func() error {
		mu.Lock()
		defer mu.Unlock()
		return cmp.Or(end, context.Cause(ctx))
	}
	p := pool.New().WithMaxGoroutines(inFlight)
	for i, row := range rows {
		if ended() != nil {
			break
		}
		p.Go(func() {
			if ended() != nil {
				return
			}
			err := do(ctx, i, row)
			w.beat.add(1)
			note(err)
		})
	}
	p.Wait()
	return cmp.Or(ended(), first) // what ended the task outweighs a row's error
}

// outage is how many rows must fail in a row, at least, to be taken for an outage.
const outage = 16

// stopsAll reports whether an error concerns the account, the lease or the worker,
// not a row.
func stopsAll(err error) bool {
	return llm.IsAccount(err) || schemas.KindOf(err) == schemas.Conflict || errors.Is(err, errStopping)
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
	// What an earlier attempt took is known by its last heartbeat. When the worker was
	// killed, that lacks what came after it.
	var before schemas.TaskProgress
	if activity.HasHeartbeatDetails(ctx) && activity.GetHeartbeatDetails(ctx, &before) == nil {
		b.now.Usage = before.Usage
	}
	activity.RecordHeartbeat(ctx, b.now)
	go func() {
		defer close(b.done)
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-b.quit:
				activity.RecordHeartbeat(ctx, b.progress()) // an attempt that failed tells the next one what it took
				return
			case <-tick.C:
				activity.RecordHeartbeat(ctx, b.progress())
			}
		}
	}()
	return b
}

func (b *beat) progress() schemas.TaskProgress { b.mu.Lock(); defer b.mu.Unlock(); return b.now }

func (b *beat) stop() { close(b.quit); <-b.done }

func (b *beat) set(p schemas.TaskProgress) {
	b.mu.Lock()
	p.Usage = b.now.Usage
	b.now = p
	b.mu.Unlock()
}

// spend sums what calls took.
func (b *beat) spend(u schemas.Usage) { b.mu.Lock(); b.now.Usage.Add(u); b.mu.Unlock() }

func (b *beat) usage() schemas.Usage { return b.progress().Usage }

func (b *beat) say(note string) { b.mu.Lock(); b.now.Note = note; b.mu.Unlock() }

func (b *beat) total(n int64, unit string) {
	b.mu.Lock()
	b.now.Done, b.now.Total, b.now.Unit = 0, n, unit
	b.mu.Unlock()
}

func (b *beat) add(n int64) { b.mu.Lock(); b.now.Done += n; b.mu.Unlock() }
