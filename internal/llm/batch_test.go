package llm

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"precept/schemas"
)

// provider is a Batch API that a test plays: it keeps what is uploaded, and says what it is
// told to.
type provider struct {
	t         *testing.T
	uploaded  []byte
	submitted map[string]any
	batch     string            // the reply to submitting, looking up and cancelling
	files     map[string]string // contents by ID
	lists     []string          // replies to lists, by page
	status    map[string]int    // of "METHOD path", where it is no 200
	calls     []string
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	call := r.Method + " " + strings.TrimPrefix(r.URL.Path, "/v1")
	p.calls = append(p.calls, call)
	if r.Header.Get("Authorization") != "Bearer "+testKey {
		p.t.Errorf("%s without the key", call)
	}
	if status := p.status[call]; status != 0 {
		w.WriteHeader(status)
		io.WriteString(w, `{"error":{"message":"no","code":"x"}}`)
		return
	}
	switch {
	case call == "POST /files":
		f, _, err := r.FormFile("file")
		if err != nil || r.FormValue("purpose") != "batch" {
			p.t.Errorf("upload of purpose %q: %v", r.FormValue("purpose"), err)
			return
		}
		p.uploaded, _ = io.ReadAll(f)
		io.WriteString(w, `{"id":"file-1"}`)
	case call == "POST /batches":
		if err := json.NewDecoder(r.Body).Decode(&p.submitted); err != nil {
			p.t.Error(err)
		}
		io.WriteString(w, p.batch)
	case call == "GET /batches":
		i := 0
		if r.FormValue("after") != "" {
			i = 1
		}
		io.WriteString(w, p.lists[i])
	case strings.HasSuffix(call, "/content"):
		io.WriteString(w, p.files[strings.Split(call, "/")[2]])
	default:
		io.WriteString(w, p.batch)
	}
}

func newProvider(t *testing.T) (*Client, *Memory, *provider) {
	p := &provider{t: t, batch: `{"id":"b1","status":"in_progress","input_file_id":"file-1"}`, status: map[string]int{}}
	c, journal := serve(t, p.ServeHTTP, func(e *Endpoint, _ *Options) { e.InputUSD, e.OutputUSD, e.BatchDiscount = 1, 2, 0.5 })
	return c, journal, p
}

func limited(text string, limit int) Request {
	r := ask(text)
	r.MaxTokens = limit
	return r
}

// What is put into a backlog is what would be sent online, once, and nothing is sent.
func TestBacklog(t *testing.T) {
	c, journal, p := newProvider(t)
	if err := journal.Append(keyOf(t, c.Endpoint(), ask("known")), []byte(`{"content":"yes","finish_reason":"stop"}`)); err != nil {
		t.Fatal(err)
	}
	b := c.NewBacklog(nil)
	batched := c.Batched(b)
	if a, m, err := batched.Ask(t.Context(), ask("known")); err != nil || !m.Cached || a.Content != "yes" {
		t.Errorf("a known answer: %+v, %v", a, err)
	}
	for _, r := range []Request{limited("one", 5), limited("two", 7), limited("one", 5)} {
		if _, _, err := batched.Ask(t.Context(), r); !IsPending(err) || IsRequest(err) || IsMissing(err) {
			t.Errorf("asked for an answer that isn't there: %v", err)
		}
	}
	parts := b.Parts()
	if len(p.calls) != 0 || len(parts) != 2 || parts[0].Limit != 5 || parts[1].Limit != 7 || parts[0].Requests() != 1 {
		t.Fatalf("calls %v, parts %+v", p.calls, parts)
	}
	file, err := c.Upload(t.Context(), parts[0])
	if err != nil || file != "file-1" {
		t.Fatal(file, err)
	}
	var line struct {
		CustomID schemas.Key `json:"custom_id"`
		Method   string
		URL      string
		Body     json.RawMessage
	}
	if err := json.Unmarshal(p.uploaded, &line); err != nil {
		t.Fatalf("%v: %s", err, p.uploaded)
	}
	q, err := c.endpoint.question(limited("one", 5))
	if err != nil {
		t.Fatal(err)
	}
	body, err := q.body()
	if err != nil {
		t.Fatal(err)
	}
	if want := string(slices.Concat(body...)); string(line.Body) != want || line.CustomID != q.key() || line.Method != "POST" || line.URL != "/v1/chat/completions" {
		t.Errorf("line %s, want the body %s", p.uploaded, want)
	}
	if got, err := c.Submit(t.Context(), file, map[string]string{"task": "t"}); err != nil || got.ID != "b1" || got.Ended() {
		t.Errorf("submitted: %+v, %v", got, err)
	}
	want := map[string]any{"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": map[string]any{"task": "t"}}
	if d := cmp.Diff(want, p.submitted); d != "" {
		t.Errorf("submitted (- want, + got):\n%s", d)
	}
}

func TestPartsTakeNoMoreThanABatchDoes(t *testing.T) {
	b := &Backlog{lines: map[schemas.Key]line{}}
	big := make([]byte, maxBytes/4)
	for i := range 9 {
		key := schemas.Key(fmt.Sprint(i))
		b.lines[key] = line{key: key, text: [][]byte{big}}
	}
	var sizes []int64
	for _, p := range b.Parts() {
		sizes = append(sizes, p.Requests())
	}
	if d := cmp.Diff([]int64{4, 4, 1}, sizes); d != "" {
		t.Error(d)
	}
	many := &Backlog{lines: map[schemas.Key]line{}}
	for i := range maxLines + 1 {
		key := schemas.Key(fmt.Sprint(i))
		many.lines[key] = line{key: key}
	}
	if got := many.Parts(); len(got) != 2 || got[0].Requests() != maxLines {
		t.Errorf("%d parts", len(got))
	}
}

// outputs is a line of an output file.
func outputs(key schemas.Key, status int, body string) string {
	return fmt.Sprintf(`{"id":"r","custom_id":%q,"response":{"status_code":%d,"request_id":"q","body":%s},"error":null}`, key, status, strings.ReplaceAll(body, "\n", " "))
}

func refuses(key schemas.Key, code string) string {
	return fmt.Sprintf(`{"id":"r","custom_id":%q,"response":null,"error":{"code":%q,"message":"because"}}`, key, code)
}

// A line is read as the same reply is online.
func TestFetch(t *testing.T) {
	c, journal, p := newProvider(t)
	key := func(text string) schemas.Key { return keyOf(t, c.Endpoint(), ask(text)) }
	p.files = map[string]string{
		"out": strings.Join([]string{
			outputs(key("good"), 200, hello),
			outputs(key("cut"), 200, reply(`{"role":"assistant","content":"Hel"}`, "length")),
			outputs(key("empty"), 200, `{}`),
			"no JSON",
			`{"custom_id":"of somebody else","response":{"status_code":200,"body":` + strings.ReplaceAll(hello, "\n", " ") + `}}`,
		}, "\n"),
		"err": strings.Join([]string{
			outputs(key("refused"), 400, `{"error":{"code":"content_filter","message":"no"}}`),
			outputs(key("long"), 400, `{"error":{"code":"context_length_exceeded","message":"too long"}}`),
			outputs(key("bad"), 400, `{"error":{"message":"what?"}}`),
			outputs(key("busy"), 429, `{"error":{"message":"slower"}}`),
			outputs(key("broken"), 500, `{"error":{"message":"oh"}}`),
			outputs(key("poor"), 429, `{"error":{"code":"insufficient_quota","message":"pay"}}`),
			refuses(key("late"), "batch_expired"),
			refuses(key("cancelled"), "batch_cancelled"),
			refuses(key("odd"), "gremlins"),
		}, "\n") + "\n",
	}
	batch := Batch{output: "out", errors: "err"}
	var paid []string
	fetch := func() map[schemas.Key]error {
		refused, err := c.Fetch(t.Context(), batch, 9, func(a Answer, m Meta) {
			paid = append(paid, fmt.Sprintf("%s: %q %.7f", a.FinishReason, a.Content, m.USD))
		})
		if err != nil {
			t.Fatal(err)
		}
		return refused
	}
	refused := fetch()
	type class struct {
		Kind                   schemas.Kind
		Account, Late, Request bool
	}
	got := map[string]class{}
	for _, text := range []string{"good", "cut", "empty", "refused", "long", "bad", "busy", "broken", "poor", "late", "cancelled", "odd"} {
		if err := refused[key(text)]; err != nil {
			got[text] = class{schemas.KindOf(err), IsAccount(err), IsLate(err), IsRequest(err)}
		}
	}
	want := map[string]class{
		"empty": {schemas.Unavailable, false, false, true}, "bad": {schemas.InvalidInput, false, false, true},
		"busy": {schemas.RateLimited, false, false, true}, "broken": {schemas.Unavailable, false, false, true},
		"poor": {schemas.BudgetExceeded, true, false, false}, "late": {schemas.Unavailable, false, true, true},
		"cancelled": {schemas.Unavailable, false, false, true}, "odd": {schemas.Unavailable, false, false, true},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("refused (- want, + got):\n%s", d)
	}
	// Half the price: (10 × 1 + 5 × 2) / 1e6 / 2.
	wantPaid := []string{`stop: "Hello" 0.0000100`, `length: "Hel" 0.0000100`, `content_filter: "no" 0.0000000`, `too long: "too long" 0.0000000`}
	if d := cmp.Diff(wantPaid, paid); d != "" {
		t.Errorf("paid (- want, + got):\n%s", d)
	}
	// Online and batch share what is journaled.
	for _, text := range []string{"good", "cut", "refused", "long"} {
		a, m, err := c.Ask(t.Context(), limited(text, 9))
		if err != nil || !m.Cached || a.Limit != 9 {
			t.Errorf("%s: %+v, %+v, %v", text, a, m, err)
		}
	}
	if a, _, _ := c.Ask(t.Context(), limited("good", 9)); !a.Batch || a.Model != "served-1" || c.Last().Fingerprint != "fp" {
		t.Errorf("answer %+v of %s", a, c.Last())
	}
	paid = nil
	if again := fetch(); len(paid) != 0 || !cmp.Equal(slices.Sorted(maps.Keys(again)), slices.Sorted(maps.Keys(refused))) || journal.Len() != 4 {
		t.Errorf("read again it pays for %v", paid)
	}
}

// A file that the provider has deleted brings nothing; one that can't be read is asked for again.
func TestFetchOfFilesThatAreNotThere(t *testing.T) {
	c, _, p := newProvider(t)
	p.status["GET /files/out/content"] = http.StatusNotFound
	nothing := func(Answer, Meta) { t.Error("something was paid") }
	if refused, err := c.Fetch(t.Context(), Batch{output: "out"}, 0, nothing); err != nil || len(refused) != 0 {
		t.Errorf("%v, %v", refused, err)
	}
	p.status["GET /files/out/content"] = http.StatusServiceUnavailable
	if _, err := c.Fetch(t.Context(), Batch{output: "out"}, 0, nothing); schemas.KindOf(err) != schemas.Unavailable {
		t.Errorf("got %v", err)
	}
}

func TestRecentBatches(t *testing.T) {
	c, _, p := newProvider(t)
	p.lists = []string{
		`{"data":[{"id":"b4","created_at":400},{"id":"b3","created_at":300,"metadata":{"task":"t","n":1}}],"has_more":true}`,
		`{"data":[{"id":"b2","created_at":200},{"id":"b1","created_at":100}],"has_more":true}`,
	}
	ids := func(since int64) (ids []string) {
		got, err := c.RecentBatches(t.Context(), time.Unix(since, 0))
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range got {
			ids = append(ids, b.ID)
		}
		return ids
	}
	p.calls = nil
	if d := cmp.Diff([]string{"b4", "b3", "b2"}, ids(200)[:3]); d != "" {
		t.Error(d)
	}
	if got := ids(401); len(got) != 0 {
		t.Errorf("younger ones: %v", got)
	}
}

func TestBatchErrors(t *testing.T) {
	for _, tt := range []struct {
		name    string
		status  int
		batch   string // in place of a status
		kind    schemas.Kind
		account bool
		hint    string
	}{
		{"no such path", 404, "", schemas.InvalidInput, false, `"mode": "online"`},
		{"no such method", 405, "", schemas.InvalidInput, false, `"mode": "online"`},
		{"a refused key", 401, "", schemas.InvalidInput, true, "Check the access"},
		{"no money", 402, "", schemas.BudgetExceeded, true, "Top up"},
		{"too often", 429, "", schemas.RateLimited, false, ""},
		{"broken", 503, "", schemas.Unavailable, false, ""},
		{"no ID", 0, `{}`, schemas.Unavailable, false, ""},
		{"no JSON", 0, `<html>`, schemas.Unavailable, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _, p := newProvider(t)
			p.batch = tt.batch
			p.status["POST /batches"] = tt.status
			_, err := c.Submit(t.Context(), "file-1", nil)
			if schemas.KindOf(err) != tt.kind || IsAccount(err) != tt.account || !strings.Contains(fmt.Sprint(err), tt.hint) {
				t.Errorf("got %v (%s)", err, schemas.KindOf(err))
			}
			if len(p.calls) != 1 {
				t.Errorf("calls %v: what may have been submitted isn't submitted again", p.calls)
			}
		})
	}
	c, _, p := newProvider(t)
	p.status["GET /batches/b1"] = http.StatusNotFound
	if _, err := c.Batch(t.Context(), "b1"); schemas.KindOf(err) != schemas.NotFound {
		t.Errorf("a batch that isn't there: %v", err)
	}
	p.status["GET /batches"] = http.StatusNotFound
	if err := c.CheckBatches(t.Context()); schemas.KindOf(err) != schemas.InvalidInput {
		t.Errorf("no Batch API: %v", err)
	}
	several := *c
	several.endpoint.BaseURLs = []string{"http://a/v1", "http://b/v1"}
	if err := several.CheckBatches(t.Context()); schemas.KindOf(err) != schemas.InvalidInput {
		t.Errorf("several servers: %v", err)
	}
}

// A batch that the provider takes none of says why.
func TestFailedBatches(t *testing.T) {
	for code, want := range map[string]struct {
		kind    schemas.Kind
		account bool
	}{
		"token_limit_exceeded":       {schemas.RateLimited, false},
		"billing_hard_limit_reached": {schemas.BudgetExceeded, true},
		"model_not_found":            {schemas.InvalidInput, true},
		"invalid_json_line":          {schemas.InvalidInput, false},
	} {
		c, _, p := newProvider(t)
		p.batch = fmt.Sprintf(`{"id":"b1","status":"failed","errors":{"data":[{"code":%q,"message":"no"}]}}`, code)
		b, err := c.Batch(t.Context(), "b1")
		if err != nil || !b.Ended() || schemas.KindOf(b.Err) != want.kind || IsAccount(b.Err) != want.account {
			t.Errorf("%s: %v, %v", code, b.Err, err)
		}
	}
}

// To cancel what has ended is no error.
func TestCancelBatch(t *testing.T) {
	c, _, p := newProvider(t)
	if err := c.CancelBatch(t.Context(), "b1"); err != nil {
		t.Error(err)
	}
	p.status["POST /batches/b1/cancel"] = http.StatusConflict
	p.batch = `{"id":"b1","status":"completed"}`
	if err := c.CancelBatch(t.Context(), "b1"); err != nil {
		t.Error(err)
	}
	p.batch = `{"id":"b1","status":"in_progress"}`
	if err := c.CancelBatch(t.Context(), "b1"); err == nil {
		t.Error("a batch that goes on passes for cancelled")
	}
}

// A request that failed as often as it is tried, or for what it is, fails again.
func TestBacklogGivesUp(t *testing.T) {
	c, _, _ := newProvider(t)
	c.attempts = 3
	key := keyOf(t, c.Endpoint(), ask("x"))
	late := c.fail(schemas.Unavailable, &fault{text: "expired", late: true}, "")
	bad := c.fail(schemas.InvalidInput, &fault{text: "HTTP 400"}, "")
	for _, tt := range []struct {
		errs    []error
		pending bool
		late    bool
	}{
		{[]error{late, late}, true, false}, {[]error{late, late, late}, false, true}, {[]error{bad}, false, false},
	} {
		var f, kept Failure
		for _, err := range tt.errs {
			f.Add(err)
		}
		raw, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &kept); err != nil {
			t.Fatal(err)
		}
		b := c.NewBacklog(map[schemas.Key]*Failure{key: &kept})
		_, _, err = c.Batched(b).Ask(t.Context(), ask("x"))
		if IsPending(err) != tt.pending || b.GaveUp() == tt.pending || !tt.pending && (!IsRequest(err) || IsLate(err) != tt.late) {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

func TestEachLine(t *testing.T) {
	long := strings.Repeat("x", maxBatchLine+1)
	var got []int
	err := eachLine(bufio.NewReader(strings.NewReader("one\n"+long+"\nthree")), func(text []byte) error {
		got = append(got, len(strings.TrimSpace(string(text))))
		return nil
	})
	if d := cmp.Diff([]int{3, 5}, got); d != "" || err != nil {
		t.Errorf("lines of %v, %v", got, err)
	}
}

func TestPollEvery(t *testing.T) {
	e := endpoint()
	var got []time.Duration
	for _, age := range []time.Duration{0, time.Minute, 20 * time.Minute, 5 * time.Hour} {
		got = append(got, e.PollEvery(age))
	}
	want := []time.Duration{time.Minute, time.Minute, 2 * time.Minute, 10 * time.Minute}
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Error(d)
	}
}

// A call of the batch API that goes well is a trial that goes well, of an account that was
// refused as of a replica that was out.
func TestBatchTrials(t *testing.T) {
	for name, refuse := range map[string]func() (*http.Response, error){
		"account": func() (*http.Response, error) { return response(401, `{"error":{"message":"no"}}`), nil },
		"outage":  func() (*http.Response, error) { return response(503, ""), nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				well := false
				c := scripted(t, endpoint(), outageAfter, func(r *http.Request) (*http.Response, error) {
					if !well {
						return refuse()
					}
					return response(200, `{"id":"b1","status":"in_progress"}`), nil
				})
				if _, err := c.Batch(t.Context(), "b1"); err == nil {
					t.Fatal("it went well")
				}
				if p := c.pace; p.account.refusal == nil && !p.replicas[0].breaker.open {
					t.Fatal("nothing is closed")
				}
				well = true
				if _, err := c.Guarded(func() error { return nil }).Batch(t.Context(), "b1"); err != nil {
					t.Fatal(err)
				}
				if p := c.pace; p.account.refusal != nil || p.replicas[0].breaker.open {
					t.Errorf("account: %v, breaker: %+v", p.account.refusal, p.replicas[0].breaker)
				}
				if _, err := c.Batch(t.Context(), "b1"); err != nil {
					t.Errorf("the one after the trial: %v", err)
				}
			})
		})
	}
}

// Calls of the batch API take nothing of the tokens a minute: no model answers them.
func TestBatchTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := endpoint()
		e.TPM = 60
		c := scripted(t, e, 1, func(r *http.Request) (*http.Response, error) { return response(200, `{"id":"b1"}`), nil })
		start := time.Now()
		for range 10 {
			if _, err := c.Batch(t.Context(), "b1"); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("ten calls took %s", took)
		}
	})
}
