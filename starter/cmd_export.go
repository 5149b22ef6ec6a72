package main

import (
	"bufio"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"text/template"

	"github.com/spf13/cobra"

	"precept/internal/shard"
	"precept/schemas"
)

func (a *app) exportCommand() *cobra.Command {
	var jsonl bool
	cmd := &cobra.Command{
		Use:   "export RUN DIR",
		Short: "Write a run's SFT set as a data set folder",
		Long: `Write a run's SFT set as a folder with a card: datasets.load_dataset("DIR") opens it as it
is. The shards are Parquet files in TRL's conversational prompt-completion form. With
--jsonl there is also sft.jsonl, a line {"messages": [...]} for each row.

` + exitCodes,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.open(cmd.Context(), a.config)
			if err != nil {
				return err
			}
			e := export{run: schemas.RunID(args[0]), dir: args[1], jsonl: jsonl}
			if err := e.writeWhole(cmd.Context(), store); err != nil {
				return err
			}
			if a.json {
				return printJSON(a.out, e.card)
			}
			fmt.Fprintf(a.out, "%d rows in %d shards: %s\n", e.card.Rows, len(e.card.Shards), e.dir)
			return nil
		},
	}
	cmd.Flags().BoolVar(&jsonl, "jsonl", false, "write sft.jsonl too")
	return cmd
}

// export is a data set folder in the making.
type export struct {
	run   schemas.RunID
	dir   string
	jsonl bool
	card  card
}

// card is what the folder's README says.
type card struct {
	Run       schemas.RunID         `json:"run"`
	Name      string                `json:"name"`
	Rows      int64                 `json:"rows"`
	Shards    []string              `json:"shards"`
	Digest    schemas.Digest        `json:"digest"` // what the gate dataset asks about
	Approved  string                `json:"approved,omitempty"`
	Policy    schemas.Digest        `json:"policy"`
	Teacher   schemas.ModelIdentity `json:"teacher"`
	Judge     schemas.ModelIdentity `json:"judge"`
	Votes     int                   `json:"votes"`
	Threshold float64               `json:"threshold"`
	Simulated []string              `json:"simulated,omitempty"`
	Stages    []stageLedger         `json:"stages"`
	// Categories counts the rows.
	Categories map[schemas.Category]int64 `json:"categories"`
	Size       string                     `json:"-"` // the hub's class
}

type stageLedger struct {
	Stage  schemas.Stage  `json:"stage"`
	Ledger schemas.Ledger `json:"ledger"`
}

// writeWhole makes the folder, which appears when it is complete.
func (e *export) writeWhole(ctx context.Context, store shard.Store) error {
	const op = "export run"
	if entries, err := os.ReadDir(e.dir); err == nil && len(entries) > 0 {
		return schemas.Errorf(op, string(e.run), schemas.InvalidInput, "%s is not empty", e.dir).WithHint("Name a folder that isn't there yet")
	}
	dir := e.dir
	part, err := os.MkdirTemp(filepath.Dir(dir), ".part-*")
	if err != nil {
		return schemas.E(op, dir, schemas.InvalidInput, err)
	}
	defer os.RemoveAll(part)
	e.dir = part
	if err := e.write(ctx, store); err != nil {
		return err
	}
	e.dir = dir
	_ = os.Remove(dir) // an empty one
	if err := os.Rename(part, dir); err != nil {
		return schemas.E(op, dir, schemas.InvalidInput, err)
	}
	return os.Chmod(dir, 0o755)
}

func (e *export) write(ctx context.Context, store shard.Store) error {
	const op = "export run"
	e.card = card{Run: e.run, Categories: map[schemas.Category]int64{}}
	c := &e.card
	var curated schemas.Manifest
	var plan schemas.Plan
	for _, stage := range schemas.Stages[:slices.Index(schemas.Stages, schemas.StageCurate)+1] {
		curated, plan = schemas.Manifest{}, schemas.Plan{} // the last ones stay
		err := shard.GetJSON(ctx, store, schemas.ManifestObject(e.run, stage), &curated)
		if schemas.KindOf(err) == schemas.NotFound && stage != schemas.StageCurate {
			continue // a run may begin with a data set of one's own
		}
		if schemas.KindOf(err) == schemas.NotFound {
			return schemas.Errorf(op, string(e.run), schemas.NotFound, "there is no such run, or its stage %s has not ended", stage).
				WithHint("See how far the run is: starter progress %s", schemas.ShellWord(string(e.run)))
		}
		if err != nil {
			return err
		}
		if err := shard.GetJSON(ctx, store, curated.Plan.Object, &plan); err != nil {
			return err
		}
		c.Stages = append(c.Stages, stageLedger{stage, curated.Ledger})
		// Stages may be another run's: each says by what it was made.
		c.Simulated = append(c.Simulated, plan.Inputs.Simulated...)
		if stage == schemas.StageFilter {
			c.Policy, c.Votes, c.Threshold = plan.Inputs.Policy, plan.Spec.Filter.Votes, *plan.Spec.Filter.Threshold
		}
	}
	slices.Sort(c.Simulated)
	c.Name, c.Simulated = plan.Spec.Name, slices.Compact(c.Simulated)
	c.Policy = cmp.Or(c.Policy, plan.Inputs.Policy)
	var err error
	if err := os.MkdirAll(filepath.Join(e.dir, "data"), 0o755); err != nil {
		return schemas.E(op, e.dir, schemas.InvalidInput, err)
	}
	if curated.Ledger.Kept == 0 {
		return schemas.Errorf(op, string(e.run), schemas.NotFound, "its SFT set has no rows (%s)", curated.Ledger).
			WithHint("See what became of them: starter progress %s", schemas.ShellWord(string(e.run)))
	}
	refs := curated.Outputs[schemas.OutputExamples]
	c.Digest = curated.Digest()
	if c.Approved, err = approval(ctx, store, e.run, c.Digest); err != nil {
		return err
	}
	for i, ref := range refs {
		name := fmt.Sprintf("data/train-%05d-of-%05d.parquet", i, len(refs))
		if err := shard.Fetch(ctx, store, ref, filepath.Join(e.dir, filepath.FromSlash(name))); err != nil {
			return err
		}
		c.Rows, c.Shards = c.Rows+ref.Rows, append(c.Shards, name)
	}
	if err := e.rows(); err != nil {
		return err
	}
	if err := e.models(ctx, store); err != nil {
		return err
	}
	c.Size = size(c.Rows)
	return e.file("README.md", func(w *bufio.Writer) error { return cardTemplate.Execute(w, c) })
}

// approval says who approved this very data set; empty where nobody did.
func approval(ctx context.Context, store shard.Store, run schemas.RunID, digest schemas.Digest) (who string, err error) {
	for info, err := range store.List(ctx, schemas.RunObject(run, "decisions/")) {
		if err != nil {
			return "", err
		}
		var d schemas.DecisionRecord
		if err := shard.GetJSON(ctx, store, info.Key, &d); err != nil {
			return "", err
		}
		if !d.Stale && d.Verdict == schemas.DecisionApprove && d.Decision.Gate == schemas.GateDataset && d.Decision.Digest == digest {
			who = fmt.Sprintf("%s, %s", d.Decision.By, d.At.UTC().Format("2006-01-02"))
		}
	}
	return who, nil
}

// rows counts the rows of the fetched shards, and writes them as lines where that is
// asked for.
func (e *export) rows() error {
	each := func(w *bufio.Writer) error {
		for _, name := range e.card.Shards {
			raw, err := os.ReadFile(filepath.Join(e.dir, filepath.FromSlash(name)))
			if err != nil {
				return schemas.E("export run", name, schemas.Unavailable, err)
			}
			rows, err := shard.Decode[schemas.Example](raw)
			if err != nil {
				return err
			}
			for _, r := range rows {
				e.card.Categories[r.Category]++
				if w == nil {
					continue
				}
				enc := json.NewEncoder(w)
				enc.SetEscapeHTML(false)
				if err := enc.Encode(map[string]any{"messages": append(r.Prompt, r.Completion...)}); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if !e.jsonl {
		return each(nil)
	}
	return e.file("sft.jsonl", each)
}

// models finds who wrote and who judged: that stands in the rows.
func (e *export) models(ctx context.Context, store shard.Store) error {
	completion, err := firstRow[schemas.Completion](ctx, store, e.run, schemas.StageSynthesize, schemas.OutputCompletions)
	if err != nil {
		return err
	}
	verdict, err := firstRow[schemas.Verdict](ctx, store, e.run, schemas.StageFilter, schemas.OutputVerdicts)
	e.card.Teacher, e.card.Judge = completion.Model, verdict.Judge
	return err
}

func firstRow[T any](ctx context.Context, store shard.Store, run schemas.RunID, stage schemas.Stage, kind string) (row T, err error) {
	var m schemas.Manifest
	err = shard.GetJSON(ctx, store, schemas.ManifestObject(run, stage), &m)
	if schemas.KindOf(err) == schemas.NotFound {
		return row, nil
	}
	if err != nil {
		return row, err
	}
	for _, ref := range m.Outputs[kind] {
		rows, err := shard.Read[T](ctx, store, ref)
		if err != nil {
			return row, err
		}
		if len(rows) > 0 {
			return rows[0], nil
		}
	}
	return row, nil
}

func (e *export) file(name string, write func(*bufio.Writer) error) error {
	f, err := os.Create(filepath.Join(e.dir, name))
	if err != nil {
		return schemas.E("export run", e.dir, schemas.InvalidInput, err)
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	if err := write(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return schemas.E("export run", name, schemas.Unavailable, err)
	}
	return f.Close()
}

// size is the hub's class of a number of rows.
func size(rows int64) string {
	class, low := "n<1K", int64(1_000)
	for _, next := range []string{"1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B"} {
		if rows < low {
			break
		}
		class, low = next, low*10
	}
	return class
}

//go:embed card.md.tmpl
var cardText string

var cardTemplate = template.Must(template.New("card").Parse(cardText))
