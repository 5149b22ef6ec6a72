package trainer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"precept/schemas"
)

// python writes a stand-in for the interpreter: a shell script that is called as
// the trainer would be (-m precept_trainer <command> --job <file>).
func python(t *testing.T, script string) Config {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "python")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return Config{Python: path, Package: dir, WorkDir: dir, Grace: schemas.Duration(5 * time.Second)}
}

func TestRun(t *testing.T) {
	tests := []struct {
		name, script string
		kind         schemas.Kind
		want         string
	}{
		{"done", `echo '{"event":"start","total_steps":2}'; echo '{"event":"done","path":"/m","steps":2}'`, "", ""},
		{"says what is wrong", `echo '{"event":"error","kind":"InvalidInput","message":"3 rows are too long"}'; exit 2`, schemas.InvalidInput, "3 rows are too long"},
		{"interrupted", `echo '{"event":"interrupted","step":7}'; exit 3`, schemas.Unavailable, "interrupted at step 7"},
		{"exits with 0 having done nothing", `exit 0`, schemas.Unavailable, "without saying that it is done"},
		{"dies", `echo "no memory left" >&2; kill -9 $$`, schemas.Unavailable, "no memory left"},
		{"done, then dies", `echo '{"event":"done","path":"/m"}'; exit 1`, schemas.Unavailable, "exit status 1"},
		{"prints what is no event", `echo hello`, schemas.Unavailable, "read trainer's event"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := python(t, tt.script)
			var seen []string
			_, err := Run(t.Context(), c, "sft", t.TempDir(), SFT{Kind: "sft"}, func(e Event) error {
				seen = append(seen, e.Event)
				return nil
			})
			if schemas.KindOf(err) != tt.kind {
				t.Fatalf("got %v of kind %q, want kind %q", err, schemas.KindOf(err), tt.kind)
			}
			if err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want it to say %q", err, tt.want)
			}
			if tt.name == "done" {
				if d := cmp.Diff([]string{EventStart, EventDone}, seen); d != "" {
					t.Error(d)
				}
			}
		})
	}
}

func TestJobSeesNoSecrets(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hush")
	c := python(t, `env > "$(dirname "$5")/env"; echo '{"event":"done"}'`)
	dir := t.TempDir()
	if _, err := Run(t.Context(), c, "rl", dir, RL{}, func(Event) error { return nil }, "TOKEN=named"); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "env"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "hush") {
		t.Error("the job sees the worker's secret")
	}
	if !strings.Contains(string(raw), "TOKEN=named") {
		t.Error("the job doesn't see the secret that is named for it")
	}
}

func TestCancelAsksForACheckpoint(t *testing.T) {
	c := python(t, `
trap 'echo "{\"event\":\"interrupted\",\"step\":4}"; exit 3' TERM
echo '{"event":"start"}'
while :; do sleep 0.05; done`)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("the run was canceled")
	last, err := Run(ctx, c, "sft", t.TempDir(), SFT{}, func(e Event) error {
		if e.Event == EventStart {
			cancel(stop)
		}
		return nil
	})
	if !errors.Is(err, stop) {
		t.Errorf("got %v, want the cause of the end", err)
	}
	if last.Event != EventInterrupted || last.Step != 4 {
		t.Errorf("the job ended with %+v", last)
	}
}

func TestReady(t *testing.T) {
	c := python(t, `echo '{"event":"ready","url":"http://127.0.0.1:1/v1","model":"m"}'; while :; do sleep 0.05; done`)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	p, err := Start(ctx, c, "serve", t.TempDir(), Serve{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := p.Ready(t.Context(), time.Minute)
	if err != nil || e.URL != "http://127.0.0.1:1/v1" {
		t.Errorf("got %+v, %v", e, err)
	}
	stop()
	if err := p.Wait(); err == nil {
		t.Error("a stopped server ended well")
	}
}

func FuzzEvent(f *testing.F) {
	f.Add([]byte(`{"event":"progress","step":1,"metrics":{"loss":1}}`))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parseEvent(b) })
}
