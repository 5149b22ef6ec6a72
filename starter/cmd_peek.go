package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"precept/internal/shard"
	"precept/schemas"
)

func (a *app) peekCommand() *cobra.Command {
	var p peek
	var category string
	cmd := &cobra.Command{
		Use:   "peek RUN STAGE",
		Short: "Show some rows that a stage has written",
		Long: `Show some rows that a stage has written: the first kept ones, then the first rejected
ones with their reasons. It works while the stage runs. Prompts and answers may be
harmful to read: they are shown only with --show-text.

The shards are Parquet files: DuckDB, pyarrow and datasets read them as they are.

` + exitCodes,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			p.run, p.stage, p.category = schemas.RunID(args[0]), schemas.Stage(args[1]), schemas.Category(category)
			if !slices.Contains(schemas.Stages, p.stage) {
				return usage("there is no stage %q", args[1]).WithHint("The stages: %v", schemas.Stages)
			}
			if p.rows < 1 {
				return usage("-n is %d; it must be at least 1", p.rows)
			}
			store, err := a.open(cmd.Context(), a.config)
			if err != nil {
				return err
			}
			found, err := p.read(cmd.Context(), store)
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(a.out, p.plain(found))
			}
			return a.printPeek(p, found)
		},
	}
	cmd.Flags().IntVarP(&p.rows, "rows", "n", 5, "most rows kept, and most rejected, of each kind")
	cmd.Flags().BoolVar(&p.showText, "show-text", false, "show prompts and answers too")
	cmd.Flags().StringVar(&category, "category", "", "only this policy category")
	return cmd
}

// peek says which rows are looked for.
type peek struct {
	run      schemas.RunID
	stage    schemas.Stage
	category schemas.Category
	rows     int
	showText bool
}

// sample is some rows of one kind of a stage's output.
type sample struct {
	kind    string
	records []record
}

// read goes through the plan's outputs until it has the rows it looks for.
func (p peek) read(ctx context.Context, store shard.Store) ([]sample, error) {
	var plan schemas.Plan
	err := shard.GetJSON(ctx, store, schemas.PlanObject(p.run, p.stage), &plan)
	if schemas.KindOf(err) == schemas.NotFound {
		return nil, schemas.Errorf("peek at", string(p.run), schemas.NotFound, "there is no such run, or its stage %s has not been planned", p.stage).
			WithHint("See how far the run is: starter progress %s", schemas.ShellWord(string(p.run)))
	}
	if err != nil {
		return nil, err
	}
	var kinds []string
	kept, rejected := map[string][]record{}, map[string][]record{}
	for _, task := range plan.Tasks {
		if p.category != "" && task.Category != "" && task.Category != p.category {
			continue
		}
		for _, output := range task.Outputs {
			t, ok := tables[output.Kind]
			if !ok {
				continue // a model, which has no rows, or the dev split, whose rows stand among the prompts
			}
			if !slices.Contains(kinds, output.Kind) {
				kinds = append(kinds, output.Kind)
			}
			if len(kept[output.Kind]) == p.rows && len(rejected[output.Kind]) == p.rows {
				continue
			}
			ref, _, ok, err := shard.FindOutput(ctx, store, p.run, p.stage, output.Key)
			if err != nil {
				return nil, err
			}
			wanted := len(kept[output.Kind]) < p.rows || ref.Ledger.Outcomes() > ref.Ledger.Kept
			if !ok || !wanted {
				continue
			}
			records, err := t.read(ctx, store, ref)
			if err != nil {
				return nil, err
			}
			for _, r := range records {
				into := kept
				if r.reason != "" {
					into = rejected
				}
				if (p.category == "" || r.category == p.category) && len(into[output.Kind]) < p.rows {
					into[output.Kind] = append(into[output.Kind], r)
				}
			}
		}
	}
	var found []sample
	for _, kind := range kinds {
		found = append(found, sample{kind, append(kept[kind], rejected[kind]...)})
	}
	return found, nil
}

func (a *app) printPeek(p peek, found []sample) error {
	if len(found) == 0 && p.category != "" {
		return schemas.Errorf("peek at", string(p.run), schemas.NotFound, "stage %s has no task of category %q", p.stage, p.category)
	}
	if len(found) == 0 {
		fmt.Fprintf(a.out, "Stage %s writes no rows: see starter report %s\n", p.stage, schemas.ShellWord(string(p.run)))
	}
	for i, s := range found {
		if i > 0 {
			fmt.Fprintln(a.out)
		}
		fmt.Fprintf(a.out, "%s of stage %s\n", s.kind, p.stage)
		if len(s.records) == 0 {
			fmt.Fprintln(a.out, "none yet")
			continue
		}
		head := tables[s.kind].head
		if p.showText {
			for _, r := range s.records {
				for i, cell := range r.cells {
					if cell != "" {
						fmt.Fprintf(a.out, "%-12s %s\n", head[i], cell)
					}
				}
				for _, t := range r.texts {
					fmt.Fprintf(a.out, "%s:\n%s\n", t.name, indent(t.text))
				}
				fmt.Fprintln(a.out)
			}
			continue
		}
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, strings.Join(head, "\t"))
		for _, r := range s.records {
			fmt.Fprintln(w, strings.Join(r.cells, "\t"))
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// plain is what --json prints: the table's cells by name, and the whole rows where
// text is asked for.
func (p peek) plain(found []sample) map[string][]any {
	out := map[string][]any{}
	for _, s := range found {
		out[s.kind] = []any{}
		for _, r := range s.records {
			if p.showText {
				out[s.kind] = append(out[s.kind], r.row)
				continue
			}
			cells := map[string]string{}
			for i, name := range tables[s.kind].head {
				cells[name] = r.cells[i]
			}
			out[s.kind] = append(out[s.kind], cells)
		}
	}
	return out
}

// indent moves text in and keeps control characters away from the terminal.
func indent(s string) string {
	var out []string
	for line := range strings.SplitSeq(strings.TrimSpace(s), "\n") {
		out = append(out, "    "+oneLine(line))
	}
	return strings.Join(out, "\n")
}
