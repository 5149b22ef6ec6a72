package llm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"precept/schemas"
)

const testKey = "sk-test-0123456789abcdef"

// reply is a whole chat completion with the given message and finish reason.
func reply(message, finish string) string {
	return fmt.Sprintf(`{"model":"served-1","system_fingerprint":"fp","choices":[{"message":%s,"finish_reason":%q}],
		"usage":{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4}}}`, message, finish)
}

var hello = reply(`{"role":"assistant","content":"Hello"}`, "stop")

func ask(text string) Request {
	return Request{Messages: []schemas.Message{{Role: "user", Content: text}}}
}

// serve starts a server and a client of it that doesn't retry.
func serve(t *testing.T, handler http.HandlerFunc, change ...func(*Endpoint, *Options)) (*Client, *Memory) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	t.Setenv("TEST_LLM_KEY", testKey)
	journal := &Memory{}
	e := endpoint()
	e.BaseURL, e.APIKeyEnv = server.URL+"/v1", "TEST_LLM_KEY"
	o := Options{Journal: journal, Attempts: 1}
	for _, f := range change {
		f(&e, &o)
	}
	c, err := NewClient(e, o)
	if err != nil {
		t.Fatal(err)
	}
	return c, journal
}

func respond(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func TestAskSendsAndJournals(t *testing.T) {
	var requests atomic.Int64
	var body map[string]any
	c, journal := serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if r.URL.Path != "/v1/chat/completions" || r.Header.Get("Authorization") != "Bearer "+testKey {
			t.Errorf("%s with %q", r.URL.Path, r.Header.Get("Authorization"))
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		io.WriteString(w, hello)
	}, func(e *Endpoint, _ *Options) {
		e.Model = "gpt-5" // go-openai refuses max_tokens and temperature for it
		e.InputUSD, e.CachedUSD, e.OutputUSD = 1, 0.5, 2
		e.Extra = map[string]any{"top_k": 20, "response_format": nil}
	})
	request := Request{
		Messages:   []schemas.Message{{Role: "system", Content: ""}, {Role: "user", Content: "Hi <you>"}},
		MaxTokens:  7,
		JSONSchema: &Schema{Name: "s", Schema: map[string]any{}},
		Sample:     2,
	}
	answer, meta, err := c.Ask(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	wantBody := map[string]any{
		"model":       "gpt-5",
		"messages":    []any{map[string]any{"role": "system", "content": ""}, map[string]any{"role": "user", "content": "Hi <you>"}},
		"temperature": 0.0,
		"max_tokens":  7.0,
		"seed":        float64(seedOf(t, request.Messages, 2)),
		"top_k":       20.0,
	}
	if diff := cmp.Diff(wantBody, body); diff != "" {
		t.Errorf("body (- want, + sent):\n%s", diff)
	}
	want := Answer{Content: "Hello", FinishReason: "stop", Model: "served-1", Fingerprint: "fp", Limit: 7, USD: 18e-6,
		Usage: Usage{PromptTokens: 10, CachedTokens: 4, CompletionTokens: 5}}
	if diff := cmp.Diff(want, answer, cmpopts.IgnoreFields(Answer{}, "Seconds")); diff != "" {
		t.Error(diff)
	}
	wantMeta := Meta{Key: keyOf(t, c.Endpoint(), request), USD: (6*1 + 4*0.5 + 5*2) / 1e6}
	if diff := cmp.Diff(wantMeta, meta, cmpopts.EquateApprox(0, 1e-12)); diff != "" {
		t.Error(diff)
	}
	again, meta, err := c.Ask(t.Context(), request)
	if err != nil || !meta.Cached || meta.USD != 0 || !cmp.Equal(again, answer) {
		t.Errorf("from the journal: %+v, %+v, %v", again, meta, err)
	}
	if requests.Load() != 1 || journal.Len() != 1 {
		t.Errorf("%d requests, %d journaled", requests.Load(), journal.Len())
	}
}

func keyOf(t *testing.T, e Endpoint, r Request) schemas.Key {
	t.Helper()
	q, err := e.question(r)
	if err != nil {
		t.Fatal(err)
	}
	return q.key()
}

func seedOf(t *testing.T, messages []schemas.Message, sample int) int64 {
	t.Helper()
	q, err := endpoint().question(Request{Messages: messages, Sample: sample})
	if err != nil {
		t.Fatal(err)
	}
	return q.fields["seed"].(int64)
}

// TestAnotherLimit asks again only for what another limit changes.
func TestAnotherLimit(t *testing.T) {
	var limit atomic.Int64
	limit.Store(-1)
	// The model has 50 tokens to say.
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			MaxTokens int64 `json:"max_tokens"`
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		limit.Store(body.MaxTokens)
		said, finish := int64(50), "stop"
		if body.MaxTokens != 0 && body.MaxTokens < said {
			said, finish = body.MaxTokens, "length"
		}
		fmt.Fprintf(w, `{"choices":[{"message":{"content":"%d tokens"},"finish_reason":%q}],"usage":{"completion_tokens":%d}}`, said, finish, said)
	})
	for _, step := range []struct {
		limit int
		sent  bool
		want  string
	}{
		{10, true, "10 tokens"}, // cut
		{10, false, "10 tokens"},
		{20, true, "20 tokens"}, // cut later
		{100, true, "50 tokens"},
		{200, false, "50 tokens"},
		{0, false, "50 tokens"},
		{51, false, "50 tokens"}, // still room enough
		{10, false, "10 tokens"},
		{30, true, "30 tokens"}, // no room for it
		{30, false, "30 tokens"},
		{100, false, "50 tokens"},
	} {
		limit.Store(-1)
		r := ask("Talk")
		r.MaxTokens = step.limit
		answer, meta, err := c.Ask(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if sent := limit.Load() != -1; sent != step.sent || meta.Cached == sent || answer.Content != step.want {
			t.Errorf("limit %d: sent %v, cached %v, %q; want sent %v, %q", step.limit, sent, meta.Cached, answer.Content, step.sent, step.want)
		}
	}
}

func TestSeedsDiffer(t *testing.T) {
	messages := ask("Hello").Messages
	seen := map[int64]bool{}
	for sample := range 100 {
		seed := seedOf(t, messages, sample)
		if seed < 0 || seed > 1<<31-1 || seen[seed] {
			t.Fatalf("seed %d of sample %d", seed, sample)
		}
		seen[seed] = true
	}
}

// TestAnswers are replies that are final, whatever a caller makes of them.
func TestAnswers(t *testing.T) {
	for _, test := range []struct {
		name   string
		status int
		body   string
		want   Answer
	}{
		{"cut by length", 200, reply(`{"content":"Hel"}`, "length"), Answer{Content: "Hel", FinishReason: "length"}},
		{"empty", 200, reply(`{"content":""}`, "stop"), Answer{FinishReason: "stop"}},
		{"null", 200, reply(`{"content":null}`, "stop"), Answer{FinishReason: "stop"}},
		{"parts", 200, reply(`{"content":[{"type":"text","text":"Hel"},{"type":"text","text":"lo"}]}`, "stop"), Answer{Content: "Hello", FinishReason: "stop"}},
		{"reasoning_content", 200, reply(`{"content":"a","reasoning_content":"r"}`, "stop"), Answer{Content: "a", CoT: "r", FinishReason: "stop"}},
		{"reasoning", 200, reply(`{"content":"a","reasoning":"r"}`, "stop"), Answer{Content: "a", CoT: "r", FinishReason: "stop"}},
		{"reasoning null", 200, reply(`{"content":"a","reasoning":null}`, "stop"), Answer{Content: "a", FinishReason: "stop"}},
		{"reasoning object", 200, reply(`{"content":"a","reasoning":{"x":1}}`, "stop"), Answer{Content: "a", FinishReason: "stop"}},
		{"refusal", 200, reply(`{"content":null,"refusal":"I can't"}`, "stop"), Answer{Content: "I can't", FinishReason: "stop", Refusal: true}},
		{"beyond the context", 400, `{"error":{"code":"context_length_exceeded","message":"9000 tokens"}}`, Answer{Content: "9000 tokens", FinishReason: "too long"}},
		{"beyond vLLM's context", 400, `{"object":"error","message":"This model's maximum context length is 2048 tokens.","code":400}`,
			Answer{Content: "This model's maximum context length is 2048 tokens.", FinishReason: "too long"}},
		{"filtered", 200, reply(`{"content":"Hel"}`, "content_filter"), Answer{Content: "Hel", FinishReason: "content_filter", Refusal: true}},
		{"content policy", 400, `{"error":{"message":"No.","code":"content_policy_violation","type":"invalid_request_error"}}`,
			Answer{Content: "No.", FinishReason: "content_filter", Refusal: true}},
		{"Azure", 400, `{"error":{"message":"The response was filtered.","code":null,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}`,
			Answer{Content: "The response was filtered.", FinishReason: "content_filter", Refusal: true}},
		{"flagged", 403, `{"error":{"message":"Your input was flagged","code":403}}`,
			Answer{Content: "Your input was flagged", FinishReason: "content_filter", Refusal: true}},
		{"usage policy", 400, `{"error":{"message":"flagged as potentially violating our usage policy","code":"invalid_prompt"}}`,
			Answer{Content: "flagged as potentially violating our usage policy", FinishReason: "content_filter", Refusal: true}},
		{"filter in a 200", 200, `{"error":{"message":"No.","code":"content_filter"}}`,
			Answer{Content: "No.", FinishReason: "content_filter", Refusal: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, journal := serve(t, respond(test.status, test.body))
			got, _, err := c.Ask(t.Context(), ask("Hi"))
			if err != nil {
				t.Fatal(err)
			}
			ignore := cmpopts.IgnoreFields(Answer{}, "Seconds", "Usage", "Model", "Fingerprint")
			if diff := cmp.Diff(test.want, got, ignore); diff != "" {
				t.Error(diff)
			}
			if journal.Len() != 1 {
				t.Error("the answer is not in the journal")
			}
			again, meta, err := c.Ask(t.Context(), ask("Hi"))
			if err != nil || !meta.Cached || !cmp.Equal(got, again) {
				t.Errorf("from the journal: %+v, %v", again, err)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	openAI := func(code, text string) string {
		return fmt.Sprintf(`{"error":{"message":%q,"type":"some_error","code":%q}}`, text, code)
	}
	for _, test := range []struct {
		name    string
		handler http.HandlerFunc
		kind    schemas.Kind
		account bool
		after   time.Duration
		text    string
	}{
		{"429", respond(429, openAI("rate_limit_exceeded", "slow down"), "Retry-After", "7"), schemas.RateLimited, false, 7 * time.Second, "slow down"},
		{"429 in milliseconds", respond(429, "", "Retry-After-Ms", "1500"), schemas.RateLimited, false, 1500 * time.Millisecond, "429"},
		{"429 by reset", respond(429, "{}", "X-Ratelimit-Remaining-Tokens", "0", "X-Ratelimit-Reset-Tokens", "6m0s"), schemas.RateLimited, false, 6 * time.Minute, "429"},
		{"429 without", respond(429, `{"error":"too many"}`), schemas.RateLimited, false, 0, "too many"},
		{"quota", respond(429, openAI("insufficient_quota", "pay")), schemas.BudgetExceeded, true, 0, "Top up"},
		{"payment", respond(402, openAI("", "pay")), schemas.BudgetExceeded, true, 0, "pay"},
		{"401", respond(401, openAI("invalid_api_key", "Incorrect API key provided: "+testKey)), schemas.InvalidInput, true, 0, "TEST_LLM_KEY"},
		{"403", respond(403, openAI("", "no access")), schemas.InvalidInput, true, 0, "no access"},
		{"404", respond(404, openAI("model_not_found", "The model does not exist")), schemas.InvalidInput, true, 0, "served"},
		{"404 page", respond(404, "<html>not here</html>"), schemas.InvalidInput, true, 0, "base_url"},
		{"redirect", respond(302, "", "Location", "/login"), schemas.InvalidInput, true, 0, "302"},
		{"400", respond(400, openAI("unsupported_parameter", "no such field")), schemas.InvalidInput, false, 0, "no such field"},
		{"400 limit", respond(400, `{"object":"error","message":"'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context length is 2048 tokens","code":400}`), schemas.InvalidInput, false, 0, "too large"},
		{"400 list", respond(400, `{"error":{"message":["a","b"],"code":400}}`), schemas.InvalidInput, false, 0, `["a","b"]`},
		{"422", respond(422, `{"detail":[{"loc":["body"],"msg":"bad"}]}`), schemas.InvalidInput, false, 0, "bad"},
		{"old vLLM", respond(400, `{"object":"error","message":"bad top_k","code":400}`), schemas.InvalidInput, false, 0, "bad top_k"},
		{"500", respond(500, openAI("", "oops")), schemas.Unavailable, false, 0, "oops"},
		{"503", respond(503, "", "Retry-After", "3"), schemas.Unavailable, false, 3 * time.Second, "503"},
		{"502 page", respond(502, "<html><body>Bad Gateway"), schemas.Unavailable, false, 0, "HTML"},
		{"408", respond(408, ""), schemas.Unavailable, false, 0, "408"},
		{"HTML", respond(200, "<!doctype html>"), schemas.Unavailable, false, 0, "HTML"},
		{"nothing", respond(200, ""), schemas.Unavailable, false, 0, "empty body"},
		{"garbage", respond(200, "garbage"), schemas.Unavailable, false, 0, "garbage"},
		{"half a document", respond(200, hello[:60]), schemas.Unavailable, false, 0, "no chat completion"},
		{"array", respond(200, "[]"), schemas.Unavailable, false, 0, "no chat completion"},
		{"no choice", respond(200, `{"choices":[]}`), schemas.Unavailable, false, 0, "without a choice"},
		{"error in a 200", respond(200, `{"error":{"message":"upstream"}}`), schemas.Unavailable, false, 0, "upstream"},
		{"429 in a 200", respond(200, `{"error":{"message":"slow down","code":429}}`), schemas.RateLimited, false, 0, "slow down"},
		{"stopped", respond(200, reply(`{"content":"Hel"}`, "abort")), schemas.Unavailable, false, 0, "abort"},
		{"half a body", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, hello[:60])
		}, schemas.Unavailable, false, 0, "EOF"},
		{"cut connection", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, schemas.Unavailable, false, 0, "EOF"},
		{"too large", func(w http.ResponseWriter, _ *http.Request) {
			chunk := strings.Repeat(" ", 1<<20)
			for range 17 {
				io.WriteString(w, chunk)
			}
		}, schemas.Unavailable, false, 0, "16 MiB"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, journal := serve(t, test.handler)
			_, meta, err := c.Ask(t.Context(), ask("Hi"))
			if schemas.KindOf(err) != test.kind || IsAccount(err) != test.account || RetryAfter(err) != test.after {
				t.Errorf("kind %s, account %v, after %s of %v", schemas.KindOf(err), IsAccount(err), RetryAfter(err), err)
			}
			if err == nil || !strings.Contains(err.Error(), test.text) || !strings.Contains(err.Error(), "teacher") {
				t.Errorf("the message does not name the endpoint and %q: %v", test.text, err)
			}
			if err != nil && strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, c), testKey[8:]) {
				t.Errorf("the key is shown: %v", err)
			}
			if journal.Len() != 0 || meta.Key == "" {
				t.Errorf("%d answers journaled, key %q", journal.Len(), meta.Key)
			}
		})
	}
}

// Of equal requests at the same time one is sent, also when it fails: then the next
// one is.
func TestEqualRequestsInFlight(t *testing.T) {
	var requests atomic.Int64
	arrived, answer := make(chan struct{}), make(chan struct{})
	c, journal := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) == 1 {
			close(arrived)
			<-answer
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		io.WriteString(w, hello)
	})
	const asking = 8
	results := make(chan error, asking)
	cached := atomic.Int64{}
	for range asking {
		go func() {
			_, meta, err := c.Guarded(func() error { return nil }).Ask(t.Context(), ask("Hi"))
			if meta.Cached {
				cached.Add(1)
			}
			results <- err
		}()
	}
	<-arrived
	close(answer)
	failed := 0
	for range asking {
		if err := <-results; err != nil {
			failed++
		}
	}
	if requests.Load() != 2 || failed != 1 || cached.Load() != asking-2 || journal.Len() != 1 {
		t.Errorf("%d requests sent, %d failed, %d found in the journal, %d journaled", requests.Load(), failed, cached.Load(), journal.Len())
	}
	if len(c.flights.open) != 0 {
		t.Errorf("%d requests are still taken to be in flight", len(c.flights.open))
	}
}

func TestKeyIsNotShown(t *testing.T) {
	c, _ := serve(t, respond(500, "the header was: Bearer "+testKey))
	_, _, err := c.Ask(t.Context(), ask("Hi"))
	for _, text := range []string{
		err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err), fmt.Sprintf("%v", errors.Unwrap(err)),
		fmt.Sprintf("%v %+v %#v", c, c, c), fmt.Sprintf("%+v %#v", *c, *c),
	} {
		if strings.Contains(text, testKey) {
			t.Errorf("the key is shown: %s", text)
		}
	}
}

func TestStall(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	c, _ := serve(t, func(http.ResponseWriter, *http.Request) { <-release }, func(e *Endpoint, _ *Options) { e.Timeout = 20 * time.Millisecond })
	_, _, err := c.Ask(t.Context(), ask("Hi"))
	if schemas.KindOf(err) != schemas.Unavailable || !strings.Contains(err.Error(), "no reply within 20ms") {
		t.Errorf("got %v", err)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c, _ := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // the server notices a closed connection only then
		cancel()
		<-r.Context().Done()
	}, func(_ *Endpoint, o *Options) { o.Attempts = 3 })
	_, _, err := c.Ask(ctx, ask("Hi"))
	if !errors.Is(err, context.Canceled) || schemas.KindOf(err) != schemas.Unavailable {
		t.Errorf("got %v", err)
	}
}

// failing is a journal whose parts fail.
type failing struct {
	Memory
	lookup, ready, append error
}

func (f *failing) Lookup(ctx context.Context, key schemas.Key) ([]byte, bool, error) {
	if f.lookup != nil {
		return nil, false, f.lookup
	}
	return f.Memory.Lookup(ctx, key)
}

func (f *failing) Ready(context.Context) error { return f.ready }

func (f *failing) Append(key schemas.Key, raw []byte) error {
	if f.append != nil {
		return f.append
	}
	return f.Memory.Append(key, raw)
}

// TestNothingIsSent when the journal or the guard says no.
func TestNothingIsSent(t *testing.T) {
	no := schemas.E("check lease", "shard", schemas.Conflict, nil)
	for _, test := range []struct {
		name    string
		journal *failing
		guard   error
	}{
		{"lookup", &failing{lookup: no}, nil},
		{"ready", &failing{ready: no}, nil},
		{"guard", &failing{}, no},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, _ := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") },
				func(_ *Endpoint, o *Options) { o.Journal, o.Attempts = test.journal, 3 })
			_, _, err := c.Guarded(func() error { return test.guard }).Ask(t.Context(), ask("Hi"))
			if !errors.Is(err, no) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("append", func(t *testing.T) {
		c, _ := serve(t, respond(200, hello), func(_ *Endpoint, o *Options) { o.Journal = &failing{append: no} })
		if _, _, err := c.Ask(t.Context(), ask("Hi")); !errors.Is(err, no) {
			t.Errorf("an answer that was not journaled came back with %v", err)
		}
	})
	t.Run("broken entry", func(t *testing.T) {
		c, journal := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") })
		journal.Append(keyOf(t, c.Endpoint(), ask("Hi")), []byte("{"))
		if _, _, err := c.Ask(t.Context(), ask("Hi")); schemas.KindOf(err) != schemas.Internal {
			t.Errorf("got %v", err)
		}
	})
}

func TestNewClientErrors(t *testing.T) {
	e := endpoint()
	if _, err := NewClient(e, Options{}); schemas.KindOf(err) != schemas.InvalidInput {
		t.Errorf("without a journal: %v", err)
	}
	e.APIKeyEnv = "TEST_LLM_NO_SUCH_KEY"
	if _, err := NewClient(e, Options{Journal: &Memory{}}); schemas.KindOf(err) != schemas.InvalidInput || !strings.Contains(err.Error(), e.APIKeyEnv) {
		t.Errorf("without a key: %v", err)
	}
	e.Model = ""
	if _, err := NewClient(e, Options{Journal: &Memory{}}); schemas.KindOf(err) != schemas.InvalidInput {
		t.Errorf("without a model: %v", err)
	}
	c, err := NewClient(endpoint(), Options{Journal: &Memory{}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Ask(t.Context(), Request{}); schemas.KindOf(err) != schemas.InvalidInput {
		t.Errorf("without messages: %v", err)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func response(status int, body string, header ...string) *http.Response {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}
