package activities

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"precept/internal/eval"
	"precept/internal/judge"
	"precept/internal/policy"
	"precept/internal/prompts"
	"precept/internal/shard"
	"precept/schemas"
)

const (
	// classifyVersion changes when the same votes give other labels, or are counted otherwise.
	classifyVersion = 3
	// classifyRows is how many rows a task classifies.
	classifyRows = 2_000
)

// chunks is how many tasks n rows are parted over.
func chunks(n int64) int { return int((n + classifyRows - 1) / classifyRows) }

// classifying is a plan of classify in the making.
type classifying struct {
	*planner
	summaries policy.Summaries
	checks    []schemas.Label // so far those whose prompts' IDs are smallest
	tasks     []schemas.Task
}

// classify plans tasks over the imported rows without a label, which it writes down in
// chunks, over labelled ones to check the judge by, and over what was generated.
func (p *planner) classify(ctx context.Context) ([]schemas.Task, error) {
	pol, err := p.policyOf(ctx, p.inputs.Policy)
	if err != nil {
		return nil, err
	}
	if err := p.openEndpoints(); err != nil {
		return nil, err
	}
	c := classifying{planner: p, summaries: pol.Summaries()}
	dir, err := os.MkdirTemp(p.work(), "classify-*")
	if err != nil {
		return nil, schemas.E("plan stage", string(p.Stage), schemas.Unavailable, err)
	}
	defer os.RemoveAll(dir)
	for _, in := range p.inputs.Prompts {
		if in.Unlabelled > 0 || p.Inputs.Checks > 0 {
			if err := c.imported(ctx, dir, in); err != nil {
				return nil, err
			}
		}
	}
	if err := c.checked(ctx); err != nil {
		return nil, err
	}
	err = c.generated(ctx)
	return c.tasks, err
}

// imported writes down a file's rows without a label, and remembers labelled ones.
func (c *classifying) imported(ctx context.Context, dir string, in schemas.Input) error {
	path := filepath.Join(dir, "input")
	if _, err := c.store.GetFile(ctx, in.Object, path); err != nil {
		return err
	}
	defer os.Remove(path)
	var rows []schemas.Label
	n, row := 0, int64(0)
	write := func() error {
		n++
		params := map[string]any{"import": prompts.Meaning(in.Name, in.Import), "limit": c.Spec.Prompts.Limit, "chunk": n}
		name := title("%s %d/%d", filepath.Base(in.Name), n, chunks(in.Unlabelled))
		err := c.write(ctx, name, schemas.OutputLabels, rows, []schemas.Digest{in.Digest}, params)
		rows = nil
		return err
	}
	err := scanFile(path, in.Name, in.Import, c.Spec.Prompts.Limit, func(p schemas.Prompt) error {
		row++
		p.Expected = ""
		l := schemas.Label{Row: row, Prompt: p}
		if labelled(p) {
			c.keepCheck(l)
			return ctx.Err()
		}
		if rows = append(rows, l); len(rows) == classifyRows {
			return write()
		}
		return ctx.Err()
	})
	if err == nil && len(rows) > 0 {
		err = write()
	}
	return err
}

// labelled reports whether a prompt needs no classification.
func labelled(p schemas.Prompt) bool { return p.Category != "" && p.Intent != "" }

// keepCheck keeps the labelled rows whose IDs, which are digests, are the smallest: they are
// drawn from all files at random, and the same ones whenever they are.
func (c *classifying) keepCheck(l schemas.Label) {
	most := int(c.Inputs.Checks)
	if most == 0 {
		return
	}
	if c.checks = append(c.checks, l); len(c.checks) >= 2*most+1_000 {
		c.cutChecks(most)
	}
}

func (c *classifying) cutChecks(most int) {
	slices.SortStableFunc(c.checks, func(x, y schemas.Label) int { return strings.Compare(x.Prompt.ID, y.Prompt.ID) })
	c.checks = c.checks[:min(most, len(c.checks))]
}

func (c *classifying) checked(ctx context.Context) error {
	c.cutChecks(int(c.Inputs.Checks))
	total := chunks(int64(len(c.checks)))
	for n := range total {
		rows := c.checks[n*classifyRows : min((n+1)*classifyRows, len(c.checks))]
		err := c.write(ctx, title("checks %d/%d", n+1, total), schemas.OutputChecks, rows, nil, map[string]any{"rows": schemas.DigestOf(rows)})
		if err != nil {
			return err
		}
	}
	return nil
}

// write writes down the rows of a task, and adds it.
func (c *classifying) write(ctx context.Context, name, kind string, rows []schemas.Label, inputs []schemas.Digest, params map[string]any) error {
	l := lineage{Stage: schemas.StageClassify, Kind: "to classify", Version: promptsVersion, Inputs: inputs, Params: params}
	planned := int64(len(rows))
	ref, err := shard.Write(ctx, c.store, schemas.StageClassify, l.key(), rows, schemas.Ledger{Planned: planned, Kept: planned}, l)
	if err != nil {
		return err
	}
	return c.add(name, kind, "", ref)
}

func (c *classifying) add(name, kind string, category schemas.Category, ref schemas.ShardRef) error {
	s := c.Spec.Prompts.Classify
	l := lineage{
		Stage: schemas.StageClassify, Version: []any{classifyVersion, judge.ClassifyVersion()}, Inputs: digests(ref),
		Params: c.params(map[string]any{"votes": s.Votes, "max_tokens": s.MaxTokens}),
		Policy: c.summaries.Digest,
	}
	// Its prompts have no category yet that they could be routed by.
	if err := c.cast(&l, s.Judge, schemas.Intents, ""); err != nil {
		return err
	}
	t := newTask(name, ref.Ledger.Kept, l, kind)
	t.Category, t.Inputs = category, []schemas.ShardRef{ref}
	c.tasks = append(c.tasks, t)
	return nil
}

// generated adds a task for every shard of generated prompts.
func (c *classifying) generated(ctx context.Context) error {
	if !c.Spec.Generates() {
		return nil
	}
	m, plan, err := c.passed(ctx, schemas.StageGenerate)
	if err != nil {
		return err
	}
	for i, ref := range m.Outputs[schemas.OutputGenerated] {
		if ref.Ledger.Kept > 0 {
			if err := c.add(plan.Tasks[i].Title, schemas.OutputMatches, plan.Tasks[i].Category, ref); err != nil {
				return err
			}
		}
	}
	return nil
}

// Classify has the judge classify one chunk of prompts.
func (a *Activities) Classify(ctx context.Context, req TaskRequest) (schemas.TaskResult, error) {
	return a.task(ctx, req, doClassify)
}

func doClassify(ctx context.Context, w *work) error {
	kind := w.Outputs[0].Kind
	todo, err := w.toClassify(ctx, kind)
	if err != nil {
		return err
	}
	pol, err := w.policyOf(ctx, w.plan.Inputs.Policy)
	if err != nil {
		return err
	}
	s := w.spec.Prompts.Classify
	router, err := w.router(s.Judge, schemas.Intents...)
	if err != nil {
		return err
	}
	j := judge.NewClassifier(nil, pol.Summaries(), judge.Options{Votes: s.Votes, MaxTokens: s.MaxTokens, Refresh: w.refresh()})
	labels := rowsOf[schemas.Label]{
		kind: kind, n: len(todo), reason: func(l schemas.Label) schemas.Reason { return l.Reason },
		unit: func(i int) schemas.FailedRow { return schemas.FailedRow{PromptID: todo[i].Prompt.ID} },
	}
	return labels.do(ctx, w, router.inFlight(), func(ctx context.Context, i int) (schemas.Label, error) {
		l := todo[i]
		if l.Reason = l.Prompt.Reason; l.Reason != "" {
			return l, nil // nothing that could be asked about
		}
		choice, err := router.to(schemas.Prompt{})
		if err != nil {
			return l, err
		}
		r, err := j.Asking(choice).Classify(ctx, l.Prompt)
		if err != nil {
			answered := len(r.Votes) + r.Lost
			return l, w.unanswered(err, answered, max(1, judge.FewestLabels(s.Votes)-answered), s.Votes-answered)
		}
		l.Category, l.Second, l.Intent, l.Votes = r.Category, r.Second, r.Intent, r.Votes
		l.Judge = choice.who()
		decide(&l, kind)
		return l, nil
	})
}

// toClassify reads the task's prompts.
func (w *work) toClassify(ctx context.Context, kind string) ([]schemas.Label, error) {
	if kind != schemas.OutputMatches {
		return shard.Read[schemas.Label](ctx, w.store, w.Inputs[0])
	}
	rows, err := shard.Read[schemas.Generated](ctx, w.store, w.Inputs[0])
	var labels []schemas.Label
	for _, r := range rows {
		if r.Reason == "" {
			labels = append(labels, schemas.Label{Row: r.Index, Prompt: r.Prompt})
		}
	}
	return labels, err
}

// decide says what becomes of a prompt by what the votes say. What its file says of it
// stays; a generated one must be what it was asked to be.
func decide(l *schemas.Label, kind string) {
	p := &l.Prompt
	switch {
	case kind == schemas.OutputChecks:
		l.Reason = schemas.ReasonCheck
	case len(l.Votes) == 0:
		l.Reason = schemas.ReasonMalformedVerdict
	case kind == schemas.OutputMatches:
		switch {
		case l.Category == "":
			l.Reason = schemas.ReasonUnclear
		case l.Category != p.Category:
			l.Reason = schemas.ReasonOffCategory
		case l.Intent == "":
			l.Reason = schemas.ReasonUnclear
		case l.Intent != p.Intent:
			l.Reason = schemas.ReasonOffIntent
		}
		p.Second = l.Second
	case p.Category == "" && l.Category == schemas.NoCategory:
		l.Reason = schemas.ReasonNoneOfThese
	case p.Category == "" && l.Category == "" || p.Intent == "" && l.Intent == "":
		l.Reason = schemas.ReasonUnclear
	default:
		if p.Category == "" {
			p.Category, p.Second = l.Category, l.Second
		}
		if p.Intent == "" {
			p.Intent = l.Intent
		}
		p.ID = schemas.PromptID(p.Category, p.Messages)
	}
}

// checkLabels computes how the judge's labels agree with those of the files.
func (a *Activities) checkLabels(ctx context.Context, m *schemas.Manifest) error {
	var checks []schemas.Label
	for _, ref := range m.Outputs[schemas.OutputChecks] {
		rows, err := shard.Read[schemas.Label](ctx, a.store, ref)
		if err != nil {
			return err
		}
		checks = append(checks, rows...)
	}
	if len(checks) > 0 {
		m.Check = new(eval.CheckLabels(checks))
	}
	return nil
}

// checkNote says it to people.
func checkNote(c *schemas.LabelCheck) string {
	if c == nil {
		return ""
	}
	return fmt.Sprintf("shown labelled prompts without their labels, the judge that classifies agrees on the category of %d of %d (%s) and on the intent of %d (%s)",
		c.Category.Agree, c.Category.N, c.Category.KappaText(), c.Intent.Agree, c.Intent.KappaText())
}
