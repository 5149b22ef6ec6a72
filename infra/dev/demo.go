package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

const demoRun = "quickstart"

// demo runs the quickstart as a person would, gates included.
func demo(ctx context.Context, s *stack) error {
	me, err := processByPID(os.Getpid())
	if err != nil {
		return err
	}
	s.say("Starting the embedded stack")
	owned, err := s.up(ctx, owner{Demo: &me}, nil)
	if err != nil && !owned {
		return err
	}
	if owned {
		defer s.downAfterInterrupt(ctx)
	}
	if err != nil {
		return err
	}
	s.say("\n%s\n", s.settings.addresses())

	background, cancel := context.WithCancel(ctx)
	defer cancel()
	go s.tellBackground(background)

	d := &driver{out: s.out, run: demoRun, tools: s.tools()}
	if s.settings.TemporalPort != defaultTemporalPort {
		d.address = []string{"--address", fmt.Sprintf("127.0.0.1:%d", s.settings.TemporalPort)}
	}
	err = d.drive(ctx)
	if ctx.Err() != nil {
		return errInterrupted
	}
	if err != nil {
		return err
	}
	s.say("\n%s\n", s.settings.addresses())
	switch {
	case !owned:
		s.say("The stack ran before this demo and goes on; stop it with: make down")
	case isTerminal(os.Stdout) && os.Getenv("DEMO_EXIT") == "":
		s.say("The stack keeps running, to look around in it. Ctrl-C stops the stack.")
		s.waitForEnd(ctx)
	}
	return nil
}

// waitForEnd returns on Ctrl-C, or when somebody else stops the stack.
func (s *stack) waitForEnd(ctx context.Context) {
	for pause(ctx, time.Second) && s.supervisor().alive(ctx) {
	}
}

// tellBackground says when a process that nobody waits for is done, or has failed.
func (s *stack) tellBackground(ctx context.Context) {
	defs, err := readDefinitions(composeFile)
	if err != nil {
		return // up has read the same file.
	}
	begun, told := time.Now(), map[string]bool{}
	for pause(ctx, time.Second) {
		states, err := s.supervisor().states(ctx)
		if err != nil {
			continue
		}
		for _, st := range states {
			d := defs[st.Name]
			if d.Background == "" || !d.once() || told[st.Name] {
				continue
			}
			switch {
			case st.completed():
				s.say("\n%s: done after %s", st.Name, time.Since(begun).Round(time.Second))
			case st.failed():
				s.say("\n%s failed, and what needs it will wait; the end of %s:\n%s\nMend it and run make demo again.", st.Name, d.Log, tail(d.Log))
			default:
				continue
			}
			told[st.Name] = true
		}
	}
}

// tool runs a program to its end and returns its exit code. Lines of its output that pass
// keep are shown; it may be nil, to show all.
type tool func(ctx context.Context, keep func(line string) bool, args ...string) (exit int, err error)

type tools struct{ temporal, starter tool }

func (s *stack) tools() tools {
	env := s.settings.environment(s.root, os.Environ())
	program := func(name string) tool {
		return func(ctx context.Context, keep func(string) bool, args ...string) (int, error) {
			cmd := exec.CommandContext(ctx, binDir+"/"+name, args...)
			cmd.Env, cmd.Stdout, cmd.Stderr = env, s.out, os.Stderr
			var lines *lineFilter
			if keep != nil {
				lines = &lineFilter{out: s.out, keep: keep}
				cmd.Stdout = lines
			}
			cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
			cmd.WaitDelay = 5 * time.Second
			err := cmd.Run()
			if lines != nil {
				lines.flush()
			}
			var exit *exec.ExitError
			if errors.As(err, &exit) && exit.ExitCode() >= 0 {
				return exit.ExitCode(), nil
			}
			return 0, err
		}
	}
	return tools{temporal: program("temporal"), starter: program("starter")}
}

// opening is a gate that waits, as starter watch prints it.
type opening struct {
	Gate    string `json:"gate"`
	Opening string `json:"opening"`
}

// gateWaits is starter watch's exit code at a gate.
const gateWaits = 10

// driver takes one run from its start to its report.
type driver struct {
	out     io.Writer
	run     string
	tools   tools
	address []string // what the Temporal CLI needs to find the server, where it is not the default
}

// drive starts the run, or attaches to it, and approves its gates.
func (d *driver) drive(ctx context.Context) error {
	start := []string{"workflow", "start", "--type", "Factory", "--task-queue", "factory", "--workflow-id", d.run,
		"--input-file", "examples/" + d.run + ".json",
		"--id-reuse-policy", "AllowDuplicate", "--id-conflict-policy", "UseExisting"}
	if err := d.temporal(ctx, start); err != nil {
		return err
	}
	var answered []opening
	for {
		waits, done, err := d.watch(ctx)
		if err != nil {
			return err
		}
		if done {
			break
		}
		if slices.Contains(answered, waits) {
			// The signal is on its way.
			if !pause(ctx, 500*time.Millisecond) {
				return errInterrupted
			}
			continue
		}
		if !slices.Contains([]string{"prompts", "dataset", "release"}, waits.Gate) {
			return fmt.Errorf("the run waits at its %s gate, which a demo does not answer: see what it says in the UI, and run make demo again after you have answered it", waits.Gate)
		}
		input, err := json.Marshal(struct {
			Gate string `json:"gate"`
			By   string `json:"by"`
		}{waits.Gate, "make demo"})
		if err != nil {
			return err
		}
		fmt.Fprintf(d.out, "\nThe run waits for a person at its %s gate. What a person would type:\n", waits.Gate)
		if err := d.temporal(ctx, []string{"workflow", "signal", "--workflow-id", d.run, "--name", "approve", "--input", string(input)}); err != nil {
			return err
		}
		answered = append(answered, waits)
	}
	exit, err := d.tools.starter(ctx, nil, "report", d.run)
	if err == nil && exit != 0 {
		err = fmt.Errorf("starter report %s ends with exit code %d", d.run, exit)
	}
	return err
}

// watch shows progress until a gate waits or the run is done.
func (d *driver) watch(ctx context.Context) (waits opening, done bool, err error) {
	var found bool
	exit, err := d.tools.starter(ctx, func(line string) bool {
		var o opening
		if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &o) != nil || o.Gate == "" {
			return true
		}
		waits, found = o, true
		return false
	}, "watch", d.run, "--until-gate")
	switch {
	case err != nil:
		return opening{}, false, err
	case exit == 0:
		return opening{}, true, nil
	case exit == gateWaits && found:
		return waits, false, nil
	case exit == gateWaits:
		return opening{}, false, errors.New("starter watch says that a gate waits, but not which")
	default:
		return opening{}, false, fmt.Errorf("starter watch %s ends with exit code %d: see %s/worker.log, or run make demo again, which goes on where this one ended", d.run, exit, logDir)
	}
}

// temporal prints a command of the Temporal CLI and runs it.
func (d *driver) temporal(ctx context.Context, args []string) error {
	args = append(args, d.address...)
	fmt.Fprintf(d.out, "$ %s/temporal %s\n", binDir, quoted(args))
	exit, err := d.tools.temporal(ctx, nil, args...)
	if err == nil && exit != 0 {
		err = fmt.Errorf("temporal %s ends with exit code %d", args[1], exit)
	}
	return err
}

// quoted writes arguments so that a shell reads them back.
func quoted(args []string) string {
	var words []string
	for _, arg := range args {
		if arg == "" || strings.ContainsAny(arg, " \t\n\"'`$&|;<>(){}[]*?!#~\\") {
			arg = shellQuote(arg)
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// lineFilter passes on the lines that keep says yes to. Text without a line's end, such
// as a progress bar, is passed on as it comes unless it looks like JSON.
type lineFilter struct {
	out  io.Writer
	keep func(line string) bool
	held []byte
}

func (f *lineFilter) Write(p []byte) (int, error) {
	f.held = append(f.held, p...)
	for {
		i := slices.Index(f.held, '\n')
		if i < 0 {
			break
		}
		if err := f.pass(f.held[:i+1]); err != nil {
			return 0, err
		}
		f.held = f.held[i+1:]
	}
	if len(f.held) > 0 && f.held[0] != '{' {
		if _, err := f.out.Write(f.held); err != nil {
			return 0, err
		}
		f.held = nil
	}
	return len(p), nil
}

func (f *lineFilter) pass(line []byte) error {
	if !f.keep(strings.TrimSpace(string(line))) {
		return nil
	}
	_, err := f.out.Write(line)
	return err
}

func (f *lineFilter) flush() {
	if len(f.held) > 0 {
		_ = f.pass(f.held) // The terminal is gone if this fails.
		f.held = nil
	}
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
