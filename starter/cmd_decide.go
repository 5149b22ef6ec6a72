package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"precept/schemas"
)

// decision is one of the commands that answer a gate.
type decision struct {
	verdict, short string
}

var decisions = []decision{
	{schemas.DecisionApprove, "Approve what a gate asks: the run goes on (from failure: without rows that failed)"},
	{schemas.DecisionReject, "Reject what a gate asks: the run ends as rejected"},
	{schemas.DecisionResume, "Try again what stopped a run at its failure gate"},
	{schemas.DecisionAbort, "End a run that waits at a gate"},
}

func (a *app) decideCommand(kind decision) *cobra.Command {
	var d schemas.Decision
	var digest string
	cmd := &cobra.Command{
		Use:   kind.verdict + " RUN [GATE] --by NAME",
		Short: kind.short,
		Long: kind.short + `.

Without GATE the decision is about the gate that waits. --opening and --digest bind it
to what you have seen: it is refused where something else waits by now. Where no
worker answers, a decision that names its gate is left as a signal.

The same with the Temporal CLI:
  temporal workflow signal --workflow-id RUN --name ` + kind.verdict + ` --input '{"gate":"GATE","by":"NAME"}'

` + exitCodes,
		Args: takes(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			run := schemas.RunID(args[0])
			if len(args) > 1 {
				d.Gate = schemas.Gate(args[1])
			}
			d.Digest = schemas.Digest(digest)
			if d.By == "" {
				return usage("nobody is named as the one who decides").WithHint(`Add: --by "YOUR NAME"`)
			}
			s, err := a.connect()
			if err != nil {
				return err
			}
			defer s.close()
			answer, err := s.decide(cmd.Context(), run, kind.verdict, d)
			if err != nil {
				return err
			}
			return a.printDecided(run, kind.verdict, d, answer)
		},
	}
	cmd.Flags().StringVar(&d.By, "by", "", "who decides")
	cmd.Flags().StringVar(&d.Note, "note", "", "why")
	cmd.Flags().StringVar(&d.Opening, "opening", "", "only if this opening of the gate waits")
	cmd.Flags().StringVar(&digest, "digest", "", "only if this is what is judged")
	return cmd
}

func forGate(gate schemas.Gate) string {
	if gate == "" {
		return ""
	}
	return fmt.Sprintf("for gate %s ", gate)
}

func (a *app) printDecided(run schemas.RunID, verdict string, d schemas.Decision, answer decided) error {
	if a.json {
		return printJSON(a.out, answer)
	}
	if answer.Signalled {
		fmt.Fprintf(a.out, "No worker answered (%s), so %s by %s %swas left as a signal: the run takes it when a worker is back.\n",
			oneLine(answer.Why), verdict, oneLine(d.By), forGate(d.Gate))
		fmt.Fprintf(a.out, "See what becomes of it: starter watch %s\n", schemas.ShellWord(string(run)))
		return nil
	}
	r := answer.Record
	if r.Stale {
		return exit{exitError, fmt.Sprintf("%s run %s: recorded as stale, nothing changed: %s. See what waits: starter progress %s",
			verdict, run, r.Decision.Note, schemas.ShellWord(string(run)))}
	}
	at := ""
	if r.Decision.Opening != "" {
		at = fmt.Sprintf(" at gate %s (opening %s, data %s)", r.Decision.Gate, r.Decision.Opening, r.Decision.Digest.Short())
	}
	what := r.Verdict
	if r.Verdict == schemas.DecisionBudget {
		what += " " + "to " + r.Decision.Limits()
	}
	fmt.Fprintf(a.out, "Decision %d recorded: %s%s by %s", r.Number, what, at, oneLine(r.Decision.By))
	if r.Decision.Note != "" {
		fmt.Fprintf(a.out, ": %s", oneLine(r.Decision.Note))
	}
	fmt.Fprintln(a.out)
	return nil
}
