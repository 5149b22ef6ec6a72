package trainer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// Two ranks, as torch's launchers have them: one group, and rank 0 speaks.
func TestRanks(t *testing.T) {
	const both = `
here=$(dirname "$5")
env | grep -E '^(RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT)=' | sort > "$here/rank-$RANK"
echo $$ > "$here/pid-$RANK"
until [ -s "$here/pid-0" ] && [ -s "$here/pid-1" ]; do sleep 0.01; done
`
	tests := []struct {
		name, script string
		kind         schemas.Kind
		want         string
	}{
		{"done", `[ $RANK = 0 ] && echo '{"event":"done","path":"/m"}' || echo '{"event":"done","path":"/wrong"}'`, "", ""},
		{"the other one fails at last", `[ $RANK = 0 ] && echo '{"event":"done","path":"/m"}' || exit 1`, schemas.Unavailable, "rank 1: exit status 1"},
		{"rank 0 fails, and the other one waits for it", `[ $RANK = 0 ] && exit 1; while :; do sleep 0.05; done`, schemas.Unavailable, "exit status 1"},
		{"both say that the input is wrong", `[ $RANK = 0 ] && { sleep 0.1; echo '{"event":"error","kind":"InvalidInput","message":"row 3"}'; }; exit 2`, schemas.InvalidInput, "row 3"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			last, err := Run(t.Context(), python(t, both+tt.script), "sft", dir, SFT{Training: Training{Processes: 2}}, func(Event) error { return nil })
			if schemas.KindOf(err) != tt.kind || err == nil && last.Path != "/m" {
				t.Fatalf("got %+v, %v", last, err)
			}
			if err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want it to say %q", err, tt.want)
			}
			var ranks [2]string
			for i := range ranks {
				raw, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("rank-%d", i)))
				if err != nil {
					t.Fatal(err)
				}
				_, port, _ := strings.Cut(string(raw), "MASTER_PORT=")
				port, _, _ = strings.Cut(port, "\n")
				want := fmt.Sprintf("LOCAL_RANK=%d\nLOCAL_WORLD_SIZE=2\nMASTER_ADDR=127.0.0.1\nMASTER_PORT=%s\nRANK=%d\nWORLD_SIZE=2\n", i, port, i)
				if d := cmp.Diff(want, string(raw)); d != "" || port == "" {
					t.Errorf("rank %d (- want, + got):\n%s", i, d)
				}
			}
		})
	}
}

// Each rank is asked once: to be asked again means to end at once.
func TestRanksAreAskedForACheckpointOnce(t *testing.T) {
	c := python(t, `
here=$(dirname "$5")
trap 'echo asked >> "$here/asked-$RANK"; stop=1' TERM
echo > "$here/ready-$RANK"
[ $RANK = 0 ] && { until [ -e "$here/ready-1" ]; do sleep 0.01; done; echo '{"event":"start"}'; }
until [ -n "$stop" ]; do sleep 0.05; done
sleep 0.2
[ $RANK = 0 ] && echo '{"event":"interrupted","step":4}'
exit 3`)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("the run was canceled")
	dir := t.TempDir()
	last, err := Run(ctx, c, "sft", dir, SFT{Training: Training{Processes: 2}}, func(e Event) error {
		if e.Event == EventStart {
			cancel(stop)
		}
		return nil
	})
	if !errors.Is(err, stop) || last.Event != EventInterrupted {
		t.Errorf("got %+v, %v", last, err)
	}
	for _, rank := range []string{"0", "1"} {
		raw, err := os.ReadFile(filepath.Join(dir, "asked-"+rank))
		if err != nil || string(raw) != "asked\n" {
			t.Errorf("rank %s was asked %q, %v", rank, raw, err)
		}
	}
}

// The file of a job of one process is what it was before there were more.
func TestAJobThatTrainsAlone(t *testing.T) {
	for _, job := range []any{SFT{}, RL{}} {
		raw, err := json.Marshal(job)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"processes", "gradient_checkpointing"} {
			if strings.Contains(string(raw), name) {
				t.Errorf("%s stands in %s", name, raw)
			}
		}
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
