//go:build e2e || bench || chaos

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"

	"precept/internal/shard"
	"precept/schemas"
	"precept/workflows"
)

// stack is a whole embedded stack in a folder of its own.
type stack struct {
	*testing.T
	root   string // of the checkout
	dir    string
	env    []string
	simllm string // its URL
	s3     string // the gateway's URL
	client client.Client
	store  *shard.S3
	base   string         // the tiny model's folder
	config map[string]any // the workers'
	parts  map[string]*process
}

const (
	accessKey = "precept"
	secretKey = "precept-secret"
)

// For the tests' own client; all stacks have one key, so that tests may run in parallel.
func init() {
	os.Setenv("AWS_ACCESS_KEY_ID", accessKey)
	os.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
}

// newStack starts everything but the workers. flags are simllm's.
func newStack(t *testing.T, flags ...string) *stack {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	s := &stack{T: t, root: root, dir: t.TempDir(), parts: map[string]*process{}}
	temporalPort, s3Port, simPort := freePort(t), freePort(t), freePort(t)
	s.simllm, s.s3 = fmt.Sprintf("http://127.0.0.1:%d", simPort), fmt.Sprintf("http://127.0.0.1:%d", s3Port)
	s.env = append(os.Environ(),
		"AWS_ACCESS_KEY_ID="+accessKey, "AWS_SECRET_ACCESS_KEY="+secretKey,
		"ROOT_ACCESS_KEY_ID="+accessKey, "ROOT_SECRET_ACCESS_KEY="+secretKey,
		fmt.Sprintf("TEMPORAL_ADDRESS=127.0.0.1:%d", temporalPort),
	)
	if err := os.MkdirAll(filepath.Join(s.dir, "s3"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.start("s3", s.bin("versitygw"),
		"--port", fmt.Sprintf("127.0.0.1:%d", s3Port), "--health", "/health", "--keep-alive", "--quiet", "posix", filepath.Join(s.dir, "s3"))
	s.start("simllm", s.bin("simllm"), append([]string{"--listen", fmt.Sprintf("127.0.0.1:%d", simPort)}, flags...)...)
	args := []string{"server", "start-dev", "--headless", "--port", fmt.Sprint(temporalPort), "--log-level", "error",
		"--db-filename", filepath.Join(s.dir, "temporal.db")}
	for _, a := range []string{"RunName", "RunStage", "RunState", "PolicyDigest", "BaseModel"} {
		args = append(args, "--search-attribute", a+"=Keyword")
	}
	s.start("temporal", s.bin("temporal"), append(args, "--search-attribute", "SpentUSD=Double")...)

	s.await("S3", time.Minute, func() bool { return up(s.s3 + "/health") })
	s.await("simllm", time.Minute, func() bool { return up(s.simllm + "/health") })
	s.await("Temporal", time.Minute, func() bool {
		s.client, err = client.Dial(client.Options{
			HostPort: fmt.Sprintf("127.0.0.1:%d", temporalPort), Logger: sdklog.NewStructuredLogger(quiet()),
		})
		return err == nil
	})
	t.Cleanup(s.client.Close)

	s.store, err = shard.NewS3(t.Context(), shard.Config{
		Bucket: "precept", Endpoint: s.s3, Region: "us-east-1", PathStyle: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.store.CreateBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.base = filepath.Join(s.dir, "tiny")
	s.config = map[string]any{
		"store": map[string]any{"bucket": "precept", "endpoint": s.s3, "region": "us-east-1", "path_style": true},
		"endpoints": map[string]any{
			"sim-teacher": s.endpoint("sim-teacher"), "sim-judge": s.endpoint("sim-judge"),
		},
		"trainer": map[string]any{"python": s.python(), "package": filepath.Join(root, "trainer"), "work_dir": filepath.Join(s.dir, "work")},
	}
	return s
}

// inFlight is how many requests a worker has in flight to an endpoint at most.
const inFlight = 16

func (s *stack) endpoint(model string) map[string]any {
	e := map[string]any{
		"base_url": s.simllm + "/v1", "model": model, "provider": "simllm", "revision": "1", "simulated": true, "max_in_flight": inFlight,
	}
	maps.Copy(e, prices[model])
	return e
}

// bin is a built program: of the folder PRECEPT_BIN, which may hold some, or of .precept/bin.
func (s *stack) bin(name string) string {
	if dir := os.Getenv("PRECEPT_BIN"); dir != "" {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	path := filepath.Join(s.root, ".precept", "bin", name)
	if _, err := os.Stat(path); err != nil {
		s.Fatalf("%s is not built; run make tools build: %v", name, err)
	}
	return path
}

func (s *stack) python() string { return filepath.Join(s.root, ".precept", "venv", "bin", "python") }

func (s *stack) write(name string, v any) string {
	s.Helper()
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		s.Fatal(err)
	}
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		s.Fatal(err)
	}
	return path
}

// process is a part of the stack.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	path string
	args []string
}

// start starts a process whose output goes to a log that a failed test shows.
func (s *stack) start(name, path string, args ...string) *process {
	s.Helper()
	logPath := filepath.Join(s.dir, name+".log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.root, s.env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	p := &process{cmd, make(chan struct{}), path, args}
	s.parts[name] = p
	go func() { _ = cmd.Wait(); log.Close(); close(p.done) }()
	s.Cleanup(func() {
		p.kill()
		if s.Failed() {
			raw, _ := os.ReadFile(logPath)
			s.Logf("--- end of %s's log\n%s", name, raw[max(0, len(raw)-4000):])
		}
	})
	return p
}

// kill kills a process and its group as a crash would.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// killAlone kills the process but not its children.
func (p *process) killAlone() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// signal sends a process a signal, and its group.
func (p *process) signal(sig syscall.Signal) { _ = syscall.Kill(-p.cmd.Process.Pid, sig) }

// revive starts a part of the stack that was killed.
func (s *stack) revive(name string) {
	s.Helper()
	p := s.parts[name]
	s.start(name, p.path, p.args...)
}

func (s *stack) worker(name, queues string, flags ...string) *process {
	s.Helper()
	return s.start(name, s.bin("worker"), append([]string{"--config", s.write("worker.json", s.config), "--queues", queues}, flags...)...)
}

// await polls until done.
func (s *stack) await(what string, limit time.Duration, done func() bool) {
	s.Helper()
	deadline := time.Now().Add(limit)
	for !done() {
		if time.Now().After(deadline) {
			s.Fatalf("%s: not within %s", what, limit)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *stack) progress(run string) (p schemas.Progress, ok bool) {
	ctx, cancel := context.WithTimeout(s.Context(), 5*time.Second)
	defer cancel()
	v, err := s.client.QueryWorkflow(ctx, run, "", schemas.QueryProgress)
	if err != nil {
		return p, false
	}
	return p, v.Get(&p) == nil
}

// awaitGate waits until the run waits at a gate, failing when it waits at another.
func (s *stack) awaitGate(run string, gate schemas.Gate, limit time.Duration) schemas.Opening {
	s.Helper()
	var opening schemas.Opening
	s.await("gate "+string(gate), limit, func() bool {
		p, ok := s.progress(run)
		if !ok || p.Waiting == nil {
			return false
		}
		if p.Waiting.Gate != gate {
			s.Fatalf("the run waits at %s: %s", p.Waiting.Gate, p.Waiting.Question)
		}
		opening = *p.Waiting
		return true
	})
	return opening
}

// temporal runs the Temporal CLI as a person would.
func (s *stack) temporal(args ...string) string {
	s.Helper()
	cmd := exec.Command(s.bin("temporal"), args...)
	cmd.Env = s.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.Fatalf("temporal %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// trainer runs a command of the Python package.
func (s *stack) trainer(command string, job any) {
	s.Helper()
	path := s.write("job-"+command+".json", job)
	cmd := exec.Command(s.python(), "-m", "precept_trainer", command, "--job", path)
	cmd.Env = append(s.env, "PYTHONPATH="+filepath.Join(s.root, "trainer"), "HF_HUB_OFFLINE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.Fatalf("trainer %s: %v\n%s", command, err, out)
	}
}

// paid is what the simulated endpoints counted.
type paid struct {
	Requests int64 `json:"requests"`
	Unique   int64 `json:"unique"` // of Requests, by their bodies
	Repeated int64 `json:"paid_repeated"`
	InFlight int64 `json:"in_flight"`
}

func (s *stack) paid() (p paid) {
	s.Helper()
	resp, err := http.Get(s.simllm + "/ledger")
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
		s.Fatal(err)
	}
	return p
}

// journaled counts the requests whose answers are in the journal.
func (s *stack) journaled() int64 {
	s.Helper()
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		s.Fatal(err)
	}
	defer decoder.Close()
	keys := map[string]bool{}
	for info, err := range s.store.List(s.Context(), "journal/") {
		if err != nil {
			s.Fatal(err)
		}
		body, _, err := s.store.Get(s.Context(), info.Key)
		if err != nil {
			s.Fatal(err)
		}
		text, err := decoder.DecodeAll(body, nil)
		if err != nil {
			s.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			var record struct{ Key string }
			if err := json.Unmarshal(line, &record); err != nil {
				s.Fatal(err)
			}
			keys[record.Key] = true
		}
	}
	return int64(len(keys))
}

func up(url string) bool {
	resp, err := http.Get(url)
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (s *stack) startRun(id string, spec schemas.RunSpec) client.WorkflowRun {
	s.Helper()
	run, err := s.client.ExecuteWorkflow(s.Context(), client.StartWorkflowOptions{
		ID: id, TaskQueue: schemas.QueueFactory,
		WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
	}, workflows.FactoryName, spec)
	if err != nil {
		s.Fatal(err)
	}
	return run
}

func (s *stack) report(run client.WorkflowRun, limit time.Duration) (r schemas.RunReport) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), limit)
	defer cancel()
	if err := run.Get(ctx, &r); err != nil {
		s.Fatal(err)
	}
	return r
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }
