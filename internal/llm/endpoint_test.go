package llm

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"precept/schemas"
)

func endpoint() Endpoint {
	return Endpoint{Name: "teacher", BaseURL: "http://127.0.0.1:1/v1", Model: "served", Provider: "lab", Revision: "r1"}
}

func TestEndpointYAML(t *testing.T) {
	text := `
name: teacher
base_url: https://models.example/v1
model: big
provider: lab
revision: "2026-11"
api_key_env: LAB_KEY
simulated: true
max_in_flight: 4
rpm: 60
tpm: 9000
timeout: 90s
input_usd: 1
cached_usd: 0.5
output_usd: 2
json_mode: none
max_tokens_field: max_completion_tokens
extra: {top_k: 20, temperature: null}
`
	want := Endpoint{
		Name: "teacher", BaseURL: "https://models.example/v1", Model: "big", Provider: "lab", Revision: "2026-11",
		APIKeyEnv: "LAB_KEY", Simulated: true, MaxInFlight: 4, RPM: 60, TPM: 9000, Timeout: 90 * time.Second,
		InputUSD: 1, CachedUSD: 0.5, OutputUSD: 2, JSONMode: JSONNone, MaxTokensField: "max_completion_tokens",
		Extra: map[string]any{"top_k": 20.0, "temperature": nil},
	}
	var got Endpoint
	if err := yaml.UnmarshalStrict([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	raw, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), `"timeout":"1m30s"`) {
		t.Errorf("%s has no timeout in words", raw)
	}
	var again Endpoint
	if err := json.Unmarshal(raw, &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, again); diff != "" {
		t.Fatal(diff)
	}
	if err := got.Check(); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{`{"name":"a","typo":1}`, `{"timeout":"soon"}`, `{"timeout":3}`} {
		if err := json.Unmarshal([]byte(bad), &Endpoint{}); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

func TestEndpointCheck(t *testing.T) {
	for _, test := range []struct {
		field  string
		change func(*Endpoint)
	}{
		{"name", func(e *Endpoint) { e.Name = "" }},
		{"base_url", func(e *Endpoint) { e.BaseURL = "" }},
		{"base_url", func(e *Endpoint) { e.BaseURL = "127.0.0.1:8000" }},
		{"base_url", func(e *Endpoint) { e.BaseURL = "http://user:password@host/v1" }},
		{"base_url", func(e *Endpoint) { e.BaseURL = "http://host/v1?key=password" }},
		{"base_url", func(e *Endpoint) { e.BaseURL = "http://host/\x7fpassword" }},
		{"model", func(e *Endpoint) { e.Model = "" }},
		{"revision", func(e *Endpoint) { e.Revision = "" }},
		{"provider", func(e *Endpoint) { e.Provider = "" }},
		{"max_in_flight", func(e *Endpoint) { e.MaxInFlight = -1 }},
		{"rpm", func(e *Endpoint) { e.RPM = -1 }},
		{"tpm", func(e *Endpoint) { e.TPM = -1 }},
		{"base_urls", func(e *Endpoint) { e.BaseURLs = []string{"http://a/v1"} }}, // beside base_url
		{"base_urls", func(e *Endpoint) { e.BaseURL, e.BaseURLs = "", []string{"http://a/v1", "http://a/v1"} }},
		{"base_urls", func(e *Endpoint) { e.BaseURL, e.BaseURLs = "", []string{"http://a/v1", "b"} }},
		{"timeout", func(e *Endpoint) { e.Timeout = -1 }},
		{"output_usd", func(e *Endpoint) { e.OutputUSD = -1 }},
		{"input_usd", func(e *Endpoint) { e.InputUSD = math.NaN() }},
		{"json_mode", func(e *Endpoint) { e.JSONMode = "yes" }},
		{"max_tokens_field", func(e *Endpoint) { e.MaxTokensField = "n" }},
		{"extra", func(e *Endpoint) { e.Extra = map[string]any{"seed": 1} }},
		{"extra", func(e *Endpoint) { e.Extra = map[string]any{"x": math.Inf(1)} }},
	} {
		e := endpoint()
		test.change(&e)
		err := e.Check()
		if schemas.KindOf(err) != schemas.InvalidInput || !strings.Contains(err.Error(), test.field) {
			t.Errorf("%s: got %v", test.field, err)
		}
		if err != nil && strings.Contains(err.Error(), "password") {
			t.Errorf("%v shows a password", err)
		}
	}
}

func TestBaseURLs(t *testing.T) {
	var e Endpoint
	text := "{name: a, base_urls: ['http://a/v1', 'http://b/v1'], model: m, weights: w, max_in_flight: 16}"
	if err := yaml.UnmarshalStrict([]byte(text), &e); err != nil {
		t.Fatal(err)
	}
	if err := e.Check(); err != nil || e.InFlight() != 32 {
		t.Errorf("%d in flight, %v", e.InFlight(), err)
	}
	if n := endpoint().InFlight(); n != defaultMaxInFlight {
		t.Errorf("%d in flight by default", n)
	}
}

func TestIdentity(t *testing.T) {
	e := endpoint()
	if got := e.Identity(); got != "lab/served@r1" {
		t.Errorf("got %q", got)
	}
	e.Weights = "abc"
	if got := e.Identity(); got != "abc" {
		t.Errorf("got %q", got)
	}
}

// TestKey shows what a request key follows from. The first key is written down:
// when it changes, every journaled answer is paid for again.
func TestKey(t *testing.T) {
	request := func() Request {
		return Request{
			Messages:    []schemas.Message{{Role: "user", Content: "Hello"}},
			Temperature: 0.7, TopP: 0.9, MaxTokens: 100,
			JSONSchema: &Schema{Name: "s", Schema: map[string]any{"type": "object"}},
		}
	}
	key := func(e Endpoint, r Request) schemas.Key { return keyOf(t, e, r) }
	base := key(endpoint(), request())
	if want := schemas.Key("4b55622de92893c21e301746cab067dc03a500ad3d500022fe8f4115875a3ed4"); base != want {
		t.Errorf("the key of a request changed: %s", base)
	}
	for _, test := range []struct {
		name   string
		change func(*Endpoint, *Request)
		same   bool
	}{
		{"URL", func(e *Endpoint, _ *Request) { e.BaseURL = "https://other/v1" }, true},
		{"name", func(e *Endpoint, _ *Request) { e.Name = "other" }, true},
		{"price", func(e *Endpoint, _ *Request) { e.InputUSD = 1 }, true},
		{"model", func(e *Endpoint, _ *Request) { e.Model = "other" }, false},
		{"revision", func(e *Endpoint, _ *Request) { e.Revision = "r2" }, false},
		{"weights", func(e *Endpoint, _ *Request) { e.Weights = "abc" }, false},
		{"extra", func(e *Endpoint, _ *Request) { e.Extra = map[string]any{"top_k": 1} }, false},
		{"no schema", func(e *Endpoint, _ *Request) { e.JSONMode = JSONNone }, false},
		{"temperature", func(_ *Endpoint, r *Request) { r.Temperature = 0 }, false},
		{"top_p", func(_ *Endpoint, r *Request) { r.TopP = 0 }, false},
		{"max_tokens", func(_ *Endpoint, r *Request) { r.MaxTokens = 0 }, true},
		{"an extra limit", func(e *Endpoint, _ *Request) { e.Extra = map[string]any{"max_tokens": 9} }, false},
		{"seed", func(_ *Endpoint, r *Request) { r.Seed = 1 }, false},
		{"sample", func(_ *Endpoint, r *Request) { r.Sample = 1 }, false},
		{"messages", func(_ *Endpoint, r *Request) { r.Messages[0].Content = "Hello!" }, false},
		{"schema", func(_ *Endpoint, r *Request) { r.JSONSchema.Schema = map[string]any{"type": "array"} }, false},
	} {
		e, r := endpoint(), request()
		test.change(&e, &r)
		if got := key(e, r) == base; got != test.same {
			t.Errorf("%s: same key: %v", test.name, got)
		}
	}
	// The served name of weights that Precept serves is an alias.
	a, b := endpoint(), endpoint()
	a.Weights, b.Weights, b.Model = "abc", "abc", "other"
	if key(a, request()) != key(b, request()) {
		t.Error("the served name is in the key")
	}
}

func TestCountAndPrice(t *testing.T) {
	e := endpoint()
	e.InputUSD, e.CachedUSD, e.OutputUSD = 2, 1, 10
	a := Answer{Usage: Usage{PromptTokens: 1000, CachedTokens: 400, CompletionTokens: 100}, Seconds: 2}
	const want = (600*2 + 400*1 + 100*10) / 1e6
	if got := e.price(a); math.Abs(got-want) > 1e-12 {
		t.Errorf("price %v, want %v", got, want)
	}
	e.CachedUSD = 0
	if got := e.price(a); math.Abs(got-0.003) > 1e-12 {
		t.Errorf("price without a price for cached tokens: %v", got)
	}
	var sum schemas.Usage
	sum.Add(Count(a, Meta{USD: want}))
	sum.Add(Count(a, Meta{Cached: true}))
	wantSum := schemas.Usage{Paid: 1, Cached: 1, PromptTokens: 1000, CachedTokens: 400, CompletionTokens: 100, USD: want, Seconds: 2}
	if diff := cmp.Diff(wantSum, sum); diff != "" {
		t.Error(diff)
	}
}

// TestMessagesAreCanonical holds the encoding that is put together from parts against
// the plain one.
func TestMessagesAreCanonical(t *testing.T) {
	long := strings.Repeat("a <policy> & more \"é\u2028 ", 100)
	for range 2 { // the second time from memory
		for _, messages := range [][]schemas.Message{
			{{Role: "user", Content: "Hi <b>"}},
			{{Role: "system", Content: long}, {Role: "user", Content: "Hi"}},
			{{Role: "system", Content: long}, {Role: "user", Content: long}, {Role: "assistant", Content: "Ü"}},
		} {
			want, err := schemas.CanonicalJSON(messages)
			if err != nil {
				t.Fatal(err)
			}
			begun, rest, digest, err := encoded.messages(messages)
			got := slices.Concat(begun.json, rest)
			if err != nil || string(got) != string(want) || digest != schemas.DigestBytes(want) {
				t.Errorf("%d messages: got %.200s, %v\nwant %.200s", len(messages), got, err, want)
			}
		}
	}
}
