package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"precept/schemas"
)

func (a *app) progressCommand() *cobra.Command {
	var byCategory bool
	cmd := &cobra.Command{
		Use:   "progress RUN",
		Short: "Show once where a run stands",
		Long: `Show once where a run stands: stages, counts, cost, decisions, and what it waits for.

The same with the Temporal CLI:
  temporal workflow query --workflow-id RUN --name progress

` + exitCodes,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			run := schemas.RunID(args[0])
			s, err := a.connect()
			if err != nil {
				return err
			}
			defer s.close()
			seen, err := s.look(cmd.Context(), run)
			if err != nil {
				return err
			}
			p := seen.progress()
			switch {
			case p == nil && seen.Ended != nil:
				return failed(run, *seen.Ended)
			case p == nil:
				return schemas.Errorf("show progress of", string(run), schemas.Unavailable, "no %s answered: %s", seen.Away, seen.Why).
					WithHint("Wait for it with: starter watch %s", schemas.ShellWord(string(run)))
			}
			if err := a.printProgress(run, *p, byCategory); err != nil {
				return err
			}
			if seen.Ended != nil && seen.Ended.Report == nil {
				return failed(run, *seen.Ended)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&byCategory, "by-category", false, "show what became of each category's units, and what they cost, too")
	return cmd
}

func (a *app) printProgress(run schemas.RunID, p schemas.Progress, byCategory bool) error {
	if a.json {
		return printJSON(a.out, p)
	}
	name := string(run)
	if p.Name != name {
		name += " (" + p.Name + ")"
	}
	fmt.Fprintf(a.out, "%s: %s, stage %s\n", oneLine(name), p.State, p.Stage)
	fmt.Fprint(a.out, simulatedLine(p.Simulated), noteLines(p.Notes), outageLines(p.Outages), stageTable(p.Stages), moneyLines(p))
	if byCategory {
		fmt.Fprint(a.out, categoryTables(p.Stages))
	}
	fmt.Fprint(a.out, decisionLines(p.Decisions))
	if p.Waiting != nil {
		fmt.Fprint(a.out, gateBlock(run, *p.Waiting))
	}
	return nil
}
