package serving

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"precept/internal/trainer"
	"precept/schemas"
)

// fakeEnv has the test binary pose as vllm, which isn't installed where tests run: it is
// called as vllm is, and answers /health and /v1/models as its documentation says.
const fakeEnv = "VLLM_FAKE"

func TestMain(m *testing.M) {
	if how, set := os.LookupEnv(fakeEnv); set {
		os.Exit(fakeVLLM(how, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// fakeVLLM is ready late, dies, is never ready or serves another model.
func fakeVLLM(how string, args []string) int {
	call, err := json.Marshal(struct {
		Args []string
		Env  []string
	}{args, os.Environ()})
	if err == nil {
		err = os.WriteFile("call.json", call, 0o644)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("INFO the engine starts")
	value := map[string]string{}
	for i, a := range args[:len(args)-1] {
		value[a] = args[i+1]
	}
	asked := 0
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		if asked++; how == "never" || how == "late" && asked < 4 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	name := value["--served-model-name"]
	if how == "other" {
		name = "another-model"
	}
	mux.HandleFunc("/v1/models", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"object":"list","data":[{"id":%q,"object":"model","owned_by":"vllm"}]}`, name)
	})
	switch how {
	case "dies":
		fmt.Fprintln(os.Stderr, "ValueError: no memory for the KV cache")
		return 1
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
	}
	l, err := net.Listen("tcp", value["--host"]+":"+value["--port"])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(http.Serve(l, mux))
	return 1
}

// model is a folder that looks like a model of a type whose tokenizer has more tokens.
func model(t *testing.T, kind string, tokens ...string) string {
	t.Helper()
	dir := t.TempDir()
	added := []map[string]any{{"content": "<|im_end|>", "special": true}}
	for _, token := range tokens {
		content, special := strings.CutSuffix(token, "!")
		added = append(added, map[string]any{"content": content, "special": special})
	}
	for name, v := range map[string]any{
		"config.json": map[string]any{"model_type": kind}, "model.safetensors": nil,
		"tokenizer.json": map[string]any{"added_tokens": added, "model": map[string]any{"vocab": map[string]int{"a": 1}}},
	} {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// fake configures the stand-in.
func fake(t *testing.T, how string) (Config, trainer.Config) {
	t.Helper()
	t.Setenv(fakeEnv, how)
	t.Setenv("VLLM_API_KEY", "hush")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hush")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Config{Server: VLLM, Program: self}, trainer.Config{Grace: schemas.Duration(5 * time.Second)}
}

func called(t *testing.T, dir string) (args, env []string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "call.json"))
	if err != nil {
		t.Fatal(err)
	}
	var call struct{ Args, Env []string }
	if err := json.Unmarshal(raw, &call); err != nil {
		t.Fatal(err)
	}
	return call.Args, call.Env
}

func TestVLLM(t *testing.T) {
	c, tr := fake(t, "late")
	c.Flags = []string{"--max-model-len", "4096"}
	dir, folder := t.TempDir(), model(t, "llama", "<think>!", "</think>!")
	s, err := Start(t.Context(), c, tr, dir, Job{Folder: folder, Name: "abc"})
	if err != nil {
		t.Fatal(err)
	}
	args, env := called(t, dir)
	port := strings.TrimSuffix(strings.TrimPrefix(s.URL, "http://127.0.0.1:"), "/v1")
	want := []string{
		"serve", folder, "--served-model-name", "abc", "--load-format", "safetensors", "--generation-config", "vllm",
		"--enable-prompt-tokens-details", "--host", "127.0.0.1", "--port", port, "--max-model-len", "4096",
	}
	if d := cmp.Diff(want, args); d != "" {
		t.Errorf("the command line (- want, + got):\n%s", d)
	}
	if d := cmp.Diff(map[string]any{"skip_special_tokens": false}, s.Extra); d != "" {
		t.Errorf("the tags are special tokens, and would be left out of answers:\n%s", d)
	}
	all := strings.Join(env, "\n")
	if strings.Contains(all, "hush") || !strings.Contains(all, "HF_HUB_OFFLINE=1") {
		t.Errorf("the server's environment is\n%s", all)
	}
	s.Stop()
	<-s.Done()
	if _, err := http.Get(s.URL + "/models"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("it still answers: %v", err)
	}
}

func TestVLLMForOthers(t *testing.T) {
	c, tr := fake(t, "at once")
	adapter := t.TempDir()
	for name, text := range map[string]string{"adapter_config.json": `{"r": 24}`, "adapter_model.safetensors": ""} {
		if err := os.WriteFile(filepath.Join(adapter, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	s, err := Start(t.Context(), c, tr, dir, Job{Folder: model(t, "llama"), Name: "abc", Parsed: true, Adapters: []Adapter{{"careful", adapter}}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	args, _ := called(t, dir)
	if got, want := strings.Join(args, " "), "--enable-lora --max-lora-rank 32 --max-loras 1 --lora-modules careful="+adapter; !strings.HasSuffix(got, want) || !strings.Contains(got, " --reasoning-parser olmo3 ") {
		t.Errorf("the command line is\n%s\nand should end\n%s", got, want)
	}
}

func TestVLLMFails(t *testing.T) {
	for _, tt := range []struct {
		how   string
		ready time.Duration
		want  string
	}{
		{"dies", time.Minute, "no memory for the KV cache"},
		{"never", 300 * time.Millisecond, "not ready after 300ms"},
		{"other", 300 * time.Millisecond, "not ready after 300ms"},
	} {
		t.Run(tt.how, func(t *testing.T) {
			c, tr := fake(t, tt.how)
			c.Ready = schemas.Duration(tt.ready)
			_, err := Start(t.Context(), c, tr, t.TempDir(), Job{Folder: model(t, "llama"), Name: "abc"})
			if schemas.KindOf(err) != schemas.Unavailable || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "the engine starts") {
				t.Errorf("got %v, want %q and the log", err, tt.want)
			}
		})
	}
}

func TestAServerThatWillNotEndIsKilled(t *testing.T) {
	c, tr := fake(t, "stubborn")
	tr.Grace = schemas.Duration(50 * time.Millisecond)
	s, err := Start(t.Context(), c, tr, t.TempDir(), Job{Folder: model(t, "llama"), Name: "abc"})
	if err != nil {
		t.Fatal(err)
	}
	s.Stop() // hangs where it only asks
}

func TestTheEndOfTheCallerEndsTheStart(t *testing.T) {
	c, tr := fake(t, "never")
	why := errors.New("the worker stops")
	ctx, cancel := context.WithCancelCause(t.Context())
	dir := t.TempDir()
	go func() {
		for {
			if _, err := os.Stat(filepath.Join(dir, "call.json")); err == nil {
				cancel(why)
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	if _, err := Start(ctx, c, tr, dir, Job{Folder: model(t, "llama"), Name: "abc"}); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

// TestTransformersCall has a stand-in show what it is called with: transformers knows a model by the
// path that it was given alone, so that the name is that of a link.
func TestTransformersCall(t *testing.T) {
	dir, bin := t.TempDir(), t.TempDir()
	program := filepath.Join(bin, "transformers")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$@\"\nls \"$2\"/config.json\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	// It is found beside the trainer's python.
	c, tr := Config{Server: Transformers}, trainer.Config{Python: filepath.Join(bin, "python")}
	_, err := Start(t.Context(), c, tr, dir, Job{Folder: model(t, "llama"), Name: "abc"})
	if err == nil || !strings.Contains(err.Error(), "serve abc --continuous-batching --host 127.0.0.1 --port ") || !strings.Contains(err.Error(), "\nabc/config.json") {
		t.Errorf("got %v", err)
	}
}

func TestChoose(t *testing.T) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, VLLM), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir())
	with, without := trainer.Config{Python: filepath.Join(bin, "python")}, trainer.Config{Python: "nowhere/python"}
	for _, tt := range []struct {
		name    string
		server  string
		trainer trainer.Config
		gpu     bool
		want    string
		kind    schemas.Kind
	}{
		{"no GPU", "", with, false, Precept, ""},
		{"a GPU and vllm", "", with, true, VLLM, ""},
		{"a GPU alone", "", without, true, Precept, ""},
		{"named", VLLM, with, false, VLLM, ""},
		{"named and not there", VLLM, without, true, VLLM, schemas.Unavailable},
		{"precept", Precept, with, true, Precept, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, _, err := Config{Server: tt.server}.choose(tt.trainer, tt.gpu)
			if got != tt.want || schemas.KindOf(err) != tt.kind {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		config Config
		want   string
	}{
		{Config{}, ""},
		{Config{Server: VLLM, Flags: []string{"--max-model-len", "4096", "--hf-overrides={}"}}, ""},
		{Config{Server: "tgi"}, `"tgi" is none of precept, transformers and vllm`},
		{Config{Flags: []string{"--x"}}, "program and flags are of one server"},
		{Config{Server: Precept, Flags: []string{"--x"}}, "it takes neither"},
		{Config{Server: VLLM, Flags: []string{"--host=0.0.0.0"}}, "--host=0.0.0.0 can't be set"},
		{Config{Server: VLLM, Flags: []string{"--trust_remote_code"}}, "can't be set"},
		{Config{Server: VLLM, Flags: []string{"--load-f", "pt"}}, "can't be set"},
		{Config{Ready: -1}, "negative"},
	} {
		err := tt.config.Check()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want %q", tt.config, err, tt.want)
		}
	}
}

func TestParser(t *testing.T) {
	for _, tt := range []struct {
		kind   string
		tokens []string
		want   string
	}{
		{"llama", nil, "olmo3"},
		{"llama", []string{"<think>"}, "olmo3"},
		{"qwen2", []string{"<think>", "</think>"}, "deepseek_r1"},
		{"qwen3_moe", []string{"<think>", "</think>"}, "qwen3"},
	} {
		if got, err := Parser(model(t, tt.kind, tt.tokens...)); got != tt.want || err != nil {
			t.Errorf("%s with %v: got %s, %v", tt.kind, tt.tokens, got, err)
		}
	}
	old := model(t, "llama")
	if err := os.Remove(filepath.Join(old, "tokenizer.json")); err != nil {
		t.Fatal(err)
	}
	if got, err := Parser(old); got != "olmo3" || err != nil {
		t.Errorf("an older tokenizer: got %s, %v", got, err)
	}
	if _, err := Parser(t.TempDir()); schemas.KindOf(err) != schemas.InvalidInput {
		t.Errorf("no model: got %v", err)
	}
}

func TestAPortThatIsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = Start(t.Context(), Config{Server: Precept}, trainer.Config{}, t.TempDir(), Job{Folder: model(t, "llama"), Port: l.Addr().(*net.TCPAddr).Port, Name: "abc"})
	if schemas.KindOf(err) != schemas.Unavailable || !strings.Contains(err.Error(), "Name another port") {
		t.Errorf("got %v", err)
	}
	_, err = Start(t.Context(), Config{Server: Precept}, trainer.Config{}, t.TempDir(), Job{Name: "abc", Adapters: []Adapter{{"x", "y"}}})
	if schemas.KindOf(err) != schemas.InvalidInput {
		t.Errorf("an adapter: got %v", err)
	}
}
