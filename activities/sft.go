package activities

import (
	"context"
	"slices"

	"precept/internal/gpu"
	"precept/internal/trainer"
	"precept/schemas"
)

// sftVersion changes when the same job trains another model.
const sftVersion = 1

// sft plans the one task of supervised training.
func (p *planner) sft(ctx context.Context) ([]schemas.Task, error) {
	m, err := p.manifest(ctx, schemas.StageCurate)
	if err != nil {
		return nil, err
	}
	base, err := p.base(ctx, p.Spec.Base)
	if err != nil {
		return nil, err
	}
	s := p.Spec.SFT
	mixed, rows, err := p.mix(ctx, m.Ledger.Kept)
	if err != nil {
		return nil, err
	}
	refs := slices.Concat(m.Outputs[schemas.OutputExamples], mixed)
	l := lineage{
		Stage: schemas.StageSFT, Version: sftVersion, Inputs: digests(refs...),
		Params: p.params(map[string]any{
			"seed": p.Spec.Seed, "epochs": s.Epochs, "learning_rate": s.LearningRate, "batch_size": s.BatchSize,
			"max_length": s.MaxLength, "trainable_layers": s.TrainableLayers, "lora": s.Lora, "packing": s.Packing,
			"held_out": s.HeldOut, "patience": s.Patience, "trainer": s.TrainerSpec.Learned(schemas.StageSFT),
		}),
		Models: []model{weights(base)},
	}
	if s.Patience > 0 {
		l.Params["save_steps"] = s.SaveSteps // how often the held-out rows say whether to go on
	}
	milestones := p.milestones(&l)
	t := newTask("train on the examples", m.Ledger.Kept+rows, l, schemas.OutputModel)
	t.Inputs, t.Model, t.Milestones = refs, &base, milestones
	return []schemas.Task{t}, nil
}

// SFT trains the base model on the examples.
func (a *Activities) SFT(ctx context.Context, req TaskRequest) (schemas.TaskResult, error) {
	return a.task(ctx, req, func(ctx context.Context, w *work) error {
		j, err := w.newJob()
		if err != nil {
			return err
		}
		mixed := slices.IndexFunc(w.Inputs, isMix)
		if mixed < 0 {
			mixed = len(w.Inputs)
		}
		data, err := j.fetch(ctx, "data", w.Inputs[:mixed])
		if err != nil {
			return err
		}
		if len(data) == 0 {
			return schemas.Errorf("train", w.Title, schemas.InvalidInput, "there are no rows to train on")
		}
		mix, err := j.fetch(ctx, "mix", w.Inputs[mixed:])
		if err != nil {
			return err
		}
		base, err := a.local(ctx, *w.Model)
		if err != nil {
			return err
		}
		s := w.spec.SFT
		devices, plan, err := j.place(ctx, base, gpu.Job{
			Batch: s.BatchSize, Length: s.MaxLength, Layers: layers(s.TrainableLayers), Lora: s.Lora, Checkpointing: checkpointing(s.TrainerSpec), Merges: w.Milestones > 1,
		})
		if err != nil {
			return err
		}
		defer devices.release(ctx)
		from, _, err := j.resume(ctx)
		if err != nil {
			return err
		}
		trained, err := j.run(ctx, "sft", s.TrainerSpec, trainer.SFT{
			Kind: "sft",
			Training: j.training(s.TrainerSpec, plan, trainer.Training{
				Base: base, Data: data, ResumeFrom: from, LearningRate: s.LearningRate,
				TrainableLayers: layers(s.TrainableLayers), Lora: s.Lora, SaveSteps: s.SaveSteps, Milestones: w.Milestones,
			}),
			Epochs: s.Epochs, BatchSize: plan.BatchSize, MaxLength: s.MaxLength, WarmupRatio: 0.05,
			Mix: mix, Packing: s.Packing, HeldOut: s.HeldOut, Patience: s.Patience, GroupByLength: true,
		}, nil, devices.env(plan.Devices)...)
		if err != nil {
			return err
		}
		// What was trained on is what the trainer says it read, not what it was to read.
		ledger := schemas.Ledger{Planned: w.Planned, Kept: j.rows}
		out := schemas.Ledger{Rejected: map[schemas.Reason]int64{}}
		if j.heldOut > 0 {
			out.Rejected[schemas.ReasonHeldOut] = j.heldOut
		}
		if j.tooLong > 0 {
			out.Rejected[schemas.ReasonTooLong] = j.tooLong
		}
		for _, ref := range w.Inputs {
			if lacks := ref.Ledger.Rejected[schemas.ReasonDev]; lacks > 0 { // of the mix
				out.Rejected[schemas.ReasonDev] = lacks
			}
		}
		ledger.Add(out)
		return j.finish(ctx, schemas.JobResult{Model: trained, Ledger: ledger})
	})
}

// layers is the trainer's word for the spec's: it trains all when told 0.
func layers(n int) int { return max(0, n) }
