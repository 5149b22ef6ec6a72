package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"precept/internal/config"
	"precept/internal/shard"
	"precept/schemas"
)

// The exit codes, as the help lists them.
const (
	exitOK          = 0
	exitError       = 1
	exitBadInput    = 2
	exitEnded       = 3
	exitGate        = 10
	exitInterrupted = 130
)

const exitCodes = `Exit codes:
  0   ok
  1   error, or the run failed
  2   bad usage or bad input
  3   the run ended rejected or aborted
  10  a gate waits (watch --until-gate)
  130 interrupted; the run goes on`

// exit is an error that ends the program with a code of its own. An empty message
// prints nothing.
type exit struct {
	code    int
	message string
}

func (e exit) Error() string { return e.message }

// app is what the commands share.
type app struct {
	in       io.Reader
	out, err io.Writer
	connect  func() (server, error)
	open     func(ctx context.Context, path string) (shard.Store, error)
	getenv   func(string) string
	config   string
	json     bool
}

func main() {
	a := &app{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, connect: dial, open: openStore, getenv: os.Getenv,
	}
	os.Exit(a.main(os.Args[1:]))
}

func openStore(ctx context.Context, path string) (shard.Store, error) {
	c, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	s, err := c.OpenStore(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// main runs a command line and returns its exit code.
func (a *app) main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code := exitError
	var e exit
	switch {
	case errors.As(err, &e):
		code = e.code
	case ctx.Err() != nil:
		code, err = exitInterrupted, errors.New("interrupted")
	case schemas.KindOf(err) == schemas.InvalidInput:
		code = exitBadInput
	}
	if message := oneLine(err.Error()); message != "" {
		fmt.Fprintf(a.err, "starter: %s\n", message)
	}
	return code
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "starter",
		Short: "Start, watch and decide Precept's runs",
		Long: `Start, watch and decide Precept's runs.

Temporal is reached as its own CLI reaches it: TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE
and the profiles of temporal.toml. The store is named by --config.

` + exitCodes,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			e := usage("unknown command %q", args[0])
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				return e.WithHint("Did you mean: starter %s", strings.Join(near, ", starter "))
			}
			return e.WithHint("List the commands with: starter help")
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%w", err).WithHint("See: %s --help", cmd.CommandPath())
	})
	file := a.getenv("PRECEPT_CONFIG")
	if file == "" {
		file = "infra/dev/worker.yaml"
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.config, "config", file, "the worker's configuration, which names the store (env PRECEPT_CONFIG)")
	flags.BoolVar(&a.json, "json", false, "print JSON")
	root.AddCommand(a.checkCommand(), a.startCommand(), a.watchCommand(), a.progressCommand(),
		a.reportCommand(), a.peekCommand(), a.explainCommand(), a.exportCommand(), a.diffCommand(),
		a.gcCommand(), a.retryCommand(), a.budgetCommand(), a.estimateCommand(), a.calibrateCommand(), a.policyCommand(), a.tryCommand(),
		a.pullCommand(), a.serveCommand(), a.chatCommand())
	for _, d := range decisions {
		root.AddCommand(a.decideCommand(d))
	}
	return root
}

// takes checks the number of a command's arguments.
func takes(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < low || len(args) > high {
			return usage("%s: %d arguments given", cmd.CommandPath(), len(args)).WithHint("Usage: %s", cmd.UseLine())
		}
		return nil
	}
}

func usage(format string, args ...any) *schemas.Error {
	return schemas.Errorf("read command line", "", schemas.InvalidInput, format, args...)
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// oneLine makes outside text fit into a line of a terminal: no line ends, no
// control characters.
func oneLine(s string) string {
	return printable(strings.Join(strings.Fields(s), " "))
}

// printable drops control characters: a terminal obeys them.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}
