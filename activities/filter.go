package activities

import (
	"context"

	"precept/internal/judge"
	"precept/internal/llm"
	"precept/internal/shard"
	"precept/schemas"
)

// filterVersion changes when the same votes give other verdicts.
const filterVersion = 3

// filter plans a task for every shard of completions.
func (p *planner) filter(ctx context.Context) (tasks []schemas.Task, err error) {
	m, plan, err := p.passed(ctx, schemas.StageSynthesize)
	if err != nil {
		return nil, err
	}
	pol, err := p.policyOf(ctx, p.inputs.Policy)
	if err != nil {
		return nil, err
	}
	j, err := p.endpoint(p.Spec.Filter.Judge)
	if err != nil {
		return nil, err
	}
	for i, ref := range m.Outputs[schemas.OutputCompletions] {
		cp, err := pol.For(plan.Tasks[i].Category)
		if err != nil {
			return nil, err
		}
		s := p.Spec.Filter
		l := lineage{
			Stage: schemas.StageFilter, Version: []any{filterVersion, judge.StageVersion()}, Inputs: digests(ref),
			Params: p.params(map[string]any{"votes": s.Votes, "threshold": s.Threshold, "max_tokens": s.MaxTokens}),
			Policy: cp.Digest, Models: []model{asked(j)},
		}
		t := newTask(plan.Tasks[i].Title, ref.Ledger.Kept, l, schemas.OutputVerdicts)
		t.Category, t.Inputs = cp.Category, []schemas.ShardRef{ref}
		tasks = append(tasks, t)
	}
	return tasks, nil
}

// Filter has the judge vote on one shard of completions.
func (a *Activities) Filter(ctx context.Context, req TaskRequest) (schemas.TaskResult, error) {
	return a.task(ctx, req, doFilter)
}

func doFilter(ctx context.Context, w *work) error {
	completions, err := keptCompletions(ctx, w.store, w.Inputs[0])
	if err != nil {
		return err
	}
	cp, err := w.categoryPolicy(ctx)
	if err != nil {
		return err
	}
	client, err := w.client(w.spec.Filter.Judge)
	if err != nil {
		return err
	}
	s := w.spec.Filter
	j := judge.New(client, judge.RoleFilter, judge.Options{Votes: s.Votes, Threshold: *s.Threshold, MaxTokens: s.MaxTokens, Refresh: w.refresh()})
	verdicts := rowsOf[schemas.Verdict]{
		kind: schemas.OutputVerdicts, n: len(completions), unit: judged(completions),
		reason: func(v schemas.Verdict) schemas.Reason { return v.Reason },
	}
	return verdicts.do(ctx, w, inFlight(client), func(ctx context.Context, i int) (schemas.Verdict, error) {
		c := completions[i]
		r, err := j.Verdict(llm.InCategory(ctx, c.Prompt.Category), judge.Item{Policy: cp, Prompt: c.Prompt, CoT: c.CoT, Answer: c.Answer})
		if err != nil {
			return schemas.Verdict{}, w.unanswered(err, s.Votes-len(r.Votes)-r.Lost)
		}
		v := schemas.Verdict{
			CompletionID: c.ID, PromptID: c.Prompt.ID, Category: c.Prompt.Category, Intent: c.Prompt.Intent,
			Sample: c.Sample, Judge: client.Endpoint().Identity(), Score: r.Score, Votes: r.Votes, Early: r.Early,
		}
		switch {
		case len(r.Votes) == 0:
			v.Reason = schemas.ReasonMalformedVerdict
		case r.Score < *s.Threshold:
			v.Reason = schemas.ReasonBelowThreshold
		case r.Lost > 0:
			// A minimum over fewer votes than asked for is no verdict to keep by.
			v.Reason = schemas.ReasonMalformedVerdict
		}
		return v, w.trip.count(v.Reason, v)
	})
}

// judged names the completions that a vote is missing on.
func judged(completions []schemas.Completion) func(int) schemas.FailedRow {
	return func(i int) schemas.FailedRow {
		c := completions[i]
		return schemas.FailedRow{PromptID: c.Prompt.ID, CompletionID: c.ID, Sample: c.Sample}
	}
}

func keptCompletions(ctx context.Context, store shard.Store, ref schemas.ShardRef) (kept []schemas.Completion, err error) {
	rows, err := shard.Read[schemas.Completion](ctx, store, ref)
	for _, r := range rows {
		if r.Reason == "" {
			kept = append(kept, r)
		}
	}
	return kept, err
}
