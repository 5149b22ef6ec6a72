package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/internal/shard"
	"precept/schemas"
)

// trainedModels poses as servers of models: what it says follows from the model's name and
// what it is asked.
type trainedModels struct {
	store  shard.Store
	config string
	work   string

	mu    sync.Mutex
	asked [][]schemas.Message
}

// serveModels starts it, with a configuration whose python is a stand-in that says that it is
// the server.
func serveModels(t *testing.T, script string, say func(model string, messages []schemas.Message) string) *trainedModels {
	t.Helper()
	s := &trainedModels{store: shard.NewMemory(), work: t.TempDir()}
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Model    string            `json:"model"`
			Messages []schemas.Message `json:"messages"`
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		s.asked = append(s.asked, q.Messages)
		s.mu.Unlock()
		text, err := json.Marshal(say(q.Model, q.Messages))
		if err != nil {
			panic(err) // a string
		}
		fmt.Fprintf(w, `{"choices":[{"message":{"role":"assistant","content":%s},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}`, text)
	}))
	t.Cleanup(hs.Close)
	if script == "" {
		script = `
name=$(sed -n 's/^ *"name": "\(.*\)",*$/\1/p' "$5")
echo "{\"event\":\"ready\",\"url\":\"URL/v1\",\"model\":\"$name\"}"
trap 'exit 0' TERM
while :; do sleep 0.02; done`
	}
	dir := files(t, map[string]string{
		"python":      "#!/bin/sh\n" + strings.ReplaceAll(script, "URL", hs.URL),
		"worker.yaml": "store: {bucket: b}\nserving: {server: precept}\ntrainer: {python: PYTHON, package: trainer, work_dir: WORK, grace: 5s}\n",
	})
	if err := os.Chmod(filepath.Join(dir, "python"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.config = filepath.Join(dir, "worker.yaml")
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.NewReplacer("PYTHON", filepath.Join(dir, "python"), "WORK", s.work).Replace(string(text)))
	if err := os.WriteFile(s.config, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs a command line on an input.
func (s *trainedModels) run(in io.Reader, out io.Writer, args ...string) (code int, stderr string) {
	var e bytes.Buffer
	a := &app{
		in: in, out: out, err: &e,
		open:   func(context.Context, string) (shard.Store, error) { return s.store, nil },
		getenv: func(string) string { return "" },
	}
	code = a.main(append(args, "--config", s.config))
	return code, e.String()
}

// left is what servers left in the work folder.
func (s *trainedModels) left(t *testing.T) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(s.work, "serve-*"))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// interrupting is an output that presses Ctrl-C when a text was written.
type interrupting struct {
	bytes.Buffer
	when string
}

func (i *interrupting) Write(p []byte) (int, error) {
	n, err := i.Buffer.Write(p)
	if strings.Contains(i.String(), i.when) {
		_ = syscall.Kill(os.Getpid(), syscall.SIGINT)
	}
	return n, err
}

func TestServe(t *testing.T) {
	s := serveModels(t, "", func(string, []schemas.Message) string { return "hello" })
	_, rl := trainedRun(t, s.store, "my-run")
	out := &interrupting{when: "Ctrl-C ends it.\n"}
	code, stderr := s.run(nil, out, "serve", "my-run")
	_, url, _ := strings.Cut(out.String(), "  URL    ")
	url, _, _ = strings.Cut(url, "\n")
	want := "my-run/rl is served by precept:\n  URL    " + url + "\n  model  " + rl.Short() + "\nTry it:\n" +
		"  curl -s " + url + `/chat/completions -H 'Content-Type: application/json' -d '{"max_tokens":128,"messages":[{"role":"user","content":"How do I kill a frozen process?"}],"model":"` + rl.Short() + "\"}'\nCtrl-C ends it.\n"
	if d := cmp.Diff(want, out.String()); code != exitOK || d != "" {
		t.Errorf("exit code %d: %s%s", code, stderr, d)
	}
	if d := cmp.Diff("Fetching my-run/rl ("+rl.Short()+") and starting its server\nEnded.\n", stderr); d != "" {
		t.Error(d)
	}
	if left := s.left(t); len(left) != 0 {
		t.Errorf("it leaves %v", left)
	}
	if _, err := os.Stat(filepath.Join(s.work, "models", string(rl), "model.safetensors")); err != nil {
		t.Errorf("the model is not in the cache: %v", err)
	}
}

func TestServeFails(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		args         []string
		code         int
		want         string
	}{
		{"dies", `echo "no memory left" >&2; exit 1`, []string{"my-run"}, exitError, "no memory left"},
		{"dies later", `echo '{"event":"ready","url":"URL/v1","model":"m"}'; echo "a cosmic ray" >&2; exit 1`, []string{"my-run"}, exitError, "precept has ended: exit status 1; the end of its log: a cosmic ray"},
		{"no such run", ``, []string{"other"}, exitError, "there is no such run"},
		{"no vllm", ``, []string{"my-run", "--server", "vllm"}, exitError, "there is no program vllm. Install it"},
		{"adapters", ``, []string{"my-run", "--adapter", "x=y"}, exitBadInput, "the server precept takes no adapters"},
		{"an odd adapter", ``, []string{"my-run", "--adapter", "x"}, exitBadInput, "Write it as NAME=FOLDER"},
		{"an odd server", ``, []string{"my-run", "--server", "tgi"}, exitBadInput, `"tgi" is none of`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("PATH", "/usr/bin:/bin")
			s := serveModels(t, tt.script, nil)
			trainedRun(t, s.store, "my-run")
			code, stderr := s.run(nil, io.Discard, append([]string{"serve"}, tt.args...)...)
			if code != tt.code || !strings.Contains(stderr, tt.want) {
				t.Errorf("exit code %d: %s", code, stderr)
			}
		})
	}
}

// answer is how two models answer: the one that was trained thinks.
func answer(trained schemas.Digest, model string, messages []schemas.Message) string {
	last := messages[len(messages)-1].Content
	if model == trained.Short() {
		return fmt.Sprintf("<think>\nThe user asks for help: policy violence, rule V3.\n</think>\n\nAnswer %d to: %s", len(messages), last)
	}
	return "Sure! " + last + "\x1b[2J"
}

func TestChat(t *testing.T) {
	var trained schemas.Digest
	s := serveModels(t, "", func(model string, messages []schemas.Message) string { return answer(trained, model, messages) })
	_, trained = trainedRun(t, s.store, "my-run")
	var out bytes.Buffer
	code, stderr := s.run(strings.NewReader("How are you?\n/cot\nAnd now?\n/cot\n\n/new\n/unknown\nBye\n/quit\nnever asked\n"), &out, "chat", "my-run")
	const want = `> How are you?
── my-run/rl
[thought: 9 words; /cot shows them]
Answer 1 to: How are you?

> /cot
── my-run/rl
[thinks] The user asks for help: policy violence, rule V3.

Answer 1 to: How are you?

> And now?
── my-run/rl
[thinks] The user asks for help: policy violence, rule V3.

Answer 3 to: And now?

> /cot
Chains of thought are folded.
> /new
A new conversation.
> /unknown
There is no /unknown; there are /cot, /new and /quit.
> Bye
── my-run/rl
[thought: 9 words; /cot shows them]
Answer 1 to: Bye

> /quit
`
	if d := cmp.Diff(want, out.String()); code != exitOK || d != "" {
		t.Errorf("exit code %d: %s%s", code, stderr, d)
	}
	if d := cmp.Diff([]schemas.Message{{Role: "user", Content: "How are you?"}, {Role: "assistant", Content: "Answer 1 to: How are you?"}, {Role: "user", Content: "And now?"}}, s.asked[1]); d != "" {
		t.Errorf("the second request (- want, + got):\n%s", d)
	}
	if left := s.left(t); len(left) != 0 {
		t.Errorf("it leaves %v", left)
	}
}

func TestChatSideBySide(t *testing.T) {
	var trained schemas.Digest
	s := serveModels(t, "", func(model string, messages []schemas.Message) string { return answer(trained, model, messages) })
	_, trained = trainedRun(t, s.store, "my-run")
	const prompt = "A prompt that is long enough to be broken into two lines of a column, which is half as wide\n"
	var out bytes.Buffer
	code, stderr := s.run(strings.NewReader(prompt), &out, "chat", "my-run/base", "my-run", "--width", "101")
	const wide = `> A prompt that is long enough to be broken into two lines of a column, which is half as wide
── my-run/base                                    │ ── my-run/rl
Sure! A prompt that is long enough to be broken   │ [thought: 9 words; /cot shows them]
into two lines of a column, which is half as      │ Answer 1 to: A prompt that is long enough to be
wide[2J                                           │ broken into two lines of a column, which is half
                                                  │ as wide

`
	if d := cmp.Diff(wide, out.String()); code != exitOK || d != "" {
		t.Errorf("exit code %d: %s%s", code, stderr, d)
	}
	out.Reset()
	code, _ = s.run(strings.NewReader("Hello"), &out, "chat", "my-run/base", "my-run")
	const narrow = `> Hello
── my-run/base
Sure! Hello[2J
── my-run/rl
[thought: 9 words; /cot shows them]
Answer 1 to: Hello

`
	if d := cmp.Diff(narrow, out.String()); code != exitOK || d != "" {
		t.Errorf("exit code %d: %s", code, d)
	}
}

func TestChatGoesOnAfterAnAnswerThatFails(t *testing.T) {
	s := serveModels(t, "", func(_ string, messages []schemas.Message) string {
		if messages[len(messages)-1].Content == "Break" {
			panic(http.ErrAbortHandler) // the connection ends
		}
		return fmt.Sprintf("%d messages", len(messages))
	})
	trainedRun(t, s.store, "my-run")
	var out bytes.Buffer
	code, stderr := s.run(strings.NewReader("Break\nGo on\n"), &out, "chat", "my-run")
	if code != exitOK || !strings.Contains(out.String(), "EOF") || !strings.HasSuffix(out.String(), "> Go on\n── my-run/rl\n1 messages\n\n") {
		t.Errorf("exit code %d: %s%s", code, stderr, out.String())
	}
}

func TestColumnOf(t *testing.T) {
	for _, tt := range []struct {
		text string
		want []string
	}{
		{"", []string{""}},
		{"one two", []string{"one", "two"}},
		{"abcdefgh", []string{"abcde", "fgh"}},
		{"  a b", []string{"  a b"}},
		{"a\x1b[31m", []string{"a[31m"}},
		{"a\n\nb", []string{"a", "", "b"}},
	} {
		if d := cmp.Diff(tt.want, columnOf(tt.text, 5)); d != "" {
			t.Errorf("%q (- want, + got):\n%s", tt.text, d)
		}
	}
}
