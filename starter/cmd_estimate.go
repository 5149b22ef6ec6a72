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
started: a line for a stage, from the least that is paid for sure to the most that may be,
and what that rests on. What is likely is told by answers that are recorded: of a pilot
(prompts.limit), a trial (starter try) or a run before; where there are none, it is unknown.
Requests are rendered as the run would send them; what was answered and recorded earlier
costs nothing now. Prices are those of the configuration. A budget in the spec is held
against the figures. Nothing is asked, and nothing is written.

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
	fmt.Fprintln(w, "stage\tendpoints\trecorded\tcalls\tprompt tokens\tcompletion tokens\tUSD\tlikely")
	untold := ""
	for _, s := range e.Stages {
		if s.Untold != "" {
			untold = " and unknown"
		}
	}
	for _, s := range append(e.Stages, e.Total) {
		likely := "unknown"
		if s.Likely != nil {
			likely = schemas.FormatDollars(s.Likely.USD)
			if s.Stage == e.Total.Stage {
				likely += untold
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", s.Stage, s.Endpoints, s.Answered,
			span(s.Calls, many), span(s.Prompt, many), span(s.Completion, many), span(s.USD, schemas.FormatDollars), likely)
	}
	w.Flush() // A strings.Builder takes all.
	if e.Total.Answered > 0 {
		fmt.Fprintln(&b, "Recorded answers were paid for earlier: they cost nothing now.")
	}
	if e.Total.Calls.High == 0 {
		fmt.Fprintln(&b, "Nothing is left to pay.")
	}
	for _, s := range e.Stages {
		b.WriteString(likelyLine(s))
	}
	if untold != "" {
		fmt.Fprintln(&b, "A trial (starter try) or a pilot (start --set prompts.limit=20) records answers that tell it.")
	}
	if e.Budget != nil {
		b.WriteString(budgetLine(*e.Budget))
	}
	for _, text := range e.Assumes {
		fmt.Fprintf(&b, "Assumed: %s\n", oneLine(text))
	}
	return b.String()
}

// likelyLine says what a stage's likely figure is from.
func likelyLine(s activities.StageEstimate) string {
	switch l := s.Likely; {
	case s.Untold != "":
		return fmt.Sprintf("Likely, %s: unknown, since %s\n", s.Stage, oneLine(s.Untold))
	case l == nil || l.From == "":
		return ""
	case l.PerAnswer == nil:
		return fmt.Sprintf("Likely, %s: no calls, %s\n", s.Stage, oneLine(l.From))
	default:
		return fmt.Sprintf("Likely, %s: %s, %s: %s prompt tokens (%s of them cached) and %s completion tokens each\n", s.Stage,
			plural(int(l.Calls), "call"), oneLine(l.From), l.PerAnswer.Prompt, l.PerAnswer.Cached, l.PerAnswer.Completion)
	}
}

// budgetLine says whether the run would come to its gate budget.
func budgetLine(o activities.Outlook) string {
	spent := ""
	if o.Spent != (schemas.Cost{}) {
		spent = fmt.Sprintf(" (%s and %d tokens of it are spent)", schemas.FormatDollars(o.Spent.USD), o.Spent.Tokens)
	}
	outlook := "the high end is within it"
	switch o.Passes {
	case "low":
		outlook = "even the low end passes it: the run would pause at its gate budget"
	case "likely":
		outlook = "the likely figure passes it: the run would most likely pause at its gate budget"
	case "high":
		outlook = "only the high end passes it: the run may pause at its gate budget"
	}
	return fmt.Sprintf("Budget: %s%s; %s\n", o.Budget, spent, outlook)
}

func span(r activities.Range, write func(float64) string) string {
	if low, high := write(r.Low), write(r.High); low != high {
		return low + " to " + high
	}
	return write(r.High)
}

// many writes a number, a large one in short: "9000", "12.3k", "4.57M".
func many(f float64) string {
	unit := ""
	if f < 9999.5 {
		return fmt.Sprintf("%.0f", math.Round(f))
	}
	for _, larger := range []string{"k", "M", "G"} {
		f, unit = f/1000, larger
		if f < 999.95 {
			break
		}
	}
	return fmt.Sprintf("%.1f%s", f, unit)
}
