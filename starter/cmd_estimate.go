package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"precept/activities"
	"precept/schemas"
)

func (a *app) estimateCommand() *cobra.Command {
	var run string
	var settings []string
	cmd := &cobra.Command{
		Use:   "estimate SPEC.json",
		Short: "Tell what calls to models a run would take, before it is started",
		Long: `Tell what calls to models a run would take, in calls, tokens and dollars, before it is
started: a line for a stage, from the low to the high end, and what that rests on. The
requests are rendered as the run would send them; what the journal answers already costs
nothing. Prices are those of the configuration. Nothing is asked, and nothing is written.

` + exitCodes,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := a.readSpec(args[0])
			if err != nil {
				return err
			}
			if spec, err = withSettings(spec, settings); err != nil {
				return err
			}
			id, err := start{run: run}.id(spec)
			if err != nil {
				return err
			}
			e, err := a.estimate(cmd.Context(), id, spec)
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(a.out, e)
			}
			fmt.Fprint(a.out, estimateTable(e))
			return nil
		},
	}
	cmd.Flags().StringVar(&run, "run", "", "the run's ID, whose finished work counts (default: made of the spec's name)")
	cmd.Flags().StringArrayVar(&settings, "set", nil, "change a field of the spec, such as synthesize.samples=4")
	return cmd
}

func (a *app) estimate(ctx context.Context, run schemas.RunID, spec schemas.RunSpec) (e activities.Estimate, err error) {
	d, err := a.desk(ctx)
	if err != nil {
		return e, err
	}
	e, err = activities.EstimateRun(ctx, d.config, d.store, d.journal, run, spec.WithDefaults())
	if closing := d.close(ctx); err == nil {
		err = closing // of nothing: it only read
	}
	return e, err
}

// estimateTable shows an estimate, a line for a stage.
func estimateTable(e activities.Estimate) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "stage\tendpoints\tin the journal\tcalls\tprompt tokens\tcompletion tokens\tUSD")
	for _, s := range append(e.Stages, e.Total) {
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", s.Stage, s.Endpoints, s.Answered,
			span(s.Calls, whole), span(s.Prompt, whole), span(s.Completion, whole), span(s.USD, schemas.FormatDollars))
	}
	w.Flush() // A strings.Builder takes all.
	for _, text := range e.Assumes {
		fmt.Fprintf(&b, "Assumed: %s\n", oneLine(text))
	}
	return b.String()
}

func span(r activities.Range, write func(float64) string) string {
	if low, high := write(r.Low), write(r.High); low != high {
		return low + " to " + high
	}
	return write(r.High)
}

func whole(f float64) string { return fmt.Sprintf("%.0f", math.Round(f)) }
