package main

import (
	"errors"
	"math"
	"strconv"

	"github.com/spf13/cobra"

	"precept/schemas"
)

func (a *app) budgetCommand() *cobra.Command {
	d := schemas.Decision{Gate: schemas.GateBudget}
	cmd := &cobra.Command{
		Use:   "set-budget RUN [--usd DOLLARS|none] [--tokens TOKENS|none] --by NAME",
		Short: "Set what a run may spend on calls to models, in all",
		Long: `Set what a run may spend on calls to models in all, what it has spent included. A run
that waits at its budget gate goes on; another one keeps within it from now on, but for
what its open tasks were granted. A limit that is not named stays as it is; none lifts it.
A budget that is less than what is spent is refused: to end the run, abort it at a gate.

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
				return usage("no budget is named").WithHint("Add --usd, --tokens, or both; what you don't name stays as it is")
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
	cmd.Flags().Func("usd", "most US `DOLLARS`, by the prices of the workers' configuration, or none", func(text string) error {
		usd, err := limitOf(text)
		d.USD = &usd
		return err
	})
	cmd.Flags().Func("tokens", "most `TOKENS`, of requests and answers together, or none", func(text string) error {
		tokens, err := limitOf(text)
		if err == nil && tokens != math.Trunc(tokens) {
			err = errors.New("there are no parts of tokens")
		}
		n := int64(tokens)
		d.Tokens = &n
		return err
	})
	cmd.Flags().StringVar(&d.By, "by", "", "who decides")
	cmd.Flags().StringVar(&d.Note, "note", "", "why")
	cmd.Flags().StringVar(&d.Opening, "opening", "", "only if this opening of the gate waits")
	return cmd
}

// limitOf reads a limit; none is 0, which nobody is to type by mistake.
func limitOf(text string) (float64, error) {
	if text == "none" {
		return 0, nil
	}
	limit, err := strconv.ParseFloat(text, 64)
	if err != nil || !(limit > 0) || limit > math.MaxInt64/2 {
		return 0, errors.New("a limit is a number above 0, or none, which lifts it")
	}
	return limit, nil
}
