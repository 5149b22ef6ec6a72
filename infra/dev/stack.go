package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// owner says who stops the stack again.
type owner struct {
	Demo *process `json:"demo,omitempty"` // the demo that started it, if one did
}

var nobody = owner{}

// record is what the checkout remembers of the stack it started.
type record struct {
	Settings  settings         `json:"settings"`
	Processes []string         `json:"processes"`
	Owner     owner            `json:"owner"`
	Programs  map[string]stamp `json:"programs"` // per process, what was started
}

// stamp tells one build of a program from another.
type stamp struct {
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
}

func stampOf(path string) (stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}, err
	}
	return stamp{info.Size(), info.ModTime().UTC()}, nil
}

const recordPath = runDir + "/stack.json"

// stack is the embedded stack of one checkout, which is the working directory.
type stack struct {
	root     string
	settings settings
	out      io.Writer
}

func (s *stack) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

func (s *stack) supervisor() supervisor { return newSupervisor(socketPath) }

func (s *stack) recorded() (record, bool) {
	text, err := os.ReadFile(recordPath)
	if err != nil {
		return record{}, false
	}
	var r record
	return r, json.Unmarshal(text, &r) == nil
}

func (s *stack) write(r record) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	temporary := recordPath + ".new"
	if err := os.WriteFile(temporary, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, recordPath)
}

// up starts the named processes and what they depend on, all for no name, and waits
// until they are ready. It returns whether it is the caller's to stop: it was started
// here, or taken over from a demo that was killed.
func (s *stack) up(ctx context.Context, by owner, names []string) (owned bool, err error) {
	defs, err := readDefinitions(composeFile)
	if err != nil {
		return false, err
	}
	names, err = defs.closure(names)
	if err != nil {
		return false, err
	}
	if err := defs.missing(names, exists); err != nil {
		return false, err
	}
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return false, err
	}
	unlock, err := lock(runDir + "/lock")
	if err != nil {
		return false, err
	}
	owned, err = s.start(ctx, by, defs, names)
	unlock()
	if err != nil {
		return owned, err
	}
	return owned, s.await(ctx, defs, names)
}

// start makes the processes run; the caller holds the lock.
func (s *stack) start(ctx context.Context, by owner, defs definitions, names []string) (owned bool, err error) {
	if s.supervisor().alive(ctx) {
		old, known := s.recorded()
		switch {
		case !known:
			s.say("A stack without a record runs here: starting it anew")
		case old.Settings != s.settings:
			return false, fmt.Errorf("the stack of this checkout already runs with other settings:\n%s\nstop it first: make down", old.Settings.addresses())
		case !containsAll(old.Processes, names):
			s.say("The stack runs with %s only: starting it anew with all", strings.Join(old.Processes, ", "))
		default:
			s.say("The stack of this checkout already runs")
			return s.join(ctx, old, by, defs)
		}
		if err := s.stopAll(ctx); err != nil {
			return false, err
		}
	}
	leftovers, err := s.members()
	if err != nil {
		return false, err
	}
	if len(leftovers) > 0 {
		s.say("Stopping what a killed stack left behind:")
		for _, p := range leftovers {
			s.say("  %s", p)
		}
		if err := s.terminate(leftovers); err != nil {
			return false, err
		}
	}
	if err := checkPorts(neededPorts(s.settings, names), portHolder); err != nil {
		return false, err
	}
	if err := s.launch(by, defs, names); err != nil {
		return false, err
	}
	return true, nil
}

// join takes part in a stack that runs: programs built since then are started again.
func (s *stack) join(ctx context.Context, old record, by owner, defs definitions) (owned bool, err error) {
	for _, name := range old.Processes {
		now, err := stampOf(defs[name].program())
		if err != nil {
			return false, err
		}
		if now == old.Programs[name] {
			continue
		}
		old.Programs[name] = now
		if defs[name].once() {
			continue // It did its work; the next start does it again.
		}
		s.say("  %s was built anew: restarting %s", defs[name].program(), name)
		if err := s.supervisor().restart(ctx, name); err != nil {
			return false, err
		}
	}
	if by.Demo != nil && old.Owner.Demo != nil && !old.Owner.Demo.alive() {
		s.say("It was left running by a demo that was killed: this one goes on with it")
		old.Owner, owned = by, true
	}
	return owned, s.write(old)
}

// launch starts the supervisor in a session of its own, so that a Ctrl-C at the terminal
// reaches only precept-dev, which then stops things in order.
func (s *stack) launch(by owner, defs definitions, names []string) error {
	for _, dir := range []string{logDir, s3Dir, stateDir + "/work"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(runDir+"/temporal.toml", nil, 0o644); err != nil {
		return err
	}
	env := s.settings.environment(s.root, os.Environ())
	if !hasAttributes(s3Dir) {
		if err := os.MkdirAll(s3MetaDir, 0o755); err != nil {
			return err
		}
		env = append(env, "VGW_META_SIDECAR="+s3MetaDir)
	}
	r := record{Settings: s.settings, Processes: names, Owner: by, Programs: map[string]stamp{}}
	for _, name := range names {
		stamp, err := stampOf(defs[name].program())
		if err != nil {
			return err
		}
		r.Programs[name] = stamp
	}
	if err := s.write(r); err != nil {
		return err
	}
	output, err := os.OpenFile(logDir+"/process-compose.out", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer output.Close()
	args := []string{"up", "--tui=false", "--keep-project", "--ordered-shutdown", "--disable-dotenv",
		"--config", composeFile, "--use-uds", "--unix-socket", socketPath, "--log-file", logDir + "/process-compose.log"}
	cmd := exec.Command(binDir+"/process-compose", append(args, names...)...)
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start process-compose: %w: build it with: make tools", err)
	}
	return cmd.Process.Release()
}

// await waits until every process that others count on is ready, and says so for each.
func (s *stack) await(ctx context.Context, defs definitions, names []string) error {
	const (
		patience = 3 * time.Minute
		heart    = 5 * time.Second
	)
	begun := time.Now()
	said, lastSaid := map[string]string{}, begun
	restarts := map[string]int{} // before this command
	var waiting []string
	for {
		states, err := s.supervisor().states(ctx)
		if ctx.Err() != nil {
			return errInterrupted
		}
		if err != nil && time.Since(begun) > 10*time.Second {
			return fmt.Errorf("process-compose does not answer: %w\n%s", err, tail(logDir+"/process-compose.out"))
		}
		waiting = nil
		for _, name := range names {
			d := defs[name]
			i := slices.IndexFunc(states, func(st state) bool { return st.Name == name })
			if i < 0 {
				waiting = append(waiting, name)
				continue
			}
			st := states[i]
			if _, seen := restarts[name]; !seen {
				restarts[name] = st.Restarts
			}
			st.Probed = st.Probed || d.ReadyLine != "" // A line in the log is a probe too.
			if d.Background != "" {
				continue // Whoever needs it watches it.
			}
			done := st.ready()
			if d.once() {
				done = st.completed()
			}
			text := st.String()
			if said[name] != text {
				said[name], lastSaid = text, time.Now()
				s.say("  %-14s %s", name, text)
			}
			const endlessly = 5
			if st.failed() && (d.once() || st.Status == "Skipped") || !done && st.Restarts-restarts[name] >= endlessly {
				return fmt.Errorf("%s can't start: %s; the end of %s:\n%s", name, text, d.Log, tail(d.Log))
			}
			if !done {
				waiting = append(waiting, name)
			}
		}
		if err == nil && len(waiting) == 0 {
			break
		}
		if time.Since(begun) > patience {
			return fmt.Errorf("%s not ready after %s: see %s/", strings.Join(waiting, ", "), patience, logDir)
		}
		if time.Since(lastSaid) > heart {
			lastSaid = time.Now()
			s.say("  waiting for %s (%s)", strings.Join(waiting, ", "), time.Since(begun).Round(time.Second))
		}
		if !pause(ctx, 200*time.Millisecond) {
			return errInterrupted
		}
	}
	for _, name := range names {
		if b := defs[name].Background; b != "" {
			s.say("  %-14s in the background: %s (%s)", name, b, defs[name].Log)
		}
	}
	return nil
}

// downAfterInterrupt is down for a command that a signal may have ended: that signal does
// not cut it short, another one makes it kill what has not ended yet.
func (s *stack) downAfterInterrupt(ctx context.Context) {
	ctx, stop := signal.NotifyContext(context.WithoutCancel(ctx), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := s.down(ctx); err != nil {
		s.say("precept-dev: %v", err)
	}
}

// down stops the stack and whatever is left of an earlier one.
func (s *stack) down(ctx context.Context) error {
	unlock, err := lock(runDir + "/lock")
	if errors.Is(err, os.ErrNotExist) {
		unlock, err = func() {}, nil // Nothing was ever started here.
	}
	if err != nil {
		return err
	}
	defer unlock()
	alive := s.supervisor().alive(ctx)
	members, err := s.members()
	if err != nil {
		return err
	}
	if !alive && len(members) == 0 {
		s.say("Nothing of this checkout runs")
		return nil
	}
	s.say("Stopping the stack")
	if err := s.stopAll(ctx); err != nil {
		return err
	}
	s.say("Stopped; the data stays in %s/", stateDir)
	return nil
}

// stopAll ends the supervisor in order and then every member that is left.
func (s *stack) stopAll(ctx context.Context) error {
	const orderly = 45 * time.Second // Longer than any process's own time to shut down.
	if s.supervisor().alive(ctx) {
		stop, cancel := context.WithTimeout(ctx, orderly)
		_ = s.supervisor().stop(stop) // It may end before it has answered; members says what is left.
		for s.supervisor().alive(stop) && pause(stop, 100*time.Millisecond) {
		}
		cancel()
	}
	members, err := s.members()
	if err != nil {
		return err
	}
	if err := s.terminate(members); err != nil {
		return err
	}
	return errors.Join(removeIfThere(socketPath), removeIfThere(recordPath))
}

func (s *stack) terminate(members []process) error {
	left := terminate(members, 10*time.Second)
	if len(left) == 0 {
		return nil
	}
	errs := []error{errors.New("these processes do not end, even when killed")}
	for _, p := range left {
		errs = append(errs, errors.New(p.String()))
	}
	return errors.Join(errs...)
}

// members are all processes of this checkout's stack but the running command itself.
func (s *stack) members() ([]process, error) { return processesWith(markName, s.root) }

func (s *stack) status(ctx context.Context) error {
	states, err := s.supervisor().states(ctx)
	if err != nil {
		members, err := s.members()
		if err != nil {
			return err
		}
		s.say("The stack is down; start it with: make up")
		for _, p := range members {
			s.say("  left behind: %s", p)
		}
		return nil
	}
	for _, st := range states {
		line := fmt.Sprintf("%-14s %-12s", st.Name, st)
		if st.Running {
			line += fmt.Sprintf(" PID %-8d %5d MiB", st.PID, st.Memory>>20)
		}
		if st.Restarts > 0 {
			line += fmt.Sprintf("  %d restarts", st.Restarts)
		}
		s.say("%s", strings.TrimRight(line, " "))
	}
	if r, ok := s.recorded(); ok {
		s.say("\n%s", r.Settings.addresses())
	}
	return nil
}

// cleanCheck fails if anything of this checkout still runs.
func (s *stack) cleanCheck(ctx context.Context) error {
	members, err := s.members()
	if err != nil {
		return err
	}
	if s.supervisor().alive(ctx) || len(members) > 0 {
		errs := []error{errors.New("processes of this checkout still run; stop them with: make down")}
		for _, p := range members {
			errs = append(errs, errors.New("  "+p.String()))
		}
		return errors.Join(errs...)
	}
	s.say("Nothing of this checkout runs")
	return nil
}

// neededPorts are the ports of the named processes.
func neededPorts(s settings, names []string) []port {
	return slices.DeleteFunc(s.ports(), func(p port) bool { return !slices.Contains(names, p.process) })
}

// checkPorts names every port that is taken, and by whom.
func checkPorts(ports []port, holder func(port int) string) error {
	var errs []error
	for _, p := range ports {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p.number))
		if err != nil {
			errs = append(errs, fmt.Errorf("port %d (%s) is taken by %s: stop it, or choose another port with %s",
				p.number, p.process, holder(p.number), p.variable))
			continue
		}
		l.Close()
	}
	return errors.Join(errs...)
}

// lock waits for the file's lock, which ends with the process that holds it.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// pause waits, and says whether the context still holds.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// tail returns the last lines of a file, indented, or says why there are none.
func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "  " + err.Error()
	}
	lines := slices.DeleteFunc(strings.Split(string(text), "\n"), func(line string) bool { return strings.TrimSpace(line) == "" })
	const most = 15
	return "  " + strings.Join(lines[max(0, len(lines)-most):], "\n  ")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func containsAll(have, want []string) bool {
	return !slices.ContainsFunc(want, func(name string) bool { return !slices.Contains(have, name) })
}
