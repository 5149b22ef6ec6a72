package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"precept/schemas"
)

func (a *app) watchCommand() *cobra.Command {
	var untilGate bool
	cmd := &cobra.Command{
		Use:   "watch RUN",
		Short: "Show a run's progress until it ends",
		Long: `Show a run's progress until it ends. A server or worker that is away is waited for.
Ctrl-C stops the watching, not the run.

With --until-gate it also ends when a gate waits for a person; the last line of its
output is then {"gate": …, "opening": …, "digest": …}.

` + exitCodes,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect()
			if err != nil {
				return err
			}
			defer s.close()
			return a.watch(cmd.Context(), s, schemas.RunID(args[0]), untilGate)
		},
	}
	cmd.Flags().BoolVar(&untilGate, "until-gate", false, "end when a gate waits, with exit code 10")
	return cmd
}

func (a *app) watch(ctx context.Context, s server, run schemas.RunID, untilGate bool) error {
	w := &watch{
		run: run, untilGate: untilGate, look: s.look, screen: a.screen(), out: a.out,
		observer: observer{now: time.Now}, pause: pause,
	}
	return w.follow(ctx)
}

// watch follows one run.
type watch struct {
	run       schemas.RunID
	untilGate bool
	look      func(context.Context, schemas.RunID) (sight, error)
	screen    screen
	out       io.Writer
	observer  observer
	pause     func(context.Context, time.Duration) error
	told      string // the opening that was shown
}

// between is how long a watch rests between looks.
const between = time.Second

// follow looks at the run until there is no more to see.
func (w *watch) follow(ctx context.Context) error {
	defer w.screen.leave()
	for {
		seen, err := w.look(ctx, w.run)
		if err == nil {
			var over bool
			if over, err = w.see(seen); over {
				return err
			}
			err = w.pause(ctx, between)
		}
		if ctx.Err() != nil {
			w.screen.leave()
			return exit{exitInterrupted, fmt.Sprintf("stopped watching; run %s goes on. Watch it again with: starter watch %s", w.run, schemas.ShellWord(string(w.run)))}
		}
		if err != nil {
			return err
		}
	}
}

// see shows a sight, and tells whether it is the last one and with which outcome.
func (w *watch) see(seen sight) (over bool, err error) {
	if seen.Ended != nil {
		if _, machine := w.screen.(*jsonScreen); machine {
			w.screen.show(w.observer.view(seen))
		}
		if p := seen.progress(); p != nil && seen.Ended.Report == nil {
			w.screen.say("\n" + stageTable(p.Stages) + moneyLines(*p))
		}
		return true, w.end(*seen.Ended)
	}
	w.screen.show(w.observer.view(seen))
	if seen.Progress == nil || seen.Progress.Waiting == nil {
		return false, nil
	}
	opening := *seen.Progress.Waiting
	if w.told != opening.ID {
		w.told = opening.ID
		w.screen.say(gateBlock(w.run, opening))
	}
	if !w.untilGate {
		return false, nil
	}
	raw, err := json.Marshal(struct {
		Gate    schemas.Gate   `json:"gate"`
		Opening string         `json:"opening"`
		Digest  schemas.Digest `json:"digest"`
	}{opening.Gate, opening.ID, opening.Digest})
	if err != nil {
		return true, err
	}
	fmt.Fprintf(w.out, "%s\n", raw)
	return true, exit{code: exitGate}
}

func (w *watch) end(e end) error {
	if e.Report == nil {
		return failed(w.run, e)
	}
	w.screen.say(endBlock(*e.Report))
	if e.Report.State != schemas.StateCompleted {
		return exit{exitEnded, fmt.Sprintf("run %s ended %s. To run it again: starter start SPEC.json --run %s",
			w.run, e.Report.State, schemas.ShellWord(string(w.run)))}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
