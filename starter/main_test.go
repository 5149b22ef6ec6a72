package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"precept/internal/garbage"
	"precept/internal/shard"
	"precept/schemas"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"starter": main})
}

// TestScripts runs the commands that need no server, as a person would.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}

// fakeServer is a server that answers what a test says.
type fakeServer struct {
	attached bool
	startErr error
	started  []schemas.RunID
	seen     []sight // one a look; the last one stays
	lookErr  error
	answer   decided
	decided  []schemas.Decision
	verdicts []string
	err      error
	runs     []garbage.Run
	listErr  error
	closed   bool
}

func (f *fakeServer) start(_ context.Context, run schemas.RunID, _ schemas.RunSpec) (bool, error) {
	f.started = append(f.started, run)
	return f.attached, f.startErr
}

func (f *fakeServer) look(context.Context, schemas.RunID) (sight, error) {
	if f.lookErr != nil {
		return sight{}, f.lookErr
	}
	s := f.seen[0]
	if len(f.seen) > 1 {
		f.seen = f.seen[1:]
	}
	return s, nil
}

func (f *fakeServer) decide(_ context.Context, _ schemas.RunID, verdict string, d schemas.Decision) (decided, error) {
	f.verdicts, f.decided = append(f.verdicts, verdict), append(f.decided, d)
	return f.answer, f.err
}

func (f *fakeServer) retry(_ context.Context, _ schemas.RunID, d schemas.Decision, _ func() (schemas.RunSpec, error)) (decided, error) {
	f.verdicts, f.decided = append(f.verdicts, schemas.DecisionRetry), append(f.decided, d)
	return f.answer, f.err
}
func (f *fakeServer) underway(context.Context) ([]garbage.Run, error) { return f.runs, f.listErr }

func (f *fakeServer) link(run schemas.RunID) string { return "http://ui.test/" + string(run) }
func (f *fakeServer) close()                        { f.closed = true }

// transcript runs a command line against a server and a store.
func transcript(t *testing.T, f *fakeServer, store shard.Store, args ...string) (code int, out, stderr string) {
	t.Helper()
	var o, e bytes.Buffer
	a := &app{
		in: strings.NewReader(`{"name": "My first run"}`), out: &o, err: &e,
		connect: func() (server, error) { return f, nil },
		open:    func(context.Context, string) (shard.Store, error) { return store, nil },
		getenv:  func(string) string { return "" },
	}
	code = a.main(args)
	return code, o.String(), e.String()
}
