package activities

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	"precept/internal/llm"
	"precept/internal/shard"
	"precept/schemas"
)

// In batch mode a task is called again and again. Each time it journals what its batches
// have brought, does its rows from the journal alone, and submits what they lack. Between
// the calls nothing of it runs anywhere; what it has under way stands in its record. Where
// all rows have their answers, the shard is written as in online mode, with the same bytes.

// batchRecord is what a task has under way at providers, stored as batches/<task key>.json.
// Only who holds the task's lease writes it.
type batchRecord struct {
	Open []openBatch `json:"open,omitempty"`
	Done []string    `json:"done,omitempty"` // batches that were read
	// Failures are of requests that got an error in place of an answer, by endpoint.
	Failures map[string]map[schemas.Key]*llm.Failure `json:"failures,omitempty"`
	// GaveUp says that a person was told of them: the next call asks once more.
	GaveUp bool `json:"gave_up,omitempty"`
	Round  int  `json:"round"`
	Fruit  bool `json:"fruit,omitempty"` // the round has brought answers, or doesn't count
	Vain   int  `json:"vain,omitempty"`  // rounds in a row that brought none
}

func (r *batchRecord) fail(endpoint string, key schemas.Key, err error) *llm.Failure {
	if r.Failures == nil {
		r.Failures = map[string]map[schemas.Key]*llm.Failure{}
	}
	if r.Failures[endpoint] == nil {
		r.Failures[endpoint] = map[schemas.Key]*llm.Failure{}
	}
	f := r.Failures[endpoint][key]
	if f == nil {
		f = &llm.Failure{}
		r.Failures[endpoint][key] = f
	}
	f.Add(err)
	return f
}

// openBatch is a batch that is under way, or about to be: the file is uploaded and recorded
// before it is submitted, so that a crash between submitting and recording is found out.
type openBatch struct {
	Endpoint string        `json:"endpoint"`
	Run      schemas.RunID `json:"run"` // that submitted it
	File     string        `json:"file"`
	ID       string        `json:"id,omitempty"` // empty where it may not be submitted
	Limit    int           `json:"limit"`        // most tokens of each answer
	Requests int64         `json:"requests"`
	Answered int64         `json:"answered,omitempty"`
	Begun    time.Time     `json:"begun"`
	// NotBefore is when to submit it, since the provider's queue is full.
	NotBefore time.Time `json:"not_before,omitzero"`
	Cancelled bool      `json:"cancelled,omitempty"` // by its run
	Adopted   bool      `json:"adopted,omitempty"`   // nobody had a record of it
}

// counts reports whether what o didn't answer has been tried.
func (o openBatch) counts() bool { return !o.Cancelled && !o.Adopted }

// The metadata of a batch: by its task it is known again.
const (
	metaTask  = "precept_task"
	metaRun   = "precept_run"
	metaRound = "precept_round"
	metaLimit = "precept_limit"
)

// maxMeta is how long a value of metadata may be.
const maxMeta = 512

// batches is the batches of a task in the hands of its lease's holder.
type batches struct {
	*work
	key    schemas.Key
	etag   string // of the record; empty where there is none
	record batchRecord

	mu       sync.Mutex
	backlogs map[string]*llm.Backlog // by endpoint
}

// pendingError ends a call of a task: the rest comes by batch.
type pendingError struct{ schemas.Pending }

func (e *pendingError) Error() string {
	return fmt.Sprintf("%d of %d requests are answered by batch", e.Answered, e.Requests)
}

// errAwaited is that rows wait for requests that were put into the backlog.
var errAwaited = errors.New("rows wait for answers by batch")

// givenUpError ends a task whose requests got errors as often as they are tried. Temporal
// is not to try it again: each time would take a batch's time.
type givenUpError struct{ error }

func (e *givenUpError) Unwrap() error { return e.error }

// byBatch does a task's rows as do does, with the answers that batches bring.
func byBatch(do func(context.Context, *work) error) func(context.Context, *work) error {
	return func(ctx context.Context, w *work) error {
		b := &batches{work: w, key: w.Outputs[0].Key, backlogs: map[string]*llm.Backlog{}}
		if err := b.load(ctx); err != nil {
			return err
		}
		if err := b.receive(ctx); err != nil || len(b.record.Open) > 0 {
			return b.pending(err)
		}
		w.batch = b
		if w.trip != nil {
			w.trip.usage = b.soFar
		}
		for {
			w.account.again()
			err := do(ctx, w)
			// What the grant lets be asked is; the rest when it is known what that took.
			if !errors.Is(err, errAwaited) && !(errors.Is(err, errGrant) && b.asksAny()) {
				return b.close(ctx, err)
			}
			if !b.inVain() {
				return b.pending(b.submit(ctx))
			}
			b.giveUp()
		}
	}
}

// soFar is what the rows took that a tripwire has counted: their part of what all took,
// since answers come before any row is counted.
func (b *batches) soFar() schemas.Usage {
	u := b.account.took()
	u.USD *= float64(b.trip.ledger.Outcomes()) / float64(max(1, b.Planned))
	return u
}

// pending says what is under way, unless there is an error.
func (b *batches) pending(err error) error {
	if err != nil {
		return err
	}
	var p schemas.Pending
	for _, o := range b.record.Open {
		e, err := b.endpoint(o.Endpoint)
		if err != nil {
			return err
		}
		p.Add(o.pending(e))
	}
	return &pendingError{p}
}

func (o openBatch) pending(e llm.Endpoint) schemas.Pending {
	after := max(e.PollEvery(time.Since(o.Begun)), time.Until(o.NotBefore))
	return schemas.Pending{After: schemas.Duration(after), Requests: o.Requests, Answered: o.Answered}
}

// close ends the task's record: its shard is written, or it has failed.
func (b *batches) close(ctx context.Context, err error) error {
	switch {
	case err == nil && b.etag == "":
		return nil
	case err == nil:
		return b.store.Delete(ctx, schemas.BatchesObject(b.key))
	case b.gaveUp() && llm.IsRequest(err):
		b.record.GaveUp = true
		if saveErr := b.save(ctx); saveErr != nil {
			return saveErr
		}
		return &givenUpError{err}
	}
	return err
}

// asksAny reports whether there is anything to submit.
func (b *batches) asksAny() bool {
	for _, l := range b.backlogs {
		if len(l.Keys()) > 0 {
			return true
		}
	}
	return false
}

func (b *batches) gaveUp() bool {
	for _, l := range b.backlogs {
		if l.GaveUp() {
			return true
		}
	}
	return false
}

// backlog takes the requests of an endpoint.
func (b *batches) backlog(c *llm.Client) *llm.Backlog {
	b.mu.Lock()
	defer b.mu.Unlock()
	name := c.Endpoint().Name
	if b.backlogs[name] == nil {
		b.backlogs[name] = c.NewBacklog(b.record.Failures[name])
	}
	return b.backlogs[name]
}

func (b *batches) load(ctx context.Context) error {
	record, etag, err := b.readBatches(ctx, b.key)
	if err != nil {
		return err
	}
	b.record, b.etag = record, etag
	if b.record.GaveUp && b.mayMiss == 0 {
		// Who resumes wants what failed to be asked again; who goes on without it doesn't.
		b.record.Failures, b.record.Vain, b.record.GaveUp = nil, 0, false
	}
	return nil
}

// readBatches reads a task's record; it is empty where there is none.
func (a *Activities) readBatches(ctx context.Context, task schemas.Key) (record batchRecord, etag string, err error) {
	object := schemas.BatchesObject(task)
	raw, info, err := a.store.Get(ctx, object)
	if schemas.KindOf(err) == schemas.NotFound {
		return record, "", nil
	}
	if err != nil {
		return record, "", err
	}
	if err := json.Unmarshal(raw, &record); err != nil {
		return record, "", schemas.E("read batches", object, schemas.InvalidInput, err)
	}
	return record, info.ETag, nil
}

// save writes the record, unless somebody else has written it meanwhile.
func (b *batches) save(ctx context.Context) error {
	if err := b.guard(); err != nil {
		return err
	}
	object := schemas.BatchesObject(b.key)
	raw, err := schemas.CanonicalJSON(b.record)
	if err != nil {
		return schemas.E("record batches", object, schemas.Internal, err)
	}
	info, err := b.store.Put(ctx, object, append(raw, '\n'), shard.PutOptions{IfMatch: b.etag, IfNoneMatch: b.etag == "", ContentType: "application/json"})
	if err == nil {
		b.etag = info.ETag
	}
	return err
}

// asks is the client by which the task's calls to a provider are made.
func (b *batches) asks(endpoint string) (*llm.Client, error) {
	c, err := b.Activities.client(endpoint)
	if err != nil {
		return nil, err
	}
	b.beat.watch(c)
	return c.Guarded(b.guard).Paying(b.account), nil
}

// receive journals what the batches have brought that have ended.
func (b *batches) receive(ctx context.Context) error {
	if len(b.record.Open) == 0 {
		return nil
	}
	var left []openBatch
	for i := range b.record.Open {
		keep, err := b.look(ctx, &b.record.Open[i])
		if err != nil && keep {
			left = append(left, b.record.Open[i:]...)
		} else if err != nil {
			left = append(left, b.record.Open[i+1:]...)
		} else if keep {
			left = append(left, b.record.Open[i])
		}
		if err != nil {
			b.record.Open = left
			return cmp.Or(b.saveRead(ctx), err)
		}
	}
	b.record.Open = left
	return b.saveRead(ctx)
}

// saveRead saves the record when the answers that it stands for no more are durable.
func (b *batches) saveRead(ctx context.Context) error {
	if err := b.journal.Flush(ctx); err != nil {
		return err
	}
	return b.save(ctx)
}

// look asks how a batch stands, and reads one that has ended. It is kept while it has not.
func (b *batches) look(ctx context.Context, o *openBatch) (keep bool, err error) {
	c, err := b.asks(o.Endpoint)
	if err != nil {
		return true, err
	}
	if o.ID == "" {
		return b.settle(ctx, c, o)
	}
	b.beat.say("looking at batch " + o.ID)
	defer b.beat.say("")
	got, err := c.Batch(ctx, o.ID)
	if schemas.KindOf(err) == schemas.NotFound {
		return true, schemas.E("look at batch", o.ID, schemas.InvalidInput, err).WithHint(
			"It was submitted to endpoint %s at %s: is the key another project's now? To give it up, and pay for its requests once more, remove %s from the store",
			o.Endpoint, o.Begun.Format(time.RFC3339), schemas.BatchesObject(b.key))
	}
	if err != nil {
		return true, err
	}
	o.Requests, o.Answered = max(o.Requests, got.Requests), got.Answered
	if !got.Ended() {
		return true, nil
	}
	if schemas.KindOf(got.Err) == schemas.RateLimited {
		activity.GetLogger(ctx).Info("the provider's queue is full; the batch is submitted again later", "batch", o.ID, "error", got.Err)
		b.record.Done = append(b.record.Done, o.ID)
		o.ID, o.NotBefore = "", time.Now().Add(10*c.Endpoint().PollEvery(0))
		return true, nil
	}
	if got.Err != nil {
		b.record.Done = append(b.record.Done, o.ID)
		return false, got.Err
	}
	return b.read(ctx, c, *o, got)
}

// read journals a batch's answers, and remembers what got none.
func (b *batches) read(ctx context.Context, c *llm.Client, o openBatch, got llm.Batch) (keep bool, err error) {
	b.beat.say("reading batch " + o.ID)
	var took schemas.Usage
	refused, err := c.Fetch(llm.InCategory(ctx, b.Category), got, o.Limit, func(a llm.Answer, m llm.Meta) { took.Add(llm.Count(a, m)) })
	if err != nil {
		return true, err
	}
	b.record.Done = append(b.record.Done, got.ID)
	b.record.Fruit = b.record.Fruit || took.Paid > 0 || !o.counts()
	var account error
	for key, err := range refused {
		switch {
		case llm.IsAccount(err):
			account = err // no request's fault
		case o.counts():
			b.record.fail(o.Endpoint, key, err)
		}
	}
	return false, account
}

// settle finds out whether a batch was submitted whose submission nobody recorded, and
// submits it where it wasn't.
func (b *batches) settle(ctx context.Context, c *llm.Client, o *openBatch) (keep bool, err error) {
	recent, err := c.RecentBatches(ctx, o.Begun.Add(-clocks))
	if err != nil {
		return true, err
	}
	for _, r := range recent {
		if r.File == o.File && !slices.Contains(b.record.Done, r.ID) {
			o.ID = r.ID
			return b.look(ctx, o)
		}
	}
	// What was just submitted may not be listed yet.
	if time.Since(o.Begun) < c.Endpoint().PollEvery(0) || time.Now().Before(o.NotBefore) {
		return true, nil
	}
	o.Begun = time.Now()
	if err := b.save(ctx); err != nil {
		return true, err
	}
	return b.send(ctx, c, o)
}

// clocks is how much the provider's clock may differ from a worker's.
const clocks = time.Hour

// send submits a batch whose file is recorded. One that the provider refuses is kept no
// more: its requests are asked anew.
func (b *batches) send(ctx context.Context, c *llm.Client, o *openBatch) (keep bool, err error) {
	got, err := c.Submit(ctx, o.File, map[string]string{
		metaTask: string(b.key), metaRun: string(b.plan.Run[:min(len(b.plan.Run), maxMeta)]), metaRound: strconv.Itoa(b.record.Round), metaLimit: strconv.Itoa(o.Limit),
	})
	switch {
	case err == nil:
		o.ID, o.Cancelled = got.ID, false
		return true, nil
	case schemas.KindOf(err) == schemas.RateLimited && !llm.IsAccount(err):
		o.NotBefore = time.Now().Add(max(llm.RetryAfter(err), 10*c.Endpoint().PollEvery(0)))
		return true, nil
	}
	return !(schemas.KindOf(err) == schemas.InvalidInput && !llm.IsAccount(err)), err
}

// mostVain is how many rounds in a row may bring nothing.
const mostVain = 4

// inVain counts the rounds that brought nothing, and tells whether they are too many.
func (b *batches) inVain() bool {
	if b.record.Vain++; b.record.Fruit || b.record.Round == 0 {
		b.record.Vain = 0
	}
	return b.record.Vain >= mostVain
}

// giveUp has the rows fail whose requests no batch has brought anything for.
func (b *batches) giveUp() {
	err := schemas.Errorf("ask by batch", b.Title, schemas.Unavailable, "%d rounds in a row brought no answer at all", b.record.Vain)
	for name, l := range b.backlogs {
		for _, key := range l.Keys() {
			b.record.fail(name, key, err).Times = math.MaxInt
		}
	}
	b.record.Vain, b.backlogs = 0, map[string]*llm.Backlog{}
}

// submit has the backlogs answered by batches.
func (b *batches) submit(ctx context.Context) error {
	if adopted, err := b.adoptBatches(ctx); err != nil || adopted {
		return err
	}
	b.record.Round, b.record.Fruit = b.record.Round+1, false
	for _, name := range slices.Sorted(maps.Keys(b.backlogs)) {
		c, err := b.asks(name)
		if err != nil {
			return err
		}
		for _, part := range b.backlogs[name].Parts() {
			if err := b.submitPart(ctx, c, part); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *batches) submitPart(ctx context.Context, c *llm.Client, part llm.Part) error {
	b.beat.say(fmt.Sprintf("submitting a batch of %d requests", part.Requests()))
	defer b.beat.say("")
	file, err := c.Upload(ctx, part)
	if err != nil {
		return err
	}
	o := openBatch{
		Endpoint: c.Endpoint().Name, Run: b.plan.Run, File: file, Limit: part.Limit, Requests: part.Requests(), Begun: time.Now().UTC(),
	}
	b.record.Open = append(b.record.Open, o)
	last := &b.record.Open[len(b.record.Open)-1]
	if err := b.save(ctx); err != nil {
		return err
	}
	keep, err := b.send(ctx, c, last)
	if !keep {
		b.record.Open = b.record.Open[:len(b.record.Open)-1]
	}
	if saveErr := b.save(ctx); saveErr != nil {
		return saveErr
	}
	return err
}

// adoptAge is how old a batch may be to be adopted: it is answered within a day.
const adoptAge = 48 * time.Hour

// adoptBatches takes over batches that carry the task's key and that nobody has a record of:
// it was lost, or is in another store.
func (b *batches) adoptBatches(ctx context.Context) (adopted bool, err error) {
	if b.etag != "" {
		return false, nil
	}
	for _, name := range slices.Sorted(maps.Keys(b.backlogs)) {
		c, err := b.asks(name)
		if err != nil {
			return false, err
		}
		recent, err := b.recentBatches(ctx, c)
		if err != nil {
			return false, err
		}
		for _, r := range recent {
			limit, err := strconv.Atoi(r.Metadata[metaLimit])
			if err != nil || r.Metadata[metaTask] != string(b.key) || r.Err != nil {
				continue
			}
			b.record.Open = append(b.record.Open, openBatch{
				Endpoint: name, Run: schemas.RunID(r.Metadata[metaRun]), File: r.File, ID: r.ID, Limit: limit, Requests: r.Requests, Begun: r.Created.UTC(), Adopted: true,
			})
		}
	}
	if len(b.record.Open) == 0 {
		return false, nil
	}
	return true, b.save(ctx)
}
