package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"precept/internal/report"
	"precept/internal/shard"
	"precept/schemas"
)

func (a *app) reportCommand() *cobra.Command {
	var dir, file string
	cmd := &cobra.Command{
		Use:   "report RUN",
		Short: "Print a run's evaluation and fetch its HTML report",
		Long: `Print a run's evaluation and fetch its HTML report from the store. A run that has not
ended, but has written a report (it waits at its release gate, say), shows that one; so
does any run when Temporal is away.

` + exitCodes,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			run := schemas.RunID(args[0])
			if file == "" {
				file = filepath.Join(dir, schemas.RunKey(run)+".html")
			}
			return a.report(cmd.Context(), run, file)
		},
	}
	cmd.Flags().StringVar(&dir, "open-dir", filepath.Join(".precept", "reports"), "the folder for RUN.html")
	cmd.Flags().StringVar(&file, "out", "", "the HTML's file, whatever the folder")
	return cmd
}

func (a *app) report(ctx context.Context, run schemas.RunID, file string) error {
	store, err := a.open(ctx, a.config)
	if err != nil {
		return err
	}
	r, final, err := a.runReport(ctx, store, run)
	if err != nil {
		return err
	}
	if r.HTML != "" {
		if _, err := store.GetFile(ctx, r.HTML, file); err != nil {
			return err
		}
		if file, err = filepath.Abs(file); err != nil {
			return err
		}
	} else {
		file = ""
	}
	if a.json {
		return printJSON(a.out, struct {
			Report schemas.RunReport `json:"report"`
			File   string            `json:"file,omitempty"`
		}{r, file})
	}
	state := r.State
	if !final {
		state += ", as it stood when the report was written"
	}
	fmt.Fprintf(a.out, "Run %s (%s): %s\n", r.Run, oneLine(r.Name), state)
	if r.Note != "" {
		fmt.Fprintf(a.out, "%s\n", oneLine(r.Note))
	}
	fmt.Fprintf(a.out, "%s\n%s%s%s\n", simulatedLine(r.Simulated), stageTable(r.Progress().Stages), moneyLines(r.Progress()), emptyLines(r))
	if err := report.Text(a.out, r); err != nil {
		return err
	}
	if file == "" {
		fmt.Fprintln(a.out, "\nThe run ended before a report could be written.")
		return nil
	}
	fmt.Fprintf(a.out, "\nReport   %s\nObjects  %s\n         %s\n", file, r.HTML, r.JSON)
	return nil
}

// runReport takes the report from the workflow's result, or where there is none
// from the store; final says that it is the result.
func (a *app) runReport(ctx context.Context, store shard.Store, run schemas.RunID) (r schemas.RunReport, final bool, err error) {
	seen, err := a.lookOnce(ctx, run)
	if ctx.Err() != nil {
		return r, false, ctx.Err()
	}
	why := "the run goes on"
	switch {
	case err != nil:
		why = err.Error()
	case seen.Ended != nil && seen.Ended.Report != nil:
		return *seen.Ended.Report, true, nil
	case seen.Ended != nil:
		why = failed(run, *seen.Ended).Error()
	case seen.Away == "server":
		why = "the server is away: " + seen.Why
	}
	err = shard.GetJSON(ctx, store, schemas.RunObject(run, "report/report.json"), &r)
	if schemas.KindOf(err) == schemas.NotFound {
		return r, false, schemas.Errorf("find report of", string(run), schemas.NotFound, "the store has none yet, and %s", why).
			WithHint("Watch the run with: starter watch %s", schemas.ShellWord(string(run)))
	}
	if err != nil {
		return r, false, err
	}
	fmt.Fprintf(a.err, "starter: the report is the store's: %s\n", oneLine(why))
	return r, false, nil
}

func (a *app) lookOnce(ctx context.Context, run schemas.RunID) (sight, error) {
	s, err := a.connect()
	if err != nil {
		return sight{}, err
	}
	defer s.close()
	return s.look(ctx, run)
}
