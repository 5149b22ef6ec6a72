package activities

import (
	"cmp"
	"context"
	"slices"
	"time"

	"precept/internal/llm"
	"precept/internal/policy"
	"precept/internal/serving"
	"precept/schemas"
)

// sampleVersion changes when the same answers give other completions.
const sampleVersion = 2

// How many requests a served model is asked at once: as many as fill a batch, but
// one after the other where each has a policy to read, since the server then reads
// a policy once for all prompts of its category.
const (
	served           = 32
	servedWithPolicy = 1
)

// sample plans a task for every arm and suite.
func (p *planner) sample(ctx context.Context) (tasks []schemas.Task, err error) {
	models, err := p.armModels(ctx)
	if err != nil {
		return nil, err
	}
	for _, arm := range p.Spec.Evaluate.Arms {
		ref := models[arm]
		for _, suite := range p.inputs.Suites {
			n := armRows(p.Spec, arm, int(suite.Rows))
			l := lineage{
				Stage: schemas.StageSample, Version: sampleVersion, Inputs: digests(*suite.Shard),
				Params: p.params(map[string]any{"arm": arm, "suite": suite.Name, "rows": n, "max_tokens": p.Spec.Evaluate.MaxTokens}),
				Models: []model{weights(ref)},
			}
			if arm == schemas.ArmBasePolicy {
				l.Policy, l.Version = p.inputs.Policy, []any{sampleVersion, policy.TeacherVersion()}
			}
			t := newTask(title("%s asks %s", suite.Name, arm), int64(n), l, schemas.OutputCompletions)
			t.Arm, t.Suite, t.Model, t.Inputs = arm, suite.Name, &ref, []schemas.ShardRef{*suite.Shard}
			tasks = append(tasks, t)
		}
	}
	return tasks, nil
}

// armModels tells which weights each arm is.
func (p *planner) armModels(ctx context.Context) (map[schemas.Arm]schemas.ModelRef, error) {
	base, err := p.trainedFrom(ctx)
	if err != nil {
		return nil, err
	}
	models := map[schemas.Arm]schemas.ModelRef{schemas.ArmBase: base, schemas.ArmBasePolicy: base}
	for arm, stage := range map[schemas.Arm]schemas.Stage{schemas.ArmSFT: schemas.StageSFT, schemas.ArmRL: schemas.StageRL} {
		if !slices.Contains(p.Spec.Evaluate.Arms, arm) {
			continue
		}
		if models[arm], err = p.trained(ctx, stage); err != nil {
			return nil, err
		}
	}
	return models, nil
}

// trainedFrom is the base model as training found it. Where nothing was trained it is
// looked up now.
func (p *planner) trainedFrom(ctx context.Context) (ref schemas.ModelRef, err error) {
	for stage, skipped := range map[schemas.Stage]bool{schemas.StageSFT: p.Spec.SFT.Skip, schemas.StageRL: !p.Spec.SFT.Skip || p.Spec.RL.Skip} {
		if skipped {
			continue
		}
		_, plan, err := p.passed(ctx, stage)
		if err != nil {
			return ref, err
		}
		return *plan.Tasks[0].Model, nil
	}
	return p.base(ctx, p.Spec.Base)
}

// Sample serves one arm's model and asks it a suite.
func (a *Activities) Sample(ctx context.Context, req TaskRequest) (schemas.TaskResult, error) {
	return a.task(ctx, req, func(ctx context.Context, w *work) error {
		prompts, err := keptPrompts(ctx, a.store, w.Inputs[0])
		if err != nil {
			return err
		}
		prompts = armPrompts(prompts, int(w.Planned))
		pol, err := a.policyOf(ctx, w.plan.Inputs.Policy)
		if err != nil {
			return err
		}
		dir, err := a.local(ctx, *w.Model)
		if err != nil {
			return err
		}
		atOnce := served
		if w.Arm == schemas.ArmBasePolicy {
			atOnce = servedWithPolicy
		}
		devices, err := w.takeDevices(ctx)
		if err != nil {
			return err
		}
		defer devices.release(ctx)
		needs := 1
		if a.config.Serving.Server == serving.VLLM {
			needs = len(devices.list) // its flags say over how many it spreads a model
		}
		w.beat.say("loading the model")
		running, end := w.untilStop(ctx)
		defer end()
		server, err := serving.Start(running, a.config.Serving, a.config.Trainer, a.work("jobs", string(w.Outputs[0].Key)), serving.Job{
			Folder: dir, Name: w.Model.Digest.Short(), AtOnce: atOnce, GPU: len(devices.list) > 0, Env: devices.env(devices.roomiest(needs)),
		})
		if err != nil {
			return err
		}
		defer server.Stop()
		if server.Kind != serving.Precept {
			atOnce = served // it batches by itself, and reads what requests share once
		}
		w.beat.say("")
		client, err := llm.NewClient(llm.Endpoint{
			Name: string(w.Arm), BaseURL: server.URL, Model: server.Model, Extra: server.Extra, Weights: w.Model.Digest,
			MaxInFlight: atOnce, Timeout: 15 * time.Minute, JSONMode: llm.JSONNone,
		}, llm.Options{Journal: a.journal})
		if err != nil {
			return err
		}
		mine := client.Guarded(w.guard).Paying(w.account)
		ask := asker{w: w, request: llm.Request{MaxTokens: w.spec.Evaluate.MaxTokens, Refresh: w.refresh()}}
		return completionsOf(len(prompts), func(i int) schemas.FailedRow {
			return schemas.FailedRow{PromptID: prompts[i].ID}
		}).do(ctx, w, atOnce, func(ctx context.Context, i int) (schemas.Completion, error) {
			prompt := prompts[i]
			messages := prompt.Messages
			if w.Arm == schemas.ArmBasePolicy {
				cp, err := pol.For(prompt.Category)
				if err != nil {
					return schemas.Completion{}, err
				}
				messages = policy.TeacherMessages(cp, prompt)
			}
			c, err := ask.completion(ctx, &choice{w: w, clients: []*llm.Client{mine}}, prompt, messages, 0)
			c.Arm, c.Suite = w.Arm, w.Suite
			// Whatever the model said is graded, cut or odd as it may be.
			if c.Reason != schemas.ReasonTooLong {
				c.Reason = ""
			}
			return c, err
		})
	})
}

// armPrompts picks n prompts, spread evenly over intents and categories, so that
// a short arm still meets all of them. Prompts of one category stand together:
// they share a prefix.
func armPrompts(prompts []schemas.Prompt, n int) []schemas.Prompt {
	if n >= len(prompts) {
		return prompts
	}
	sorted := slices.Clone(prompts)
	slices.SortStableFunc(sorted, func(x, y schemas.Prompt) int {
		return cmp.Or(cmp.Compare(x.Intent, y.Intent), cmp.Compare(x.Category, y.Category), cmp.Compare(x.ID, y.ID))
	})
	out := make([]schemas.Prompt, n)
	for i := range out {
		out[i] = sorted[i*len(sorted)/n]
	}
	slices.SortStableFunc(out, func(x, y schemas.Prompt) int { return cmp.Compare(x.Category, y.Category) })
	return out
}
