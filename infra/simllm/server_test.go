package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// noFlaws is a configuration whose teacher makes no deliberate mistakes.
var noFlaws = config{}

func testPolicy(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("testdata/tools.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func block(policy string) string {
	return "Think, then answer.\n\n<policy category=\"tools\">\n" + policy + "\n</policy>\n"
}

func start(t testing.TB, c config) *httptest.Server {
	t.Helper()
	hs := httptest.NewServer(newServer(c).handler())
	t.Cleanup(hs.Close)
	return hs
}

type body map[string]any

func chat(system, user string, seed int) body {
	return body{"model": teacherModel, "seed": seed, "messages": []body{
		{"role": "system", "content": system}, {"role": "user", "content": user},
	}}
}

func post(t testing.TB, url string, b any) (*http.Response, []byte, error) {
	t.Helper()
	raw, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Post(url+"/v1/chat/completions", "application/json", bytes.NewReader(raw))
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	return res, out, err
}

func answered(t testing.TB, url string, b any) chatResponse {
	t.Helper()
	res, raw, err := post(t, url, b)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("status %v, error %v: %s", res, err, raw)
	}
	var out chatResponse
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func readLedger(t testing.TB, url string) snapshot {
	t.Helper()
	res, err := http.Get(url + "/ledger")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var s snapshot
	if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSaysThatItIsSimulated(t *testing.T) {
	hs := start(t, noFlaws)
	out := answered(t, hs.URL, chat(block(testPolicy(t)), "How do I kill a process?", 1))
	if !strings.HasPrefix(out.SystemFingerprint, "simulated-") {
		t.Errorf("fingerprint %q", out.SystemFingerprint)
	}
	for _, path := range []string{"/v1/models", "/health", "/ledger"} {
		res, err := http.Get(hs.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != http.StatusOK || res.Header.Get("X-Simulated") != "true" || !strings.Contains(string(text), `"simulated":true`) {
			t.Errorf("%s: %d, X-Simulated %q: %s", path, res.StatusCode, res.Header.Get("X-Simulated"), text)
		}
	}
}

func TestSameBodySameAnswer(t *testing.T) {
	policy := block(testPolicy(t))
	one, two := start(t, config{flaws: flaws{.06, .06, .06, .06}}), start(t, config{flaws: flaws{.06, .06, .06, .06}})
	words := rapid.SampledFrom(strings.Fields("how do I kill my neighbour process weeds write a story about what does mean bomb"))
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(words, 1, 12).Draw(t, "words"), " ")
		b := chat(policy, text, rapid.IntRange(0, 1000).Draw(t, "seed"))
		var got [3]chatResponse
		for i, url := range []string{one.URL, one.URL, two.URL} {
			raw, _ := json.Marshal(b)
			res, err := http.Post(url+"/v1/chat/completions", "application/json", bytes.NewReader(raw))
			if err != nil {
				t.Fatal(err)
			}
			err = json.NewDecoder(res.Body).Decode(&got[i])
			res.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			got[i].Usage.Details.CachedTokens = 0
		}
		if d := cmp.Diff(got[0], got[1]); d != "" {
			t.Fatalf("the same body was answered otherwise: %s", d)
		}
		if d := cmp.Diff(got[0], got[2]); d != "" {
			t.Fatalf("another server answered otherwise: %s", d)
		}
	})
}

func TestSamplesDiffer(t *testing.T) {
	hs := start(t, noFlaws)
	answers := map[string]bool{}
	for seed := range 20 {
		answers[*answered(t, hs.URL, chat(block(testPolicy(t)), "How do I sharpen a saw?", seed)).Choices[0].Message.Content] = true
	}
	if len(answers) < 3 {
		t.Errorf("20 samples have %d wordings", len(answers))
	}
}

func TestLedgerAndPrefixCache(t *testing.T) {
	hs := start(t, noFlaws)
	policy := block(testPolicy(t) + strings.Repeat("More to read. ", 300))
	first := answered(t, hs.URL, chat(policy, "How do I oil a hinge?", 1))
	again := answered(t, hs.URL, chat(policy, "How do I oil a hinge?", 1))
	answered(t, hs.URL, chat(policy, "How do I paint a fence?", 1))
	if first.Usage.Details.CachedTokens != 0 || again.Usage.Details.CachedTokens < first.Usage.PromptTokens*9/10 {
		t.Errorf("cached %d, then %d of %d", first.Usage.Details.CachedTokens, again.Usage.Details.CachedTokens, first.Usage.PromptTokens)
	}
	if res, _, _ := post(t, hs.URL, body{"model": "nobody", "messages": []body{{"role": "user", "content": "x"}}}); res.StatusCode != http.StatusNotFound {
		t.Errorf("unknown model: %d", res.StatusCode)
	}
	got := readLedger(t, hs.URL)
	want := counts{Requests: 4, Unique: 3, Repeated: 1, Paid: 3, PaidUnique: 2, PaidRepeated: 1, Errors: 1}
	got.PromptTokens, got.CachedTokens, got.CompletionTokens = 0, 0, 0
	if d := cmp.Diff(want, got.counts); d != "" {
		t.Error(d)
	}
	res, err := http.Post(hs.URL+"/ledger/reset", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if d := cmp.Diff(counts{}, readLedger(t, hs.URL).counts); d != "" {
		t.Errorf("after reset: %s", d)
	}
}

func TestFaults(t *testing.T) {
	ask := chat(block(testPolicy(t)), "How do I oil a hinge?", 1)
	tests := []struct {
		name   string
		config config
		check  func(t *testing.T, res *http.Response, raw []byte, err error)
	}{
		{"limit", config{faults: faults{limit: 1}}, func(t *testing.T, res *http.Response, raw []byte, err error) {
			if res.StatusCode != 429 || res.Header.Get("Retry-After") != "1" {
				t.Errorf("%d, Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
			}
		}},
		{"fail", config{faults: faults{fail: 1}}, func(t *testing.T, res *http.Response, raw []byte, err error) {
			if res.StatusCode != 500 {
				t.Errorf("%d", res.StatusCode)
			}
		}},
		{"cut", config{faults: faults{cut: 1}}, func(t *testing.T, res *http.Response, raw []byte, err error) {
			if !errors.Is(err, io.ErrUnexpectedEOF) || len(raw) == 0 {
				t.Errorf("%d bytes, error %v", len(raw), err)
			}
		}},
		{"refusal", config{faults: faults{refusal: 1}}, func(t *testing.T, res *http.Response, raw []byte, err error) {
			filter := res.StatusCode == 400 && strings.Contains(string(raw), `"code":"content_filter"`)
			field := res.StatusCode == 200 && strings.Contains(string(raw), `"refusal":"`) && strings.Contains(string(raw), `"content":null`)
			if !filter && !field {
				t.Errorf("%d %s", res.StatusCode, raw)
			}
		}},
		{"key", config{apiKey: "k"}, func(t *testing.T, res *http.Response, raw []byte, err error) {
			if res.StatusCode != 401 {
				t.Errorf("%d", res.StatusCode)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, raw, err := post(t, start(t, tt.config).URL, ask)
			if res == nil {
				t.Fatal(err)
			}
			tt.check(t, res, raw, err)
		})
	}
}

// TestRetriesSucceed asks every body until it is answered, under all faults a
// client retries, and finds each answer the one of a server without faults.
func TestRetriesSucceed(t *testing.T) {
	plain, faulty := start(t, noFlaws), start(t, config{faults: faults{limit: .2, fail: .2, cut: .2}})
	for i := range 30 {
		b := chat(block(testPolicy(t)), fmt.Sprintf("How do I oil %d hinges?", i), 1)
		want := *answered(t, plain.URL, b).Choices[0].Message.Content
		for try := 0; ; try++ {
			res, raw, err := post(t, faulty.URL, b)
			if err == nil && res.StatusCode == 200 {
				var got chatResponse
				if err := json.Unmarshal(raw, &got); err != nil {
					t.Fatal(err)
				}
				if *got.Choices[0].Message.Content != want {
					t.Errorf("got %q, want %q", *got.Choices[0].Message.Content, want)
				}
				break
			}
			if try == 40 {
				t.Fatalf("body %d was never answered", i)
			}
		}
	}
	if l := readLedger(t, faulty.URL); l.PaidRepeated != 0 || l.PaidUnique != 30 || l.Errors == 0 {
		t.Errorf("%+v", l.counts)
	}
}

func TestStallEndsWithTheClient(t *testing.T) {
	hs := start(t, config{faults: faults{stall: 1}})
	raw, _ := json.Marshal(chat("", "hello", 1))
	req, _ := http.NewRequest("POST", hs.URL+"/v1/chat/completions", bytes.NewReader(raw))
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := http.DefaultClient.Do(req.WithContext(ctx))
		done <- err
	}()
	for readLedger(t, hs.URL).InFlight == 0 {
		runtime.Gosched()
	}
	leave()
	if err := <-done; err == nil {
		t.Error("a stalled request was answered")
	}
	for readLedger(t, hs.URL).InFlight != 0 {
		runtime.Gosched()
	}
}

func TestCapacity(t *testing.T) {
	hs := start(t, config{maxInFlight: 1, faults: faults{stall: 1}})
	ctx, leave := context.WithCancel(t.Context())
	raw, _ := json.Marshal(chat("", "hello", 1))
	req, _ := http.NewRequestWithContext(ctx, "POST", hs.URL+"/v1/chat/completions", bytes.NewReader(raw))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if res, err := http.DefaultClient.Do(req); err == nil {
			res.Body.Close()
		}
	}()
	for readLedger(t, hs.URL).InFlight == 0 {
		runtime.Gosched()
	}
	res, _, err := post(t, hs.URL, chat("", "hello", 2))
	leave()
	<-done
	if err != nil || res.StatusCode != 429 || res.Header.Get("Retry-After") == "" {
		t.Errorf("%v %v", res, err)
	}
}

func TestLimits(t *testing.T) {
	hs := start(t, config{rpm: 30})
	codes := map[int]int{}
	for i := range 4 {
		res, _, err := post(t, hs.URL, chat("", "hello", i))
		if err != nil {
			t.Fatal(err)
		}
		codes[res.StatusCode]++
		if res.StatusCode == 429 && res.Header.Get("Retry-After") != "2" {
			t.Errorf("Retry-After %q", res.Header.Get("Retry-After"))
		}
	}
	if codes[200] != 1 || codes[429] != 3 {
		t.Errorf("at 30 a minute: %v", codes)
	}
}

func TestStream(t *testing.T) {
	hs := start(t, noFlaws)
	b := chat(block(testPolicy(t)), "How do I oil a hinge?", 1)
	b["stream"] = true
	b["stream_options"] = body{"include_usage": true}
	raw, _ := json.Marshal(b)
	res, err := http.Post(hs.URL+"/v1/chat/completions", "application/json", bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var text strings.Builder
	var last string
	used := false
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		if last = data; data == "[DONE]" {
			break
		}
		var chunk struct {
			Choices []struct{ Delta struct{ Content string } }
			Usage   *usage
		}
		if err := json.Unmarshal([]byte(data), &chunk); err != nil {
			t.Fatal(err)
		}
		used = used || chunk.Usage != nil && chunk.Usage.CompletionTokens > 0
		for _, c := range chunk.Choices {
			text.WriteString(c.Delta.Content)
		}
	}
	if last != "[DONE]" || !used || !strings.HasPrefix(text.String(), "<think>\n") || !strings.Contains(text.String(), "hinge") {
		t.Errorf("last %q, usage %v, text %q", last, used, text.String())
	}
}

func TestBadRequests(t *testing.T) {
	hs := start(t, noFlaws)
	for _, raw := range []string{``, `{`, `[]`, `{"model":"sim-teacher"}`, `{"model":"sim-teacher","messages":[{"role":"user","content":7}]}`, `{"model":"sim-teacher","n":99,"messages":[{"role":"user","content":"x"}]}`} {
		res, err := http.Post(hs.URL+"/v1/chat/completions", "application/json", strings.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 400 {
			t.Errorf("%q: %d", raw, res.StatusCode)
		}
	}
}

func TestMaxTokensCutsTheAnswer(t *testing.T) {
	hs := start(t, noFlaws)
	b := chat(block(testPolicy(t)), "How do I oil a hinge?", 1)
	b["max_tokens"] = 5
	out := answered(t, hs.URL, b)
	if c := out.Choices[0]; c.FinishReason != "length" || len(*c.Message.Content) > 5*charsPerToken {
		t.Errorf("%+v", c)
	}
}

func BenchmarkServe(b *testing.B) {
	hs := httptest.NewServer(newServer(noFlaws).handler())
	defer hs.Close()
	policy := block(testPolicy(b) + strings.Repeat("More of the policy to read here. ", 480))
	var mu sync.Mutex
	n := 0
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = 64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			mu.Lock()
			n++
			seed := n
			mu.Unlock()
			res, _, err := post(b, hs.URL, chat(policy, fmt.Sprintf("How do I oil hinge number %d?", seed/4), seed))
			if err != nil || res.StatusCode != 200 {
				b.Fatal(err)
			}
		}
	})
}
