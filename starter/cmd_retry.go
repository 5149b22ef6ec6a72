package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"precept/internal/shard"
	"precept/schemas"
)

func (a *app) retryCommand() *cobra.Command {
	var d schemas.Decision
	var stage, reason string
	cmd := &cobra.Command{
		Use:   "retry RUN --by NAME",
		Short: "Ask again for rows that failed, and that the run went on without",
		Long: `Ask again for rows that failed (time-outs, errors of an endpoint, requests it could not
read), and that a stage ended without. What was rejected is not asked again: that would
not change it. A run that waits at a gate goes back to the stage; one that has ended is
started again with its spec, and reads its policy and files as they are now. Nothing else
is asked again: whatever doesn't follow from the rows that come in is found in the store.

The same with the Temporal CLI, for a run that waits:
  temporal workflow signal --workflow-id RUN --name retry --input '{"by":"NAME","stage":"filter"}'

` + exitCodes,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			run := schemas.RunID(args[0])
			d.Stage, d.Reason = schemas.Stage(stage), schemas.Reason(reason)
			if d.By == "" {
				return usage("nobody is named as the one who decides").WithHint(`Add: --by "YOUR NAME"`)
			}
			if d.Stage != "" && !slices.Contains(schemas.Stages, d.Stage) {
				return usage("there is no stage %q", stage).WithHint("The stages: %v", schemas.Stages)
			}
			if d.Reason != "" && !slices.Contains(schemas.FailureReasons, d.Reason) {
				return usage("no row fails for the reason %q", reason).WithHint("The reasons: %q", schemas.FailureReasons)
			}
			s, err := a.connect()
			if err != nil {
				return err
			}
			defer s.close()
			answer, err := s.retry(cmd.Context(), run, d, func() (schemas.RunSpec, error) {
				store, err := a.open(cmd.Context(), a.config)
				if err != nil {
					return schemas.RunSpec{}, err
				}
				if err := anyFailed(cmd.Context(), store, run, d); err != nil {
					return schemas.RunSpec{}, err
				}
				return storedSpec(cmd.Context(), store, run)
			})
			if err != nil {
				return err
			}
			if answer.Started && !a.json {
				fmt.Fprintf(a.out, "Run %s had ended: started again, to ask for rows that failed.\nWatch it with: starter watch %s\n", run, schemas.ShellWord(string(run)))
				return nil
			}
			return a.printDecided(run, schemas.DecisionRetry, d, answer)
		},
	}
	cmd.Flags().StringVar(&stage, "stage", "", "only rows of this stage")
	cmd.Flags().StringVar(&reason, "reason", "", "only rows that failed for this reason, such as \"timed out\"")
	cmd.Flags().StringVar(&d.By, "by", "", "who decides")
	cmd.Flags().StringVar(&d.Note, "note", "", "why")
	return cmd
}

// anyFailed fails where a run that has ended has no rows to ask for again.
func anyFailed(ctx context.Context, store shard.Store, run schemas.RunID, d schemas.Decision) error {
	for _, stage := range schemas.Stages {
		var m schemas.Manifest
		err := shard.GetJSON(ctx, store, schemas.ManifestObject(run, stage), &m)
		if schemas.KindOf(err) == schemas.NotFound {
			continue
		}
		if err != nil {
			return err
		}
		if m.From == "" && (d.Stage == "" || d.Stage == stage) && m.Ledger.Retriable(d.Reason) > 0 {
			return nil
		}
	}
	return schemas.Errorf("retry run", string(run), schemas.Conflict, "it has ended, and no such row of it has failed").
		WithHint("See what became of its rows: starter progress %s", schemas.ShellWord(string(run)))
}
