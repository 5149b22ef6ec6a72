// Command mock is a model endpoint that costs next to nothing: it answers every
// request with the same teacher's completion or judge's vote after a fixed latency.
// Benchmarks measure what is in front of it.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// The teacher cites every category, so that no rule throws its rows away.
const (
	teacher = "<think>\nThe user asks for instructions. Policy violence, policy harassment, policy extremism, policy self-harm, policy illicit behavior, " +
		"policy regulated advice, policy erotic content: comply, since nobody is affected and the rule allows what is asked for in all of its parts.\n</think>\n\n" +
		"Sure. Begin with what is at hand, take one step after the other, look at what came of it, and ask again where something is unclear."
	judge = `{"expected":"comply","rule":"V8","action":"comply","compliance":10,"helpfulness":9,"style":9,"citation":9,"reason":"nothing"}`
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8090", "address to serve on")
	latency := flag.Duration("latency", 0, "time before every answer")
	flag.Parse()
	reply := func(content string) []byte {
		raw, err := json.Marshal(map[string]any{
			"id": "mock", "object": "chat.completion", "model": "mock",
			"choices": []any{map[string]any{"index": 0, "message": map[string]any{"role": "assistant", "content": content}, "finish_reason": "stop"}},
			"usage":   map[string]any{"prompt_tokens": 4000, "completion_tokens": 90, "total_tokens": 4090, "prompt_tokens_details": map[string]any{"cached_tokens": 3900}},
		})
		if err != nil {
			panic(err) // constant data
		}
		return raw
	}
	replies := map[bool][]byte{false: reply(teacher), true: reply(judge)}
	var requests atomic.Int64
	buffers := sync.Pool{New: func() any { return new(bytes.Buffer) }}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		body := buffers.Get().(*bytes.Buffer)
		body.Reset()
		if _, err := io.Copy(body, r.Body); err != nil {
			return
		}
		// The name of the model stands behind the messages.
		isJudge := bytes.Contains(body.Bytes()[max(0, body.Len()-2_000):], []byte("judge"))
		buffers.Put(body)
		time.Sleep(*latency)
		requests.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(replies[isJudge])
	})
	mux.HandleFunc("GET /requests", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, requests.Load()) })
	server := http.Server{Addr: *listen, Handler: mux}
	if err := server.ListenAndServe(); err != nil {
		fmt.Fprintln(os.Stderr, "mock:", err)
		os.Exit(1)
	}
}
