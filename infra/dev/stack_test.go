package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSettings(t *testing.T) {
	for _, test := range []struct {
		name string
		env  map[string]string
		want string // in the error
	}{
		{"defaults", nil, ""},
		{"another port", map[string]string{"PRECEPT_S3_PORT": "7071"}, ""},
		{"no number", map[string]string{"PRECEPT_S3_PORT": "s3"}, "PRECEPT_S3_PORT"},
		{"too large", map[string]string{"PRECEPT_UI_PORT": "70000"}, "PRECEPT_UI_PORT"},
		{"the same twice", map[string]string{"PRECEPT_UI_PORT": "7233"}, "PRECEPT_TEMPORAL_PORT and PRECEPT_UI_PORT"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := settingsFrom(func(name string) string { return test.env[name] })
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error %v, want one that names %s", err, test.want)
			}
		})
	}
}

// A user's own Temporal Cloud or AWS account must not be reached from the stack.
func TestEnvironmentIsOwn(t *testing.T) {
	s, err := settingsFrom(func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	env := s.environment("/checkout", []string{
		"PATH=/bin", "TEMPORAL_API_KEY=x", "TEMPORAL_PROFILE=cloud", "AWS_PROFILE=prod", "AWS_SESSION_TOKEN=x", "AWS_ACCESS_KEY_ID=real",
	})
	for _, unwanted := range []string{"TEMPORAL_API_KEY=x", "TEMPORAL_PROFILE=cloud", "AWS_PROFILE=prod", "AWS_SESSION_TOKEN=x", "AWS_ACCESS_KEY_ID=real"} {
		if slices.Contains(env, unwanted) {
			t.Errorf("%s is passed on", unwanted)
		}
	}
	for _, wanted := range []string{"PATH=/bin", "TEMPORAL_ADDRESS=127.0.0.1:7233", "AWS_ACCESS_KEY_ID=precept", markName + "=/checkout"} {
		if !slices.Contains(env, wanted) {
			t.Errorf("%s is lacking", wanted)
		}
	}
}

func TestTakenPortIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	number := l.Addr().(*net.TCPAddr).Port
	err = checkPorts([]port{{"s3", "PRECEPT_S3_PORT", number}}, func(int) string { return "nginx (PID 7)" })
	for _, want := range []string{strconv.Itoa(number), "nginx (PID 7)", "PRECEPT_S3_PORT"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s in it", err, want)
		}
	}
	l.Close()
	if err := checkPorts([]port{{"s3", "PRECEPT_S3_PORT", number}}, portHolder); err != nil {
		t.Error(err)
	}
}

func TestDefinitions(t *testing.T) {
	defs, err := readDefinitions("process-compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := defs.closure([]string{"worker"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"s3", "simllm", "temporal", "temporal-init", "worker"}, got); diff != "" {
		t.Errorf("what worker needs (-want +got):\n%s", diff)
	}
	if _, err := defs.closure([]string{"wroker"}); err == nil || !strings.Contains(err.Error(), "worker-gpu") {
		t.Errorf("error %v, want one that lists the processes", err)
	}
	err = defs.missing(defs.names(), func(path string) bool { return path != binDir+"/worker" })
	if err == nil || strings.Count(err.Error(), binDir+"/worker") != 1 || !strings.Contains(err.Error(), "make") {
		t.Errorf("error %v, want the worker's binary once, and the command that builds it", err)
	}
	for name, d := range defs {
		if !strings.HasPrefix(d.Log, logDir+"/") {
			t.Errorf("%s logs to %q", name, d.Log)
		}
	}
}

func TestState(t *testing.T) {
	for _, test := range []struct {
		name                  string
		state                 state
		text                  string
		ready, done, hasEnded bool
	}{
		{"probed, not yet", state{Status: "Running", Running: true, Probed: true, Health: "Not Ready"}, "starting", false, false, false},
		{"probed, up", state{Status: "Running", Running: true, Probed: true, Health: "Ready"}, "running", true, false, false},
		{"not probed", state{Status: "Running", Running: true, Health: "-"}, "running", true, false, false},
		{"waits", state{Status: "Pending"}, "pending", false, false, false},
		{"between restarts", state{Status: "Restarting", ExitCode: 1}, "restarting", false, false, false},
		{"done", state{Status: "Completed"}, "done", false, true, false},
		{"failed", state{Status: "Completed", ExitCode: 3}, "failed with exit code 3", false, false, true},
		{"skipped", state{Status: "Skipped", ExitCode: 1}, "skipped", false, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := test.state
			if s.String() != test.text || s.ready() != test.ready || s.completed() != test.done || s.failed() != test.hasEnded {
				t.Errorf("%q, ready %v, done %v, failed %v", s, s.ready(), s.completed(), s.failed())
			}
		})
	}
}

func TestCheckout(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(root, "a", "b")
	if err := os.MkdirAll(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(inside)
	if got, err := checkout(); err == nil {
		t.Errorf("checkout = %q outside of one", got)
	}
	if err := os.WriteFile(filepath.Join(root, "go.mod"), []byte("module precept\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := checkout(); err != nil || got != root {
		t.Errorf("checkout = %q, %v; want %q", got, err, root)
	}
}

func TestLockIsExclusive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(path)
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go func() {
		unlock, err := lock(path)
		if err == nil {
			unlock()
		}
		second <- err
	}()
	select {
	case err := <-second:
		t.Fatalf("a second lock was given: %v", err)
	default:
	}
	unlock()
	if err := <-second; err != nil {
		t.Error(err)
	}
	if _, err := lock(filepath.Join(t.TempDir(), "no", "lock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("lock in no folder: %v", err)
	}
}
