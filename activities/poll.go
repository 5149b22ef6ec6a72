package activities

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sourcegraph/conc/pool"

	"precept/internal/llm"
	"precept/internal/shard"
	"precept/schemas"
)

// PollRequest asks how the batches of a stage's tasks stand.
type PollRequest struct {
	Run   schemas.RunID   `json:"run"`
	Stage schemas.Stage   `json:"stage"`
	Plan  schemas.PlanRef `json:"plan"`
	Tasks []int           `json:"tasks"`
}

// PollResult is which tasks have something to do, and what the others wait for.
type PollResult struct {
	Ready   []int           `json:"ready"`
	Pending schemas.Pending `json:"pending"`
}

// atOnce is how many records are read at a time.
const atOnce = 16

// Poll looks at the batches of many tasks by few calls: providers list a hundred at a time.
func (a *Activities) Poll(ctx context.Context, req PollRequest) (PollResult, error) {
	beat := a.looking(ctx, startBeat(ctx), schemas.TellerPoll)
	defer beat.stop()
	result, err := a.poll(ctx, req, beat.lookout)
	return result, fail(err)
}

func (a *Activities) poll(ctx context.Context, req PollRequest, l *lookout) (result PollResult, err error) {
	plan, err := a.loadPlan(ctx, req.Plan)
	if err != nil {
		return result, err
	}
	records := make([]batchRecord, len(req.Tasks))
	readers := pool.New().WithContext(ctx).WithCancelOnError().WithFirstError().WithMaxGoroutines(atOnce)
	for i, task := range req.Tasks {
		readers.Go(func(ctx context.Context) (err error) {
			records[i], _, err = a.readBatches(ctx, plan.Tasks[task].Outputs[0].Key)
			return err
		})
	}
	if err := readers.Wait(); err != nil {
		return result, err
	}
	known, err := a.states(ctx, records, l)
	if err != nil {
		return result, err
	}
	for i, task := range req.Tasks {
		ready, pending, err := a.stands(ctx, records[i], known)
		if err != nil {
			return result, err
		}
		if ready {
			result.Ready = append(result.Ready, task)
		} else {
			result.Pending.Add(pending)
		}
	}
	return result, nil
}

// looksAt is the client by which an endpoint's batches are looked at. It tries an account
// that was refused: whoever lets a run go on believes that it is in order now.
func (a *Activities) looksAt(endpoint string) (*llm.Client, error) {
	c, err := a.client(endpoint)
	if err != nil {
		return nil, err
	}
	return c.Guarded(func() error { return nil }), nil
}

// states lists the batches of the endpoints that records name, by ID.
func (a *Activities) states(ctx context.Context, records []batchRecord, l *lookout) (map[string]llm.Batch, error) {
	oldest := map[string]time.Time{}
	for _, r := range records {
		for _, o := range r.Open {
			if at, ok := oldest[o.Endpoint]; !ok || o.Begun.Before(at) {
				oldest[o.Endpoint] = o.Begun
			}
		}
	}
	known := map[string]llm.Batch{}
	for name, at := range oldest {
		c, err := a.looksAt(name)
		if err != nil {
			return nil, err
		}
		l.watch(c)
		recent, err := c.RecentBatches(ctx, at.Add(-clocks))
		if err != nil {
			return nil, err
		}
		for _, b := range recent {
			known[b.ID] = b
		}
	}
	return known, nil
}

// stands tells whether a task has something to do: all its batches have ended, or one is to
// be submitted.
func (a *Activities) stands(ctx context.Context, r batchRecord, known map[string]llm.Batch) (ready bool, p schemas.Pending, err error) {
	ready = true
	for _, o := range r.Open {
		c, err := a.looksAt(o.Endpoint)
		if err != nil {
			return false, p, err
		}
		b, ok := known[o.ID]
		switch {
		case o.ID == "":
			ok = time.Since(o.Begun) >= c.Endpoint().PollEvery(0) && !time.Now().Before(o.NotBefore)
		case !ok: // the list doesn't reach that far
			b, err = c.Batch(ctx, o.ID)
			ok = err != nil || b.Ended() // the task tells the error
		default:
			ok = b.Ended()
		}
		ready = ready && ok
		o.Answered = max(o.Answered, b.Answered)
		p.Add(o.pending(c.Endpoint()))
	}
	return ready, p, nil
}

type listedBatches struct {
	at      time.Time
	batches []llm.Batch
}

// recentBatches lists an endpoint's batches of the last two days, or has just done so.
func (a *Activities) recentBatches(ctx context.Context, c *llm.Client) ([]llm.Batch, error) {
	name := c.Endpoint().Name
	if l, ok := a.listed.Load(name); ok && time.Since(l.(listedBatches).at) < c.Endpoint().PollEvery(0) {
		return l.(listedBatches).batches, nil
	}
	at := time.Now()
	recent, err := c.RecentBatches(ctx, at.Add(-adoptAge))
	if err == nil {
		a.listed.Store(name, listedBatches{at, recent})
	}
	return recent, err
}

// CheckBatches reports an endpoint of a run in batch mode that takes no batches.
func (a *Activities) CheckBatches(ctx context.Context, spec schemas.RunSpec) error {
	beat := a.looking(ctx, startBeat(ctx), schemas.TellerBatches)
	defer beat.stop()
	return fail(a.checkBatches(ctx, spec, beat.lookout))
}

func (a *Activities) checkBatches(ctx context.Context, spec schemas.RunSpec, l *lookout) error {
	roles := map[schemas.Stage]schemas.Role{schemas.StageSynthesize: spec.Synthesize.Teacher, schemas.StageFilter: spec.Filter.Judge}
	for _, stage := range schemas.Stages {
		if !spec.ByBatch(stage) || !spec.Passes(stage) {
			continue
		}
		for _, name := range roles[stage].Endpoints() {
			c, err := a.looksAt(name)
			if err != nil {
				return err
			}
			l.watch(c)
			if err := c.CheckBatches(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// CancelRequest asks to end the batches that a run has submitted for a stage.
type CancelRequest struct {
	Run  schemas.RunID   `json:"run"`
	Plan schemas.PlanRef `json:"plan"`
}

// CancelBatches has providers answer no more of a run's batches, and returns how many it
// cancelled. What they have answered by then is read when the run is started again.
func (a *Activities) CancelBatches(ctx context.Context, req CancelRequest) (int, error) {
	beat := startBeat(ctx)
	defer beat.stop()
	n, err := a.cancelBatches(ctx, req)
	return n, fail(err)
}

func (a *Activities) cancelBatches(ctx context.Context, req CancelRequest) (cancelled int, err error) {
	plan, err := a.loadPlan(ctx, req.Plan)
	if err != nil {
		return 0, err
	}
	recorded := map[string]bool{}
	for info, err := range a.store.List(ctx, "batches/") {
		if err != nil {
			return 0, err
		}
		recorded[info.Key] = true
	}
	var mu sync.Mutex
	workers := pool.New().WithErrors().WithMaxGoroutines(atOnce)
	for _, t := range plan.Tasks {
		if key := t.Outputs[0].Key; recorded[schemas.BatchesObject(key)] {
			workers.Go(func() error {
				n, err := a.cancelTask(ctx, plan, t, key)
				mu.Lock()
				defer mu.Unlock()
				cancelled += n
				return err
			})
		}
	}
	return cancelled, workers.Wait()
}

// leaseWithin is how long to wait for a task that another run works on.
const leaseWithin = time.Minute

func (a *Activities) cancelTask(ctx context.Context, plan *schemas.Plan, t schemas.Task, key schemas.Key) (n int, err error) {
	ours := func(o openBatch) bool { return o.Run == plan.Run && !o.Cancelled }
	if r, _, err := a.readBatches(ctx, key); err != nil || !slices.ContainsFunc(r.Open, ours) {
		return 0, err
	}
	waiting, cancel := context.WithTimeout(ctx, leaseWithin)
	defer cancel()
	lease, err := shard.Acquire(waiting, a.store, key, shard.LeaseOptions{Holder: a.holder, TTL: leaseTTL})
	if err != nil {
		return 0, err
	}
	w := &work{Activities: a, plan: plan, spec: plan.Spec, stage: plan.Stage, Task: t, lease: lease}
	defer func() { err = errors.Join(err, lease.Release(context.WithoutCancel(ctx))) }()
	b := &batches{work: w, key: key}
	if b.record, b.etag, err = a.readBatches(ctx, key); err != nil {
		return 0, err
	}
	for i := range b.record.Open {
		o := &b.record.Open[i]
		if !ours(*o) {
			continue
		}
		did, err := b.cancel(ctx, o)
		if err != nil {
			return n, err
		}
		if did {
			n++
		}
	}
	return n, b.save(ctx)
}

// cancel cancels a batch, if it was submitted.
func (b *batches) cancel(ctx context.Context, o *openBatch) (bool, error) {
	c, err := b.asks(o.Endpoint)
	if err != nil {
		return false, err
	}
	if o.ID == "" {
		recent, err := c.RecentBatches(ctx, o.Begun.Add(-clocks))
		if err != nil {
			return false, err
		}
		for _, r := range recent {
			if r.File == o.File && !slices.Contains(b.record.Done, r.ID) {
				o.ID = r.ID
			}
		}
	}
	o.Cancelled = true
	if o.ID == "" {
		return false, nil
	}
	return true, c.CancelBatch(ctx, o.ID)
}
