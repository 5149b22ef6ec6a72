package activities

import (
	"context"
	"fmt"
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
	Notes     []string           `json:"notes"`     // for people to know
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
		r.Notes = append(r.Notes, "the suites were not compared with what the model of one's own was trained on")
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
	inputs, err := a.inputs(ctx, req.Inputs)
	if err != nil {
		return r, err
	}
	r.Simulated = slices.Clone(req.Inputs.Simulated)
	chain := chain{run: from.Run, made: map[schemas.Digest]bool{}, left: map[schemas.Digest]bool{}}
	compared := map[schemas.Digest]bool{} // suites that the run's prompts were compared with
	for _, stage := range schemas.Stages {
		if !stage.Before(from.Stage) {
			break
		}
		var m schemas.Manifest
		err := shard.GetJSON(ctx, a.store, schemas.ManifestObject(from.Run, stage), &m)
		if schemas.KindOf(err) == schemas.NotFound {
			if slices.Contains(needed(req.Spec), stage) {
				return r, schemas.Errorf(op, string(from.Run), schemas.InvalidInput, "there is no such run, or its stage %s has not ended", stage).
					WithHint("Check its ID; begin at an earlier stage, or with another run.")
			}
			continue
		}
		if err != nil {
			return r, err
		}
		plan, err := a.loadPlan(ctx, m.Plan)
		if schemas.KindOf(err) == schemas.Conflict {
			return r, schemas.Errorf(op, string(from.Run), schemas.InvalidInput, "its stage %s is planned anew", stage).
				WithHint("Wait until it has ended the stage, or begin at an earlier one.")
		}
		if err != nil {
			return r, err
		}
		for _, in := range plan.Inputs.Suites {
			compared[in.Shard.Digest] = true
		}
		for _, name := range plan.Inputs.Simulated {
			if !slices.Contains(r.Simulated, name) {
				r.Simulated = append(r.Simulated, name)
			}
		}
		if err := chain.check(m, plan); err != nil {
			return r, err
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
	for _, in := range inputs.Suites {
		if !compared[in.Shard.Digest] {
			r.Notes = append(r.Notes, fmt.Sprintf("suite %s was not compared with what run %s trains on: its prompts may stand in it", in.Name, from.Run))
		}
	}
	return r, nil
}

// chain checks that what is taken of a run belongs together: started again, a run replaces
// its stages' results one after the other.
type chain struct {
	run  schemas.RunID
	made map[schemas.Digest]bool // what the stages so far read and wrote
	last []schemas.ShardRef      // what the teacher wrote
	left map[schemas.Digest]bool // milestones
}

func (c *chain) check(m schemas.Manifest, plan *schemas.Plan) error {
	begins := len(c.made) == 0
	for i, t := range plan.Tasks {
		if m.Stage.Trained() != "" && t.Step > 0 && !c.left[t.Model.Digest] {
			return c.torn(m.Stage)
		}
		for k, in := range t.Inputs {
			// The completions of a task stand at the same place as in the stage before.
			moved := m.Stage == schemas.StageFilter && k == 0 && c.last != nil && (i >= len(c.last) || c.last[i].Digest != in.Digest)
			// A suite; or what a stage's own plan has written: rows of a file, general data.
			outside := m.Stage == schemas.StageSample || stageOf(in) == m.Stage
			if !begins && !outside && !c.made[in.Digest] || moved {
				return c.torn(m.Stage)
			}
		}
	}
	for _, t := range plan.Tasks {
		for _, in := range t.Inputs {
			c.made[in.Digest] = true
		}
	}
	for _, refs := range m.Outputs {
		for _, ref := range refs {
			c.made[ref.Digest] = true
		}
	}
	for _, milestone := range m.Milestones {
		c.left[milestone.Model.Digest] = true
	}
	if m.Stage == schemas.StageSynthesize {
		c.last = m.Outputs[schemas.OutputCompletions]
	}
	return nil
}

func (c *chain) torn(stage schemas.Stage) error {
	begin := stage
	if trained := stage.Trained(); trained != "" {
		begin = trained
	}
	return schemas.Errorf("begin with run", string(c.run), schemas.InvalidInput, "it was started again, and its stage %s has not ended since", stage).
		WithHint("Wait for it, or begin at stage %s.", begin)
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
	suites   *prompts.Suites
	input    schemas.Input
	plan     schemas.Plan
	manifest schemas.Manifest
	rows     map[schemas.Category][]prompts.Answered
	parts    map[schemas.Category]int // of the file
}

// The version changes when the same file gives other rows.
const (
	datasetVersion = 3
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
	if d.suites, err = a.suites(ctx, inputs.Suites); err != nil {
		return sum, err
	}
	dir, err := os.MkdirTemp(a.work(), "dataset-*")
	if err != nil {
		return sum, schemas.E("import data set", "", schemas.Unavailable, err)
	}
	defer os.RemoveAll(dir)
	for _, in := range inputs.Dataset {
		path := filepath.Join(dir, "input")
		if _, err := a.store.GetFile(ctx, in.Object, path); err != nil {
			return sum, err
		}
		d.input, d.parts = in, map[schemas.Category]int{}
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
	d.parts[category]++
	l := lineage{
		Stage: d.plan.Stage, Version: []any{"data set", datasetVersion}, Inputs: []schemas.Digest{d.input.Digest},
		Params: map[string]any{
			"import": prompts.Meaning(d.input.Name, d.input.Import), "category": category, "part": d.parts[category],
			"suites": suiteDigests(d.plan.Inputs.Suites),
		},
	}
	ledger := schemas.Ledger{Planned: int64(len(rows))}
	rows = slices.DeleteFunc(rows, func(r prompts.Answered) bool {
		if d.suites.Contaminate(r.Prompt) {
			ledger.Count(schemas.ReasonContaminated)
			return true
		}
		ledger.Count("")
		return false
	})
	name := title("%s of %s, part %d", category, filepath.Base(d.input.Name), d.parts[category])
	if d.plan.Stage == schemas.StageSynthesize {
		return d.writeCompletions(ctx, category, name, l, rows, ledger)
	}
	t := newTask(name, ledger.Planned, l, schemas.OutputExamples, schemas.OutputRLPrompts)
	t.Category = category
	examples, rl := make([]schemas.Example, len(rows)), make([]schemas.RLPrompt, len(rows))
	for i, r := range rows {
		examples[i] = exampleOf(r)
		rl[i] = schemas.RLPrompt{PromptID: r.ID, Prompt: r.Messages, Category: r.Category, Intent: r.Intent, Language: r.Language, Source: r.Source}
	}
	if err := writeOwn(ctx, d, t, 0, examples, ledger); err != nil {
		return err
	}
	return writeOwn(ctx, d, t, 1, rl, schemas.Ledger{})
}

// writeCompletions writes conversations as the samples of their prompts, which stand as the
// task's input.
func (d *dataset) writeCompletions(ctx context.Context, category schemas.Category, name string, l lineage, rows []prompts.Answered, ledger schemas.Ledger) error {
	completions := make([]schemas.Completion, len(rows))
	samples := map[string]int32{}
	var asked []schemas.Prompt
	for i, r := range rows {
		if samples[r.ID] == 0 {
			asked = append(asked, r.Prompt)
		}
		cot, answer, _ := llm.SplitCoT(r.Target, "")
		completions[i] = schemas.Completion{
			ID:     string(schemas.DigestOf([]any{r.ID, r.Target, samples[r.ID]})[:24]),
			Prompt: r.Prompt, Model: schemas.ModelIdentity(r.Source), Sample: samples[r.ID], CoT: cot, Answer: answer, FinishReason: "stop",
		}
		samples[r.ID]++
	}
	of := l.of(schemas.OutputPrompts)
	ref, err := shard.Write(ctx, d.store, schemas.StagePrompts, of.key(), asked, schemas.Ledger{Planned: int64(len(asked)), Kept: int64(len(asked))}, of)
	if err != nil {
		return err
	}
	t := newTask(name, ledger.Planned, l, schemas.OutputCompletions)
	t.Category, t.Inputs = category, []schemas.ShardRef{ref}
	return writeOwn(ctx, d, t, 0, completions, ledger)
}

func suiteDigests(suites []schemas.Input) (out []schemas.Digest) {
	for _, in := range suites {
		out = append(out, in.Shard.Digest)
	}
	return out
}

// writeOwn writes rows as a task's output. The first one stands for the task.
func writeOwn[T any](ctx context.Context, d *dataset, t schemas.Task, output int, rows []T, ledger schemas.Ledger) error {
	o := t.Outputs[output]
	ref, err := shard.Write(ctx, d.store, d.plan.Stage, o.Key, rows, ledger, t.Lineage)
	if err != nil {
		return err
	}
	if ref.Rows != int64(len(rows)) {
		return schemas.Errorf("import data set", d.input.Name, schemas.Internal, "shard %s has %d rows, not %d", ref.Object, ref.Rows, len(rows))
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
