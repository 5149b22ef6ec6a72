package activities

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.temporal.io/sdk/temporal"

	"precept/internal/shard"
	"precept/schemas"
)

// provider is the Batch API of models. Its batches end when they are looked at, unless a
// test holds them.
type provider struct {
	models *models

	mu      sync.Mutex
	files   map[string][]byte
	batches []*providerBatch
	lines   map[string]int // how often each request was submitted
	held    bool
	// late says which requests expire; n counts how often they were submitted.
	late   func(customID string, n int) bool
	silent bool // expired requests stand in no file
	// status is that of submitting, after taking the batch where it is a 5xx.
	status int
	queue  int // batches that fail, since the queue is full
}

type providerBatch struct {
	ID       string            `json:"id"`
	Input    string            `json:"input_file_id"`
	Status   string            `json:"status"`
	Output   string            `json:"output_file_id,omitempty"`
	Refused  string            `json:"error_file_id,omitempty"`
	Created  int64             `json:"created_at"`
	Metadata map[string]string `json:"metadata"`
	Errors   any               `json:"errors,omitempty"`
	Counts   struct {
		Total int `json:"total"`
	} `json:"request_counts"`
}

func newProvider(t *testing.T) *provider {
	m := newModels(t)
	m.batch = &provider{models: m, files: map[string][]byte{}, lines: map[string]int{}}
	return m.batch
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := ""
	if parts := strings.Split(r.URL.Path, "/"); len(parts) > 3 {
		id = parts[3]
	}
	write := func(v any) {
		if err := json.NewEncoder(w).Encode(v); err != nil {
			panic(err)
		}
	}
	switch call := r.Method + " " + strings.Split(r.URL.Path, "/")[2]; {
	case call == "POST files":
		f, _, err := r.FormFile("file")
		if err != nil {
			panic(err)
		}
		raw, err := io.ReadAll(f)
		if err != nil {
			panic(err)
		}
		write(map[string]string{"id": p.store(raw)})
	case call == "GET files":
		w.Write(p.files[id])
	case call == "POST batches" && id == "":
		if p.status != 0 && p.status < 500 {
			http.Error(w, `{"error":{"message":"no","code":"no"}}`, p.status)
			return
		}
		b := &providerBatch{ID: fmt.Sprintf("batch-%d", len(p.batches)+1), Created: time.Now().Unix()}
		if err := json.NewDecoder(r.Body).Decode(b); err != nil {
			panic(err)
		}
		b.Status = "in_progress"
		b.Counts.Total = bytes.Count(p.files[b.Input], []byte("\n"))
		p.batches = append(p.batches, b)
		if p.queue > 0 {
			p.queue--
			b.Status, b.Errors = "failed", map[string]any{"data": []map[string]string{{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}}}
		}
		if p.status != 0 {
			http.Error(w, "lost", p.status)
			return
		}
		write(b)
	case call == "POST batches":
		b := p.find(id)
		b.Status = "cancelled"
		write(b)
	case call == "GET batches" && id == "":
		page := slices.Clone(p.batches)
		slices.Reverse(page)
		write(map[string]any{"data": page})
	default:
		if b := p.find(id); b != nil {
			write(b)
			return
		}
		http.Error(w, `{"error":{"message":"no such batch"}}`, http.StatusNotFound)
	}
	if !p.held {
		for _, b := range p.batches {
			p.end(b)
		}
	}
}

func (p *provider) store(content []byte) string {
	id := fmt.Sprintf("file-%d", len(p.files)+1)
	p.files[id] = content
	return id
}

func (p *provider) find(id string) *providerBatch {
	for _, b := range p.batches {
		if b.ID == id {
			return b
		}
	}
	return nil
}

// end answers a batch as the models answer online.
func (p *provider) end(b *providerBatch) {
	if b.Status != "in_progress" {
		return
	}
	b.Status = "completed"
	var output, refused bytes.Buffer
	for raw := range bytes.Lines(p.files[b.Input]) {
		var line struct {
			CustomID string          `json:"custom_id"`
			Body     json.RawMessage `json:"body"`
		}
		if err := json.Unmarshal(raw, &line); err != nil {
			panic(err)
		}
		n := p.lines[line.CustomID]
		p.lines[line.CustomID]++
		if p.late != nil && p.late(line.CustomID, n) {
			b.Status = "expired"
			if p.silent {
				continue
			}
			fmt.Fprintf(&refused, `{"custom_id":%q,"response":null,"error":{"code":"batch_expired","message":"too late"}}`+"\n", line.CustomID)
			continue
		}
		got := httptest.NewRecorder()
		p.models.answer(got, httptest.NewRequest(http.MethodPost, "/v1/chat/completions", bytes.NewReader(line.Body)))
		to := &output
		if got.Code != http.StatusOK {
			to = &refused
		}
		fmt.Fprintf(to, `{"custom_id":%q,"response":{"status_code":%d,"body":%s},"error":null}`+"\n", line.CustomID, got.Code, got.Body)
	}
	if output.Len() > 0 {
		b.Output = p.store(output.Bytes())
	}
	if refused.Len() > 0 {
		b.Refused = p.store(refused.Bytes())
	}
}

// set changes how the provider behaves.
func (p *provider) set(change func(*provider)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

// submitted is how many batches were submitted, and the most often that a request was.
func (p *provider) submitted() (batches, most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := range maps.Values(p.lines) {
		most = max(most, n)
	}
	return len(p.batches), most
}

func byBatchSpec(t *testing.T, prompts ...prompt) schemas.RunSpec {
	s := imported(t, prompts...)
	s.Mode = schemas.ModeBatch
	return s
}

// until calls a task until it is finished or fails.
func (w *world) until(stage schemas.Stage, plan schemas.PlanRef, index int) (result schemas.TaskResult, calls int, err error) {
	w.t.Helper()
	for calls = 1; w.t.Context().Err() == nil && calls < 10_000; calls++ {
		result, err = w.does(stage, plan, index)
		if err != nil || result.Unfinished == nil {
			return result, calls, err
		}
		if p := result.Unfinished.Pending; p == nil || p.Requests == 0 || p.After <= 0 {
			w.t.Fatalf("it waits for %+v", result.Unfinished)
		}
	}
	w.t.Fatalf("the task was called %d times and is not finished: %+v", calls, result.Unfinished.Pending)
	return
}

// synthesizing is a world whose first task of synthesize is to be done.
func synthesizing(t *testing.T, spec schemas.RunSpec, o options) (*world, schemas.PlanRef) {
	t.Helper()
	w := newWorld(t, spec, o).stages(schemas.StagePrompts)
	return w, w.plans(schemas.StageSynthesize)
}

// filtering is a world whose only task of filter is to be done.
func filtering(t *testing.T, spec schemas.RunSpec, o options) (*world, schemas.PlanRef) {
	t.Helper()
	w, plan := synthesizing(t, spec, o)
	if _, _, err := w.until(schemas.StageSynthesize, plan, 0); err != nil {
		t.Fatal(err)
	}
	sum, err := call[schemas.StageSum](w, w.Manifest, ManifestRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan})
	if err != nil {
		t.Fatal(err)
	}
	w.sums = append(w.sums, sum)
	return w, w.plans(schemas.StageFilter)
}

// The mode is in no key and in no byte of a shard, and each request costs half.
func TestBatchModeWritesTheSameShards(t *testing.T) {
	online := newWorld(t, imported(t, fivePrompts()...), options{})
	online.stages(dataStages...)

	p := newProvider(t)
	batch := newWorld(t, byBatchSpec(t, fivePrompts()...), options{models: p.models})
	batch.imports()
	for _, stage := range dataStages {
		plan := batch.plans(stage)
		var usage schemas.Usage
		for i := range plan.Tasks {
			r, _, err := batch.until(stage, plan, i)
			if err != nil {
				t.Fatal(err)
			}
			usage.Add(r.Usage)
		}
		sum, err := call[schemas.StageSum](batch, batch.Manifest, ManifestRequest{Run: batch.run, Stage: stage, Plan: plan, Usage: usage})
		if err != nil {
			t.Fatal(err)
		}
		batch.sums = append(batch.sums, sum)
		want := online.closed(stage).Usage
		want.USD, want.Seconds, usage.Seconds = want.USD/2, 0, 0
		if d := cmp.Diff(want, usage); d != "" {
			t.Errorf("%s took (- half of online, + by batch):\n%s", stage, d)
		}
	}
	if d := cmp.Diff(objects(t, online.store, "shards/"), objects(t, batch.store, "shards/")); d != "" {
		t.Errorf("shards (- online, + batch):\n%s", d)
	}
	// Two categories; the teacher's samples, and three rounds of votes.
	if n, most := p.submitted(); n != 2*(1+3) || most != 1 {
		t.Errorf("%d batches, a request was in %d", n, most)
	}
	if left := objects(t, batch.store, "batches/"); len(left) != 0 {
		t.Errorf("records are left: %v", left)
	}
}

func TestExpiredRequestsAreSubmittedAgain(t *testing.T) {
	p := newProvider(t)
	p.late = func(id string, n int) bool { return n == 0 && id < "8" }
	w, plan := synthesizing(t, byBatchSpec(t, fivePrompts()...), options{models: p.models})
	r, _, err := w.until(schemas.StageSynthesize, plan, 0)
	if err != nil {
		t.Fatal(err)
	}
	asked := p.models.calls()["teacher"]
	if r.Ledger.Kept != r.Ledger.Planned || int64(asked) != r.Usage.Paid || r.Usage.Cached != 0 {
		t.Errorf("%v with %d requests, usage %+v", r.Ledger, asked, r.Usage)
	}
	for id, n := range p.lines {
		if want := map[bool]int{true: 2, false: 1}[id < "8"]; n != want {
			t.Errorf("request %s was submitted %d times", id, n)
		}
	}
}

// A crash after submitting a batch and before recording it: the batch is found by the file
// that was recorded before.
func TestASubmittedBatchIsAdopted(t *testing.T) {
	crash := map[string]func(p *provider, s *brokenStore) (mend func()){
		"the reply is lost": func(p *provider, _ *brokenStore) func() {
			p.status = http.StatusBadGateway
			return func() { p.set(func(p *provider) { p.status = 0 }) }
		},
		"the record is not written": func(p *provider, s *brokenStore) func() {
			s.refuses(func(key string) bool {
				n, _ := p.submitted()
				return strings.HasPrefix(key, "batches/") && n > 0
			})
			return func() { s.refuses(nil) }
		},
	}
	for name, break_ := range crash {
		t.Run(name, func(t *testing.T) {
			p, store := newProvider(t), &brokenStore{Store: shard.NewMemory()}
			w, plan := synthesizing(t, byBatchSpec(t, fivePrompts()...), options{models: p.models, store: store, tries: 1})
			mend := break_(p, store)
			if _, err := w.does(schemas.StageSynthesize, plan, 0); failure(t, err).NonRetryable() {
				t.Fatalf("got %v, want an error that is retried", err)
			}
			mend()
			other := newWorld(t, w.spec, options{models: p.models, store: store, holder: "another"})
			other.inputs, other.sums = w.inputs, w.sums
			r, _, err := other.until(schemas.StageSynthesize, plan, 0)
			if err != nil {
				t.Fatal(err)
			}
			if n, most := p.submitted(); n != 1 || most != 1 || r.Ledger.Kept != r.Ledger.Planned {
				t.Errorf("%d batches, a request was in %d: %v", n, most, r.Ledger)
			}
		})
	}
}

// A batch that was recorded and never submitted is, from the same file.
func TestABatchThatWasNotSubmitted(t *testing.T) {
	p := newProvider(t)
	p.status = http.StatusTooManyRequests
	w, plan := synthesizing(t, byBatchSpec(t, fivePrompts()...), options{models: p.models, tries: 1})
	r, err := w.does(schemas.StageSynthesize, plan, 0)
	if err != nil || r.Unfinished == nil {
		t.Fatalf("got %+v, %v: a refusal for coming too soon is waited out", r, err)
	}
	p.set(func(p *provider) { p.status = 0 })
	if r, _, err = w.until(schemas.StageSynthesize, plan, 0); err != nil || r.Ledger.Kept != r.Ledger.Planned {
		t.Fatal(r.Ledger, err)
	}
	inputs := map[string]bool{}
	for _, b := range p.batches {
		inputs[b.Input] = true
	}
	if n, most := p.submitted(); n != 1 || most != 1 || len(inputs) != 1 {
		t.Errorf("%d batches of %v", n, inputs)
	}
}

// A batch is known by its metadata where nobody has a record of the task.
func TestABatchWithoutARecordIsAdopted(t *testing.T) {
	p := newProvider(t)
	p.held = true
	w, plan := synthesizing(t, byBatchSpec(t, fivePrompts()...), options{models: p.models})
	if r, err := w.does(schemas.StageSynthesize, plan, 0); err != nil || r.Unfinished == nil {
		t.Fatal(r, err)
	}
	for key := range objects(t, w.store, "batches/") {
		if err := w.store.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	p.set(func(p *provider) { p.held = false })
	if _, _, err := w.until(schemas.StageSynthesize, plan, 0); err != nil {
		t.Fatal(err)
	}
	if n, _ := p.submitted(); n != 1 || p.batches[0].Metadata[metaRun] != "run" || p.batches[0].Metadata[metaRound] != "1" {
		t.Errorf("%d batches: %+v", n, p.batches[0])
	}
}

func TestAFullQueueIsWaitedOut(t *testing.T) {
	p := newProvider(t)
	p.queue = 2
	w, plan := synthesizing(t, byBatchSpec(t, fivePrompts()...), options{models: p.models})
	if _, _, err := w.until(schemas.StageSynthesize, plan, 0); err != nil {
		t.Fatal(err)
	}
	if n, most := p.submitted(); n != 3 || most != 1 || len(p.files) != 2 {
		t.Errorf("%d batches, a request was in %d, %d files", n, most, len(p.files))
	}
}

// A row whose request fails fails for its reason when all others have their outcome, as
// online; it is asked again when a person resumes, and not when they go on without it.
func TestARowFailsByBatch(t *testing.T) {
	for _, tt := range []struct {
		status, times int // until the row fails
		reason        schemas.Reason
	}{{http.StatusBadRequest, 1, schemas.ReasonBadRequest}, {http.StatusInternalServerError, 4, schemas.ReasonUnavailable}} {
		t.Run(fmt.Sprint(tt.status), func(t *testing.T) {
			p := newProvider(t)
			broken := true
			p.models.says(func(q question) *reply {
				if broken && q.has("duel") {
					return &reply{status: tt.status, code: "x", text: "no"}
				}
				return nil
			})
			s := byBatchSpec(t, fivePrompts()...)
			s.Synthesize.Samples = 1
			w, plan := synthesizing(t, s, options{models: p.models})
			task := slices.IndexFunc(w.planOf(plan).Tasks, func(t schemas.Task) bool { return t.Category == "violence" })
			_, _, err := w.until(schemas.StageSynthesize, plan, task)
			app := failure(t, err)
			var told schemas.TaskFailure
			if err := app.Details(&told); err != nil || told.Rows != 1 || !app.NonRetryable() {
				t.Fatalf("failed with %+v (%v), %v", told, app.NonRetryable(), app)
			}
			if _, most := p.submitted(); most != tt.times {
				t.Errorf("the request was in %d batches, want %d", most, tt.times)
			}
			// To go on without the row asks for nothing more.
			before, _ := p.submitted()
			r, err := call[schemas.TaskResult](w, w.Synthesize, TaskRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan, Index: task, MayMiss: 1})
			if err != nil || r.Unfinished != nil || r.Ledger.Failed[tt.reason] != 1 {
				t.Fatalf("without the row: %+v, %v", r, err)
			}
			if after, _ := p.submitted(); after != before {
				t.Error("a row that is left out was asked again")
			}
			// A retry asks for it alone.
			broken = false
			p.models.take()
			all := schemas.Reason("")
			req := TaskRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan, Index: task, Retry: &all}
			for r.Unfinished = nil; ; {
				r, err = call[schemas.TaskResult](w, w.Synthesize, req)
				if err != nil {
					t.Fatal(err)
				}
				if r.Unfinished == nil {
					break
				}
			}
			if asked := p.models.calls()["teacher"]; asked != 1 || r.Ledger.Missing() != 0 {
				t.Errorf("the retry asked for %d: %v", asked, r.Ledger)
			}
		})
	}
}

func (w *world) planOf(ref schemas.PlanRef) *schemas.Plan {
	w.t.Helper()
	plan, err := w.loadPlan(w.t.Context(), ref)
	if err != nil {
		w.t.Fatal(err)
	}
	return plan
}

// Who resumes has failed requests asked again.
func TestResumeAsksAgainByBatch(t *testing.T) {
	p := newProvider(t)
	status := http.StatusBadRequest
	p.models.says(func(q question) *reply {
		if status != 0 && q.Model == "teacher" {
			return &reply{status: status, code: "x", text: "no"}
		}
		return nil
	})
	w, plan := synthesizing(t, byBatchSpec(t, fivePrompts()...), options{models: p.models})
	if _, _, err := w.until(schemas.StageSynthesize, plan, 0); err == nil {
		t.Fatal("no row failed")
	}
	status = 0
	if r, _, err := w.until(schemas.StageSynthesize, plan, 0); err != nil || r.Ledger.Kept != r.Ledger.Planned {
		t.Errorf("resumed: %+v, %v", r, err)
	}
}

// Rows whose requests always expire, or whose batches bring nothing, not even errors, fail
// after some rounds, and a run may go on without them.
func TestRoundsInVain(t *testing.T) {
	for _, silent := range []bool{false, true} {
		p := newProvider(t)
		p.late, p.silent = func(string, int) bool { return true }, silent
		w, plan := synthesizing(t, byBatchSpec(t, fivePrompts()...), options{models: p.models})
		_, _, err := w.until(schemas.StageSynthesize, plan, 0)
		app := failure(t, err)
		var told schemas.TaskFailure
		if err := app.Details(&told); err != nil || told.Rows == 0 || !app.NonRetryable() || app.Type() != string(schemas.Unavailable) {
			t.Errorf("silent %v: got %v, %+v", silent, app, told)
		}
		if n, _ := p.submitted(); n != 4 {
			t.Errorf("silent %v: %d batches", silent, n)
		}
		p.late = nil
		r, err := call[schemas.TaskResult](w, w.Synthesize, TaskRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan, MayMiss: told.Rows})
		if err != nil || r.Ledger.Missing() != told.Rows {
			t.Errorf("silent %v: without the rows: %+v, %v", silent, r, err)
		}
	}
}

func TestAccountConditionsByBatch(t *testing.T) {
	t.Run("when submitting", func(t *testing.T) {
		p := newProvider(t)
		p.status = http.StatusUnauthorized
		w, plan := synthesizing(t, byBatchSpec(t, fivePrompts()...), options{models: p.models})
		_, _, err := w.until(schemas.StageSynthesize, plan, 0)
		if app := failure(t, err); !app.NonRetryable() || !strings.Contains(app.Message(), "Check the access") {
			t.Errorf("got %v", app)
		}
		p.set(func(p *provider) { p.status = 0 })
		if r, _, err := w.until(schemas.StageSynthesize, plan, 0); err != nil || r.Ledger.Kept != r.Ledger.Planned {
			t.Errorf("resumed: %+v, %v", r, err)
		}
	})
	t.Run("of requests", func(t *testing.T) {
		p := newProvider(t)
		poor := true
		p.models.says(func(q question) *reply {
			if poor && q.has("duel") {
				return &reply{status: http.StatusTooManyRequests, code: "insufficient_quota", text: "pay"}
			}
			return nil
		})
		w, plan := synthesizing(t, byBatchSpec(t, fivePrompts()...), options{models: p.models})
		task := slices.IndexFunc(w.planOf(plan).Tasks, func(t schemas.Task) bool { return t.Category == "violence" })
		_, _, err := w.until(schemas.StageSynthesize, plan, task)
		if app := failure(t, err); !app.NonRetryable() || app.Type() != string(schemas.BudgetExceeded) {
			t.Errorf("got %v", app)
		}
		poor = false
		p.models.take()
		if r, _, err := w.until(schemas.StageSynthesize, plan, task); err != nil || r.Ledger.Kept != r.Ledger.Planned {
			t.Errorf("resumed: %+v, %v", r, err)
		}
		if asked := p.models.calls()["teacher"]; asked != 2 {
			t.Errorf("%d requests were asked again, the account had refused 2", asked)
		}
	})
}

func TestAnEndpointWithoutBatches(t *testing.T) {
	m := newModels(t)
	m.Config.Handler = http.NotFoundHandler()
	w := newWorld(t, byBatchSpec(t, fivePrompts()...), options{models: m})
	_, err := call[any](w, w.CheckBatches, w.spec)
	if app := failure(t, err); app.Type() != string(schemas.InvalidInput) || !strings.Contains(app.Message(), `"mode": "online"`) {
		t.Errorf("got %v", app)
	}
	p := newProvider(t)
	w = newWorld(t, byBatchSpec(t, fivePrompts()...), options{models: p.models})
	if _, err := call[any](w, w.CheckBatches, w.spec); err != nil {
		t.Errorf("an endpoint that takes them: %v", err)
	}
}

// A batch that the provider doesn't know is not quietly paid for again.
func TestABatchThatIsGone(t *testing.T) {
	p := newProvider(t)
	p.held = true
	w, plan := synthesizing(t, byBatchSpec(t, fivePrompts()...), options{models: p.models})
	if _, err := w.does(schemas.StageSynthesize, plan, 0); err != nil {
		t.Fatal(err)
	}
	p.set(func(p *provider) { p.batches = nil })
	_, err := w.does(schemas.StageSynthesize, plan, 0)
	if app := failure(t, err); app.Type() != string(schemas.InvalidInput) || !strings.Contains(app.Message(), "batches/") {
		t.Errorf("got %v", app)
	}
}

func TestTripwiresByBatch(t *testing.T) {
	many := func() (prompts []prompt) {
		for i := range 40 {
			prompts = append(prompts, prompt{Category: "violence", Intent: schemas.IntentBenign, Text: fmt.Sprintf("What is %d and %d times %d?", i, i*7919, i*104729)})
		}
		return prompts
	}
	spec := byBatchSpec(t, many()...)
	spec.Synthesize.Samples, spec.Tripwires.After = 1, 10

	t.Run("trips", func(t *testing.T) {
		p := newProvider(t)
		p.models.says(func(q question) *reply {
			if q.Model == "teacher" {
				return &reply{text: "no thoughts"}
			}
			return nil
		})
		w, plan := synthesizing(t, spec, options{models: p.models})
		_, calls, err := w.until(schemas.StageSynthesize, plan, 0)
		app := failure(t, err)
		var told schemas.TaskFailure
		if err := app.Details(&told); err != nil || !told.Tripwire || calls != 2 || told.Usage.Paid != 40 {
			t.Fatalf("after %d calls: %v, %+v", calls, app, told)
		}
		r, err := call[schemas.TaskResult](w, w.Synthesize, TaskRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan, Unchecked: true})
		if err != nil || r.Ledger.Rejected[schemas.ReasonNoCoT] != 40 {
			t.Errorf("resumed: %+v, %v", r, err)
		}
	})
	// What the rounds before took counts, too: each row's vote costs $0.00001.
	t.Run("costs too much", func(t *testing.T) {
		p := newProvider(t)
		dear := spec
		dear.Tripwires.MaxCost = 1.5e-5
		w, plan := filtering(t, dear, options{models: p.models})
		_, calls, err := w.until(schemas.StageFilter, plan, 0)
		if app := failure(t, err); !strings.Contains(app.Message(), "max_cost") || calls != 3 {
			t.Errorf("after %d calls: %v", calls, app)
		}
	})
	// A vote under the threshold is known a round before those that a row is kept by.
	t.Run("rows that are not voted on yet may be kept", func(t *testing.T) {
		p := newProvider(t)
		p.models.says(func(q question) *reply {
			if q.Model == "judge" && strings.ContainsAny(string(schemas.DigestOf(q.Messages)[0]), "0123") {
				return vote(1, schemas.ActionComply) // a quarter of the rows
			}
			return nil
		})
		w, plan := filtering(t, spec, options{models: p.models})
		r, _, err := w.until(schemas.StageFilter, plan, 0)
		if err != nil || r.Ledger.Kept == 0 || r.Ledger.Rejected[schemas.ReasonBelowThreshold] == 0 {
			t.Errorf("%v, %v", r.Ledger, err)
		}
	})
}

// Many tasks are looked at by one list, and those alone are ready whose batches have ended.
func TestPoll(t *testing.T) {
	p := newProvider(t)
	p.held = true
	w, plan := synthesizing(t, byBatchSpec(t, fivePrompts()...), options{models: p.models})
	for i := range plan.Tasks {
		if _, err := w.does(schemas.StageSynthesize, plan, i); err != nil {
			t.Fatal(err)
		}
	}
	poll := func() PollResult {
		t.Helper()
		r, err := call[PollResult](w, w.Poll, PollRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan, Tasks: []int{0, 1}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := poll(); len(r.Ready) != 0 || r.Pending.Requests != 10 || r.Pending.After <= 0 {
		t.Errorf("while all wait: %+v", r)
	}
	p.set(func(p *provider) { p.end(p.batches[1]) })
	if r := poll(); !slices.Equal(r.Ready, []int{1}) {
		t.Errorf("when the second has ended: %+v", r)
	}
	if r, err := w.does(schemas.StageSynthesize, plan, 1); err != nil || r.Unfinished != nil {
		t.Fatal(r, err)
	}
	if r := poll(); !slices.Equal(r.Ready, []int{1}) {
		t.Errorf("a task without a record is ready: %+v", r)
	}
}

// What a run has submitted is cancelled with it; started again, it reads what there is and
// asks for the rest.
func TestCancelBatches(t *testing.T) {
	p := newProvider(t)
	p.held = true
	w, plan := synthesizing(t, byBatchSpec(t, fivePrompts()...), options{models: p.models})
	for i := range plan.Tasks {
		if _, err := w.does(schemas.StageSynthesize, plan, i); err != nil {
			t.Fatal(err)
		}
	}
	p.set(func(p *provider) { p.end(p.batches[0]) })
	for _, want := range []int{2, 0} {
		n, err := call[int](w, w.CancelBatches, CancelRequest{Run: w.run, Plan: plan})
		if err != nil || n != want {
			t.Fatalf("cancelled %d, %v, want %d", n, err, want)
		}
	}
	p.set(func(p *provider) { p.held = false })
	for i := range plan.Tasks {
		if r, _, err := w.until(schemas.StageSynthesize, plan, i); err != nil || r.Ledger.Kept != r.Ledger.Planned {
			t.Errorf("started again: %+v, %v", r, err)
		}
	}
	if asked := p.models.calls()["teacher"]; asked != 10 {
		t.Errorf("%d requests were answered, 10 are needed", asked)
	}
}

// Another run's batches are left alone.
func TestCancelBatchesOfOthers(t *testing.T) {
	p := newProvider(t)
	p.held = true
	w, plan := synthesizing(t, byBatchSpec(t, fivePrompts()...), options{models: p.models})
	if _, err := w.does(schemas.StageSynthesize, plan, 0); err != nil {
		t.Fatal(err)
	}
	other := newWorld(t, w.spec, options{models: p.models, store: w.store, run: "other"}).stages(schemas.StagePrompts)
	n, err := call[int](other, other.CancelBatches, CancelRequest{Run: "other", Plan: other.plans(schemas.StageSynthesize)})
	if err != nil || n != 0 || p.batches[0].Status != "in_progress" {
		t.Errorf("cancelled %d (%s), %v", n, p.batches[0].Status, err)
	}
}

func TestGivenUpIsNotRetried(t *testing.T) {
	err := fail(&givenUpError{schemas.Errorf("ask", "x", schemas.Unavailable, "no")})
	var app *temporal.ApplicationError
	if !errors.As(err, &app) || !app.NonRetryable() || app.Type() != string(schemas.Unavailable) {
		t.Errorf("got %v", err)
	}
}
