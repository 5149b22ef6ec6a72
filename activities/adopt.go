package activities

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"precept/internal/llm"
	"precept/internal/prompts"
	"precept/internal/shard"
	"precept/schemas"
)

// AdoptRequest asks for what a run begins with.
type AdoptRequest struct {
	Run    schemas.RunID     `json:"run"`
	Spec   schemas.RunSpec   `json:"spec"`
	Inputs schemas.InputsRef `json:"inputs"`
}

// AdoptResult stands for the stages that a run doesn't pass.
type AdoptResult struct {
	Sums      []schemas.StageSum `json:"sums"`
	Simulated []string           `json:"simulated"` // the run's endpoints, and those the rows are from
}

// Adopt takes another run's results, or data and a model of one's own, as what the stages
// before a run's first have made. They get plans and manifests of this run, so that every
// stage behind them, and whoever looks at the run, finds them as usual.
func (a *Activities) Adopt(ctx context.Context, req AdoptRequest) (AdoptResult, error) {
	beat := startBeat(ctx)
	defer beat.stop()
	r, err := a.adopt(ctx, req)
	return r, fail(err)
}

func (a *Activities) adopt(ctx context.Context, req AdoptRequest) (r AdoptResult, err error) {
	if req.Spec.From.Run != "" {
		return a.adoptRun(ctx, req)
	}
	r.Simulated = req.Inputs.Simulated
	inputs, err := a.inputs(ctx, req.Inputs)
	if err != nil {
		return r, err
	}
	take := func(adopt func(context.Context, AdoptRequest, schemas.Inputs) (schemas.StageSum, error)) error {
		sum, err := adopt(ctx, req, inputs)
		r.Sums = append(r.Sums, sum)
		return err
	}
	if len(inputs.Dataset) > 0 {
		if err := take(a.adoptDataset); err != nil {
			return r, err
		}
	}
	if req.Spec.From.Model != "" {
		err = take(a.adoptModel)
	}
	return r, err
}

// needed lists the stages whose results a run needs to begin with.
func needed(spec schemas.RunSpec) (stages []schemas.Stage) {
	switch spec.From.Stage {
	case schemas.StageSynthesize:
		return []schemas.Stage{schemas.StagePrompts}
	case schemas.StageFilter:
		return []schemas.Stage{schemas.StageSynthesize}
	case schemas.StageCurate:
		return []schemas.Stage{schemas.StageSynthesize, schemas.StageFilter}
	case schemas.StageSFT:
		return []schemas.Stage{schemas.StageCurate}
	case schemas.StageRL:
		stages = []schemas.Stage{schemas.StageCurate}
		if !spec.SFT.Skip {
			stages = append(stages, schemas.StageSFT)
		}
		return stages
	case schemas.StageGrade:
		return []schemas.Stage{schemas.StageSample}
	}
	if slices.Contains(spec.Evaluate.Arms, schemas.ArmSFT) {
		stages = append(stages, schemas.StageSFT)
	}
	if slices.Contains(spec.Evaluate.Arms, schemas.ArmRL) {
		stages = append(stages, schemas.StageRL)
	}
	return stages
}

// adoptRun takes what another run's stages have made. What they cost stays with it.
func (a *Activities) adoptRun(ctx context.Context, req AdoptRequest) (r AdoptResult, err error) {
	const op = "begin with run"
	from := req.Spec.From
	if from.Run == req.Run {
		return r, schemas.Errorf(op, string(from.Run), schemas.InvalidInput, "it is this run itself").WithHint("Give the new run an ID of its own.")
	}
	r.Simulated = slices.Clone(req.Inputs.Simulated)
	for _, stage := range schemas.Stages {
		if !stage.Before(from.Stage) {
			break
		}
		var m schemas.Manifest
		err := shard.GetJSON(ctx, a.store, schemas.ManifestObject(from.Run, stage), &m)
		if schemas.KindOf(err) == schemas.NotFound {
			if slices.Contains(needed(req.Spec), stage) {
				return r, schemas.Errorf(op, string(from.Run), schemas.InvalidInput, "its stage %s has not ended", stage).
					WithHint("Begin at an earlier stage, or with another run.")
			}
			continue
		}
		if err != nil {
			return r, err
		}
		plan, err := a.loadPlan(ctx, m.Plan)
		if err != nil {
			return r, err
		}
		for _, name := range plan.Inputs.Simulated {
			if !slices.Contains(r.Simulated, name) {
				r.Simulated = append(r.Simulated, name)
			}
		}
		taken := *plan
		taken.Run, taken.From = req.Run, from.Run
		m.Run, m.From, m.Usage, m.Spent = req.Run, from.Run, schemas.Usage{}, nil
		sum, err := a.writeAdopted(ctx, m, taken)
		if err != nil {
			return r, err
		}
		r.Sums = append(r.Sums, sum)
	}
	slices.Sort(r.Simulated)
	return r, nil
}

// writeAdopted writes plan and manifest of a stage that the run doesn't pass.
func (a *Activities) writeAdopted(ctx context.Context, m schemas.Manifest, plan schemas.Plan) (sum schemas.StageSum, err error) {
	m.Plan = schemas.PlanRef{
		Object: schemas.PlanObject(m.Run, m.Stage), Digest: schemas.DigestOf(plan), Tasks: len(plan.Tasks), Planned: m.Ledger.Planned,
	}
	if err := shard.PutJSON(ctx, a.store, m.Plan.Object, plan, shard.PutOptions{}); err != nil {
		return sum, err
	}
	sum = summary(m)
	sum.Adopted = true
	return sum, shard.PutJSON(ctx, a.store, sum.Manifest, m, shard.PutOptions{})
}

// adoptModel takes a model of one's own as the one that sft would train.
func (a *Activities) adoptModel(ctx context.Context, req AdoptRequest, inputs schemas.Inputs) (sum schemas.StageSum, err error) {
	base, err := a.base(ctx, req.Spec.Base)
	if err != nil {
		return sum, err
	}
	model, err := a.base(ctx, req.Spec.From.Model)
	if err != nil {
		return sum, err
	}
	m := newManifest(req, schemas.StageSFT)
	m.Model = &model
	return a.writeAdopted(ctx, m, schemas.Plan{
		Run: req.Run, Stage: m.Stage, Spec: req.Spec, Inputs: inputs,
		Tasks: []schemas.Task{{Title: "a model of one's own", Model: &base}},
	})
}

func newManifest(req AdoptRequest, stage schemas.Stage) schemas.Manifest {
	return schemas.Manifest{
		Run: req.Run, Stage: stage, Spec: schemas.DigestOf(req.Spec), Code: codeVersion(),
		Outputs: map[string][]schemas.ShardRef{},
	}
}

// dataset is a data set of one's own on its way to shards, a part of a category at a
// time.
type dataset struct {
	store    shard.Store
	input    schemas.Input
	plan     schemas.Plan
	manifest schemas.Manifest
	rows     map[schemas.Category][]prompts.Answered
}

// The version changes when the same file gives other rows.
const (
	datasetVersion = 1
	datasetRows    = 2_000 // of a shard
)

// adoptDataset writes a data set of one's own: as completions to judge, where the run
// begins at the filter, else as the training sets.
func (a *Activities) adoptDataset(ctx context.Context, req AdoptRequest, inputs schemas.Inputs) (sum schemas.StageSum, err error) {
	stage := schemas.StageCurate
	if req.Spec.From.Stage == schemas.StageFilter {
		stage = schemas.StageSynthesize
	}
	d := dataset{
		store: a.store, rows: map[schemas.Category][]prompts.Answered{}, manifest: newManifest(req, stage),
		plan: schemas.Plan{Run: req.Run, Stage: stage, Spec: req.Spec, Inputs: inputs},
	}
	dir, err := os.MkdirTemp(a.workRoot(), "dataset-*")
	if err != nil {
		return sum, schemas.E("import data set", "", schemas.Unavailable, err)
	}
	defer os.RemoveAll(dir)
	for _, in := range inputs.Dataset {
		path := filepath.Join(dir, "input")
		if _, err := a.store.GetFile(ctx, in.Object, path); err != nil {
			return sum, err
		}
		d.input = in
		err := scanAnswered(path, in.Name, in.Import, func(r prompts.Answered) error {
			d.rows[r.Category] = append(d.rows[r.Category], r)
			if len(d.rows[r.Category]) == datasetRows {
				return d.write(ctx, r.Category)
			}
			return ctx.Err()
		})
		if err != nil {
			return sum, err
		}
		for _, category := range slices.Sorted(maps.Keys(d.rows)) {
			if err := d.write(ctx, category); err != nil {
				return sum, err
			}
		}
	}
	return a.writeAdopted(ctx, d.manifest, d.plan)
}

// write writes what has come of a category as a task's outputs.
func (d *dataset) write(ctx context.Context, category schemas.Category) error {
	rows := d.rows[category]
	if d.rows[category] = nil; len(rows) == 0 {
		return nil
	}
	part := len(d.plan.Tasks) + 1
	l := lineage{
		Stage: d.plan.Stage, Version: []any{"data set", datasetVersion}, Inputs: []schemas.Digest{d.input.Digest},
		Params: map[string]any{"import": prompts.Meaning(d.input.Name, d.input.Import), "category": category, "part": part},
	}
	n := int64(len(rows))
	ledger := schemas.Ledger{Planned: n, Kept: n}
	name := title("%s of %s, part %d", category, filepath.Base(d.input.Name), part)
	if d.plan.Stage == schemas.StageSynthesize {
		t := newTask(name, n, l, schemas.OutputCompletions)
		t.Category = category
		completions := make([]schemas.Completion, n)
		for i, r := range rows {
			cot, answer, _ := llm.SplitCoT(r.Target, "")
			completions[i] = schemas.Completion{
				ID: string(schemas.DigestOf([]any{r.ID, r.Target})[:24]), Prompt: r.Prompt, Model: schemas.ModelIdentity(r.Source), CoT: cot, Answer: answer, FinishReason: "stop",
			}
		}
		return writeOwn(ctx, d, t, 0, completions, ledger)
	}
	t := newTask(name, n, l, schemas.OutputExamples, schemas.OutputRLPrompts)
	t.Category = category
	examples, rl := make([]schemas.Example, n), make([]schemas.RLPrompt, n)
	for i, r := range rows {
		examples[i] = schemas.Example{
			Prompt: r.Messages, Completion: []schemas.Message{{Role: "assistant", Content: r.Target}}, PromptID: r.ID,
			Category: r.Category, Intent: r.Intent, Language: r.Language, Source: r.Source,
		}
		examples[i].ID = exampleID(examples[i])
		rl[i] = schemas.RLPrompt{PromptID: r.ID, Prompt: r.Messages, Category: r.Category, Intent: r.Intent}
	}
	if err := writeOwn(ctx, d, t, 0, examples, ledger); err != nil {
		return err
	}
	return writeOwn(ctx, d, t, 1, rl, schemas.Ledger{})
}

// writeOwn writes rows as a task's output. The first one stands for the task.
func writeOwn[T any](ctx context.Context, d *dataset, t schemas.Task, output int, rows []T, ledger schemas.Ledger) error {
	o := t.Outputs[output]
	ref, err := shard.Write(ctx, d.store, d.plan.Stage, o.Key, rows, ledger, t.Lineage)
	if err != nil {
		return err
	}
	d.manifest.Outputs[o.Kind] = append(d.manifest.Outputs[o.Kind], ref)
	if output > 0 {
		return nil
	}
	d.plan.Tasks = append(d.plan.Tasks, t)
	d.manifest.Ledger.Add(ledger)
	d.manifest.ByCategory.Add(t.Category, ledger)
	return nil
}
