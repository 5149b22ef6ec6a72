package activities

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/activity"

	"precept/internal/llm"
	"precept/internal/policy"
	"precept/internal/reward"
	"precept/internal/shard"
	"precept/schemas"
)

// TaskRequest asks for one task of a plan.
type TaskRequest struct {
	Run   schemas.RunID   `json:"run"`
	Stage schemas.Stage   `json:"stage"`
	Plan  schemas.PlanRef `json:"plan"`
	Index int             `json:"index"`
	// Started is when this execution of the stage began: what it pays for is accounted
	// apart from what others did.
	Started time.Time `json:"started,omitzero"`
	// Grant is what the task may spend in this execution of the stage, however often it is
	// called. Where that doesn't do, it returns unfinished. Nil sets no limit.
	Grant *schemas.Cost `json:"grant,omitempty"`
	// Unchecked tells the task to go on past its tripwire.
	Unchecked bool `json:"unchecked,omitempty"`
	// MayMiss is how many rows may fail without the task failing.
	MayMiss int64 `json:"may_miss,omitempty"`
	// Retry tells the task to ask again for rows that failed, and that the run has gone
	// on without: those with this reason, or all.
	Retry *schemas.Reason `json:"retry,omitempty"`
}

// work is a task being done.
type work struct {
	*Activities
	plan  *schemas.Plan
	spec  schemas.RunSpec
	stage schemas.Stage
	schemas.Task
	lease   *shard.Lease
	account *account
	record  string // where is kept what the task has spent
	beat    *beat
	stop    <-chan struct{} // closed when the worker begins to stop
	trip    *tripwire       // nil where nothing is checked
	batch   *batches        // nil where models are asked online

	mayMiss int64
	retry   *schemas.Reason
	unasked unasked // where models answer from the journal alone
	notes   notes
}

// leaseTTL bounds how long a dead worker keeps others from its task.
const leaseTTL = 15 * time.Second

// task does one task: it returns what is stored when its outputs are there, else
// holds the task's lease while do writes them.
func (a *Activities) task(ctx context.Context, req TaskRequest, do func(ctx context.Context, w *work) error) (schemas.TaskResult, error) {
	result, err := a.tryTask(ctx, req, do)
	if err != nil {
		failure := schemas.TaskFailure{Usage: result.Usage, Costs: result.Costs}
		tripped, rows := (*trippedError)(nil), (*rowsError)(nil)
		failure.Tripwire = errors.As(err, &tripped)
		if errors.As(err, &rows) {
			failure.Rows = int64(rows.rows)
		}
		failure.Account = llm.IsAccount(err)
		if (failure.Account || llm.IsOutage(err) || errors.As(err, new(*reward.MissingError))) && req.Stage.Work() != schemas.StageSample {
			if names := askedBy(err); len(names) > 0 {
				failure.Endpoint, failure.Or = names[0], names[1:]
			}
		}
		return schemas.TaskResult{}, fail(err, failure)
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
	key := task.Outputs[0].Key
	account := newAccount(schemas.Payer(req.Run, req.Stage, req.Started, key))
	account.grant = req.Grant
	w := &work{
		Activities: a, plan: plan, spec: plan.Spec, stage: req.Stage, Task: task,
		account: account, record: schemas.SpentObject(req.Run, req.Stage, req.Started, key),
		beat: a.looking(ctx, startPaying(ctx, account.took), schemas.TaskTeller(req.Stage, req.Index)), stop: activity.GetWorkerStopChannel(ctx),
		mayMiss: req.MayMiss, retry: req.Retry,
	}
	defer w.beat.stop()
	defer func() { result.Usage, result.Costs = account.spent() }()
	looked := time.Now()
	if result, ok, err := w.found(ctx); ok || err != nil {
		return result, errors.Join(err, w.recall(ctx))
	}
	w.beat.say("waiting for the task's lease")
	w.lease, err = shard.Acquire(ctx, a.store, key, shard.LeaseOptions{Holder: a.holder, TTL: a.ttl, Note: w.note})
	if err != nil {
		return result, err
	}
	account.renew = w.renew
	defer func() { w.release(context.WithoutCancel(ctx)) }()
	w.beat.say("")
	// Another holder may have finished it meanwhile, or got some answers.
	former := w.lease.Former()
	if former.After(looked) {
		if result, ok, err := w.found(ctx); ok || err != nil {
			return result, errors.Join(err, w.inherit(ctx))
		}
	}
	models, err := modelsOf(task)
	if err != nil {
		return result, err
	}
	if len(models) > 0 && !former.IsZero() {
		if err := a.journal.Refresh(ctx, former); err != nil {
			return result, err
		}
	}
	if err := w.begin(ctx); err != nil {
		return result, err
	}
	if spec := w.spec.Tripwires; !spec.Off && !req.Unchecked {
		w.trip = &tripwire{spec: spec, usage: account.took}
	}
	if w.spec.ByBatch(w.stage) {
		do = byBatch(do)
	}
	err = do(ctx, w)
	if errors.Is(err, errGrant) {
		return schemas.TaskResult{Title: w.Title, Unfinished: &schemas.Unfinished{Grant: true, Needs: account.needed()}}, nil
	}
	if pending := (*pendingError)(nil); errors.As(err, &pending) {
		result.Unfinished = &schemas.Unfinished{Pending: &pending.Pending}
		return result, nil
	}
	if tripped := (*trippedError)(nil); errors.As(err, &tripped) {
		return result, w.showRejected(ctx, tripped)
	}
	if err != nil {
		return result, err
	}
	w.retry = nil // what is missing now was asked again
	result, ok, err := w.found(ctx)
	if err == nil && !ok {
		err = schemas.Errorf("do task", task.Title, schemas.Internal, "it ended without writing its outputs")
	}
	result.Found, result.Notes = false, w.notes.all()
	return result, err
}

// release lets others have the task. Who takes it finds every answer that was paid
// for. What fails here is made up for by time: the journal writes again, and a lease
// runs out.
func (w *work) release(ctx context.Context) {
	log := activity.GetLogger(ctx)
	w.account.close()
	if err := w.keep(ctx); err != nil {
		log.Warn("what the task has spent is not recorded yet", "task", w.Title, "error", err)
	}
	if err := w.recordServed(ctx); err != nil {
		log.Warn("who answered is not recorded yet", "task", w.Title, "error", err)
	}
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
	planned, err := modelsOf(w.Task)
	if err != nil {
		return nil, err
	}
	here := asked(client.Endpoint())
	for _, m := range planned {
		if schemas.DigestOf(m) == schemas.DigestOf(here) {
			w.beat.watch(client)
			client = client.Guarded(w.guard).Paying(w.account)
			if w.batch != nil {
				client = client.Batched(w.batch.backlog(client))
			}
			return client, nil
		}
	}
	return nil, schemas.Errorf("open endpoint", name, schemas.Conflict,
		"this worker's configuration has %s asked with %v, but the stage was planned for %v", here.Identity, here.Sent, planned).
		WithHint("Give all workers one configuration. To go on with the new one, terminate the run and start it again under its ID.")
}

// unasked counts the requests that rows lack.
type unasked struct {
	least, most atomic.Int64
	fresh       atomic.Int64 // rows that lack all
	begun       atomic.Int64 // requests that are answered of the other rows
}

// unanswered counts the requests that a row would still take, at least and at most, where
// err is that there is no answer after so many, and returns err.
func (w *work) unanswered(err error, answered, least, most int) error {
	if llm.IsMissing(err) {
		w.unasked.least.Add(int64(least))
		w.unasked.most.Add(int64(most))
		if w.unasked.begun.Add(int64(answered)); answered == 0 {
			w.unasked.fresh.Add(1)
		}
	}
	return err
}

// refresh is the word by which the stage asks anew; empty where answers of before count.
func (w *work) refresh() string { return w.spec.Refresh[w.stage] }

// categoryPolicy is the policy of the task's category.
func (w *work) categoryPolicy(ctx context.Context) (policy.CategoryPolicy, error) {
	p, err := w.policyOf(ctx, w.plan.Inputs.Policy)
	if err != nil {
		return policy.CategoryPolicy{}, err
	}
	return p.For(w.Category)
}

// modelsOf is the models that a task's rows follow from.
func modelsOf(t schemas.Task) ([]model, error) {
	var l struct {
		Models []model `json:"models"`
	}
	if err := json.Unmarshal(t.Lineage, &l); err != nil {
		return nil, schemas.E("read lineage", t.Title, schemas.Internal, err)
	}
	return l.Models, nil
}

// found looks for all outputs of the task. One that rows are missing from counts, unless
// they are to be asked again.
func (w *work) found(ctx context.Context) (schemas.TaskResult, bool, error) {
	result := schemas.TaskResult{Title: w.Title, Found: true}
	for _, o := range w.Outputs {
		if o.Kind == schemas.OutputModel {
			job, ok, err := w.job(ctx, o.Key)
			if !ok || err != nil {
				return result, false, err
			}
			result.Ledger.Add(job.Ledger)
			continue
		}
		ref, partial, ok, err := shard.FindOutput(ctx, w.store, w.plan.Run, w.stage, o.Key)
		if !ok || err != nil {
			return result, false, err
		}
		if partial != nil && w.retry != nil && asksAgain(*partial, *w.retry) {
			return result, false, nil
		}
		result.Rows += ref.Rows
		result.Ledger.Add(ref.Ledger)
		result.ByCategory.Add(cmp.Or(o.Category, w.Category), ref.Ledger)
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
