package activities

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"time"

	"precept/internal/shard"
	"precept/schemas"
)

// note is what the task's lease tells: its balance, once that is known.
func (w *work) note() json.RawMessage {
	b, ok := w.account.balance()
	if !ok {
		return nil
	}
	b.Task, b.Record = w.Title, w.record
	raw, err := json.Marshal(b)
	if err != nil {
		panic(err) // numbers and strings
	}
	return raw
}

// renew has the lease tell the balance. It fails with Conflict where the lease is lost,
// or too old for anything to be sent.
func (w *work) renew(ctx context.Context) error {
	err := w.lease.Renew(ctx)
	if stale := w.lease.Check(); err != nil && stale != nil {
		return stale
	}
	return err
}

// recall takes what the task has spent from its record, where its outputs are there: it
// wrote them and died before it could tell.
func (w *work) recall(ctx context.Context) error {
	spent, err := w.recorded(ctx, w.record)
	if err == nil {
		w.account.begin(spent, schemas.Cost{})
	}
	return err
}

func (w *work) recorded(ctx context.Context, object string) (spent schemas.Spent, err error) {
	err = shard.GetJSON(ctx, w.store, object, &spent)
	if schemas.KindOf(err) == schemas.NotFound {
		return schemas.Spent{}, nil
	}
	return spent, err
}

// keep records what the task has spent, if it has, and still has its lease.
func (w *work) keep(ctx context.Context) error {
	b, open := w.account.balance()
	if !open || b.Usage.Paid == 0 && b.Usage.Unanswered == 0 {
		return nil
	}
	if err := w.lease.Check(); err != nil {
		return err
	}
	b.Task = w.Title
	b.Usage.Unanswered += b.Open.Calls
	b.Usage.UnansweredUSD = schemas.Dollars(b.Usage.UnansweredUSD + b.Open.Cost.USD)
	b.Usage.UnansweredTokens += b.Open.Cost.Tokens
	return shard.PutJSON(ctx, w.store, w.record, b.Spent, shard.PutOptions{})
}

// begin finds out what earlier attempts have spent. Where the last one released its lease,
// that tells exactly. Where it was killed, the journal tells what was answered, and the
// lease bounds the rest.
func (w *work) begin(ctx context.Context) error {
	b, ok := readBalance(w.lease.Told())
	if !ok || b.Payer != w.account.token {
		return w.inherit(ctx)
	}
	spent := b.Spent
	// What batches bring is not reserved beforehand.
	if b.Open.Calls > 0 || !b.Settled && w.spec.ByBatch(w.stage) {
		if err := w.count(ctx, &spent); err != nil {
			return err
		}
		spent = b.counted(spent)
	}
	w.account.begin(spent, b.Most)
	return nil
}

// inherit begins with what is recorded. Where another run has had the lease before, and
// has lost it for good, what it has left is recorded for it.
func (w *work) inherit(ctx context.Context) error {
	b, ok := readBalance(w.lease.Told())
	if ok && b.Payer != w.account.token && b.Open.Calls > 0 {
		if err := shard.PutJSON(ctx, w.store, b.Record, b.counted(b.Spent), shard.PutOptions{}); err != nil {
			return err
		}
	}
	return w.recall(ctx)
}

// count counts which answers of the journal the task has paid for: it is done once more
// without sending anything, and without keeping what it writes. What training has asked
// can't be asked again so: there, what its lease told last stands.
func (w *work) count(ctx context.Context, spent *schemas.Spent) error {
	do := doer(w.stage)
	if do == nil {
		return nil
	}
	w.beat.say("counting what was paid for")
	defer w.beat.say("")
	past := New(w.config, shard.NewOverlay(w.store), w.journal, w.holder)
	past.offline = true
	again := &work{
		Activities: past, plan: w.plan, spec: w.spec, stage: w.stage, Task: w.Task,
		account: newAccount(w.account.token), beat: w.beat, mayMiss: math.MaxInt64, retry: w.retry,
	}
	again.account.counting = true
	if err := do(ctx, again); err != nil {
		return err
	}
	spent.Usage, spent.Costs = again.account.spent()
	return nil
}

// Spent is what was spent under a run's ID so far, by stage.
func (a *Activities) Spent(ctx context.Context, run schemas.RunID) (map[schemas.Stage]schemas.Usage, error) {
	beat := startBeat(ctx)
	defer beat.stop()
	spent, err := a.spent(ctx, run)
	return spent, fail(err)
}

func (a *Activities) spent(ctx context.Context, run schemas.RunID) (map[schemas.Stage]schemas.Usage, error) {
	spent := map[schemas.Stage]schemas.Usage{}
	for _, stage := range schemas.Stages {
		if !stage.Pays() {
			continue
		}
		all, err := a.spendings(ctx, run, stage, time.Time{})
		if err != nil {
			return nil, err
		}
		var sum schemas.Usage
		for _, s := range all {
			sum.Add(s.Usage)
		}
		if sum != (schemas.Usage{}) {
			spent[stage] = sum
		}
	}
	return spent, nil
}

// unclosed is the stage in which a run ends, with what its tasks have taken. One that was cut
// off could not tell the workflow, but has recorded it.
func (a *Activities) unclosed(ctx context.Context, req ReportRequest) (*schemas.StageProgress, error) {
	if req.Open == nil || !req.Open.Stage.Pays() {
		return req.Open, nil
	}
	all, err := a.spendings(ctx, req.Run, req.Open.Stage, time.Time{})
	if err != nil {
		return nil, err
	}
	open := *req.Open
	for _, s := range all {
		told := open.Usage
		if !s.Started.Equal(req.Started) || s.Usage.Paid+s.Usage.Unanswered <= told.Paid+told.Unanswered {
			continue
		}
		open.Usage = s.Usage
		open.Usage.Cached = told.Cached // a task that paid nothing has no record
		if req.Inputs.Categories <= schemas.CarriedCategories {
			open.Costs = s.Costs
		}
	}
	return &open, nil
}

// spendings is what the executions of a run's stage took, but for one: those in its
// manifest, and those that came to none, of which the records of their tasks tell.
func (a *Activities) spendings(ctx context.Context, run schemas.RunID, stage schemas.Stage, but time.Time) (all []schemas.Spending, err error) {
	var m schemas.Manifest
	err = shard.GetJSON(ctx, a.store, schemas.ManifestObject(run, stage), &m)
	if err != nil && schemas.KindOf(err) != schemas.NotFound {
		return nil, err
	}
	all = slices.DeleteFunc(m.Spent, func(s schemas.Spending) bool { return s.Started.Equal(but) })
	known := len(all)
	for info, err := range a.store.List(ctx, schemas.SpentPrefix(run, stage)) {
		if err != nil {
			return nil, err
		}
		started, err := schemas.SpentStarted(info.Key)
		if err != nil {
			return nil, schemas.E("read what was spent", info.Key, schemas.Internal, err)
		}
		at := slices.IndexFunc(all, func(s schemas.Spending) bool { return s.Started.Equal(started) })
		if started.Equal(but) || at >= 0 && at < known {
			continue
		}
		if at < 0 {
			at, all = len(all), append(all, schemas.Spending{Started: started, Finished: started})
		}
		var spent schemas.Spent
		if err := shard.GetJSON(ctx, a.store, info.Key, &spent); err != nil {
			return nil, err
		}
		all[at].Usage.Add(spent.Usage)
		all[at].Costs.AddAll(spent.Costs)
		if info.Modified.After(all[at].Finished) {
			all[at].Finished = info.Modified
		}
	}
	return all, nil
}
