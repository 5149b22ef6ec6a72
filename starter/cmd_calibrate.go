package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/sourcegraph/conc/pool"
	"github.com/spf13/cobra"

	"precept/activities"
	"precept/internal/calibrate"
	"precept/internal/judge"
	"precept/internal/llm"
	"precept/internal/prompts"
	"precept/internal/report"
	"precept/schemas"
)

// calibration says what the command is to do.
type calibration struct {
	file           string
	judge, against string
	role           string
	policy         string
	votes          int
	threshold      float64
	precision      float64
	limit, rows    int
	labels         []string
	columns        map[string]string
	category       string
	html           string
	showText       bool
}

func (a *app) calibrateCommand() *cobra.Command {
	var c calibration
	spec := schemas.RunSpec{}.WithDefaults()
	cmd := &cobra.Command{
		Use:   "calibrate FILE --judge ENDPOINT",
		Short: "Measure a judge against people's labels, or against another judge",
		Long: `Measure a judge against people's labels, or against another judge.

FILE (JSON Lines, CSV or Parquet) has a row for each answer: text or messages, answer,
optionally cot, category, and label: kept or rejected, good or bad, or a score from 0 to
1, of which 0.5 and more is good. Columns label_ann, label_bob, … are several people's;
most of them decide. Every vote is asked for, none is left out early, so that the scores
can be held against every threshold. Answers go into the journal of the store that
--config names: what a judge was asked once, by a run too, costs nothing.

With --against another judge rates the same answers; labels are not needed then.

` + exitCodes,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.file = args[0]
			if !cmd.Flags().Changed("votes") && c.role != string(judge.RoleFilter) {
				c.votes = 1 // as a run's reward and grader have it
			}
			if err := c.check(); err != nil {
				return err
			}
			return a.calibrate(cmd.Context(), c)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&c.judge, "judge", "", "the judge's endpoint, of the configuration")
	flags.StringVar(&c.against, "against", "", "another judge's endpoint to compare with")
	flags.StringVar(&c.role, "role", string(judge.RoleFilter), "what the judge is asked as: filter, reward or grade; only filter reads the chain of thought")
	flags.StringVar(&c.policy, "policy", schemas.Builtin, "builtin, a folder, or an s3:// prefix")
	flags.IntVar(&c.votes, "votes", spec.Filter.Votes, "judge calls an answer; the minimum counts (default for reward and grade: 1)")
	flags.Float64Var(&c.threshold, "threshold", *spec.Filter.Threshold, "the least score that keeps")
	flags.Float64Var(&c.precision, "precision", 0.95, "the precision that a threshold is looked for to reach")
	flags.IntVar(&c.limit, "limit", 0, "use only the first N rows (default: all)")
	flags.IntVarP(&c.rows, "rows", "n", 10, "list at most so many of the rows that are judged otherwise")
	flags.StringSliceVar(&c.labels, "label", nil, "the columns of the labels (default: label, and all that begin with label_)")
	flags.StringToStringVar(&c.columns, "columns", nil, "the file's names of columns: text=question,answer=response")
	flags.StringVar(&c.category, "category", "", "the category of rows without one")
	flags.StringVar(&c.html, "html", "", "write a page with plots to this file")
	flags.BoolVar(&c.showText, "show-text", false, "show the texts of the rows that are listed, which may be harmful to read")
	return cmd
}

func (c calibration) check() error {
	switch {
	case c.judge == "":
		return usage("no judge is named").WithHint("Add: --judge ENDPOINT, one of the configuration's")
	case !slices.Contains(judge.Roles, judge.Role(c.role)):
		return usage("there is no role %q; the roles: %v", c.role, judge.Roles)
	case c.votes < 1:
		return usage("--votes is %d; it must be at least 1", c.votes)
	case !(c.threshold >= 0 && c.threshold <= 1):
		return usage("--threshold is %v; it must be from 0 to 1", c.threshold)
	case !(c.precision > 0 && c.precision < 1):
		return usage("--precision is %v; it must be between 0 and 1", c.precision)
	case c.limit < 0 || c.rows < 0:
		return usage("--limit and --rows can't be negative")
	case c.against == c.judge:
		return usage("--against names the same judge")
	}
	if dir := filepath.Dir(c.html); c.html != "" {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return usage("--html is %s, and there is no folder %s", c.html, dir)
		}
	}
	return nil
}

func (a *app) calibrate(ctx context.Context, c calibration) error {
	answers, err := c.read()
	if err != nil {
		return err
	}
	d, err := a.desk(ctx)
	if err != nil {
		return err
	}
	r, err := c.ask(ctx, d, answers)
	if err = errors.Join(err, d.close(ctx)); err != nil {
		return err
	}
	if c.html != "" {
		var page bytes.Buffer
		if err := report.RenderCalibration(&page, r); err != nil {
			return err
		}
		if err := os.WriteFile(c.html, page.Bytes(), 0o644); err != nil {
			return schemas.E("write page", c.html, schemas.Unavailable, inner(err))
		}
	}
	if a.json {
		return printJSON(a.out, r)
	}
	fmt.Fprint(a.out, calibrationText(r))
	if c.html != "" {
		fmt.Fprintf(a.out, "Plots: %s\n", c.html)
	}
	return nil
}

// read reads the file's rows, and checks what doesn't need a model.
func (c *calibration) read() (answers []prompts.Labelled, err error) {
	const op = "read labels"
	f, err := os.Open(c.file)
	if err != nil {
		return nil, schemas.E(op, c.file, schemas.InvalidInput, inner(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, schemas.E(op, c.file, schemas.InvalidInput, inner(err))
	}
	in := schemas.Import{Columns: c.columns, Category: schemas.Category(c.category)}
	named := len(c.labels) > 0
	if !named {
		if c.labels, err = prompts.LabelColumns(c.file, f, info.Size(), in); err != nil {
			return nil, err
		}
	}
	labelled := map[string]bool{}
	for row, err := range prompts.ScanLabelled(c.file, f, info.Size(), in, c.labels) {
		if err != nil {
			return nil, err
		}
		if row.CoT == "" {
			cot, answer, ok := llm.SplitCoT(row.Answer, "")
			if ok {
				row.CoT, row.Answer = cot, answer
			}
		}
		if row.CoT == "" && judge.Role(c.role) == judge.RoleFilter {
			return nil, schemas.Errorf(op, c.file, schemas.InvalidInput, "row %d has no chain of thought, which the filter judges", len(answers)+1).
				WithHint("Add a column cot, or judge the answers alone: --role reward, or --role grade")
		}
		for _, l := range row.Labels {
			labelled[l.By] = true
		}
		if answers = append(answers, row); len(answers) == c.limit {
			break
		}
	}
	for _, column := range c.labels {
		if named && !labelled[column] {
			return nil, schemas.Errorf(op, c.file, schemas.InvalidInput, "no row has a label in column %q, which --label names", column)
		}
	}
	if len(labelled) == 0 && c.against == "" {
		return nil, schemas.Errorf(op, c.file, schemas.InvalidInput, "no row has a label").
			WithHint("Name their columns with --label, or compare with another judge: --against ENDPOINT")
	}
	return answers, nil
}

// rating is what a judge makes of one answer.
type rating struct {
	score float64
	why   string // of the lowest vote
	lost  bool   // not all votes could be read: no score to count
}

// ask has the judges rate the answers.
func (c calibration) ask(ctx context.Context, d *desk, answers []prompts.Labelled) (r calibrate.Report, err error) {
	pol, err := activities.ReadPolicy(ctx, d.config, c.policy)
	if err != nil {
		return r, err
	}
	items := make([]judge.Item, len(answers))
	for i, x := range answers {
		items[i] = judge.Item{Prompt: x.Prompt, CoT: x.CoT, Answer: x.Answer}
		if items[i].Policy, err = pol.For(x.Category); err != nil {
			return r, schemas.Errorf("read labels", c.file, schemas.InvalidInput, "row %d: %w", i+1, err)
		}
	}
	r = calibrate.Report{File: filepath.Base(c.file), Role: c.role, Votes: c.votes, Policy: pol.Digest(), Answers: int64(len(answers))}
	// Both are opened before either is asked.
	client, err := d.client(c.judge)
	if err != nil {
		return r, err
	}
	r.Judge = rater(client)
	var second *llm.Client
	if c.against != "" {
		if second, err = d.client(c.against); err != nil {
			return r, err
		}
		r.Against = &calibrate.Against{Judge: rater(second)}
	}
	ratings, err := c.rate(ctx, client, items, &r.Usage)
	if err != nil {
		return r, err
	}
	var other []rating
	if second != nil {
		if other, err = c.rate(ctx, second, items, &r.Usage); err != nil {
			return r, err
		}
	}
	r.Simulated = d.simulated()
	c.compare(&r, answers, ratings, other)
	return r, nil
}

func rater(c *llm.Client) calibrate.Rater {
	return calibrate.Rater{Endpoint: c.Endpoint().Name, Identity: c.Endpoint().Identity()}
}

// rate has one judge rate all answers.
func (c calibration) rate(ctx context.Context, client *llm.Client, items []judge.Item, usage *schemas.Usage) ([]rating, error) {
	j := judge.New(client, judge.Role(c.role), judge.Options{Votes: c.votes, MaxTokens: judgeTokens(judge.Role(c.role)), All: true})
	ratings := make([]rating, len(items))
	var mu sync.Mutex
	p := pool.New().WithMaxGoroutines(client.Endpoint().InFlight()).WithErrors().WithContext(ctx).WithCancelOnError().WithFirstError()
	for i, item := range items {
		p.Go(func(ctx context.Context) error {
			v, err := j.Verdict(ctx, item)
			mu.Lock()
			usage.Add(v.Usage)
			mu.Unlock()
			if err != nil {
				// A judge that gives no answer gives no score: there is no result without it.
				return fmt.Errorf("row %d: %w", i+1, err)
			}
			ratings[i] = rating{score: v.Score, lost: v.Lost > 0}
			for _, vote := range v.Votes {
				if vote.Score == v.Score {
					ratings[i].why = vote.Why
					break
				}
			}
			return nil
		})
	}
	if err := p.Wait(); err != nil {
		return nil, fmt.Errorf("%w (the answers so far are kept: the same command goes on from them)", err)
	}
	return ratings, nil
}

// judgeTokens is how long a judge's reply may be in a run with the defaults.
func judgeTokens(role judge.Role) int {
	if role == judge.RoleGrade {
		return 0 // the judge's own default
	}
	return schemas.RunSpec{}.WithDefaults().Filter.MaxTokens
}

// compare computes the report's figures.
func (c calibration) compare(r *calibrate.Report, answers []prompts.Labelled, ratings, other []rating) {
	var rated []calibrate.Rated
	parts := map[schemas.Category][]calibrate.Rated{}
	var misjudged []calibrate.Row
	for i, x := range answers {
		row := c.row(i, x, ratings[i])
		good, ok := calibrate.Majority(scores(x.Labels))
		switch {
		case ratings[i].lost:
			r.Lost++
			continue
		case len(x.Labels) == 0:
			r.Unlabelled++
			continue
		case !ok:
			r.Split++
			continue
		}
		one := calibrate.Rated{Score: ratings[i].score, Good: good}
		rated = append(rated, one)
		parts[x.Category] = append(parts[x.Category], one)
		if (one.Score >= c.threshold) != good {
			misjudged = append(misjudged, row)
		}
	}
	if len(rated) > 0 {
		result := calibrate.Judge(rated, c.threshold, c.precision)
		r.Result = &result
		for category, rated := range parts {
			at := calibrate.Judge(rated, c.threshold, 0).At
			r.Categories = append(r.Categories, calibrate.Part{Category: category, N: int64(len(rated)), Accuracy: at.Accuracy, Kappa: at.Kappa})
		}
		slices.SortFunc(r.Categories, func(x, y calibrate.Part) int { return cmp.Compare(x.Category, y.Category) })
		slices.SortStableFunc(misjudged, func(x, y calibrate.Row) int {
			return cmp.Compare(math.Abs(y.Score-*y.Label), math.Abs(x.Score-*x.Label))
		})
		r.Misjudged = misjudged[:min(c.rows, len(misjudged))]
	}
	r.People = people(answers)
	if other == nil {
		return
	}
	var pairs []calibrate.Pair
	var numbers []int
	for i := range answers {
		if ratings[i].lost || other[i].lost {
			r.Against.Lost++
			continue
		}
		pairs = append(pairs, calibrate.Pair{A: ratings[i].score, B: other[i].score})
		numbers = append(numbers, i)
	}
	r.Against.N = int64(len(pairs))
	r.Against.Agreement = calibrate.Agree(pairs, c.threshold, c.threshold)
	differ := calibrate.Widest(pairs, len(pairs))
	r.Against.Differ = int64(len(differ))
	for _, k := range differ[:min(c.rows, len(differ))] {
		i := numbers[k]
		row := c.row(i, answers[i], ratings[i])
		row.Other, row.OtherWhy = &other[i].score, other[i].why
		r.Against.Rows = append(r.Against.Rows, row)
	}
}

// row is an answer to look at.
func (c calibration) row(i int, x prompts.Labelled, by rating) calibrate.Row {
	row := calibrate.Row{Number: i + 1, Category: x.Category, Score: by.score, Why: by.why}
	if labels := scores(x.Labels); len(labels) > 0 {
		mean := 0.0
		for _, l := range labels {
			mean += l / float64(len(labels))
		}
		row.Label = &mean
	}
	if c.showText {
		row.Prompt, row.Answer = x.Text(), x.Answer
	}
	return row
}

func scores(labels []prompts.Label) (out []float64) {
	for _, l := range labels {
		out = append(out, l.Score)
	}
	return out
}

// people compares those who labelled, two by two.
func people(answers []prompts.Labelled) (out []calibrate.Annotated) {
	type two struct{ a, b string }
	pairs := map[two][]calibrate.Pair{}
	for _, x := range answers {
		for i, a := range x.Labels {
			for _, b := range x.Labels[i+1:] {
				pairs[two{a.By, b.By}] = append(pairs[two{a.By, b.By}], calibrate.Pair{A: a.Score, B: b.Score})
			}
		}
	}
	for who, p := range pairs {
		out = append(out, calibrate.Annotated{
			A: who.a, B: who.b, N: int64(len(p)), Agreement: calibrate.Agree(p, calibrate.GoodLabel, calibrate.GoodLabel),
		})
	}
	slices.SortFunc(out, func(x, y calibrate.Annotated) int { return cmp.Or(cmp.Compare(x.A, y.A), cmp.Compare(x.B, y.B)) })
	return out
}
