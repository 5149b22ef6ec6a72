package activities

import (
	"context"
	"fmt"

	"precept/internal/shard"
	"precept/schemas"
)

// PlanRequest asks for a stage's plan.
type PlanRequest struct {
	Run    schemas.RunID      `json:"run"`
	Stage  schemas.Stage      `json:"stage"`
	Spec   schemas.RunSpec    `json:"spec"`
	Inputs schemas.InputsRef  `json:"inputs"`
	Sums   []schemas.StageSum `json:"sums"`
	Draws  []schemas.Draw     `json:"draws,omitempty"` // of a quota
}

// planner is a plan in the making.
type planner struct {
	*Activities
	PlanRequest
	inputs schemas.Inputs
}

// Plan writes a stage's task list. The same request gives the same list.
func (a *Activities) Plan(ctx context.Context, req PlanRequest) (schemas.PlanRef, error) {
	beat := startBeat(ctx)
	defer beat.stop()
	ref, err := a.plan(ctx, req)
	return ref, fail(err)
}

func (a *Activities) plan(ctx context.Context, req PlanRequest) (ref schemas.PlanRef, err error) {
	p := planner{Activities: a, PlanRequest: req}
	if p.inputs, err = a.inputs(ctx, req.Inputs); err != nil {
		return ref, err
	}
	stages := map[schemas.Stage]func(context.Context) ([]schemas.Task, error){
		schemas.StageGenerate:   p.generate,
		schemas.StageClassify:   p.classify,
		schemas.StagePrompts:    p.prompts,
		schemas.StageSynthesize: p.synthesize,
		schemas.StageFilter:     p.filter,
		schemas.StageCurate:     p.curate,
		schemas.StageSFT:        p.sft,
		schemas.StageRL:         p.rl,
		schemas.StageSFTSample:  p.sampleMilestones,
		schemas.StageRLSample:   p.sampleMilestones,
		schemas.StageSample:     p.sample,
		schemas.StageSFTGrade:   p.grade,
		schemas.StageRLGrade:    p.grade,
		schemas.StageGrade:      p.grade,
	}
	tasks, err := stages[req.Stage](ctx)
	if err != nil {
		return ref, err
	}
	plan := schemas.Plan{Run: req.Run, Stage: req.Stage, Spec: req.Spec, Inputs: p.inputs, Tasks: tasks}
	ref = schemas.PlanRef{Object: schemas.PlanObject(req.Run, req.Stage), Digest: schemas.DigestOf(plan), Tasks: len(tasks)}
	for _, t := range tasks {
		ref.Planned += t.Planned
	}
	err = shard.PutJSON(ctx, a.store, ref.Object, plan, shard.PutOptions{})
	return ref, err
}

// params is what of the spec the rows follow from, and the word by which the stage is
// refreshed.
func (p *planner) params(params map[string]any) map[string]any {
	if word := p.Spec.Refresh[p.Stage]; word != "" {
		params["refresh"] = word
	}
	return params
}

// manifest reads what an earlier stage came to.
func (p *planner) manifest(ctx context.Context, stage schemas.Stage) (m schemas.Manifest, err error) {
	return p.Activities.manifest(ctx, p.Sums, stage)
}

// passed reads what an earlier stage came to, and its plan.
func (p *planner) passed(ctx context.Context, stage schemas.Stage) (schemas.Manifest, *schemas.Plan, error) {
	return p.Activities.passed(ctx, p.Sums, stage)
}

func (a *Activities) passed(ctx context.Context, sums []schemas.StageSum, stage schemas.Stage) (m schemas.Manifest, plan *schemas.Plan, err error) {
	if m, err = a.manifest(ctx, sums, stage); err != nil {
		return m, nil, err
	}
	plan, err = a.loadPlan(ctx, m.Plan)
	return m, plan, err
}

func (a *Activities) manifest(ctx context.Context, sums []schemas.StageSum, stage schemas.Stage) (m schemas.Manifest, err error) {
	for _, s := range sums {
		if s.Stage == stage {
			err = shard.GetJSON(ctx, a.store, s.Manifest, &m)
			return m, err
		}
	}
	return m, schemas.Errorf("read manifest", string(stage), schemas.Internal, "the stage has not run")
}

// task fills in what all tasks have: output keys from the lineage.
func newTask(name string, planned int64, l lineage, kinds ...string) schemas.Task {
	t := schemas.Task{Title: name, Planned: planned}
	for _, k := range kinds {
		t.Outputs = append(t.Outputs, l.of(k).output())
	}
	raw, err := schemas.CanonicalJSON(l)
	if err != nil {
		panic(fmt.Sprintf("encode lineage: %v", err)) // plain data
	}
	t.Lineage = raw
	return t
}
