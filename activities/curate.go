package activities

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"precept/internal/shard"
	"precept/schemas"
)

// curateVersion changes when the same verdicts give other training sets.
const curateVersion = 4

// curate plans a task for every shard of verdicts, with the completions they
// judge and the prompts those answer.
func (p *planner) curate(ctx context.Context) (tasks []schemas.Task, err error) {
	m, plan, err := p.passed(ctx, schemas.StageFilter)
	if err != nil {
		return nil, err
	}
	_, prior, err := p.passed(ctx, schemas.StageSynthesize)
	if err != nil {
		return nil, err
	}
	quota := make([]map[schemas.Intent]int64, len(plan.Tasks)) // nil: none
	if q := p.Spec.Quota; q.Accepted > 0 {
		accepted, err := p.accepted(ctx, m, plan, q.ByIntent)
		if err != nil {
			return nil, err
		}
		quota = allowances(plan, accepted, int64(q.Accepted))
	}
	for i, ref := range m.Outputs[schemas.OutputVerdicts] {
		completions, prompts := plan.Tasks[i].Inputs[0], prior.Tasks[i].Inputs[0]
		l := lineage{
			Stage: schemas.StageCurate, Version: curateVersion, Inputs: digests(prompts, completions, ref),
			Params: map[string]any{"max_examples": p.Spec.Curate.MaxExamples},
		}
		if quota[i] != nil {
			l.Params["shares"], l.Params["quota"] = prior.Tasks[i].Shares, quota[i]
		}
		t := newTask(plan.Tasks[i].Title, ref.Ledger.Kept, l, schemas.OutputExamples, schemas.OutputRLPrompts)
		t.Category, t.Inputs = plan.Tasks[i].Category, []schemas.ShardRef{prompts, completions, ref}
		t.Shares, t.Quota = prior.Tasks[i].Shares, quota[i]
		tasks = append(tasks, t)
	}
	return tasks, nil
}

// Curate makes the training rows of one shard: the best kept completion of every
// prompt, without the policy, and the prompts for RL.
func (a *Activities) Curate(ctx context.Context, req TaskRequest) (schemas.TaskResult, error) {
	return a.task(ctx, req, doCurate)
}

func doCurate(ctx context.Context, w *work) error {
	prompts, err := keptPrompts(ctx, w.store, w.Inputs[0])
	if err != nil {
		return err
	}
	prompts = drawn(prompts, w.Shares)
	completions, err := shard.Read[schemas.Completion](ctx, w.store, w.Inputs[1])
	if err != nil {
		return err
	}
	verdicts, err := shard.Read[schemas.Verdict](ctx, w.store, w.Inputs[2])
	if err != nil {
		return err
	}
	examples, ledger := curateShard(completions, verdicts, w.spec.Curate.MaxExamples, w.Quota)
	ledger.Planned = w.Planned
	key, err := w.Output(schemas.OutputExamples)
	if err != nil {
		return err
	}
	if _, err := shard.Write(ctx, w.store, w.stage, key, examples, ledger, w.Lineage); err != nil {
		return err
	}
	rl := make([]schemas.RLPrompt, len(prompts))
	for i, p := range prompts {
		rl[i] = schemas.RLPrompt{PromptID: p.ID, Prompt: p.Messages, Category: p.Category, Intent: p.Intent, Language: p.Language, Source: p.Source}
	}
	if key, err = w.Output(schemas.OutputRLPrompts); err != nil {
		return err
	}
	_, err = shard.Write(ctx, w.store, w.stage, key, rl, schemas.Ledger{}, w.Lineage)
	return err
}

// curateShard picks the best kept completion of every prompt: the highest
// minimum, then the highest mean vote, then the earliest sample.
// Of the prompts, in the order of their IDs, the first ones stay: most of them, or of
// each intent what is left of the quota.
func curateShard(completions []schemas.Completion, verdicts []schemas.Verdict, most int, quota map[schemas.Intent]int64) ([]schemas.Example, schemas.Ledger) {
	left := maps.Clone(quota)
	_, together := quota[""] // all intents
	over := func(intent schemas.Intent) bool {
		if quota == nil {
			return false
		}
		g := group(intent, !together)
		left[g]--
		return left[g] < 0
	}
	byID := make(map[string]schemas.Completion, len(completions))
	for _, c := range completions {
		byID[c.ID] = c
	}
	groups := map[string][]schemas.Verdict{}
	var order []string
	for _, v := range verdicts {
		if v.Reason != "" {
			continue
		}
		if _, ok := groups[v.PromptID]; !ok {
			order = append(order, v.PromptID)
		}
		groups[v.PromptID] = append(groups[v.PromptID], v)
	}
	slices.Sort(order)
	var ledger schemas.Ledger
	examples := []schemas.Example{}
	for _, id := range order {
		samples := groups[id]
		slices.SortStableFunc(samples, func(x, y schemas.Verdict) int {
			return cmp.Or(cmp.Compare(y.Score, x.Score), cmp.Compare(meanVote(y), meanVote(x)), cmp.Compare(x.Sample, y.Sample))
		})
		for range samples[1:] {
			ledger.Count(schemas.ReasonNotBest)
		}
		if over(samples[0].Intent) || most > 0 && len(examples) >= most {
			ledger.Count(schemas.ReasonOverQuota)
			continue
		}
		ledger.Count("")
		examples = append(examples, example(byID[samples[0].CompletionID], samples[0]))
	}
	return examples, ledger
}

func meanVote(v schemas.Verdict) (sum float64) {
	for _, vote := range v.Votes {
		sum += vote.Score
	}
	return sum / float64(max(1, len(v.Votes)))
}

func example(c schemas.Completion, v schemas.Verdict) schemas.Example {
	target := []schemas.Message{{Role: "assistant", Content: schemas.Target(c.CoT, c.Answer)}}
	e := schemas.Example{
		Prompt: c.Prompt.Messages, Completion: target, PromptID: c.Prompt.ID, CompletionID: c.ID,
		Category: c.Prompt.Category, Intent: c.Prompt.Intent, Language: c.Prompt.Language, Source: c.Prompt.Source,
		Score: v.Score,
	}
	e.ID = exampleID(e)
	return e
}

// exampleID follows from what is trained on.
func exampleID(e schemas.Example) string {
	return string(schemas.DigestOf([]any{e.Prompt, e.Completion})[:24])
}
