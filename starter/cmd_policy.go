package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/sourcegraph/conc/pool"
	"github.com/spf13/cobra"

	"precept/activities"
	"precept/internal/config"
	"precept/internal/judge"
	"precept/internal/llm"
	"precept/internal/policy"
	"precept/internal/shard"
	"precept/policies"
	"precept/schemas"
)

func (a *app) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Check a policy, compare two, or put its own cases to teacher and judge",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return usage("unknown command %q of starter policy", args[0]).WithHint("List them with: starter policy --help")
		},
	}
	cmd.AddCommand(a.policyLintCommand(), a.policyDiffCommand(), a.policyTestCommand())
	return cmd
}

func (a *app) policyLintCommand() *cobra.Command {
	var strict bool
	cmd := &cobra.Command{
		Use:   "lint FOLDER",
		Short: "Find what is wrong with a policy, and how large it is",
		Long: `Find what is wrong with a policy: parts that are missing or malformed, cases that
contradict their rule or each other. Warnings are what isn't wrong but doubtful: a rule
without a case or behind one that fits everything, a long summary. FOLDER may be builtin.

The exit code is 1 where there is an error, or with --strict a warning.

` + exitCodes,
		Args: takes(1, 1),
		RunE: func(_ *cobra.Command, args []string) error { return a.policyLint(args[0], strict) },
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "warnings are errors")
	return cmd
}

func (a *app) policyLint(folder string, strict bool) error {
	var files fs.FS = policies.FS
	if folder != schemas.Builtin {
		files = os.DirFS(folder)
	}
	l, err := policy.Lint(files)
	if err != nil {
		return schemas.E("lint policy", folder, schemas.InvalidInput, inner(inner(err)))
	}
	failed := l.Errors()
	warnings := len(l.Findings) - failed
	if strict {
		failed += warnings
	}
	if a.json {
		err = printJSON(a.out, l)
	} else {
		err = a.printLint(folder, l)
	}
	if err != nil {
		return err
	}
	if failed > 0 {
		return exit{exitError, fmt.Sprintf("policy %s: %s, %s", folder, plural(l.Errors(), "error"), plural(warnings, "warning"))}
	}
	return nil
}

func (a *app) printLint(folder string, l policy.Linted) error {
	for _, f := range l.Findings {
		kind, line := "warning", ""
		if f.Error {
			kind = "error"
		}
		if f.Line > 0 {
			line = fmt.Sprintf(":%d", f.Line)
		}
		fmt.Fprintf(a.out, "%s%s: %s: %s\n", filepath.Join(folder, f.File), line, kind, oneLine(f.Text))
	}
	if l.Errors() > 0 {
		return nil
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "category\trules\tcases\ttokens\twith all that a teacher reads")
	for _, s := range l.Sizes {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\n", s.Category, s.Rules, s.Cases, s.Tokens, s.Message)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "Tokens are estimated, at %d characters each. %s.\n", policy.CharactersPerToken, plural(len(l.Findings), "warning"))
	return nil
}

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
		if from.Digest() != to.Digest() && (spec.WithDefaults().Passes(schemas.StageRL) || spec.WithDefaults().Passes(schemas.StageGrade)) {
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
		if x.Same() {
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
				usd = fmt.Sprintf("$%.4f", *c.USD)
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

func (a *app) policyTestCommand() *cobra.Command {
	var t policyTest
	cmd := &cobra.Command{
		Use:   "test POLICY --teacher ENDPOINT --judge ENDPOINT",
		Short: "Put a policy's own cases to teacher and judge, and show where they decide otherwise",
		Long: `Put a policy's own cases to teacher and judge, and show where they decide otherwise: where
the teacher's answer, as the judge sees it, does something else than the case says, or
where the judge expects something else. Both read the cases with the policy, so that this
tells whether they can follow it at all. A policy is builtin, a folder, or an s3:// prefix.

The exit code is 1 where any case is decided otherwise.

` + exitCodes,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t.policy = args[0]
			if t.teacher == "" || t.judge == "" {
				return usage("teacher and judge are not both named").WithHint("Add: --teacher ENDPOINT --judge ENDPOINT, of the configuration")
			}
			return a.policyTest(cmd.Context(), t)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&t.teacher, "teacher", "", "the teacher's endpoint, of the configuration")
	flags.StringVar(&t.judge, "judge", "", "the judge's endpoint")
	flags.StringVar(&t.category, "category", "", "the cases of one category only")
	flags.Float64Var(&t.temperature, "temperature", 0, "the teacher's")
	flags.BoolVar(&t.all, "all", false, "show the cases that are decided as they say, too")
	return cmd
}

// policyTest says what the command is to do.
type policyTest struct {
	policy, teacher, judge, category string
	temperature                      float64
	all                              bool
}

// tested is what became of a case. Action and JudgeExpects are empty where there is no
// vote: Note says why.
type tested struct {
	Category schemas.Category `json:"category"`
	policy.Case
	TeacherDid   schemas.Action `json:"teacher_did,omitempty"`
	JudgeExpects schemas.Action `json:"judge_expects,omitempty"`
	JudgeRule    string         `json:"judge_rule,omitempty"`
	Why          string         `json:"why,omitempty"`
	Note         string         `json:"note,omitempty"`
}

// agrees reports whether teacher and judge decide as the case does.
func (t tested) agrees() bool { return t.TeacherDid == t.Action && t.JudgeExpects == t.Action }

func (a *app) policyTest(ctx context.Context, t policyTest) error {
	d, err := a.desk(ctx)
	if err != nil {
		return err
	}
	cases, used, err := t.ask(ctx, d)
	if err = errors.Join(err, d.close(ctx)); err != nil {
		return err
	}
	otherwise := 0
	for _, c := range cases {
		if !c.agrees() {
			otherwise++
		}
	}
	if a.json {
		err = printJSON(a.out, struct {
			Simulated []string      `json:"simulated,omitempty"`
			Cases     []tested      `json:"cases"`
			Otherwise int           `json:"otherwise"`
			Usage     schemas.Usage `json:"usage"`
		}{d.simulated(), cases, otherwise, used})
		if err != nil {
			return err
		}
	} else {
		fmt.Fprintf(a.out, "%s%s%s: teacher or judge decide otherwise on %d\n%s",
			simulatedLine(d.simulated()), t.table(cases), plural(len(cases), "case"), otherwise, costLine(used))
	}
	if otherwise > 0 {
		return exit{code: exitError}
	}
	return nil
}

func (t policyTest) table(cases []tested) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	head := "category\tcase\texpected\tteacher did\tjudge expects\twhy\n"
	for _, c := range cases {
		if c.agrees() && !t.all {
			continue
		}
		fmt.Fprint(w, head)
		head = ""
		did, expects, why := string(c.TeacherDid), fmt.Sprintf("%s (%s)", c.JudgeExpects, oneLine(c.JudgeRule)), c.Why
		if c.Note != "" {
			did, expects, why = "-", "-", c.Note
		}
		fmt.Fprintf(w, "%s\t%s\t%s (%s)\t%s\t%s\t%s\n", c.Category, clip(oneLine(c.Text), 60), c.Action, c.Rule, did, expects, clip(oneLine(why), 80))
	}
	w.Flush() // A strings.Builder takes all.
	return b.String()
}

// ask puts the cases to teacher and judge.
func (t policyTest) ask(ctx context.Context, d *desk) (cases []tested, used schemas.Usage, err error) {
	pol, err := activities.ReadPolicy(ctx, d.config, t.policy)
	if err != nil {
		return nil, used, err
	}
	teacher, err := d.client(t.teacher)
	if err != nil {
		return nil, used, err
	}
	judging, err := d.client(t.judge)
	if err != nil {
		return nil, used, err
	}
	categories := pol.Categories()
	if t.category != "" {
		if _, err := pol.For(schemas.Category(t.category)); err != nil {
			return nil, used, err
		}
		categories = slices.DeleteFunc(categories, func(c schemas.Category) bool { return string(c) != t.category })
	}
	for _, category := range categories {
		for _, c := range pol.Cases(category) {
			cases = append(cases, tested{Category: category, Case: c})
		}
	}
	j := judge.New(judging, judge.RoleFilter, judge.Options{MaxTokens: judgeTokens(judge.RoleFilter)})
	var mu sync.Mutex
	spend := func(u schemas.Usage) { mu.Lock(); used.Add(u); mu.Unlock() }
	p := pool.New().WithMaxGoroutines(teacher.Endpoint().InFlight()).WithErrors().WithContext(ctx).WithCancelOnError().WithFirstError()
	for i := range cases {
		p.Go(func(ctx context.Context) error {
			cp, err := pol.For(cases[i].Category)
			if err != nil {
				return err
			}
			return t.one(ctx, teacher, j, cp, &cases[i], spend)
		})
	}
	err = p.Wait()
	return cases, used, err
}

// one puts one case to them.
func (t policyTest) one(ctx context.Context, teacher *llm.Client, j *judge.Judge, cp policy.CategoryPolicy, c *tested, spend func(schemas.Usage)) error {
	prompt := schemas.Prompt{Messages: []schemas.Message{{Role: "user", Content: c.Text}}, Category: c.Category}
	form := teacher.Endpoint().CoT
	answer, meta, err := teacher.Ask(ctx, llm.Request{
		Messages: policy.TeacherMessagesIn(form, cp, prompt), Temperature: t.temperature, MaxTokens: schemas.RunSpec{}.WithDefaults().Synthesize.MaxTokens,
	})
	if err != nil {
		return err
	}
	spend(llm.Count(answer, meta))
	cot, text, _ := form.Read(answer)
	if answer.Refusal || answer.TooLong() {
		c.Note = "the teacher's provider refused the request"
		return nil
	}
	r, err := j.Verdict(ctx, judge.Item{Policy: cp, Prompt: prompt, CoT: cot, Answer: text})
	spend(r.Usage)
	if err != nil {
		return err
	}
	if len(r.Votes) == 0 {
		c.Note = "the judge's vote could not be read"
		return nil
	}
	v := r.Votes[0]
	c.TeacherDid, c.JudgeExpects, c.JudgeRule, c.Why = v.Action, v.Expected, v.Rule, v.Why
	return nil
}
