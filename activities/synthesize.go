package activities

import (
	"context"

	"precept/internal/eval"
	"precept/internal/llm"
	"precept/internal/policy"
	"precept/internal/shard"
	"precept/schemas"
)

// synthesizeVersion changes when the same answers give other completions.
const synthesizeVersion = 3

// synthesize plans a task for every shard of prompts or, where a quota draws them, for
// every round and shard of a category.
func (p *planner) synthesize(ctx context.Context) (tasks []schemas.Task, err error) {
	m, plan, err := p.passed(ctx, schemas.StagePrompts)
	if err != nil {
		return nil, err
	}
	pol, err := p.policyOf(ctx, p.inputs.Policy)
	if err != nil {
		return nil, err
	}
	shards := map[schemas.Category][]schemas.ShardRef{}
	var categories []schemas.Category // in the order of the plan
	for i, ref := range m.Outputs[schemas.OutputPrompts] {
		c := plan.Tasks[0].Outputs[i].Category
		if shards[c] == nil {
			categories = append(categories, c)
		}
		shards[c] = append(shards[c], ref)
	}
	s := p.Spec.Synthesize
	for _, category := range categories {
		cp, err := pol.For(category)
		if err != nil {
			return nil, err
		}
		task := func(name string, ref schemas.ShardRef, prompts int64, draw []schemas.Share) error {
			l := lineage{
				Stage: schemas.StageSynthesize, Version: []any{synthesizeVersion, policy.TeacherVersion()}, Inputs: digests(ref),
				Params: p.params(map[string]any{"samples": s.Samples, "temperature": s.Temperature, "max_tokens": s.MaxTokens}),
				Policy: cp.Digest,
			}
			if err := p.cast(&l, s.Teacher, schemas.Intents, category); err != nil {
				return err
			}
			if draw != nil {
				l.Params["shares"] = draw
			}
			t := newTask(name, prompts*int64(s.Samples), l, schemas.OutputCompletions)
			t.Category, t.Inputs, t.Shares = category, []schemas.ShardRef{ref}, draw
			tasks = append(tasks, t)
			return nil
		}
		refs := shards[category]
		if p.Spec.Quota.Accepted == 0 {
			for b, ref := range refs {
				if ref.Ledger.Kept == 0 {
					continue
				}
				if err := task(title("%s %d/%d", category, b+1, len(refs)), ref, ref.Ledger.Kept, nil); err != nil {
					return nil, err
				}
			}
			continue
		}
		counts, err := p.promptCounts(ctx, refs, p.Spec.Quota.ByIntent)
		if err != nil {
			return nil, err
		}
		for round, perShard := range shares(p.Draws, category, counts) {
			for b, draw := range perShard {
				var n int64
				for _, share := range draw {
					n += share.To - share.From
				}
				if n == 0 {
					continue
				}
				if err := task(title("%s %d/%d, round %d", category, b+1, len(refs), round+1), refs[b], n, draw); err != nil {
					return nil, err
				}
			}
		}
	}
	return tasks, nil
}

// Synthesize has the teacher write completions for one shard of prompts.
func (a *Activities) Synthesize(ctx context.Context, req TaskRequest) (schemas.TaskResult, error) {
	return a.task(ctx, req, doSynthesize)
}

func doSynthesize(ctx context.Context, w *work) error {
	prompts, err := keptPrompts(ctx, w.store, w.Inputs[0])
	if err != nil {
		return err
	}
	prompts = drawn(prompts, w.Shares)
	cp, err := w.categoryPolicy(ctx)
	if err != nil {
		return err
	}
	teacher, err := w.router(w.spec.Synthesize.Teacher, schemas.Intents...)
	if err != nil {
		return err
	}
	ask := asker{w: w, request: teacherRequest(w.spec)}
	samples := w.spec.Synthesize.Samples
	return completionsOf(len(prompts)*samples, func(i int) schemas.FailedRow {
		return schemas.FailedRow{PromptID: prompts[i/samples].ID, Sample: int32(i % samples)}
	}).do(ctx, w, teacher.inFlight(), func(ctx context.Context, i int) (schemas.Completion, error) {
		prompt := prompts[i/samples]
		choice, err := teacher.to(prompt)
		if err != nil {
			return schemas.Completion{}, err
		}
		c, err := ask.completion(ctx, choice.teaching(cp, prompt), prompt, nil, i%samples)
		if err != nil {
			return c, w.unanswered(err, 0, 1, 1)
		}
		c.Reason = teacherReason(c)
		return c, w.trip.count(c.Reason, c)
	})
}

// teacherReason applies the cheap rules to a teacher's completion.
func teacherReason(c schemas.Completion) schemas.Reason {
	switch {
	case c.Reason != "":
		return c.Reason
	case c.CoT == "":
		return schemas.ReasonNoCoT
	case c.Answer == "":
		return schemas.ReasonEmpty
	case eval.CitedCategory(c.CoT, []schemas.Category{c.Prompt.Category}) == "":
		return schemas.ReasonNoCitation
	}
	return ""
}

// asker asks models for completions.
type asker struct {
	w       *work
	request llm.Request
}

// completion asks for one sample and says what came of it; only what asking again
// might change is an error.
func (k asker) completion(ctx context.Context, choice *choice, prompt schemas.Prompt, messages []schemas.Message, sample int) (schemas.Completion, error) {
	r := k.request
	r.Messages, r.Sample = messages, sample
	answer, meta, err := choice.Ask(llm.InCategory(ctx, prompt.Category), r)
	if err != nil {
		return schemas.Completion{}, err
	}
	cot, text, ok := choice.split(answer)
	c := schemas.Completion{
		ID:     string(schemas.DigestOf([]any{meta.Key, prompt.ID})[:24]),
		Prompt: prompt, Model: choice.who(), Sample: int32(sample),
		CoT: cot, Answer: text, FinishReason: answer.FinishReason, Request: meta.Key,
	}
	switch {
	case answer.Refusal:
		c.Reason = schemas.ReasonRefused
	case answer.TooLong():
		c.Reason, c.Answer = schemas.ReasonTooLong, ""
	case answer.Truncated():
		c.Reason = schemas.ReasonTruncated
	case answer.CallsTool(), answer.TooLarge(), !ok && cot != "":
		c.Reason = schemas.ReasonMalformed
	case cot == "" && answer.HidesCoT():
		k.w.beat.say("the model thinks, but does not say what")
	}
	return c, nil
}

func completionsOf(n int, unit func(int) schemas.FailedRow) rowsOf[schemas.Completion] {
	return rowsOf[schemas.Completion]{
		kind: schemas.OutputCompletions, n: n, unit: unit,
		reason: func(c schemas.Completion) schemas.Reason { return c.Reason },
	}
}

func keptPrompts(ctx context.Context, store shard.Store, ref schemas.ShardRef) (kept []schemas.Prompt, err error) {
	rows, err := shard.Read[schemas.Prompt](ctx, store, ref)
	for _, r := range rows {
		if r.Reason == "" {
			kept = append(kept, r)
		}
	}
	return kept, err
}

// inFlight is how many requests a task keeps going: what the endpoint bears.
func inFlight(c *llm.Client) int { return c.Endpoint().InFlight() }
