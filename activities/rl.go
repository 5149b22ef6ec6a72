package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	"precept/internal/gpu"
	"precept/internal/judge"
	"precept/internal/policy"
	"precept/internal/reward"
	"precept/internal/shard"
	"precept/internal/trainer"
	"precept/schemas"
)

// rlVersion changes when the same job trains another model.
const rlVersion = 5

// rl plans the one task of reinforcement learning, from the SFT model or, where
// SFT is skipped, from the base.
func (p *planner) rl(ctx context.Context) ([]schemas.Task, error) {
	m, err := p.manifest(ctx, schemas.StageCurate)
	if err != nil {
		return nil, err
	}
	start, err := p.startOfRL(ctx)
	if err != nil {
		return nil, err
	}
	s := p.Spec.RL
	refs := m.Outputs[schemas.OutputRLPrompts]
	l := lineage{
		Stage: schemas.StageRL, Version: []any{rlVersion, judge.StageVersion()}, Inputs: digests(refs...),
		Params: p.params(map[string]any{
			"seed": p.Spec.Seed, "steps": s.Steps, "generations": s.Generations, "prompts_per_step": s.PromptsPerStep,
			"max_tokens": s.MaxTokens, "temperature": s.Temperature, "learning_rate": s.LearningRate,
			"loss": s.Loss, "scale_rewards": s.ScaleRewards, "beta": s.Beta, "epsilon": s.Epsilon, "epsilon_high": s.EpsilonHigh,
			"mask_truncated": s.MaskTruncated, "lora": s.Lora, "trainer": s.TrainerSpec.Learned(schemas.StageRL),
			"trainable_layers": s.TrainableLayers, "votes": s.Votes, "judge_max_tokens": p.Spec.Filter.MaxTokens,
			"rewards": s.Rewards.Normalised(),
		}),
		Policy: p.inputs.Policy, Models: []model{weights(start)},
	}
	milestones := p.milestones(&l)
	if err := p.cast(&l, s.Judge, schemas.Intents, p.inputs.Categories...); err != nil {
		return nil, err
	}
	t := newTask("train against the judge", int64(s.Steps*s.PromptsPerStep*s.Generations), l, schemas.OutputModel, schemas.OutputRollouts)
	t.Inputs, t.Model, t.Milestones = refs, &start, milestones
	return []schemas.Task{t}, nil
}

func (p *planner) startOfRL(ctx context.Context) (schemas.ModelRef, error) {
	if p.Spec.SFT.Skip {
		return p.base(ctx, p.Spec.Base)
	}
	return p.trained(ctx, schemas.StageSFT)
}

// RL trains a model against the judge, which sees the answers but never the
// chains of thought.
func (a *Activities) RL(ctx context.Context, req TaskRequest) (schemas.TaskResult, error) {
	return a.task(ctx, req, func(ctx context.Context, w *work) error {
		j, err := w.newJob()
		if err != nil {
			return err
		}
		data, err := j.fetch(ctx, "data", w.Inputs)
		if err != nil {
			return err
		}
		if len(data) == 0 {
			return schemas.Errorf("train", w.Title, schemas.InvalidInput, "there are no prompts to train on")
		}
		base, err := a.local(ctx, *w.Model)
		if err != nil {
			return err
		}
		s := w.spec.RL
		// A prompt is taken to be no longer than a row of the other training.
		devices, plan, err := j.place(ctx, base, gpu.Job{
			Batch: s.PromptsPerStep * s.Generations, Length: w.spec.SFT.MaxLength + s.MaxTokens, Layers: layers(s.TrainableLayers), Lora: s.Lora, Checkpointing: checkpointing(s.TrainerSpec), Generates: true, Compares: s.Beta > 0, Merges: w.Milestones > 1,
		})
		if err != nil {
			return err
		}
		defer devices.release(ctx)
		pol, err := a.policyOf(ctx, w.plan.Inputs.Policy)
		if err != nil {
			return err
		}
		router, err := w.router(s.Judge, schemas.Intents...)
		if err != nil {
			return err
		}
		weights, flat := s.Rewards.Normalised(), flatSteps
		if w.trip == nil {
			flat = 0
		}
		// Judge calls that are under way when the job ends are waited for, since they are paid
		// for: only the training is stopped.
		training, stop := context.WithCancelCause(ctx)
		defer stop(nil)
		rewards, err := reward.Serve(ctx, reward.Options{
			Judge: routedJudge{
				router: router,
				judge:  judge.New(nil, judge.RoleReward, judge.Options{Votes: s.Votes, MaxTokens: w.spec.Filter.MaxTokens, Refresh: w.refresh()}),
			},
			Policy:     func(c schemas.Category) (policy.CategoryPolicy, error) { return pol.For(c) },
			Weights:    weights,
			InFlight:   router.inFlight(),
			Group:      s.Generations,
			Ends:       stopsAll,
			MaxMissing: *s.MaxMissing,
			FlatSteps:  flat,
			End:        stop,
		})
		if err != nil {
			return err
		}
		defer rewards.Close()
		j.extra["precept-rollouts.json"] = rewards
		from, step, err := j.resume(ctx)
		if err != nil {
			return err
		}
		// A checkpoint may hold rollouts of steps that came after it, which are trained again.
		rewards.Rewind(step)
		trained, err := j.run(training, "rl", s.TrainerSpec, trainer.RL{
			Kind: "rl",
			Training: j.training(s.TrainerSpec, plan, trainer.Training{
				Base: base, Data: data, ResumeFrom: from, LearningRate: s.LearningRate,
				TrainableLayers: layers(s.TrainableLayers), Lora: s.Lora, SaveSteps: s.SaveSteps, Milestones: w.Milestones,
			}),
			Steps: s.Steps, NumGenerations: s.Generations, PromptsPerStep: s.PromptsPerStep,
			MaxCompletionLength: s.MaxTokens, Temperature: s.Temperature, Beta: s.Beta, Epsilon: s.Epsilon, EpsilonHigh: s.EpsilonHigh,
			LossType: s.Loss, ScaleRewards: s.ScaleRewards, MaskTruncatedCompletions: *s.MaskTruncated,
			Reward: trainer.Reward{
				URL: rewards.URL(), TokenEnv: reward.TokenEnv, Weights: weights,
				TimeoutS: rewardedWithin(s.PromptsPerStep*s.Generations, router.inFlight()).Seconds(),
			},
		}, rewards.Busy, append(devices.env(plan.Devices), reward.TokenEnv+"="+rewards.Token())...)
		if flat := (*reward.FlatError)(nil); errors.As(err, &flat) {
			return tripped(flat)
		}
		if err != nil {
			return err
		}
		if rewards.Flat() {
			w.notes.add(fmt.Sprintf("rl: no two completions of a prompt were rewarded differently in any of the %d steps, so that nothing was learned", s.Steps))
		}
		rollouts := rewards.Rollouts()
		ledger := schemas.Ledger{Planned: w.Planned}
		for _, r := range rollouts {
			switch {
			case r.Reward != nil:
				ledger.Count("")
			case r.Lost:
				ledger.Count(schemas.ReasonMalformedVerdict)
			default:
				ledger.Fail(schemas.ReasonJudgeUnavailable)
			}
		}
		if err := w.keep(ctx); err != nil {
			return err
		}
		key, err := w.Output(schemas.OutputRollouts)
		if err != nil {
			return err
		}
		if _, err := shard.Write(ctx, a.store, w.stage, key, rollouts, schemas.Ledger{}, w.Lineage); err != nil {
			return err
		}
		return j.finish(ctx, schemas.JobResult{Model: trained, Ledger: ledger})
	})
}

// flatSteps is after how many steps in which nothing is to be learned a job stops to say so.
const flatSteps = 10

// tripped is the tripwire's error for a job whose rewards don't differ.
func tripped(flat *reward.FlatError) error {
	e := &trippedError{text: "tripwire: " + flat.Error()}
	for _, r := range flat.Last {
		e.rejected = append(e.rejected, r)
	}
	return e
}

// rewardedWithin is how long a job waits for a step's rewards. In an outage each of them
// waits for the judge, as many at a time as it bears at once: a time-out before they are
// null would end the job.
func rewardedWithin(completions, atOnce int) time.Duration {
	turns := (completions + atOnce - 1) / atOnce
	return time.Duration(turns) * 5 * time.Minute
}
