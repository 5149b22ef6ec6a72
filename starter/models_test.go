package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"precept/internal/shard"
	"precept/schemas"
)

// simulated is a server of models that are simulated: what they say follows from what
// they are asked.
type simulated struct {
	store  shard.Store
	config string // a configuration whose endpoints teacher, judge and judge-2 it is

	mu    sync.Mutex
	asked []asked
}

// asked is one request to a model.
type asked struct {
	Model    string            `json:"model"`
	Messages []schemas.Message `json:"messages"`
	Seed     int64             `json:"seed"`
}

// user is the first message of the user.
func (q asked) user() string { return q.Messages[1].Content }

// block is what stands between two tags of it.
func (q asked) block(tag string) string {
	_, rest, _ := strings.Cut(q.user(), "<"+tag)
	_, rest, _ = strings.Cut(rest, ">")
	inside, _, _ := strings.Cut(rest, "</"+tag+">")
	return strings.TrimSpace(inside)
}

// simulate starts models that reply what say says, or fail with its status.
func simulate(t *testing.T, say func(asked) (reply string, status int)) *simulated {
	t.Helper()
	s := &simulated{store: shard.NewMemory()}
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q asked
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		s.asked = append(s.asked, q)
		s.mu.Unlock()
		reply, status := say(q)
		if status != 0 {
			http.Error(w, reply, status)
			return
		}
		text, err := json.Marshal(reply)
		if err != nil {
			panic(err) // a string
		}
		fmt.Fprintf(w, `{"choices":[{"message":{"role":"assistant","content":%s},"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":10}}`, text)
	}))
	t.Cleanup(hs.Close)
	s.config = filepath.Join(t.TempDir(), "worker.yaml")
	text := "store: {bucket: b}\nendpoints:\n"
	for _, name := range []string{"teacher", "judge", "judge-2"} {
		text += fmt.Sprintf("  %s: {base_url: %q, model: %s, provider: test, revision: \"1\", simulated: true, input_usd: 1, output_usd: 1}\n", name, hs.URL+"/v1", name)
	}
	if err := os.WriteFile(s.config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

// calls counts the requests since the last time by model.
func (s *simulated) calls() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := map[string]int{}
	for _, q := range s.asked {
		n[q.Model]++
	}
	s.asked = nil
	return n
}

// run runs a command line with the models and their store.
func (s *simulated) run(t *testing.T, args ...string) (code int, out, stderr string) {
	t.Helper()
	var o, e bytes.Buffer
	a := &app{
		in: strings.NewReader(""), out: &o, err: &e,
		open:   func(context.Context, string) (shard.Store, error) { return s.store, nil },
		getenv: func(string) string { return "" },
	}
	code = a.main(append(args, "--config", s.config))
	return code, o.String(), e.String()
}

// opinion is a judge's reply with all scores the same.
func opinion(score int, expected, action schemas.Action, why string) string {
	return fmt.Sprintf(`{"expected":%q,"rule":"V2","action":%q,"compliance":%d,"helpfulness":%d,"style":%d,"citation":%d,"reason":%q}`,
		expected, action, score, score, score, score, why)
}

// files writes files into a new folder.
func files(t *testing.T, texts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range texts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
