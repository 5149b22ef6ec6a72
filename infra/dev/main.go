package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// errInterrupted is what a command returns that was ended by a signal after it
// stopped what it had started.
var errInterrupted = errors.New("interrupted")

const usage = `usage: precept-dev COMMAND

  up [process...]      start the embedded stack (or some processes and what they depend on)
  down                 stop it
  demo                 start it, run examples/quickstart.json to its report
  status               show what runs, and where
  env                  print the stack's environment: eval "$(.precept/bin/precept-dev env)"
  clean-check          fail if anything of this checkout still runs
  prepare-temporal     set retention and search attributes (the stack does it itself)
  installed-temporal   print the path of an installed temporal that is new enough, or fail
`

func main() {
	// A broken pipe is one of them: Ctrl-C ends the other end of `make demo | tee log` too.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, errInterrupted):
		os.Exit(130)
	case err != nil:
		fmt.Fprintf(os.Stderr, "precept-dev: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("which command? precept-dev help lists them")
	}
	if args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		fmt.Print(usage)
		return nil
	}
	if args[0] == "installed-temporal" {
		path, err := installedTemporal(os.Getenv("PATH"))
		if err == nil {
			fmt.Println(path)
		}
		return err
	}
	root, err := checkout()
	if err != nil {
		return err
	}
	// Paths in the configuration files are relative to the checkout.
	if err := os.Chdir(root); err != nil {
		return err
	}
	settings, err := settingsFrom(os.Getenv)
	if err != nil {
		return err
	}
	s := &stack{root: root, settings: settings, out: os.Stdout}
	switch command, rest := args[0], args[1:]; command {
	case "up":
		started, err := s.up(ctx, nobody, rest)
		switch {
		case started && errors.Is(err, errInterrupted):
			s.downAfterInterrupt(ctx)
		case err == nil:
			s.say("\n%s\nStop it with: make down", s.settings.addresses())
		}
		return err
	case "down":
		return s.down(ctx)
	case "demo":
		return demo(ctx, s)
	case "status":
		return s.status(ctx)
	case "env":
		if running, ok := s.recorded(); ok {
			s.settings = running.Settings
		}
		for _, pair := range s.settings.public() {
			name, value, _ := strings.Cut(pair, "=")
			fmt.Printf("export %s=%s\n", name, shellQuote(value))
		}
		fmt.Printf("export PRECEPT_CONFIG=%s\n", shellQuote(filepath.Join(root, "infra/dev/worker.yaml")))
		fmt.Printf("export PATH=%s:\"$PATH\"\n", shellQuote(filepath.Join(root, binDir)))
		return nil
	case "clean-check":
		return s.cleanCheck(ctx)
	case "prepare-temporal":
		return prepareTemporal(ctx)
	default:
		return fmt.Errorf("unknown command %q; precept-dev help lists them", command)
	}
}

// checkout finds the repository that the working directory is in.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module precept\n") {
			return filepath.EvalSymlinks(dir)
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no checkout of precept here: run this from inside the repository")
		}
		dir = parent
	}
}
