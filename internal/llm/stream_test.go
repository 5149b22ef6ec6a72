package llm

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"precept/schemas"
)

// says is a reply whose pieces come one after the other, each after a pause.
func says(pause time.Duration, end error, pieces ...string) roundTrip {
	return func(r *http.Request) (*http.Response, error) {
		read, write := io.Pipe()
		go func() {
			for _, piece := range pieces {
				select {
				case <-time.After(pause):
				case <-r.Context().Done():
					write.CloseWithError(r.Context().Err())
					return
				}
				io.WriteString(write, piece)
			}
			if end == nil { // it never ends
				<-r.Context().Done()
				end = r.Context().Err()
			}
			write.CloseWithError(end)
		}()
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: read}, nil
	}
}

func delta(text string) string {
	return fmt.Sprintf("data: {\"choices\":[{\"delta\":{\"content\":%q}}]}\n\n", text)
}

const (
	stop      = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
	used      = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}}\n\n"
	done      = "data: [DONE]\n\n"
	keepAlive = ": keep-alive\n\n"
)

// TestStreamTimeouts: with a stream the time-out of 10 s is a silence, and ten of them
// bound the whole.
func TestStreamTimeouts(t *testing.T) {
	long := strings.Split(strings.TrimSpace(strings.Repeat("word ", 15)), " ")
	for _, test := range []struct {
		name   string
		stream bool
		reply  roundTrip
		took   time.Duration
		text   string // of the answer or the error
		late   bool
	}{
		{"slow, whole", false, says(9*time.Second, io.EOF, `{"choices":[{"message":`, `{"content":"a"}}]}`), 10 * time.Second, "no reply within 10s", true},
		{"slow, in pieces", true, says(9*time.Second, io.EOF, delta("a"), delta("b"), stop, used, done), 45 * time.Second, "ab", false},
		{"a silence", true, says(11*time.Second, io.EOF, delta("a"), stop), 10 * time.Second, "no more of it, within 10s", true},
		{"a silence in the middle", true, says(9*time.Second, nil, delta("a")), 19 * time.Second, "no more of it, within 10s", true},
		{"alive, without an end", true, says(9*time.Second, nil, slicesOf(long, keepAlive)...), 100 * time.Second, "no reply within 1m40s", true},
		{"alive, then an answer", true, says(9*time.Second, io.EOF, keepAlive, keepAlive, keepAlive, delta("a")+stop+done), 36 * time.Second, "a", false},
		{"left open at its end", true, says(time.Second, nil, delta("a")+stop+used+done), 2 * time.Second, "a", false},
		{"left open without its end", true, says(time.Second, nil, delta("a")+stop), 11 * time.Second, "a", false},
		{"cut", true, says(time.Second, io.ErrUnexpectedEOF, delta("a")), time.Second, "unexpected EOF", false},
		{"cut after the answer", true, says(time.Second, io.ErrUnexpectedEOF, delta("a")+stop), time.Second, "a", false},
		{"JSON all the same", true, says(time.Second, io.EOF, hello), time.Second, "Hello", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := endpoint()
				e.Timeout, e.Stream = 10*time.Second, test.stream
				start := time.Now()
				a, _, err := scripted(t, e, 1, test.reply).Ask(t.Context(), ask("Hi"))
				took := time.Since(start)
				got := a.Content
				if err != nil {
					got = err.Error()
				}
				if !strings.Contains(got, test.text) || IsLate(err) != test.late || took != test.took {
					t.Errorf("after %s: %q, late %v; want %q after %s", took, got, IsLate(err), test.text, test.took)
				}
				synctest.Wait()
			})
		})
	}
}

func slicesOf(words []string, piece string) (out []string) {
	for range words {
		out = append(out, piece)
	}
	return out
}

// TestStreams are streams as servers write them, and what is read of them.
func TestStreams(t *testing.T) {
	piece := func(format string, args ...any) string {
		return fmt.Sprintf("data: {\"model\":\"m\",\"system_fingerprint\":\"f\",\"choices\":["+format+"]}\n\n", args...)
	}
	whole := Answer{Content: "Hello", CoT: "Hm. So.", FinishReason: "stop", Model: "m", Fingerprint: "f", Usage: Usage{PromptTokens: 10, CompletionTokens: 5}}
	cot := piece(`{"delta":{"role":"assistant","content":null,"reasoning_content":"Hm. "}}`) + piece(`{"delta":{"reasoning_content":"So."}}`)
	text := piece(`{"delta":{"content":"Hel"}}`) + piece(`{"delta":{"content":"lo"},"finish_reason":null}`)
	end := piece(`{"delta":{},"finish_reason":"stop"}`)
	without := func(change func(*Answer)) Answer { a := whole; change(&a); return a }
	for _, test := range []struct {
		name, body string
		want       Answer
		failure    string
	}{
		{"whole", cot + text + end + used + done, whole, ""},
		{"line ends of Windows", strings.ReplaceAll(cot+text+end+used+done, "\n", "\r\n"), whole, ""},
		{"no empty lines", strings.ReplaceAll(cot+text+end+used+done, "\n\n", "\n"), whole, ""},
		{"no space", strings.ReplaceAll(cot+text+end+used+done, "data: ", "data:"), whole, ""},
		{"comments, names and numbers", keepAlive + "event: chunk\nid: 7\nretry: 10\n" + cot + keepAlive + text + end + used + done, whole, ""},
		{"without DONE", cot + text + end + used, whole, ""},
		{"usage with the reason", cot + text + strings.Replace(end, "}\n", `,"usage":{"prompt_tokens":10,"completion_tokens":5}}`+"\n", 1) + done, whole, ""},
		{"usage that grows", used + cot + strings.Replace(used, "10", "1", 1) + text + end + used + done, whole, ""},
		{"no usage", cot + text + end + done, without(func(a *Answer) { a.Usage = Usage{} }), ""},
		{"no reason", cot + text + used + done, without(func(a *Answer) { a.FinishReason = "" }), ""},
		{"other choices", cot + piece(`{"index":1,"delta":{"content":"No"}}`) + text + end + used + done, whole, ""},
		{"the whole at the end", cot + text + piece(`{"message":{"content":"Hello","reasoning_content":"Hm. So."},"finish_reason":"stop"}`) + used + done, whole, ""},
		{"two lines of one event", "data: {\"model\":\"m\",\"system_fingerprint\":\"f\",\ndata: \"choices\":[{\"delta\":{\"content\":\"Hello\",\"reasoning\":\"Hm. So.\"},\"finish_reason\":\"stop\"}]}\n\n" + used, whole, ""},
		{"details", piece(`{"delta":{"reasoning_details":[{"type":"reasoning.text","text":"Hm. "}]}}`) + piece(`{"delta":{"reasoning_details":[{"text":"So."}]}}`) + text + end + used + done, whole, ""},
		{"cut by length", cot + text + piece(`{"delta":{},"finish_reason":"length"}`) + used + done, without(func(a *Answer) { a.FinishReason = "length" }), ""},
		{"a refusal", piece(`{"delta":{"refusal":"I "}}`) + piece(`{"delta":{"refusal":"can't"}}`) + end + used + done, without(func(a *Answer) { a.Content, a.CoT, a.Refusal = "I can't", "", true }), ""},
		{"a tool call", piece(`{"delta":{"tool_calls":[{"index":0,"function":{"name":"f"}}]}}`) + piece(`{"delta":{},"finish_reason":"stop"}`) + used + done, without(func(a *Answer) { a.Content, a.CoT, a.FinishReason = "", "", "tool_calls" }), ""},
		{"an error after the answer", cot + text + end + used + "data: {\"error\":{\"message\":\"late\"}}\n\n", whole, ""},
		{"an error", cot + "data: {\"error\":{\"message\":\"went away\"}}\n\n" + done, Answer{}, "went away"},
		{"an error's status", cot + "data: {\"error\":{\"message\":\"slow down\",\"code\":429}}\n\n", Answer{}, "HTTP 429"},
		{"a refused content", "data: {\"error\":{\"message\":\"No.\",\"code\":\"content_filter\"}}\n\n", Answer{Content: "No.", FinishReason: "content_filter", Refusal: true}, ""},
		{"half", cot + text, Answer{}, "in the middle"},
		{"nothing", keepAlive, Answer{}, "in the middle"},
		{"DONE alone", done, Answer{}, "without a choice"},
		{"no JSON", cot + "data: oops\n\n" + end, Answer{}, "no chat completion"},
		{"the server gave up", cot + piece(`{"delta":{},"finish_reason":"abort"}`) + done, Answer{}, "abort"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, journal := serve(t, respond(200, test.body), func(e *Endpoint, _ *Options) { e.Stream = true })
			got, _, err := c.Ask(t.Context(), ask("Hi"))
			if test.failure != "" {
				if kind := schemas.KindOf(err); !kind.Retryable() || !strings.Contains(err.Error(), test.failure) || journal.Len() != 0 {
					t.Errorf("got %s: %v", kind, err)
				}
				return
			}
			got.Seconds = 0
			if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
				t.Errorf("%v (- want, + got):\n%s", err, diff)
			}
		})
	}
}

// TestStreamIsAsked: a stream adds two fields to the body, and an answer that came in
// one is found without it.
func TestStreamIsAsked(t *testing.T) {
	var bodies []map[string]any
	handler := func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		bodies = append(bodies, body)
		io.WriteString(w, delta("Hello")+stop+done)
	}
	journal := &Memory{}
	for _, change := range []func(*Endpoint){
		func(e *Endpoint) { e.Stream = true },
		func(e *Endpoint) { e.Stream = false },
		func(e *Endpoint) { e.Stream, e.Extra = true, map[string]any{"stream_options": nil} },
	} {
		c, _ := serve(t, handler, func(e *Endpoint, o *Options) { change(e); o.Journal = journal })
		if _, _, err := c.Ask(t.Context(), ask("Hi")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.Probe(t.Context(), Request{}); err != nil {
			t.Fatal(err)
		}
	}
	if len(bodies) != 4 || journal.Len() != 1 {
		t.Fatalf("%d requests and %d answers, want one answer and three probes beside it", len(bodies), journal.Len())
	}
	want := []any{true, true, nil, true}
	options := []any{map[string]any{"include_usage": true}, map[string]any{"include_usage": true}, nil, nil}
	for i, body := range bodies {
		if body["stream"] != want[i] || !cmp.Equal(body["stream_options"], options[i]) {
			t.Errorf("request %d: stream %v, options %v", i, body["stream"], body["stream_options"])
		}
	}
}

// TestStreamAgain: what is sent again asks for a stream in the same words.
func TestStreamAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := endpoint()
		e.Stream = true
		var sent []string
		c := scripted(t, e, 4, func(r *http.Request) (*http.Response, error) {
			body, _ := io.ReadAll(r.Body)
			if !json.Valid(body) {
				t.Errorf("it sent %s", body)
			}
			if sent = append(sent, string(body)); len(sent) < 3 {
				return response(503, ""), nil
			}
			return response(200, delta("a")+stop+done), nil
		})
		r := ask("Hi")
		r.JSONSchema = &Schema{Name: "s", Schema: map[string]any{"description": strings.Repeat("x", 1000)}}
		if _, _, err := c.Ask(t.Context(), r); err != nil || len(sent) != 3 || sent[0] != sent[2] {
			t.Errorf("%v; it sent %q", err, sent)
		}
	})
}
