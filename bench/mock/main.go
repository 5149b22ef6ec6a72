// Command mock is a model endpoint that costs next to nothing: it answers every
// request with the same teacher's completion or judge's vote after a fixed latency,
// or refuses it as a provider's filter of content does. Benchmarks measure what is in
// front of it. Its ledger counts what a provider would have charged for.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"os"
	"sync"
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
	refuse := flag.String("refuse", "", "refuse requests that contain this")
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
	refusal := []byte(`{"error":{"message":"The prompt was flagged by the content filter.","type":"invalid_request_error","param":"prompt","code":"content_filter"}}`)
	var book ledger
	buffers := sync.Pool{New: func() any { return new(bytes.Buffer) }}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		body := buffers.Get().(*bytes.Buffer)
		body.Reset()
		if _, err := io.Copy(body, r.Body); err != nil {
			return
		}
		// Precept names the model behind the messages.
		raw := body.Bytes()
		isJudge := bytes.Contains(raw[max(0, len(raw)-2_000):], []byte("judge"))
		refused := *refuse != "" && bytes.Contains(raw, []byte(*refuse))
		sum, size := maphash.Bytes(seed, raw), len(raw)
		buffers.Put(body)
		time.Sleep(*latency)
		// What is answered is charged for, whether or not somebody still listens.
		book.add(sum, size, refused)
		w.Header().Set("Content-Type", "application/json")
		if refused {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write(refusal)
			return
		}
		_, _ = w.Write(replies[isJudge])
	})
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"object":"list","data":[{"id":"mock","object":"model"}]}`)
	})
	mux.HandleFunc("GET /requests", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, book.read().Requests) })
	mux.HandleFunc("GET /ledger", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(book.read()) })
	server := http.Server{Addr: *listen, Handler: mux}
	if err := server.ListenAndServe(); err != nil {
		fmt.Fprintln(os.Stderr, "mock:", err)
		os.Exit(1)
	}
}

var seed = maphash.MakeSeed()

// ledger counts requests.
type ledger struct {
	mu    sync.Mutex
	seen  map[uint64]bool
	count counts
}

type counts struct {
	Requests int64 `json:"requests"`
	Repeated int64 `json:"repeated"` // byte for byte the same as an earlier one
	Refused  int64 `json:"refused"`
	Bytes    int64 `json:"bytes"` // of the requests' bodies
}

func (l *ledger) add(sum uint64, size int, refused bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count.Requests++
	l.count.Bytes += int64(size)
	if refused {
		l.count.Refused++
	}
	if l.seen[sum] {
		l.count.Repeated++
		return
	}
	if l.seen == nil {
		l.seen = map[uint64]bool{}
	}
	l.seen[sum] = true
}

func (l *ledger) read() counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}
