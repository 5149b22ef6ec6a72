package llm

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"precept/internal/llm/llmtest"
	"precept/schemas"
)

// TestEveryReply: each reply is an answer that is journaled or an error of a kind that
// says what to do, in time, whether a stream was asked for or not.
func TestEveryReply(t *testing.T) {
	t.Parallel()
	var sends atomic.Pointer[string] // read by connections of before, too
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reply, _ := llmtest.Find(*sends.Load())
		reply.Write(w, r, llmtest.Answer{Model: "m", CoT: "A thought.", Text: "An answer.", PromptTokens: 10, CompletionTokens: 5})
	}))
	defer server.Close()
	for _, reply := range llmtest.Replies {
		for _, streams := range []bool{false, true} {
			name := reply.Name
			sends.Store(&name)
			e := endpoint()
			e.BaseURL, e.Stream = server.URL, streams
			if strings.HasPrefix(name, "stall") {
				e.Timeout = 50 * time.Millisecond
			}
			journal := &Memory{}
			c, err := NewClient(e, Options{Journal: journal, Attempts: 1})
			if err != nil {
				t.Fatal(err)
			}
			a, _, err := c.Ask(t.Context(), ask("Hi"))
			if (err != nil) != reply.Fails || IsAccount(err) != reply.Stop || IsLate(err) != (strings.HasPrefix(name, "stall") || name == "gateway timeout") {
				t.Errorf("%s (stream %v): account %v, late %v: %v", name, streams, IsAccount(err), IsLate(err), err)
			}
			if kind := schemas.KindOf(err); err != nil && (kind == schemas.Internal || !utf8.ValidString(err.Error()) || len(err.Error()) > 1000) {
				t.Errorf("%s (stream %v): %s: %v", name, streams, kind, err)
			}
			if (journal.Len() == 1) == reply.Fails || !utf8.ValidString(a.Content+a.CoT) || len(a.Content) > maxAnswer || a.Usage.PromptTokens < 0 {
				t.Errorf("%s (stream %v): %d answers journaled, %.300v", name, streams, journal.Len(), a)
			}
		}
	}
}

func TestUsage(t *testing.T) {
	for _, test := range []struct {
		name, usage string
		want        Usage
	}{
		{"OpenAI", `{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,"prompt_tokens_details":{"cached_tokens":64},"completion_tokens_details":{"reasoning_tokens":40}}`, Usage{100, 64, 50, 40}},
		{"DeepSeek", `{"prompt_tokens":100,"completion_tokens":50,"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36}`, Usage{100, 64, 50, 0}},
		{"LiteLLM before Anthropic", `{"prompt_tokens":100,"completion_tokens":50,"cache_read_input_tokens":64,"cache_creation_input_tokens":0}`, Usage{100, 64, 50, 0}},
		{"Anthropic", `{"input_tokens":6,"output_tokens":50,"cache_read_input_tokens":64,"cache_creation_input_tokens":30}`, Usage{100, 64, 50, 0}},
		{"thoughts counted apart", `{"prompt_tokens":32,"completion_tokens":9,"total_tokens":135,"completion_tokens_details":{"reasoning_tokens":94}}`, Usage{32, 0, 103, 94}},
		{"strings", `{"prompt_tokens":"100","completion_tokens":" 50 ","prompt_tokens_details":{"cached_tokens":"64"}}`, Usage{100, 64, 50, 0}},
		{"fractions", `{"prompt_tokens":100.0,"completion_tokens":5e1}`, Usage{100, 0, 50, 0}},
		{"negative", `{"prompt_tokens":-1,"completion_tokens":50}`, Usage{0, 0, 50, 0}},
		{"enormous", `{"prompt_tokens":1e300,"completion_tokens":9223372036854775807}`, Usage{}},
		{"more cached than read", `{"prompt_tokens":10,"completion_tokens":5,"prompt_cache_hit_tokens":64}`, Usage{10, 10, 5, 0}},
		{"details of another type", `{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":[],"completion_tokens_details":"?"}`, Usage{10, 0, 5, 0}},
		{"another type", `"many"`, Usage{}},
		{"null", `null`, Usage{}},
	} {
		var c completion
		if err := json.Unmarshal([]byte(`{"usage":`+test.usage+`}`), &c); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, c.Usage.v.counted()); diff != "" {
			t.Errorf("%s (- want, + got):\n%s", test.name, diff)
		}
	}
}

func TestFinishReasons(t *testing.T) {
	for _, test := range []struct{ choice, want string }{
		{`{"message":{"content":"a"},"finish_reason":"stop"}`, "stop"},
		{`{"message":{"content":"a"}}`, ""},
		{`{"message":{"content":"a"},"finish_reason":7}`, ""},
		{`{"message":{"content":"a"},"finish_reason":"MAX_TOKENS"}`, "length"},
		{`{"message":{"content":"a"},"finish_reason":"SAFETY"}`, "content_filter"},
		{`{"message":{"content":null,"tool_calls":[{"id":"1"}]},"finish_reason":"stop"}`, "tool_calls"},
		{`{"message":{"content":"a","function_call":{"name":"f"}},"finish_reason":"function_call"}`, "tool_calls"},
		{`{"message":{"content":"a","tool_calls":[]},"finish_reason":"stop"}`, "stop"},
		{`{"message":{"content":[{"type":"tool_use","name":"f"}]},"finish_reason":"end_turn"}`, "tool_calls"},
		{`{"message":{"content":"a","tool_calls":[{"id":"1"}]},"finish_reason":"length"}`, "length"},
		{`{"message":{"content":"a"},"finish_reason":"too long"}`, "stop"}, // not the server's word
	} {
		c, _ := serve(t, respond(200, `{"choices":[`+test.choice+`]}`))
		a, _, err := c.Ask(t.Context(), ask("Hi"))
		if err != nil || a.FinishReason != test.want {
			t.Errorf("%s: %q, %v; want %q", test.choice, a.FinishReason, err, test.want)
		}
	}
}

// The thoughts of a message under every name.
func TestThoughts(t *testing.T) {
	for _, test := range []struct{ message, content, cot string }{
		{`{"content":"a","reasoning_content":"r","reasoning":"r"}`, "a", "r"},
		{`{"content":"a","reasoning":{"content":"r"}}`, "a", "r"},
		{`{"content":"a","reasoning":[{"text":"r"},{"summary":["s"]}]}`, "a", "rs"},
		{`{"content":"a","reasoning_details":[{"type":"reasoning.summary","summary":"r"},{"type":"reasoning.encrypted","data":"x"}]}`, "a", "r"},
		{`{"content":[{"type":"reasoning","text":"r"},{"type":"output_text","text":"a"}]}`, "a", "r"},
		{`{"content":{"type":"text","text":"a"}}`, "a", ""},
		{`{"content":["a",{"text":"b"},7,null,{"type":"image_url","image_url":{}}]}`, "ab", ""},
		{`{"content":"a","reasoning":[[[[[[["r"]]]]]]]}`, "a", ""}, // too deep
	} {
		c, _ := serve(t, respond(200, reply(test.message, "stop")))
		a, _, err := c.Ask(t.Context(), ask("Hi"))
		if err != nil || a.Content != test.content || a.CoT != test.cot {
			t.Errorf("%s: %q and %q, %v", test.message, a.CoT, a.Content, err)
		}
	}
}

func TestHiddenThoughtsAreKnown(t *testing.T) {
	c, _ := serve(t, respond(200, `{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"usage":{"completion_tokens":9,"completion_tokens_details":{"reasoning_tokens":8}}}`))
	for range 2 { // sent, and from the journal
		if a, _, err := c.Ask(t.Context(), ask("Hi")); err != nil || !a.HidesCoT() || a.Usage.ReasoningTokens != 8 {
			t.Errorf("%+v, %v", a, err)
		}
	}
}

func TestAPIKeyHeader(t *testing.T) {
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("api-key") != testKey || r.Header.Get("Authorization") != "" {
			t.Errorf("api-key %q, Authorization %q", r.Header.Get("api-key"), r.Header.Get("Authorization"))
		}
		fmt.Fprint(w, hello)
	}, func(e *Endpoint, _ *Options) { e.APIKeyHeader = "api-key" })
	if _, _, err := c.Ask(t.Context(), ask("Hi")); err != nil {
		t.Error(err)
	}
}
