package activities

import (
	"context"

	"precept/internal/judge"
	"precept/internal/llm"
	"precept/internal/shard"
	"precept/schemas"
)

// filterVersion changes when the same votes give other verdicts.
const filterVersion = 4

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
	for i, ref := range m.Outputs[schemas.OutputCompletions] {
		cp, err := pol.For(plan.Tasks[i].Category)
		if err != nil {
			return nil, err
		}
		s := p.Spec.Filter
		l := lineage{
			Stage: schemas.StageFilter, Version: []any{filterVersion, judge.StageVersion()}, Inputs: digests(ref),
			Params: p.params(map[string]any{"votes": s.Votes, "threshold": s.Threshold, "max_tokens": s.MaxTokens}),
			Policy: cp.Digest,
		}
		if err := p.cast(&l, s.Judge, schemas.Intents, cp.Category); err != nil {
			return nil, err
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
	router, err := w.router(w.spec.Filter.Judge, schemas.Intents...)
	if err != nil {
		return err
	}
	j := routedJudge{router: router, judge: judge.New(nil, judge.RoleFilter, filterOptions(w.spec))}
	verdicts := rowsOf[schemas.Verdict]{
		kind: schemas.OutputVerdicts, n: len(completions), unit: judged(completions),
		reason: func(v schemas.Verdict) schemas.Reason { return v.Reason },
	}
	return verdicts.do(ctx, w, router.inFlight(), func(ctx context.Context, i int) (schemas.Verdict, error) {
		c := completions[i]
		r, who, err := j.verdict(llm.InCategory(ctx, c.Prompt.Category), judge.Item{Policy: cp, Prompt: c.Prompt, CoT: c.CoT, Answer: c.Answer})
		if err != nil {
			answered := len(r.Votes) + r.Lost
			return schemas.Verdict{}, w.unanswered(err, answered, 1, w.spec.Filter.Votes-answered)
		}
		v := verdict(c, who, r)
		return v, w.trip.count(v.Reason, v)
	})
}

// verdict is what a judge's votes on a completion come to.
func verdict(c schemas.Completion, by schemas.ModelIdentity, r judge.Result) schemas.Verdict {
	return schemas.Verdict{
		CompletionID: c.ID, PromptID: c.Prompt.ID, Category: c.Prompt.Category, Intent: c.Prompt.Intent,
		Sample: c.Sample, Judge: by, Score: r.Score, VoteCount: int32(len(r.Votes)), Votes: r.Votes, Early: r.Early,
		Reason: r.Reason,
	}
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
