package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"precept/activities"
	"precept/internal/config"
	"precept/internal/policy"
	"precept/internal/shard"
	"precept/schemas"
)

func (a *app) policyDiffCommand() *cobra.Command {
	var d policyDiff
	cmd := &cobra.Command{
		Use:   "diff POLICY POLICY [--run RUN | --spec SPEC.json]",
		Short: "Tell which categories another policy changes, and what a run with it would cost",
		Long: `Tell which categories another policy changes: those whose models read something else. An
edit of a summary or of style.md changes all. A policy is builtin, a folder, or an
s3:// prefix.

With --run it is told for each category what that run's rows would ask again and, by what
they took in it, cost; then, as starter start --from RUN --preview tells it, what of that
is answered already. With --spec it is told for a run that is not there yet.

` + exitCodes,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			d.from, d.to = args[0], args[1]
			if d.run != "" && d.spec != "" {
				return usage("--run and --spec exclude each other")
			}
			return a.policyDiff(cmd.Context(), d)
		},
	}
	cmd.Flags().StringVar(&d.run, "run", "", "a run whose rows are counted")
	cmd.Flags().StringVar(&d.spec, "spec", "", "the specification of a run")
	return cmd
}

// policyDiff says what is compared.
type policyDiff struct{ from, to, run, spec string }

// policyChange is a change, and what it takes.
type policyChange struct {
	policy.Change
	Completions int64    `json:"completions,omitempty"` // that the teacher would write anew
	Votes       int64    `json:"votes,omitempty"`       // about, that the judge would give
	USD         *float64 `json:"usd,omitempty"`         // about
}

func (a *app) policyDiff(ctx context.Context, d policyDiff) error {
	// A policy on this machine needs no configuration.
	var c config.Config
	if strings.HasPrefix(d.from, "s3://") || strings.HasPrefix(d.to, "s3://") {
		var err error
		if c, err = config.Load(a.config); err != nil {
			return err
		}
	}
	from, err := activities.ReadPolicy(ctx, c, d.from)
	if err != nil {
		return err
	}
	to, err := activities.ReadPolicy(ctx, c, d.to)
	if err != nil {
		return err
	}
	changes, err := policy.Diff(from, to)
	if err != nil {
		return err
	}
	out := struct {
		Changes []policyChange            `json:"changes"`
		Notes   []string                  `json:"notes,omitempty"`
		Preview []activities.StagePreview `json:"preview,omitempty"`
	}{Changes: make([]policyChange, len(changes))}
	for i, x := range changes {
		out.Changes[i].Change = x
	}
	var spec schemas.RunSpec
	switch {
	case d.run != "":
		store, err := a.open(ctx, a.config)
		if err != nil {
			return err
		}
		if spec, err = storedSpec(ctx, store, schemas.RunID(d.run)); err != nil {
			return err
		}
		if out.Notes, err = countChanges(ctx, store, schemas.RunID(d.run), from, out.Changes); err != nil {
			return err
		}
	case d.spec != "":
		if spec, err = a.readSpec(d.spec); err != nil {
			return err
		}
	}
	if d.run != "" || d.spec != "" {
		spec.Policy.Source = d.to
		out.Preview, err = a.preview(ctx, "policy-diff", spec, schemas.RunID(d.run))
		if err != nil && d.run == "" {
			return err
		}
		if err != nil { // the run's files may be its worker's
			out.Notes = append(out.Notes, fmt.Sprintf("what is answered already can't be told here: %v", err))
		}
		if from.Digest() != to.Digest() && (spec.WithDefaults().Passes(schemas.StageRL) || spec.WithDefaults().Passes(schemas.StageGrade) || spec.WithDefaults().Passes(schemas.StageSFTGrade)) {
			out.Notes = append(out.Notes, "the reward of rl and the grader read the whole policy: the model is trained and graded anew")
		}
	}
	if a.json {
		return printJSON(a.out, out)
	}
	fmt.Fprint(a.out, changesTable(out.Changes, d.run != ""), noteLines(out.Notes))
	if out.Preview != nil {
		fmt.Fprintf(a.out, "\n%s", previewTable(out.Preview))
	}
	return nil
}

// countChanges counts what of a run's rows would be asked again, by its manifests.
func countChanges(ctx context.Context, store shard.Store, run schemas.RunID, from *policy.Policy, changes []policyChange) (notes []string, err error) {
	past, err := openArchive(ctx, store, run)
	if err != nil {
		return nil, err
	}
	if past.inputs.Policy != from.Digest() {
		notes = append(notes, fmt.Sprintf("run %s has read another policy (%s) than the first one (%s)", run, past.inputs.Policy.Short(), from.Digest().Short()))
	}
	synthesized, filtered := stageCosts(past.manifests[schemas.StageSynthesize]), stageCosts(past.manifests[schemas.StageFilter])
	for i := range changes {
		x := &changes[i]
		if x.Same() || x.To == "" { // its prompts are refused
			continue
		}
		x.Completions, x.Votes = synthesized.requests(x.Category), filtered.requests(x.Category)
		if synthesized.price != nil && filtered.price != nil {
			x.USD = new(float64(x.Completions)**synthesized.price + float64(x.Votes)**filtered.price)
		}
	}
	return notes, nil
}

// stageCost is what a stage's units took.
type stageCost struct {
	units   schemas.Categories
	perUnit float64  // requests
	price   *float64 // of a request; nil where none was paid for
}

func stageCosts(m *schemas.Manifest) (c stageCost) {
	if m == nil || m.Ledger.Planned == 0 {
		return c
	}
	c.units = m.ByCategory
	var most, paid int64
	var usd float64
	for _, s := range m.Spent {
		most = max(most, s.Usage.Paid+s.Usage.Cached)
		paid, usd = paid+s.Usage.Paid, usd+s.Usage.USD
	}
	c.perUnit = float64(most) / float64(m.Ledger.Planned)
	if paid > 0 {
		c.price = new(usd / float64(paid))
	}
	return c
}

func (c stageCost) requests(category schemas.Category) int64 {
	return int64(math.Round(float64(c.units[category].Outcomes()) * c.perUnit))
}

func changesTable(changes []policyChange, counted bool) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	head := "category\tfrom\tto\t"
	if counted {
		head += "completions\tvotes\tcost\t"
	}
	fmt.Fprintln(w, head+"changed")
	changed := 0
	var total policyChange
	for _, c := range changes {
		digest := func(d schemas.Digest) string {
			if d == "" {
				return "-"
			}
			return d.Short()
		}
		why := strings.Join(c.Why, ", ")
		if c.Same() {
			why = "no"
		} else {
			changed++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t", c.Category, digest(c.From), digest(c.To))
		if counted {
			usd := "unknown"
			switch {
			case c.Completions+c.Votes == 0:
				usd = "-"
			case c.USD != nil:
				usd = schemas.FormatDollars(*c.USD)
			}
			fmt.Fprintf(w, "%d\t%d\t%s\t", c.Completions, c.Votes, usd)
			total.Completions, total.Votes = total.Completions+c.Completions, total.Votes+c.Votes
		}
		fmt.Fprintln(w, why)
	}
	w.Flush() // A strings.Builder takes all.
	fmt.Fprintf(&b, "%d of %d categories are read otherwise", changed, len(changes))
	if counted {
		fmt.Fprintf(&b, ": %d completions and about %d votes, if none is answered already", total.Completions, total.Votes)
	}
	return b.String() + "\n"
}
