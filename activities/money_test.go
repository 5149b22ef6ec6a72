package activities

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"iter"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"precept/internal/llm"
	"precept/internal/shard"
	"precept/schemas"
)

// biller is models without a network that take money: what a question takes follows
// from it, so that no two are alike.
type biller struct {
	*models
	latency time.Duration
	sent    func() // is called when a request comes
	mu      sync.Mutex
	ledger  schemas.Usage
}

func newBiller() *biller {
	p := &biller{models: &models{}, latency: 3 * time.Millisecond}
	p.Server = &httptest.Server{URL: "http://models.test"}
	p.usage = func(q question) llm.Usage {
		h := fnv.New64a()
		fmt.Fprint(h, q)
		n := int64(h.Sum64() >> 40)
		return llm.Usage{PromptTokens: 100 + n%37, CachedTokens: n % 91, CompletionTokens: 20 + n%53}
	}
	return p
}

// endpoint has prices that binary fractions don't hold.
func (p *biller) endpoint(name string) llm.Endpoint {
	e := p.models.endpoint(name)
	e.InputUSD, e.CachedUSD, e.OutputUSD = 0.15, 0.0375, 0.6
	return e
}

// RoundTrip answers as the server would, and bills what is answered.
func (p *biller) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	sent := p.sent
	p.mu.Unlock()
	if sent != nil {
		sent()
	}
	select {
	case <-time.After(p.latency):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	w := httptest.NewRecorder()
	u, ok := p.answer(w, r)
	if ok {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ledger.Paid++
		p.ledger.PromptTokens += u.PromptTokens
		p.ledger.CachedTokens += u.CachedTokens
		p.ledger.CompletionTokens += u.CompletionTokens
	}
	return w.Result(), nil
}

// billed is the provider's ledger; the price of the sums is that of the answers.
func (p *biller) billed() schemas.Usage {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.ledger
	u.USD = schemas.Dollars((float64(u.PromptTokens-u.CachedTokens)*0.15 + float64(u.CachedTokens)*0.0375 + float64(u.CompletionTokens)*0.6) / 1e6)
	return u
}

// bare is what a provider knows of a usage.
func bare(u schemas.Usage) schemas.Usage {
	return schemas.Usage{Paid: u.Paid, PromptTokens: u.PromptTokens, CachedTokens: u.CachedTokens, CompletionTokens: u.CompletionTokens, USD: u.USD}
}

// Whatever is asked, the sum of all tasks' usage is the provider's ledger, and so is that
// by category: replies that are asked for once more, and equal requests included.
func TestTheAccountIsTheProvidersLedger(t *testing.T) {
	t.Parallel()
	p := newBiller()
	p.says(func(q question) *reply {
		switch {
		case q.Model == "judge" && q.Seed%7 == 0:
			return &reply{text: "I like it."}
		case q.Model == "teacher":
			return thought(q.policy(), "The same to all.") // equal requests to the judge
		}
		return nil
	})
	spec := imported(t, fivePrompts()...)
	spec.Synthesize.Samples = 4
	w := newWorld(t, spec, options{biller: p}).stages(schemas.StagePrompts)
	var sum schemas.Usage
	var costs schemas.Costs
	for _, stage := range []schemas.Stage{schemas.StageSynthesize, schemas.StageFilter} {
		for _, r := range w.stage(stage) {
			sum.Add(r.Usage)
			costs.AddAll(r.Costs)
		}
	}
	if d := cmp.Diff(p.billed(), bare(sum)); d != "" || sum.Unanswered != 0 || sum.Cached == 0 {
		t.Errorf("the ledger (-) and the account (+), %+v:\n%s", sum, d)
	}
	var total schemas.Cost
	for _, c := range costs {
		total = total.Plus(c)
	}
	if len(costs) != 2 || total != sum.Cost() {
		t.Errorf("by category: %v, in all %v of %v", costs, total, sum.Cost())
	}
	m := w.closed(schemas.StageFilter)
	if m.Usage != w.sums[2].Usage || len(m.Costs) != 2 {
		t.Errorf("the manifest has %+v, %v", m.Usage, m.Costs)
	}
	t.Logf("%d calls, %d prompt, %d cached, %d completion tokens, $%v", sum.Paid, sum.PromptTokens, sum.CachedTokens, sum.CompletionTokens, sum.USD)
}

// mortal is the store of one worker: what is dead changes and learns nothing any more.
type mortal struct {
	shard.Store
	dead atomic.Bool
}

func (m *mortal) alive(key string) error {
	if m.dead.Load() {
		return schemas.Errorf("reach the store", key, schemas.Unavailable, "the worker is dead")
	}
	return nil
}

func (m *mortal) Get(ctx context.Context, key string) ([]byte, shard.Info, error) {
	if err := m.alive(key); err != nil {
		return nil, shard.Info{}, err
	}
	return m.Store.Get(ctx, key)
}

func (m *mortal) Put(ctx context.Context, key string, body []byte, o shard.PutOptions) (shard.Info, error) {
	if err := m.alive(key); err != nil {
		return shard.Info{}, err
	}
	return m.Store.Put(ctx, key, body, o)
}

func (m *mortal) ListAfter(ctx context.Context, prefix, after string) iter.Seq2[shard.Info, error] {
	if err := m.alive(prefix); err != nil {
		return func(yield func(shard.Info, error) bool) { yield(shard.Info{}, err) }
	}
	return m.Store.ListAfter(ctx, prefix, after)
}

// killed does a task with workers that are killed after so many requests, until one ends,
// and returns what that told and how many died.
func killed(t *testing.T, p *biller, store shard.Store, stage schemas.Stage, before *world, draw *rand.Rand, kills int) (schemas.TaskResult, *world, int) {
	plan := before.plans(stage)
	died := 0
	for n := 0; n < 3*kills; n++ {
		m := &mortal{Store: store}
		w := newWorld(t, before.spec, options{biller: p, store: m, holder: fmt.Sprint("worker-", n), mortal: true, flush: 5 * time.Millisecond})
		w.inputs, w.sums, w.ttl = before.inputs, before.sums, 400*time.Millisecond
		stop := make(chan struct{})
		w.env.SetWorkerStopChannel(stop)
		var left atomic.Int64
		left.Store(8 + draw.Int64N(12))
		p.mu.Lock()
		p.sent = func() {
			if left.Add(-1) == 0 && died < kills {
				m.dead.Store(true)
				close(stop)
			}
		}
		p.mu.Unlock()
		r, err := w.does(stage, plan, 0)
		if err == nil {
			return r, w, died
		}
		if m.dead.Load() {
			died++
		}
	}
	t.Fatalf("the task did not end after %d kills", died)
	panic("unreachable")
}

// However often workers are killed, what is told is what was journaled, and the biller's
// ledger is no more than that and what is told to be unaccounted.
func TestKillsLeaveTheAccountExact(t *testing.T) {
	t.Parallel()
	for stage, kills := range map[schemas.Stage]int{schemas.StageSynthesize: 20, schemas.StageFilter: 5} {
		t.Run(string(stage), func(t *testing.T) {
			t.Parallel()
			draw := rand.New(rand.NewPCG(1, 2))
			p, store := newBiller(), shard.NewMemory()
			spec := imported(t)
			spec.Prompts.Imports[0].Path = filepath.Join(write(t, map[string]string{"p.jsonl": numbered(t, 1500)}), "p.jsonl")
			spec.Synthesize.Samples, spec.Filter.Votes = 1, 1
			before := newWorld(t, spec, options{biller: p, store: store}).stages(schemas.StagePrompts)
			if stage == schemas.StageFilter {
				before.stage(schemas.StageSynthesize)
			}
			before.flush()
			p.ledger = schemas.Usage{}
			r, last, died := killed(t, p, store, stage, before, draw, kills)
			last.flush()

			journaled := schemas.Usage{}
			token := schemas.Payer("run", stage, time.Time{}, last.plan1(t, stage).Outputs[0].Key)
			for _, a := range last.answers(t, stage) {
				if a.Payer == token {
					journaled.Add(llm.Count(a, llm.Meta{USD: a.USD}))
				}
			}
			journaled.Seconds = 0
			u, ledger := r.Usage, p.billed()
			if d := cmp.Diff(journaled, bare(u)); d != "" {
				t.Errorf("the journal (-) and the account (+):\n%s", d)
			}
			if died != kills || ledger.Paid <= u.Paid {
				t.Errorf("%d workers died, and %d answers of %d were lost", died, ledger.Paid-u.Paid, ledger.Paid)
			}
			if ledger.Paid > u.Paid+u.Unanswered || ledger.USD > schemas.Dollars(u.USD+u.UnansweredUSD) || ledger.Cost().Tokens > u.AtMost().Tokens {
				t.Errorf("the ledger has %+v, the account %+v", ledger, u)
			}
			if u.Unanswered > int64(kills)*50 {
				t.Errorf("%d calls are unaccounted after %d kills", u.Unanswered, kills)
			}
			t.Logf("%d kills: the ledger has %d calls for $%v; told are %d for $%v, at most %d more for at most $%v", died,
				ledger.Paid, ledger.USD, u.Paid, u.USD, u.Unanswered, u.UnansweredUSD)
		})
	}
}

// A task stops within its grant, and goes on with a larger one.
func TestATaskStopsAtItsGrant(t *testing.T) {
	t.Parallel()
	p := newBiller()
	spec := imported(t)
	spec.Prompts.Imports[0].Path = filepath.Join(write(t, map[string]string{"p.jsonl": numbered(t, 300)}), "p.jsonl")
	spec.Synthesize.Samples = 1
	w := newWorld(t, spec, options{biller: p}).stages(schemas.StagePrompts)
	plan := w.plans(schemas.StageSynthesize)
	var last schemas.Usage
	calls := 0
	for grant := 0.001; ; grant += 0.002 {
		calls++
		r, err := call[schemas.TaskResult](w, w.Synthesize, TaskRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan, Grant: &schemas.Cost{USD: grant}})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(p.billed(), bare(r.Usage)); d != "" || r.Usage.Unanswered != 0 {
			t.Fatalf("the ledger (-) and the account (+):\n%s", d)
		}
		if r.Usage.USD > grant || r.Usage.Paid <= last.Paid && r.Unfinished != nil && grant > 0.002 {
			t.Errorf("with a grant of $%v it took %+v, and %+v before", grant, r.Usage, last)
		}
		last = r.Usage
		if r.Unfinished == nil {
			if r.Ledger.Outcomes() != 300 || r.Usage.Paid != 300 {
				t.Errorf("it ended with %+v", r)
			}
			break
		}
		if !r.Unfinished.Grant || r.Ledger.Outcomes() != 0 {
			t.Errorf("it returned with %+v", r)
		}
		// What it needs is more than it had, by one call.
		if needs := r.Unfinished.Needs; needs.USD <= grant || needs.USD > grant+0.002 || needs.Tokens <= r.Usage.Cost().Tokens {
			t.Errorf("with a grant of $%v it says it needs %+v", grant, needs)
		}
	}
	if calls < 3 {
		t.Errorf("%d calls did it all", calls)
	}
}

// What a request took that got no answer is told apart, and so is what no reply tells.
func TestRequestsWithoutAnAnswerAreToldApart(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		say        *reply
		unanswered int64
	}{
		{"an error is not billed", &reply{status: 500, text: "down"}, 0},
		{"too many are not billed", &reply{status: 429, text: "slow down"}, 0},
		{"a gateway doesn't know", &reply{status: 504, text: "timeout"}, 2},
		{"what can't be read may be", &reply{status: 200, text: "what"}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newBiller()
			p.says(func(question) *reply { return tt.say })
			w := newWorld(t, imported(t, fivePrompts()[0]), options{biller: p, tries: 1}).stages(schemas.StagePrompts)
			_, err := w.does(schemas.StageSynthesize, w.plans(schemas.StageSynthesize), 0)
			var told schemas.TaskFailure
			if failure(t, err).Details(&told) != nil || told.Usage.Unanswered != tt.unanswered || told.Usage.Paid != 0 || (told.Usage.UnansweredUSD > 0) != (tt.unanswered > 0) {
				t.Errorf("told %+v", told.Usage)
			}
		})
	}
}

// What a task has spent is told although it died between its shard and its end.
func TestWhatWasSpentIsFoundWithTheShard(t *testing.T) {
	t.Parallel()
	w := newWorld(t, imported(t, fivePrompts()[:1]...), options{}).stages(schemas.StagePrompts)
	plan, started := w.plans(schemas.StageSynthesize), time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	do := func(started time.Time) schemas.TaskResult {
		r, err := call[schemas.TaskResult](w, w.Synthesize, TaskRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan, Started: started})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first, again, other := do(started), do(started), do(started.Add(time.Hour))
	if !again.Found || bare(again.Usage) != bare(first.Usage) || first.Usage.Paid != 2 {
		t.Errorf("first %+v, found %+v", first.Usage, again.Usage)
	}
	if other.Usage != (schemas.Usage{}) {
		t.Errorf("another execution of the stage has taken %+v", other.Usage)
	}
	spent, err := call[map[schemas.Stage]schemas.Usage](w, w.Spent, w.run)
	if err != nil || bare(spent[schemas.StageSynthesize]) != bare(first.Usage) {
		t.Errorf("spent so far: %+v, %v", spent, err)
	}
	if n := len(objects(t, w.store, "runs/run/spent/synthesize/20260102T030405.000000006Z/")); n != 1 {
		t.Errorf("%d records", n)
	}
	if strings.Contains(fmt.Sprint(objects(t, w.store, "shards/")), "payer") {
		t.Error("a shard tells who paid")
	}
}

// By batch no more is submitted than the grant could pay for; what that took is known before
// more is.
func TestABatchStaysWithinItsGrant(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	w, plan := synthesizing(t, byBatchSpec(t, fivePrompts()...), options{models: p.models})
	do := func(grant float64) (r schemas.TaskResult) {
		t.Helper()
		for range 100 {
			var err error
			r, err = call[schemas.TaskResult](w, w.Synthesize, TaskRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan, Grant: &schemas.Cost{USD: grant}})
			if err != nil {
				t.Fatal(err)
			}
			if r.Unfinished == nil || r.Unfinished.Pending == nil {
				return r
			}
		}
		t.Fatalf("it waits for ever: %+v", r)
		return r
	}
	// One request can cost some thousandth of a dollar, and costs 20 millionths.
	if r := do(1e-6); r.Unfinished == nil || !r.Unfinished.Grant || r.Usage.Paid != 0 || len(p.models.take()) != 0 {
		t.Errorf("with no grant to speak of: %+v", r)
	}
	if r := do(0.003); r.Unfinished != nil || r.Usage.Paid != 4 || r.Usage.USD > 0.003 || len(p.models.take()) != 4 {
		t.Errorf("with a grant for one request at a time: %+v", r)
	}
	if n, most := p.submitted(); n < 3 || most != 1 {
		t.Errorf("%d batches, a request was in %d", n, most)
	}
}

// What a run has left that was killed is recorded for it by the run that takes its task over.
func TestAnotherRunTakesATaskOver(t *testing.T) {
	t.Parallel()
	p, store := newBiller(), shard.NewMemory()
	first := newWorld(t, imported(t, fivePrompts()...), options{biller: p, store: store}).stages(schemas.StagePrompts)
	plan := first.plans(schemas.StageSynthesize)
	m := &mortal{Store: store}
	dying := newWorld(t, first.spec, options{biller: p, store: m, holder: "dying", mortal: true})
	dying.inputs, dying.sums, dying.ttl = first.inputs, first.sums, 200*time.Millisecond
	stop := make(chan struct{})
	dying.env.SetWorkerStopChannel(stop)
	var once sync.Once
	p.mu.Lock()
	p.sent = func() { once.Do(func() { m.dead.Store(true); close(stop) }) }
	p.mu.Unlock()
	if _, err := dying.does(schemas.StageSynthesize, plan, 0); err == nil {
		t.Fatal("it lives")
	}
	lost := p.billed()

	other := newWorld(t, first.spec, options{biller: p, store: store, run: "other"})
	other.ttl = 200 * time.Millisecond
	other.stages(schemas.StagePrompts)
	r, err := other.does(schemas.StageSynthesize, other.plans(schemas.StageSynthesize), 0)
	if err != nil || r.Usage.Unanswered != 0 || r.Usage.Paid == 0 {
		t.Fatalf("the other run: %+v, %v", r.Usage, err)
	}
	r, err = first.does(schemas.StageSynthesize, plan, 0)
	if err != nil || !r.Found || r.Usage.Paid != 0 || r.Usage.Unanswered < lost.Paid || r.Usage.UnansweredUSD < lost.USD {
		t.Errorf("the first run: %+v, %v; lost was %+v", r, err, lost)
	}
}

// plan1 is the first task of a stage's plan.
func (w *world) plan1(t *testing.T, stage schemas.Stage) schemas.Task {
	t.Helper()
	var plan schemas.Plan
	if err := shard.GetJSON(t.Context(), w.store, schemas.PlanObject(w.run, stage), &plan); err != nil {
		t.Fatal(err)
	}
	return plan.Tasks[0]
}

// answers are those in the journal to the requests of a stage's rows.
func (w *world) answers(t *testing.T, stage schemas.Stage) (answers []llm.Answer) {
	t.Helper()
	keys := map[schemas.Key]bool{}
	key := w.plan1(t, stage).Outputs[0].Key
	ref, _, ok, err := shard.FindOutput(t.Context(), w.store, w.run, stage, key)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if stage == schemas.StageSynthesize {
		rows, err := shard.Read[schemas.Completion](t.Context(), w.store, ref)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			keys[r.Request] = true
		}
	} else {
		rows, err := shard.Read[schemas.Verdict](t.Context(), w.store, ref)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			for _, v := range r.Votes {
				keys[v.Request] = true
			}
		}
	}
	journal := shard.OpenJournal(w.store, shard.JournalOptions{CompactEvery: -1})
	defer journal.Close(t.Context())
	for k := range keys {
		raw, ok, err := journal.Lookup(t.Context(), k)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		var a llm.Answer
		if err := json.Unmarshal(raw, &a); err != nil {
			t.Fatal(err)
		}
		answers = append(answers, a)
	}
	return answers
}

// The report of a run that ends in the middle of a stage tells what tasks have recorded of it
// that could not tell the workflow; another execution's records are not that.
func TestTheReportOfACutOffStage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, imported(t, fivePrompts()...), options{}).stages(schemas.StagePrompts)
	started := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	plan := w.plans(schemas.StageSynthesize)
	var took schemas.Usage
	var costs schemas.Costs
	for i, at := range []time.Time{started.Add(-time.Hour), started} {
		r, err := call[schemas.TaskResult](w, w.Synthesize, TaskRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan, Index: i, Started: at})
		if err != nil {
			t.Fatal(err)
		}
		took, costs = r.Usage, r.Costs
	}
	if took.Paid == 0 {
		t.Fatal("the second task has paid nothing")
	}
	for _, tt := range []struct {
		name string
		told schemas.Usage
		want schemas.Usage
	}{
		{"not told", schemas.Usage{Cached: 3}, took},
		{"told, with what has no record", schemas.Usage{Paid: took.Paid + 1, Cached: 3}, schemas.Usage{Paid: took.Paid + 1}},
	} {
		open := schemas.StageProgress{Stage: schemas.StageSynthesize, Tasks: 2, Done: 1, Usage: tt.told}
		got, err := call[schemas.RunReport](w, w.Report, ReportRequest{
			Run: w.run, Spec: w.spec, Inputs: w.inputs, Sums: w.sums, State: schemas.StateCancelled,
			Open: &open, Started: started, Spent: map[schemas.Stage]schemas.Usage{schemas.StageFilter: {Paid: 2, USD: 1.5}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(bare(tt.want), bare(got.Open.Usage)); d != "" || got.Open.Usage.Cached != 3 {
			t.Errorf("%s: (- want, + got) %d from the cache\n%s", tt.name, got.Open.Usage.Cached, d)
		}
		if d := cmp.Diff(costs, got.Open.Costs); tt.want == took && d != "" {
			t.Errorf("%s: costs by category (- want, + got)\n%s", tt.name, d)
		}
		page := objects(t, w.store, got.HTML)[got.HTML]
		for _, want := range []string{"synthesize <span class=\"chip\">not ended", "filter <span class=\"chip\">before", "$1.50"} {
			if !strings.Contains(page, want) {
				t.Errorf("%s: the page doesn't show %q", tt.name, want)
			}
		}
	}
}
