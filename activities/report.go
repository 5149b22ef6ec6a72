package activities

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"precept/internal/eval"
	"precept/internal/release"
	"precept/internal/report"
	"precept/internal/shard"
	"precept/schemas"
)

// ReportRequest asks for a run's report as it stands.
type ReportRequest struct {
	Run       schemas.RunID            `json:"run"`
	Spec      schemas.RunSpec          `json:"spec"`
	Inputs    schemas.InputsRef        `json:"inputs"`
	Sums      []schemas.StageSum       `json:"sums"`
	Decisions []schemas.DecisionRecord `json:"decisions"`
	Notes     []string                 `json:"notes,omitempty"`
	Probed    schemas.Usage            `json:"probed,omitzero"`
	// Open is the stage in which the run ends, which began at Started, as far as the workflow
	// was told; Spent is what no other stage or execution of it tells.
	Open    *schemas.StageProgress          `json:"open,omitempty"`
	Started time.Time                       `json:"started,omitzero"`
	Spent   map[schemas.Stage]schemas.Usage `json:"spent,omitempty"`
	State   string                          `json:"state"`
	Note    string                          `json:"note"`
}

// How many rows a report shows.
const (
	shownSamples  = 24
	shownExamples = 12
)

// Report writes a run's report as HTML and JSON.
func (a *Activities) Report(ctx context.Context, req ReportRequest) (schemas.RunReport, error) {
	beat := startBeat(ctx)
	defer beat.stop()
	r, err := a.report(ctx, req)
	return r, fail(err)
}

func (a *Activities) report(ctx context.Context, req ReportRequest) (r schemas.RunReport, err error) {
	r = schemas.RunReport{
		Run: req.Run, Name: req.Spec.Name, State: req.State, Note: req.Note, Spec: schemas.DigestOf(req.Spec),
		Policy: req.Inputs.Policy, Simulated: req.Inputs.Simulated, Stages: req.Sums, Decisions: req.Decisions, Notes: req.Notes, Probed: req.Probed, Spent: req.Spent,
		HTML: schemas.RunObject(req.Run, "report/report.html"), JSON: schemas.RunObject(req.Run, "report/report.json"),
	}
	if r.Open, err = a.unclosed(ctx, req); err != nil {
		return r, err
	}
	data := report.Data{Decisions: req.Decisions}
	if data.SpecJSON, err = schemas.CanonicalJSON(req.Spec); err != nil {
		return r, err
	}
	if data.Inputs, err = a.inputs(ctx, req.Inputs); err != nil {
		return r, err
	}
	for _, s := range req.Sums {
		m, err := a.manifest(ctx, req.Sums, s.Stage)
		if err != nil {
			return r, err
		}
		data.Manifests = append(data.Manifests, m)
		if m.Selection != nil {
			selection := *m.Selection
			if selection.Grader, selection.SameJudge, err = a.grader(ctx, req); err != nil {
				return r, err
			}
			r.Selections = append(r.Selections, selection)
		}
		switch s.Stage {
		case schemas.StageCurate:
			data.Examples, err = spread[schemas.Example](ctx, a.store, m.Outputs[schemas.OutputExamples], shownExamples)
		case schemas.StageSample:
			r.Models, err = a.armsOf(ctx, m)
		case schemas.StageGrade:
			r.Evaluation, data.Samples, err = a.evaluation(ctx, req, m)
		}
		if err != nil {
			return r, err
		}
	}
	data.Report = r
	var page bytes.Buffer
	if err := report.Render(&page, data); err != nil {
		return r, err
	}
	if _, err := a.store.Put(ctx, r.HTML, page.Bytes(), shard.PutOptions{ContentType: "text/html; charset=utf-8"}); err != nil {
		return r, err
	}
	if err := shard.PutJSON(ctx, a.store, r.JSON, r, shard.PutOptions{}); err != nil {
		return r, err
	}
	return r, release.Put(ctx, a.store, req.Run)
}

// armsOf tells which weights each arm was.
func (a *Activities) armsOf(ctx context.Context, m schemas.Manifest) (out []schemas.ArmModel, err error) {
	plan, err := a.loadPlan(ctx, m.Plan)
	if err != nil {
		return nil, err
	}
	for _, t := range plan.Tasks {
		if !slices.ContainsFunc(out, func(x schemas.ArmModel) bool { return x.Arm == t.Arm }) {
			out = append(out, schemas.ArmModel{Arm: t.Arm, Model: *t.Model})
		}
	}
	return out, nil
}

// evaluation computes the measures, and picks samples to show beside them.
func (a *Activities) evaluation(ctx context.Context, req ReportRequest, graded schemas.Manifest) (e schemas.Evaluation, shown []report.Sample, err error) {
	var grades []schemas.Grade
	for _, ref := range graded.Outputs[schemas.OutputGrades] {
		rows, err := shard.Read[schemas.Grade](ctx, a.store, ref)
		if err != nil {
			return e, nil, err
		}
		grades = append(grades, rows...)
	}
	grader, same, err := a.grader(ctx, req)
	if err != nil {
		return e, nil, err
	}
	e = eval.Evaluate(grades, grader, same)

	byID := map[string]*schemas.Grade{}
	for i := range grades {
		byID[grades[i].CompletionID+string(grades[i].Arm)] = &grades[i]
	}
	sampled, err := a.manifest(ctx, req.Sums, schemas.StageSample)
	if err != nil {
		return e, nil, err
	}
	type id struct{ suite, prompt string }
	samples := map[id]*report.Sample{}
	for _, ref := range sampled.Outputs[schemas.OutputCompletions] {
		rows, err := shard.Read[schemas.Completion](ctx, a.store, ref)
		if err != nil {
			return e, nil, err
		}
		for _, c := range rows {
			k := id{c.Suite, c.Prompt.ID}
			if samples[k] == nil {
				samples[k] = &report.Sample{Suite: c.Suite, Prompt: c.Prompt}
			}
			samples[k].Answers = append(samples[k].Answers, report.Answer{Completion: c, Grade: byID[c.ID+string(c.Arm)]})
		}
	}
	// Those that most arms answered first, then by intent and category in turn.
	all := make([]*report.Sample, 0, len(samples))
	for _, s := range samples {
		all = append(all, s)
	}
	slices.SortFunc(all, func(x, y *report.Sample) int {
		return cmp.Or(cmp.Compare(len(y.Answers), len(x.Answers)), cmp.Compare(x.Prompt.Intent, y.Prompt.Intent),
			cmp.Compare(x.Prompt.Category, y.Prompt.Category), cmp.Compare(x.Prompt.ID, y.Prompt.ID))
	})
	full := slices.IndexFunc(all, func(s *report.Sample) bool { return len(s.Answers) < len(all[0].Answers) })
	if full < 0 {
		full = len(all)
	}
	for i := range min(full, shownSamples) {
		shown = append(shown, *all[i*full/min(full, shownSamples)])
	}
	rest := shownSamples - len(shown)
	for i := range min(rest, len(all)-full) {
		shown = append(shown, *all[full+i*(len(all)-full)/min(rest, len(all)-full)])
	}
	return e, shown, nil
}

// grader is who grades, and whether its model also filtered or rewarded.
func (a *Activities) grader(ctx context.Context, req ReportRequest) (id schemas.ModelIdentity, same bool, err error) {
	var graders []schemas.ModelIdentity
	for _, name := range req.Spec.Evaluate.Grader.Endpoints() {
		grader, err := a.endpoint(name)
		if err != nil {
			return "", false, err
		}
		if id := grader.Identity(); !slices.Contains(graders, id) {
			graders = append(graders, id)
		}
	}
	same, err = a.judgedBy(ctx, req.Sums, graders)
	return together(graders), same, err
}

// judgedBy reports whether one of the graders may have filtered or rewarded what the run
// trained on.
func (a *Activities) judgedBy(ctx context.Context, sums []schemas.StageSum, graders []schemas.ModelIdentity) (bool, error) {
	for _, s := range sums {
		if s.Stage != schemas.StageFilter && s.Stage != schemas.StageRL {
			continue
		}
		_, plan, err := a.passed(ctx, sums, s.Stage)
		if err != nil {
			return false, err
		}
		for _, t := range plan.Tasks {
			models, err := modelsOf(t)
			if err != nil {
				return false, err
			}
			if slices.ContainsFunc(models, func(m model) bool { return slices.Contains(graders, m.Identity) }) {
				return true, nil
			}
		}
	}
	return false, nil
}

// spread reads about n rows, evenly over shards.
func spread[T any](ctx context.Context, store shard.Store, refs []schemas.ShardRef, n int) (out []T, err error) {
	for i, ref := range refs {
		rows, err := shard.Read[T](ctx, store, ref)
		if err != nil {
			return nil, err
		}
		want := min(len(rows), (n*(i+1))/len(refs)-(n*i)/len(refs))
		for k := range want {
			out = append(out, rows[k*len(rows)/want])
		}
	}
	return out, nil
}
