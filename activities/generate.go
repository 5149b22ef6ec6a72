package activities

import (
	"context"
	"slices"

	"precept/internal/generate"
	"precept/internal/judge"
	"precept/internal/llm"
	"precept/schemas"
)

const (
	// generateVersion changes when the same answers give other prompts.
	generateVersion = 1
	// generateRows is how many prompts a task asks for.
	generateRows = 500
)

// targets lists what prompts are asked for, of a policy's categories.
func targets(spec schemas.GenerateSpec, categories []schemas.Category) (out []generate.Target) {
	for _, c := range categories {
		if len(spec.Categories) > 0 && !slices.Contains(spec.Categories, c) {
			continue
		}
		for _, i := range spec.Intents {
			out = append(out, generate.Target{Category: c, Intent: i})
		}
	}
	return out
}

// generateTemperature is the teacher's, where the run asks it for prompts.
func generateTemperature(spec schemas.RunSpec) float64 {
	if t := spec.Prompts.Generate.Temperature; t != nil {
		return *t
	}
	return 0
}

// generate plans tasks for every category and intent. What a request asks for follows from
// its number alone, so that more prompts ask for no other ones.
func (p *planner) generate(ctx context.Context) (tasks []schemas.Task, err error) {
	if err := p.openEndpoints(); err != nil {
		return nil, err
	}
	pol, err := p.policyOf(ctx, p.inputs.Policy)
	if err != nil {
		return nil, err
	}
	g := p.Spec.Prompts.Generate
	total := (g.Per + generateRows - 1) / generateRows
	for _, target := range targets(g, p.inputs.Categories) {
		cp, err := pol.For(target.Category)
		if err != nil {
			return nil, err
		}
		for n := range total {
			from, to := n*generateRows, min(g.Per, (n+1)*generateRows)
			l := lineage{
				Stage: schemas.StageGenerate, Version: []any{generateVersion, generate.Version()}, Inputs: []schemas.Digest{},
				Params: p.params(map[string]any{
					"target": target, "from": from, "to": to, "seed": g.Seed, "languages": g.Languages, "styles": g.Styles,
					"temperature": *g.Temperature, "max_tokens": g.MaxTokens,
				}),
				Policy: cp.Digest,
			}
			if err := p.cast(&l, g.Teacher, []schemas.Intent{target.Intent}, target.Category); err != nil {
				return nil, err
			}
			t := newTask(title("%s %s %d/%d", target.Category, target.Intent, n+1, total), int64(to-from), l, schemas.OutputGenerated)
			t.Category, t.Shares = target.Category, []schemas.Share{{Intent: target.Intent, From: int64(from), To: int64(to)}}
			tasks = append(tasks, t)
		}
	}
	return tasks, nil
}

// openEndpoints opens what the run asks to make its data and to grade, before anything is
// paid. The reward's are asked from where models are trained.
func (p *planner) openEndpoints() error {
	for _, r := range p.usedEndpoints(p.Spec) {
		if r.judges == judge.RoleReward {
			continue
		}
		if _, err := p.client(r.name); err != nil {
			return err
		}
	}
	return nil
}

// Generate has the teacher write prompts of one category and intent.
func (a *Activities) Generate(ctx context.Context, req TaskRequest) (schemas.TaskResult, error) {
	return a.task(ctx, req, doGenerate)
}

func doGenerate(ctx context.Context, w *work) error {
	pol, err := w.policyOf(ctx, w.plan.Inputs.Policy)
	if err != nil {
		return err
	}
	cp, err := pol.For(w.Category)
	if err != nil {
		return err
	}
	g := w.spec.Prompts.Generate
	share := w.Shares[0]
	teacher, err := w.router(g.Teacher, share.Intent)
	if err != nil {
		return err
	}
	space := generate.NewSpace(generate.Target{Category: w.Category, Intent: share.Intent}, pol.Cases(w.Category), g.Languages, g.Styles, g.Seed)
	brief := func(i int) generate.Brief { return space.Brief(share.From + int64(i)) }
	prompts := rowsOf[schemas.Generated]{
		kind: schemas.OutputGenerated, n: int(share.To - share.From), reason: func(r schemas.Generated) schemas.Reason { return r.Reason },
		unit: func(i int) schemas.FailedRow {
			// It has no text yet that an ID could be made of: its number stands for it.
			return schemas.FailedRow{PromptID: string(schemas.DigestOf(brief(i))[:24]), Sample: int32(share.From) + int32(i)}
		},
	}
	return prompts.do(ctx, w, teacher.inFlight(), func(ctx context.Context, i int) (schemas.Generated, error) {
		b := brief(i)
		choice, err := teacher.to(schemas.Prompt{Category: b.Category, Intent: b.Intent})
		if err != nil {
			return schemas.Generated{}, err
		}
		answer, meta, err := choice.Ask(llm.InCategory(ctx, w.Category), llm.Request{
			Messages: generate.Messages(cp, b), Temperature: *g.Temperature, MaxTokens: g.MaxTokens, Sample: int(b.Round), Refresh: w.refresh(),
		})
		if err != nil {
			return schemas.Generated{}, w.unanswered(err, 0, 1, 1)
		}
		text, reason := generate.Parse(answer)
		r := schemas.Generated{
			Prompt: generate.Prompt(b, text), Round: b.Round, Index: b.Index, Style: b.Style, Persona: b.Persona, Form: b.Form, Length: b.Length,
			Seed: b.Case, Teacher: choice.who(), Request: meta.Key, Reason: reason,
		}
		return r, w.trip.count(reason, r)
	})
}
