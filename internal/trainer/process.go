package trainer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sourcegraph/conc/pool"

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

// Process is a running job.
type Process struct {
	cmd    *exec.Cmd
	others []*exec.Cmd // the ranks above 0
	events chan Event
	log    string
	done   chan struct{}
	err    error
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
	logPath := filepath.Join(dir, command+".log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, schemas.E(op, command, schemas.Unavailable, err)
	}

	args := []string{"-m", "precept_trainer", command, "--job", path}
	ranks, err := ranksOf(job)
	if err != nil {
		log.Close()
		return nil, schemas.E(op, command, schemas.Unavailable, err)
	}
	cmd := exec.CommandContext(ctx, c.Python, args...)
	cmd.Env = slices.Concat(c.environment(), env, ranks[0])
	cmd.Stderr = log
	cmd.SysProcAttr = attributes()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = time.Duration(c.Grace)
	if cmd.WaitDelay == 0 {
		cmd.WaitDelay = 2 * time.Minute
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		log.Close()
		return nil, schemas.E(op, command, schemas.Internal, err)
	}

	p := &Process{cmd: cmd, events: make(chan Event, 64), log: logPath, done: make(chan struct{})}
	for _, rank := range ranks[1:] {
		other := exec.Command(c.Python, args...) // the first one's context ends the group
		other.Env = slices.Concat(c.environment(), env, rank)
		other.Stdout, other.Stderr = log, log
		p.others = append(p.others, other)
	}
	started := make(chan error)
	go func() {
		// The kernel kills the process when the thread that started it ends, so
		// this one stays until the process is gone.
		runtime.LockOSThread()
		defer close(p.done)
		defer log.Close()
		err := p.start()
		started <- err
		if err != nil {
			return
		}
		others := p.waitForOthers()
		read := p.read(bufio.NewScanner(stdout))
		if read != nil {
			// Nobody reads on: the process would wait for ever to be read.
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
		err = cmd.Wait()
		if read != nil {
			err = read
		}
		if err == nil {
			// The others are about to end, too.
			select {
			case <-others.done:
			case <-time.After(lingering):
			}
		}
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what is left of the group
		<-others.done
		p.err = errors.Join(err, others.err)
	}()
	if err := <-started; err != nil {
		return nil, schemas.E(op, command, schemas.Unavailable, err)
	}
	return p, nil
}

// start starts the ranks as one group. None is left where one can't be started.
func (p *Process) start() error {
	if err := p.cmd.Start(); err != nil {
		return err
	}
	for i, other := range p.others {
		other.SysProcAttr = attributes()
		other.SysProcAttr.Pgid = p.cmd.Process.Pid
		if err := other.Start(); err != nil {
			_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
			_ = p.cmd.Wait()
			for _, started := range p.others[:i] {
				_ = started.Wait()
			}
			return err
		}
	}
	return nil
}

// lingering is how long ranks may go on after one has ended: to say what is wrong, if it failed and
// they know. Most wait for the one that is gone, for ever.
const lingering = 10 * time.Second

// ended tells that the ranks above 0 have ended, and how.
type ended struct {
	done chan struct{}
	err  error
}

func (p *Process) waitForOthers() *ended {
	e := &ended{done: make(chan struct{})}
	all := pool.New().WithErrors()
	for i, other := range p.others {
		all.Go(func() error {
			err := other.Wait()
			if err == nil || other.ProcessState.ExitCode() == interrupted {
				return nil
			}
			time.AfterFunc(lingering, func() { _ = p.cmd.Process.Kill() })
			return fmt.Errorf("rank %d: %w", i+1, err)
		})
	}
	go func() {
		defer close(e.done)
		e.err = all.Wait()
	}()
	return e
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
	<-p.done
	return p.err
}

func (p *Process) read(lines *bufio.Scanner) error {
	defer close(p.events)
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

// LogTail is the end of what the process printed beside its events.
func (p *Process) LogTail() string {
	raw, err := os.ReadFile(p.log)
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	const most = 1500
	if len(raw) > most {
		raw = raw[len(raw)-most:]
	}
	return strings.ToValidUTF8(string(raw), "?")
}

func errorKind(kind string) schemas.Kind {
	switch k := schemas.Kind(kind); k {
	case schemas.InvalidInput, schemas.Unavailable:
		return k
	}
	return schemas.Internal
}

// environment is what a job sees of the worker's environment: nothing secret.
func (c Config) environment() []string {
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
