package process

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Program is what to run.
type Program struct {
	Path string
	Args []string
	Dir  string   // where it runs; empty: where this program does
	Env  []string // its whole environment
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
	log  string
	done chan struct{}
	err  error
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

	p := &Process{log: prog.Log, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel kills the process when the thread that started it ends, so
		// this one stays until the process is gone.
		runtime.LockOSThread()
		defer close(p.done)
		defer log.Close()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
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
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what is left of the group
		p.err = err
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
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
