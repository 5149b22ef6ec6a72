package activities

import (
	"cmp"
	"context"
	"slices"

	"precept/internal/eval"
	"precept/internal/shard"
	"precept/schemas"
)

// The dev split is a few prompts that stage prompts holds out: nobody synthesizes or trains
// on them, and they stand in no suite. A training job's milestones answer them, the grader
// grades the answers, and the best milestone goes on in place of the last weights.

// devShare is the largest part of an intent's prompts that is held out.
const devShare = 10

// split chooses the dev split among the prompts that are kept: those of each intent whose IDs,
// which are digests, come first. So more prompts change it little.
type split struct {
	most  int
	kept  map[schemas.Intent]int
	first map[schemas.Intent][]schemas.Prompt
}

func newSplit(most int) *split {
	return &split{most, map[schemas.Intent]int{}, map[schemas.Intent][]schemas.Prompt{}}
}

// add shows a kept prompt to the split.
func (s *split) add(p schemas.Prompt) {
	s.kept[p.Intent]++
	first := append(s.first[p.Intent], p)
	if len(first) == 2*s.most { // so that they are seldom sorted
		first = s.earliest(first)
	}
	s.first[p.Intent] = first
}

func (s *split) earliest(prompts []schemas.Prompt) []schemas.Prompt {
	slices.SortFunc(prompts, byPromptID)
	return prompts[:min(len(prompts), s.most)]
}

func byPromptID(x, y schemas.Prompt) int { return cmp.Compare(x.ID, y.ID) }

// prompts are those that are held out, by ID: the intents give one in turn.
func (s *split) prompts() []schemas.Prompt {
	out := []schemas.Prompt{}
	earliest := map[schemas.Intent][]schemas.Prompt{}
	for intent, first := range s.first {
		earliest[intent] = s.earliest(first)
	}
	for round, found := 0, true; found && len(out) < s.most; round++ {
		found = false
		for _, intent := range schemas.Intents {
			first := earliest[intent]
			if len(out) < s.most && round < len(first) && round < s.kept[intent]/devShare {
				out, found = append(out, first[round]), true
			}
		}
	}
	slices.SortFunc(out, byPromptID)
	return out
}

// devSplit is the shard of the prompts that are held out.
func (p *planner) devSplit(ctx context.Context) (ref schemas.ShardRef, err error) {
	m, err := p.manifest(ctx, schemas.StagePrompts)
	if err != nil {
		return ref, err
	}
	refs := m.Outputs[schemas.OutputDev]
	if len(refs) != 1 {
		return ref, schemas.Errorf("read dev split", string(p.Run), schemas.Internal, "stage prompts has %d of them", len(refs))
	}
	return refs[0], nil
}

// sampleMilestones plans a task for every milestone of a training stage, and for what the
// training began with.
func (p *planner) sampleMilestones(ctx context.Context) (tasks []schemas.Task, err error) {
	dev, err := p.devSplit(ctx)
	if err != nil {
		return nil, err
	}
	m, plan, err := p.passed(ctx, p.Stage.Trained())
	if err != nil {
		return nil, err
	}
	began := schemas.Milestone{Model: *plan.Tasks[0].Model}
	for _, milestone := range append([]schemas.Milestone{began}, m.Milestones...) {
		arm := schemas.Arm(p.Stage.Trained())
		l := lineage{
			Stage: p.Stage, Version: sampleVersion, Inputs: digests(dev),
			Params: p.params(map[string]any{"arm": arm, "rows": dev.Rows, "max_tokens": p.Spec.Evaluate.MaxTokens}),
			Models: []model{weights(milestone.Model)},
		}
		t := newTask(title("step %d asks dev", milestone.Step), dev.Rows, l, schemas.OutputCompletions)
		t.Arm, t.Suite, t.Step, t.Model, t.Inputs = arm, schemas.DevSuite, milestone.Step, &milestone.Model, []schemas.ShardRef{dev}
		tasks = append(tasks, t)
	}
	return tasks, nil
}

// milestones is how many a training job of the run leaves: none where nobody would choose
// among them. They are a part of what the job's key is made of.
func (p *planner) milestones(l *lineage) int {
	if p.Spec.Dev.Skip || schemas.HeldOut(p.Sums) == 0 {
		return 0
	}
	l.Params["milestones"] = p.Spec.Dev.Milestones
	return p.Spec.Dev.Milestones
}

// choose completes the manifest of a stage that has graded milestones: the best one is the
// model that goes on.
func (a *Activities) choose(ctx context.Context, m *schemas.Manifest, plan *schemas.Plan) error {
	if m.Stage.Trained() == "" || m.Stage.Work() != schemas.StageGrade {
		return nil
	}
	milestones := make([]eval.DevGrades, len(plan.Tasks))
	for i, ref := range m.Outputs[schemas.OutputGrades] {
		t := plan.Tasks[i]
		grades, err := shard.Read[schemas.Grade](ctx, a.store, ref)
		if err != nil {
			return err
		}
		milestones[i] = eval.DevGrades{Step: t.Step, Model: t.Model.Digest, Grades: grades}
	}
	selection := eval.Select(m.Stage.Trained(), milestones)
	m.Selection = &selection
	for _, t := range plan.Tasks {
		if t.Step == selection.Step {
			m.Model = t.Model
		}
	}
	return nil
}

// trained is the model of a training stage that goes on: the milestone that was chosen or,
// where none was, the last weights.
func (p *planner) trained(ctx context.Context, stage schemas.Stage) (ref schemas.ModelRef, err error) {
	if slices.ContainsFunc(p.Sums, func(s schemas.StageSum) bool { return s.Stage == stage.Grades() }) {
		stage = stage.Grades()
	}
	m, err := p.manifest(ctx, stage)
	if err != nil {
		return ref, err
	}
	return *m.Model, nil
}
