package trainer

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"precept/internal/process"
	"precept/schemas"
)

// Config says where the Python of the trainer is.
type Config struct {
	// Python is the interpreter of the trainer's virtual environment.
	Python string `json:"python"`
	// Package is the folder that holds the Python package precept_trainer.
	Package string `json:"package"`
	// WorkDir holds the folders of jobs; it may be lost between attempts.
	WorkDir string `json:"work_dir"`
	// Grace is how long a process may take to leave a checkpoint. Defaults to 2m.
	Grace schemas.Duration `json:"grace"`
	// HubTokenEnv names the environment variable that holds a token for the Hugging Face Hub. Only the
	// process that fetches a base model is given it. Defaults to HF_TOKEN.
	HubTokenEnv string `json:"hub_token_env"`
	// Mirror is an s3:// prefix that base models are taken from in the Hub's place, as
	// OWNER/NAME/REVISION/, with main where a run names no revision.
	Mirror string `json:"mirror"`
	// Threads bounds the CPU threads. 0 leaves it to torch.
	Threads int `json:"threads"`
	// Secrets name the variables of the worker's environment that a job gets which reports
	// to somebody, such as WANDB_API_KEY.
	Secrets []string `json:"secrets"`
}

// Named are the secrets that the configuration names, as they stand in an environment.
func (c Config) Named() (env []string) {
	for _, name := range c.Secrets {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// Work is a path in the folder for jobs, which is made. What lies there may be lost.
func (c Config) Work(parts ...string) string {
	dir := cmp.Or(c.WorkDir, os.TempDir())
	_ = os.MkdirAll(dir, 0o755) // who uses it fails and says why
	return filepath.Join(append([]string{dir}, parts...)...)
}

// HubEnvironment is what a process needs beside that fetches from the Hub.
func (c Config) HubEnvironment() (env []string) {
	if token := strings.TrimSpace(os.Getenv(cmp.Or(c.HubTokenEnv, "HF_TOKEN"))); token != "" {
		env = append(env, "HF_TOKEN="+token)
	}
	if endpoint := os.Getenv("HF_ENDPOINT"); endpoint != "" {
		env = append(env, "HF_ENDPOINT="+endpoint)
	}
	return env
}

// Process is a running job.
type Process struct {
	*process.Process
	events chan Event
}

// Start starts `python -m precept_trainer <command>` on a job in the folder dir,
// with env added to a clean environment. The caller reads Events to the end and
// then calls Wait.
func Start(ctx context.Context, c Config, command, dir string, job any, env ...string) (*Process, error) {
	const op = "start trainer"
	if _, err := os.Stat(c.Python); err != nil {
		return nil, schemas.E(op, command, schemas.Unavailable, err).
			WithHint("Install the trainer's environment with trainer/install.sh, or set trainer.python in the worker's configuration.")
	}
	raw, err := json.MarshalIndent(job, "", "  ")
	if err != nil {
		return nil, schemas.E(op, command, schemas.Internal, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, schemas.E(op, command, schemas.Unavailable, err)
	}
	path := filepath.Join(dir, command+".json")
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		return nil, schemas.E(op, command, schemas.Unavailable, err)
	}
	ranks, err := ranksOf(job)
	if err != nil {
		return nil, schemas.E(op, command, schemas.Unavailable, err)
	}
	env = slices.Concat(c.Environment(), env)
	for i := range ranks {
		ranks[i] = slices.Concat(env, ranks[i])
	}
	p := &Process{events: make(chan Event, 64)}
	p.Process, err = process.Start(ctx, process.Program{
		Path: c.Python, Args: []string{"-m", "precept_trainer", command, "--job", path}, Env: ranks[0], Others: ranks[1:],
		Log: filepath.Join(dir, command+".log"), Read: p.read, Grace: time.Duration(c.Grace), Asked: interrupted,
	})
	if err != nil {
		return nil, schemas.E(op, command, schemas.Unavailable, err)
	}
	return p, nil
}

// interrupted is the exit status of a process that leaves a checkpoint on request.
const interrupted = 3

// ranksOf is what the processes of a job have in their environment: nothing where there is one.
func ranksOf(job any) ([][]string, error) {
	placed, ok := job.(interface{ processes() int })
	if !ok || placed.processes() == 1 {
		return make([][]string, 1), nil
	}
	// They meet at a port that is free now. Where another takes it meanwhile, the job fails and is tried again.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return nil, err
	}
	ranks := make([][]string, placed.processes())
	for i := range ranks {
		ranks[i] = []string{
			fmt.Sprintf("RANK=%d", i), fmt.Sprintf("LOCAL_RANK=%d", i),
			fmt.Sprintf("WORLD_SIZE=%d", len(ranks)), fmt.Sprintf("LOCAL_WORLD_SIZE=%d", len(ranks)),
			"MASTER_ADDR=127.0.0.1", fmt.Sprintf("MASTER_PORT=%d", port),
		}
	}
	return ranks, nil
}

// Events yields the process's events and is closed at its end.
func (p *Process) Events() <-chan Event { return p.events }

// Ready waits for a server's ready event.
func (p *Process) Ready(ctx context.Context, limit time.Duration) (Event, error) {
	const op = "serve model"
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case e, open := <-p.events:
			switch {
			case !open:
				return Event{}, schemas.Errorf(op, "", schemas.Unavailable, "the server ended; the end of its log:\n%s", p.LogTail())
			case e.Event == EventReady:
				go p.discard()
				return e, nil
			case e.Event == EventError:
				return Event{}, schemas.Errorf(op, "", errorKind(e.Kind), "%s", e.Message)
			}
		case <-timer.C:
			return Event{}, schemas.Errorf(op, "", schemas.Unavailable, "it is not ready after %s; the end of its log:\n%s", limit, p.LogTail())
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		}
	}
}

// discard reads events that nobody waits for, so that the process isn't held up.
func (p *Process) discard() {
	for range p.events {
	}
}

// Wait returns once the process is gone: nil when it exited with 0.
func (p *Process) Wait() error {
	p.discard()
	return p.Process.Wait()
}

func (p *Process) read(stdout io.Reader) error {
	defer close(p.events)
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		e, err := parseEvent(lines.Bytes())
		if err != nil {
			return err
		}
		p.events <- e
	}
	return lines.Err()
}

// Run runs a training job to its end and returns its done event. onEvent sees
// every event; its error stops the job.
func Run(ctx context.Context, c Config, command, dir string, job any, onEvent func(Event) error, env ...string) (Event, error) {
	op := "run trainer"
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p, err := Start(ctx, c, command, dir, job, env...)
	if err != nil {
		return Event{}, err
	}
	var last Event
	for e := range p.Events() {
		last = e
		if err := onEvent(e); err != nil {
			cancel(err)
		}
	}
	err = p.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return last, cause
	}
	switch last.Event {
	case EventDone:
		if err == nil {
			return last, nil
		}
	case EventError:
		return last, schemas.Errorf(op, command, errorKind(last.Kind), "%s", last.Message)
	case EventInterrupted:
		return last, schemas.Errorf(op, command, schemas.Unavailable, "interrupted at step %d; it goes on from its checkpoint", last.Step)
	}
	if err == nil {
		err = errors.New("it exited without saying that it is done")
	}
	return last, schemas.Errorf(op, command, schemas.Unavailable, "%w; the end of its log:\n%s", err, p.LogTail())
}

func errorKind(kind string) schemas.Kind {
	switch k := schemas.Kind(kind); k {
	case schemas.InvalidInput, schemas.Unavailable:
		return k
	}
	return schemas.Internal
}

// Environment is what a job sees of the worker's environment: nothing secret.
func (c Config) Environment() []string {
	pkg, err := filepath.Abs(c.Package)
	if err != nil {
		pkg = c.Package
	}
	env := []string{
		"PYTHONPATH=" + pkg,
		"PYTHONUNBUFFERED=1",
		"TOKENIZERS_PARALLELISM=false",
		// Threads that wait give their core to others instead of spinning on it.
		"OMP_WAIT_POLICY=PASSIVE",
		"HF_HUB_DISABLE_TELEMETRY=1",
	}
	if c.Threads > 0 {
		env = append(env, fmt.Sprintf("OMP_NUM_THREADS=%d", c.Threads))
	}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LANG", "HF_HOME", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}
