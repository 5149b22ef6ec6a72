// Package llmtest is what endpoints reply to a chat request, well and badly. The
// simulated endpoints reply so on demand, and tests hold what becomes of it.
package llmtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Reply is one way to reply.
type Reply struct {
	Name string
	// Fails says that it is no answer, and Stop that none is to be expected of the
	// endpoint at all: it is about the account or the address.
	Fails, Stop bool
	Write       func(w http.ResponseWriter, r *http.Request, a Answer)
}

// Answer is what a model says.
type Answer struct {
	Model, CoT, Text               string
	PromptTokens, CompletionTokens int
}

// Find returns the reply of a name.
func Find(name string) (Reply, bool) {
	for _, r := range Replies {
		if r.Name == name {
			return r, true
		}
	}
	return Reply{}, false
}

// Replies are all ways to reply. A name doesn't change.
var Replies = []Reply{
	// The chain of thought, where servers put it.
	{Name: "think block", Write: message(func(a Answer) any { return fields{"content": block(a)} })},
	{Name: "think closed only", Write: message(func(a Answer) any { return fields{"content": a.CoT + "\n</think>\n\n" + a.Text} })},
	{Name: "reasoning tags", Write: message(func(a Answer) any {
		return fields{"content": "<reasoning>" + a.CoT + "</reasoning>\n<answer>" + a.Text + "</answer>"}
	})},
	{Name: "headings", Write: message(func(a Answer) any { return fields{"content": "## Reasoning\n" + a.CoT + "\n\n## Answer\n" + a.Text} })},
	{Name: "bold headings", Write: message(func(a Answer) any {
		return fields{"content": "**Reasoning:** " + a.CoT + "\n\n**Final answer:** " + a.Text}
	})},
	{Name: "reasoning_content", Write: message(func(a Answer) any { return fields{"content": a.Text, "reasoning_content": a.CoT} })},
	{Name: "reasoning", Write: message(func(a Answer) any { return fields{"content": a.Text, "reasoning": a.CoT} })},
	{Name: "reasoning_details", Write: message(func(a Answer) any {
		return fields{"content": a.Text, "reasoning": nil, "reasoning_details": []fields{
			{"type": "reasoning.text", "text": a.CoT}, {"type": "reasoning.encrypted", "data": "AAAA"},
		}}
	})},
	{Name: "thinking part", Write: message(func(a Answer) any {
		return fields{"content": []fields{
			{"type": "thinking", "thinking": []fields{{"type": "text", "text": a.CoT}}}, {"type": "text", "text": a.Text},
		}}
	})},
	{Name: "thoughts of its own", Write: message(func(a Answer) any {
		return fields{"content": block(a), "reasoning_content": "I am asked to think in a block."}
	})},
	{Name: "hidden thoughts", Write: func(w http.ResponseWriter, _ *http.Request, a Answer) {
		c := completion(a, fields{"content": a.Text}, "stop")
		c["usage"] = fields{"prompt_tokens": 10, "completion_tokens": 90, "completion_tokens_details": fields{"reasoning_tokens": 80}}
		writeJSON(w, http.StatusOK, c)
	}},

	// Other ways to say the same.
	{Name: "stream", Write: func(w http.ResponseWriter, _ *http.Request, a Answer) { stream(w, a, "[DONE]") }},
	{Name: "stream without its end", Write: func(w http.ResponseWriter, _ *http.Request, a Answer) { stream(w, a, "") }},
	{Name: "stream cut after the answer", Write: func(w http.ResponseWriter, _ *http.Request, a Answer) {
		stream(w, a, "")
		panic(http.ErrAbortHandler)
	}},
	{Name: "JSON", Write: message(func(a Answer) any { return fields{"content": block(a)} })},
	{Name: "wrong Content-Type", Write: func(w http.ResponseWriter, _ *http.Request, a Answer) {
		w.Header().Set("Content-Type", "text/html")
		_ = json.NewEncoder(w).Encode(whole(a))
	}},
	{Name: "byte order mark", Write: func(w http.ResponseWriter, _ *http.Request, a Answer) {
		_, _ = io.WriteString(w, "\uFEFF\n")
		_ = json.NewEncoder(w).Encode(whole(a))
	}},
	{Name: "early hints", Write: func(w http.ResponseWriter, _ *http.Request, a Answer) {
		w.WriteHeader(http.StatusEarlyHints)
		writeJSON(w, http.StatusOK, whole(a))
	}},
	{Name: "invalid UTF-8", Write: func(w http.ResponseWriter, _ *http.Request, a Answer) {
		raw, _ := json.Marshal(whole(Answer{a.Model, a.CoT, a.Text + " BYTES HERE", a.PromptTokens, a.CompletionTokens}))
		_, _ = io.WriteString(w, strings.Replace(string(raw), "BYTES", "\xff\xfe\xc3 \\ud800", 1))
	}},
	{Name: "usage in strings", Write: usage(`{"prompt_tokens":"10","completion_tokens":"5"}`)},
	{Name: "negative usage", Write: usage(`{"prompt_tokens":-10,"completion_tokens":-5}`)},
	{Name: "enormous usage", Write: usage(`{"prompt_tokens":1e300,"completion_tokens":9223372036854775807}`)},
	{Name: "usage of another type", Write: usage(`["?"]`)},
	{Name: "no usage", Write: usage(`null`)},
	{Name: "large header", Write: func(w http.ResponseWriter, _ *http.Request, a Answer) {
		w.Header().Set("X-Large", strings.Repeat("x", 64<<10))
		writeJSON(w, http.StatusOK, whole(a))
	}},

	{Name: "echo", Write: func(w http.ResponseWriter, r *http.Request, a Answer) {
		sent := r.Header.Get("Authorization")
		a.Model, a.Text = "m "+sent, a.Text+" You sent "+sent
		writeJSON(w, http.StatusOK, whole(a))
	}},

	// Answers that are none.
	{Name: "null content", Write: message(func(Answer) any { return fields{"content": nil} })},
	{Name: "empty content", Write: message(func(Answer) any { return fields{"content": ""} })},
	{Name: "content of another type", Write: message(func(Answer) any { return fields{"content": 7} })},
	{Name: "two blocks", Write: message(func(a Answer) any { return fields{"content": block(a) + block(a)} })},
	{Name: "block without end", Write: message(func(a Answer) any { return fields{"content": "<think>" + a.CoT} })},
	{Name: "tool call", Write: func(w http.ResponseWriter, _ *http.Request, a Answer) {
		call := []fields{{"id": "1", "type": "function", "function": fields{"name": "search", "arguments": "{}"}}}
		writeJSON(w, http.StatusOK, completion(a, fields{"content": nil, "tool_calls": call}, "tool_calls"))
	}},
	{Name: "cut by length", Write: func(w http.ResponseWriter, _ *http.Request, a Answer) {
		writeJSON(w, http.StatusOK, completion(a, fields{"content": "<think>" + a.CoT}, "length"))
	}},
	{Name: "ten megabytes", Write: message(func(a Answer) any { return fields{"content": block(a) + strings.Repeat(" and so on", 1<<20)} })},
	{Name: "twenty megabytes", Write: message(func(a Answer) any { return fields{"content": block(a) + strings.Repeat(" and so on", 2<<20)} })},
	{Name: "refusal", Write: message(func(Answer) any { return fields{"content": nil, "refusal": "I can't help with that."} })},
	{Name: "content filter", Write: problem(400, `{"error":{"code":"content_filter","message":"The prompt was filtered."}}`)},
	{Name: "content filter in a 200", Write: problem(200, `{"error":{"code":"content_filter","message":"The prompt was filtered."}}`)},
	{Name: "context length", Write: problem(400, `{"error":{"code":"context_length_exceeded","message":"9000 tokens"}}`)},

	// Replies without an answer.
	{Name: "no choice", Fails: true, Write: problem(200, `{"choices":[]}`)},
	{Name: "null choices", Fails: true, Write: problem(200, `{"choices":null}`)},
	{Name: "null choice", Fails: true, Write: problem(200, `{"choices":[null]}`)},
	{Name: "choices of another type", Fails: true, Write: problem(200, `{"choices":"none"}`)},
	{Name: "no message", Fails: true, Write: problem(200, `{"choices":[{"finish_reason":"stop"}]}`)},
	{Name: "no JSON", Fails: true, Write: problem(200, `{"choices":[{"message":{"content":"Hello`)},
	{Name: "nested JSON", Fails: true, Write: problem(200, strings.Repeat("[", 1<<20))},
	{Name: "text", Fails: true, Write: problem(200, "OK")},
	{Name: "page", Fails: true, Write: problem(200, "<!doctype html><html><body>Sign in</body></html>")},
	{Name: "no content", Fails: true, Write: func(w http.ResponseWriter, _ *http.Request, _ Answer) { w.WriteHeader(http.StatusNoContent) }},
	{Name: "error in a 200", Fails: true, Write: problem(200, `{"error":{"message":"the server behind is away"}}`)},
	{Name: "stopped by the server", Fails: true, Write: func(w http.ResponseWriter, _ *http.Request, a Answer) {
		writeJSON(w, http.StatusOK, completion(a, fields{"content": "<think>"}, "insufficient_system_resource"))
	}},
	{Name: "error in a stream", Fails: true, Write: func(w http.ResponseWriter, _ *http.Request, a Answer) {
		event(w, chunk(a, fields{"content": "<think>The"}, nil))
		event(w, fields{"error": fields{"message": "the server behind went away"}})
	}},
	{Name: "half a stream", Fails: true, Write: func(w http.ResponseWriter, _ *http.Request, a Answer) {
		event(w, chunk(a, fields{"content": "<think>The"}, nil))
	}},
	{Name: "no JSON in a stream", Fails: true, Write: func(w http.ResponseWriter, _ *http.Request, a Answer) {
		event(w, chunk(a, fields{"content": "<think>The"}, nil))
		_, _ = io.WriteString(w, "data: oops\n\n")
	}},
	{Name: "half a body", Fails: true, Write: func(w http.ResponseWriter, _ *http.Request, a Answer) {
		raw, _ := json.Marshal(whole(a))
		w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
		_, _ = w.Write(raw[:len(raw)/2])
	}},
	{Name: "cut connection", Fails: true, Write: func(http.ResponseWriter, *http.Request, Answer) { panic(http.ErrAbortHandler) }},
	{Name: "gzip garbage", Fails: true, Write: func(w http.ResponseWriter, _ *http.Request, _ Answer) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = io.WriteString(w, "this is not gzip")
	}},
	{Name: "unknown encoding", Fails: true, Write: func(w http.ResponseWriter, _ *http.Request, _ Answer) {
		w.Header().Set("Content-Encoding", "br")
		_, _ = io.WriteString(w, "\x1b\x0e\x00\xf8\x25")
	}},
	{Name: "huge header", Fails: true, Write: func(w http.ResponseWriter, _ *http.Request, a Answer) {
		for i := range 32 {
			w.Header().Set(fmt.Sprint("X-Huge-", i), strings.Repeat("x", 64<<10))
		}
		writeJSON(w, http.StatusOK, whole(a))
	}},
	{Name: "stall", Fails: true, Write: func(_ http.ResponseWriter, r *http.Request, _ Answer) { leave(r) }},
	{Name: "stalled body", Fails: true, Write: func(w http.ResponseWriter, r *http.Request, a Answer) {
		_, _ = io.WriteString(w, `{"choices":[{"message":{"content":"`)
		flush(w)
		leave(r)
	}},
	{Name: "stalled stream", Fails: true, Write: func(w http.ResponseWriter, r *http.Request, a Answer) {
		event(w, chunk(a, fields{"content": "<think>The"}, nil))
		flush(w)
		leave(r)
	}},
	{Name: "echo in an error", Fails: true, Write: func(w http.ResponseWriter, r *http.Request, _ Answer) {
		writeJSON(w, http.StatusInternalServerError, fields{"error": fields{"message": "the header was " + r.Header.Get("Authorization")}})
	}},
	{Name: "server error", Fails: true, Write: problem(500, `{"error":{"message":"oops"}}`)},
	{Name: "bad gateway", Fails: true, Write: problem(502, "<html><body>Bad Gateway</body></html>")},
	{Name: "gateway timeout", Fails: true, Write: problem(504, "")},
	{Name: "rate limit", Fails: true, Write: problem(429, `{"error":{"code":"rate_limit_exceeded","message":"slow down"}}`)},
	{Name: "bad request", Fails: true, Write: problem(400, `{"error":{"message":"no such field"}}`)},

	// Conditions of the account or the address.
	{Name: "redirect", Fails: true, Stop: true, Write: func(w http.ResponseWriter, _ *http.Request, _ Answer) {
		w.Header().Set("Location", "/login")
		w.WriteHeader(http.StatusFound)
	}},
	{Name: "switched protocol", Fails: true, Stop: true, Write: func(w http.ResponseWriter, _ *http.Request, _ Answer) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err) // a server that knows no connections
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n")
	}},
	{Name: "unauthorized", Fails: true, Stop: true, Write: problem(401, `{"error":{"code":"invalid_api_key","message":"Incorrect API key provided"}}`)},
	{Name: "forbidden", Fails: true, Stop: true, Write: problem(403, `{"error":{"message":"no access"}}`)},
	{Name: "no such model", Fails: true, Stop: true, Write: problem(404, `{"error":{"code":"model_not_found","message":"no such model"}}`)},
	{Name: "quota spent", Fails: true, Stop: true, Write: problem(429, `{"error":{"code":"insufficient_quota","message":"You exceeded your quota"}}`)},
}

type fields = map[string]any

func block(a Answer) string { return "<think>\n" + a.CoT + "\n</think>\n\n" + a.Text }

func whole(a Answer) fields { return completion(a, fields{"content": block(a)}, "stop") }

func completion(a Answer, message any, finish string) fields {
	return fields{
		"object": "chat.completion", "model": a.Model,
		"choices": []fields{{"index": 0, "message": message, "finish_reason": finish}},
		"usage":   fields{"prompt_tokens": a.PromptTokens, "completion_tokens": a.CompletionTokens},
	}
}

func message(of func(Answer) any) func(http.ResponseWriter, *http.Request, Answer) {
	return func(w http.ResponseWriter, _ *http.Request, a Answer) {
		writeJSON(w, http.StatusOK, completion(a, of(a), "stop"))
	}
}

func usage(raw string) func(http.ResponseWriter, *http.Request, Answer) {
	return func(w http.ResponseWriter, _ *http.Request, a Answer) {
		c := whole(a)
		c["usage"] = json.RawMessage(raw)
		writeJSON(w, http.StatusOK, c)
	}
}

func problem(status int, body string) func(http.ResponseWriter, *http.Request, Answer) {
	return func(w http.ResponseWriter, _ *http.Request, _ Answer) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// The client that went away has no use for an error of writing.

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func chunk(a Answer, delta any, finish any) fields {
	return fields{"object": "chat.completion.chunk", "model": a.Model, "choices": []fields{{"index": 0, "delta": delta, "finish_reason": finish}}}
}

func event(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "text/event-stream")
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps and strings
	}
	_, _ = fmt.Fprintf(w, "data: %s\n\n", raw)
}

// stream sends a few words at a time, with comments between them, the reason in a chunk
// of its own and the usage in the last one.
func stream(w http.ResponseWriter, a Answer, end string) {
	_, _ = io.WriteString(w, ": keep-alive\n\n")
	event(w, chunk(a, fields{"role": "assistant", "content": nil}, nil))
	for _, piece := range strings.SplitAfter(a.CoT, " ") {
		event(w, chunk(a, fields{"reasoning_content": piece}, nil))
	}
	_, _ = io.WriteString(w, ": keep-alive\n\n")
	for _, piece := range strings.SplitAfter(a.Text, " ") {
		event(w, chunk(a, fields{"content": piece}, nil))
	}
	event(w, chunk(a, fields{}, "stop"))
	event(w, fields{"choices": []fields{}, "usage": fields{"prompt_tokens": a.PromptTokens, "completion_tokens": a.CompletionTokens}})
	if end != "" {
		_, _ = fmt.Fprintf(w, "data: %s\n\n", end)
	}
	flush(w)
}

// leave waits for the client to go. A server notices that only when it has read all.
func leave(r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

func flush(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }
