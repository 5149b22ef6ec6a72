package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"precept/internal/garbage"
	"precept/schemas"
)

func (a *app) gcCommand() *cobra.Command {
	var c gc
	var forget []string
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "List what nothing in the store refers to, and remove it with --delete",
		Long: `List what nothing in the store refers to, and remove it with --delete.

Kept is what a manifest or the inputs of any run lead to, what runs under way have
planned, all records under runs/, everything younger than the grace period, and every
answer in the journal. To remove more:
  --forget RUN           the records of a run that has ended, and what only it led to
  --journal-older-than   answers of that age, which will then be paid for again

` + exitCodes,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, run := range forget {
				c.options.Forget = append(c.options.Forget, schemas.RunID(run))
			}
			c.command = cmd.CommandPath() + " --delete"
			for _, name := range []string{"config", "grace", "journal-older-than", "offline"} {
				if f := cmd.Flags().Lookup(name); f.Changed && f.Value.Type() == "bool" {
					c.command += " --" + name
				} else if f.Changed {
					c.command += " --" + name + " " + schemas.ShellWord(f.Value.String())
				}
			}
			for _, run := range forget {
				c.command += " --forget " + schemas.ShellWord(run)
			}
			return a.gc(cmd.Context(), c)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&c.remove, "delete", false, "remove the garbage; by default nothing is changed")
	flags.BoolVar(&c.list, "list", false, "print the key of every object that is garbage")
	flags.DurationVar(&c.options.Grace, "grace", 7*24*time.Hour, "keep what was written less than this ago")
	flags.DurationVar(&c.options.JournalOlderThan, "journal-older-than", 0, "remove answers that were journaled longer ago than this (default: none)")
	flags.StringArrayVar(&forget, "forget", nil, "forget a run that has ended: remove its records too (may be repeated)")
	flags.BoolVar(&c.offline, "offline", false, "don't ask Temporal which runs are under way: keep what any plan leads to")
	return cmd
}

// gc says what the command is to do.
type gc struct {
	options               garbage.Options
	remove, list, offline bool
	command               string // that removes what was listed
}

func (a *app) gc(ctx context.Context, c gc) error {
	if c.offline && len(c.options.Forget) > 0 {
		return usage("--forget and --offline exclude each other: only Temporal knows whether a run has ended")
	}
	if !c.offline {
		s, err := a.connect()
		if err != nil {
			return offline(err)
		}
		defer s.close()
		c.options.Runs = func(ctx context.Context) ([]garbage.Run, error) {
			runs, err := s.underway(ctx)
			return runs, offline(err)
		}
	}
	store, err := a.open(ctx, a.config)
	if err != nil {
		return err
	}
	found, err := garbage.Find(ctx, store, c.options)
	if err != nil {
		return err
	}
	var removed *garbage.Removed
	var failure error
	if c.remove {
		sum, err := found.Remove(ctx)
		removed, failure = &sum, err
	}
	return errors.Join(a.printGC(c, found, removed), failure)
}

// offline tells what to do where Temporal doesn't answer.
func offline(err error) error {
	var e *schemas.Error
	if !errors.As(err, &e) || e.Kind != schemas.Unavailable {
		return err
	}
	return e.WithHint("%s. Without it, starter gc --offline keeps what any plan leads to", e.Hint)
}

func (a *app) printGC(c gc, f *garbage.Found, removed *garbage.Removed) error {
	if a.json {
		var keys []string
		if c.list {
			keys = slices.AppendSeq([]string{}, f.Garbage)
		}
		return printJSON(a.out, struct {
			*garbage.Found
			Garbage []string         `json:"garbage,omitempty"`
			Removed *garbage.Removed `json:"removed,omitempty"`
		}{f, keys, removed})
	}
	if c.list {
		for key := range f.Garbage {
			fmt.Fprintln(a.out, key)
		}
	}
	if err := a.gcTable(f); err != nil {
		return err
	}
	if len(f.Open) > 0 {
		names := make([]string, len(f.Open))
		for i, run := range f.Open {
			names[i] = oneLine(string(run))
		}
		fmt.Fprintf(a.out, "Under way, so that all they have planned is kept: %s.\n", strings.Join(names, ", "))
	}
	if f.Young.Objects > 0 {
		fmt.Fprintf(a.out, "Kept only because it is younger than %s: %s.\n", days(c.options.Grace), objects(f.Young))
	}
	if f.Foreign.Objects > 0 {
		fmt.Fprintf(a.out, "Not Precept's, and left alone: %s (%s).\n", objects(f.Foreign), oneLine(strings.Join(f.ForeignNames, ", ")))
	}
	_, all := f.Total()
	switch {
	case removed != nil:
		fmt.Fprintf(a.out, "Removed %s.\n", objects(removed.Sum))
		if removed.Spared > 0 {
			fmt.Fprintf(a.out, "Left %d objects that were no garbage any more.\n", removed.Spared)
		}
	case all.Objects == 0:
		fmt.Fprintln(a.out, "There is no garbage.")
	default:
		fmt.Fprintf(a.out, "Nothing was removed. To remove them: %s\n", c.command)
	}
	return nil
}

func (a *app) gcTable(f *garbage.Found) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	line := func(name string, kept, garbage garbage.Sum) {
		fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%s\n", name, kept.Objects, sized(kept.Bytes), garbage.Objects, sized(garbage.Bytes))
	}
	fmt.Fprintln(w, "objects\tkept\tbytes\tgarbage\tbytes")
	for _, r := range f.Rows {
		line(strings.TrimSpace(string(r.Kind)+" "+string(r.Stage)), r.Kept, r.Garbage)
	}
	kept, garbage := f.Total()
	line("all", kept, garbage)
	return w.Flush()
}

func objects(s garbage.Sum) string {
	if s.Objects == 1 {
		return "1 object, " + sized(s.Bytes)
	}
	return fmt.Sprintf("%d objects, %s", s.Objects, sized(s.Bytes))
}

func days(d time.Duration) string {
	if d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return d.String()
}
