package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/sourcegraph/conc/pool"
)

// Program is what to run.
type Program struct {
	Path string
	Args []string
	Dir  string   // where it runs; empty: where this program does
	Env  []string // its whole environment
	// Others are the environments of further processes of the same program, which run beside it as one
	// group. It speaks for them: what they print goes to the log.
	Others [][]string
	// Asked is the exit status of another one that ends as it was asked to; beside 0, which
	// is no failure either.
	Asked int
	// Log is the file that its output is added to.
	Log string
	// Read, where there is one, reads its standard output in the log's place. Its error ends
	// the program.
	Read func(io.Reader) error
	// Grace is how long it may take to end when it is asked to. Defaults to 2m.
	Grace time.Duration
}

// Process is a program that was started.
type Process struct {
	cmd    *exec.Cmd
	others []*exec.Cmd
	asked  int
	log    string
	done   chan struct{}
	err    error
}

// Start starts a program, which ends with ctx.
func Start(ctx context.Context, prog Program) (*Process, error) {
	if err := os.MkdirAll(filepath.Dir(prog.Log), 0o755); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(prog.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, prog.Path, prog.Args...)
	cmd.Dir, cmd.Env = prog.Dir, prog.Env
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = attributes()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = prog.Grace
	if cmd.WaitDelay == 0 {
		cmd.WaitDelay = 2 * time.Minute
	}
	var stdout io.Reader
	if prog.Read != nil {
		cmd.Stdout = nil
		if stdout, err = cmd.StdoutPipe(); err != nil {
			log.Close()
			return nil, err
		}
	}

	p := &Process{cmd: cmd, asked: prog.Asked, log: prog.Log, done: make(chan struct{})}
	for _, env := range prog.Others {
		other := exec.Command(prog.Path, prog.Args...) // the first one's context ends the group
		other.Dir, other.Env = prog.Dir, env
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
		var read error
		if prog.Read != nil {
			if read = prog.Read(stdout); read != nil {
				// Nobody reads on: the process would wait for ever to be read.
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			}
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
		return nil, err
	}
	return p, nil
}

// start starts all as one group. None is left where one can't be started.
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

// lingering is how long others may go on after one has ended: to say what is wrong, if it failed and
// they know. Most wait for the one that is gone, for ever.
const lingering = 10 * time.Second

// ended tells that the others have ended, and how.
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
			if err == nil || other.ProcessState.ExitCode() == p.asked {
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

// Done is closed when the process is gone.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait returns once the process is gone: nil when it exited with 0.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// LogTail is the end of the log.
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
