package main

import (
	"github.com/spf13/cobra"

	"precept/schemas"
)

func (a *app) budgetCommand() *cobra.Command {
	d := schemas.Decision{Gate: schemas.GateBudget}
	cmd := &cobra.Command{
		Use:   "set-budget RUN [--usd DOLLARS] [--tokens TOKENS] --by NAME",
		Short: "Set what a run may spend on calls to models, in all",
		Long: `Set what a run may spend on calls to models in all, what it has spent included. A run
that waits at its budget gate goes on; another one keeps within it from now on, but for
what its open tasks were granted. What is not named has no limit; --usd 0 alone lifts the
budget.

The same with the Temporal CLI:
  temporal workflow signal --workflow-id RUN --name set-budget --input '{"gate":"budget","by":"NAME","usd":50}'

` + exitCodes,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			run := schemas.RunID(args[0])
			if d.By == "" {
				return usage("nobody is named as the one who decides").WithHint(`Add: --by "YOUR NAME"`)
			}
			if !cmd.Flags().Changed("usd") && !cmd.Flags().Changed("tokens") {
				return usage("no budget is named").WithHint("Add --usd, --tokens, or both")
			}
			s, err := a.connect()
			if err != nil {
				return err
			}
			defer s.close()
			answer, err := s.decide(cmd.Context(), run, schemas.DecisionBudget, d)
			if err != nil {
				return err
			}
			return a.printDecided(run, schemas.DecisionBudget, d, answer)
		},
	}
	cmd.Flags().Float64Var(&d.USD, "usd", 0, "most US dollars, by the prices of the workers' configuration")
	cmd.Flags().Int64Var(&d.Tokens, "tokens", 0, "most tokens, of requests and answers together")
	cmd.Flags().StringVar(&d.By, "by", "", "who decides")
	cmd.Flags().StringVar(&d.Note, "note", "", "why")
	cmd.Flags().StringVar(&d.Opening, "opening", "", "only if this opening of the gate waits")
	return cmd
}
