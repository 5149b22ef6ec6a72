package activities

import (
	"cmp"
	"context"
	"runtime/debug"
	"time"

	"precept/internal/shard"
	"precept/schemas"
)

// ManifestRequest asks to close a stage.
type ManifestRequest struct {
	Run      schemas.RunID   `json:"run"`
	Stage    schemas.Stage   `json:"stage"`
	Plan     schemas.PlanRef `json:"plan"`
	Usage    schemas.Usage   `json:"usage"`
	Costs    schemas.Costs   `json:"costs,omitempty"`
	Started  time.Time       `json:"started"`
	Finished time.Time       `json:"finished"`
}

// Manifest builds a stage's result from its plan and the stored objects, not
// from what tasks said.
func (a *Activities) Manifest(ctx context.Context, req ManifestRequest) (schemas.StageSum, error) {
	beat := startBeat(ctx)
	defer beat.stop()
	sum, err := a.close(ctx, req)
	return sum, fail(err)
}

func (a *Activities) close(ctx context.Context, req ManifestRequest) (sum schemas.StageSum, err error) {
	plan, err := a.loadPlan(ctx, req.Plan)
	if err != nil {
		return sum, err
	}
	m := schemas.Manifest{
		Run: req.Run, Stage: req.Stage, Spec: schemas.DigestOf(plan.Spec), Plan: req.Plan,
		Outputs: map[string][]schemas.ShardRef{}, Started: req.Started, Finished: req.Finished, Code: codeVersion(),
	}
	for _, t := range plan.Tasks {
		for _, o := range t.Outputs {
			var ledger schemas.Ledger
			if o.Kind == schemas.OutputModel {
				job, ok, err := a.job(ctx, o.Key)
				if err != nil {
					return sum, err
				}
				if !ok {
					return sum, missing(req.Stage, t, o)
				}
				m.Model, m.Curve, m.Milestones, ledger = &job.Model, job.Curve, job.Milestones, job.Ledger
			} else {
				ref, partial, ok, err := shard.FindOutput(ctx, a.store, req.Run, req.Stage, o.Key)
				if err != nil {
					return sum, err
				}
				if !ok {
					return sum, missing(req.Stage, t, o)
				}
				if partial != nil {
					m.Partial = append(m.Partial, schemas.PartialObject(req.Run, req.Stage, o.Key))
				}
				m.Outputs[o.Kind] = append(m.Outputs[o.Kind], ref)
				ledger = ref.Ledger
			}
			m.Ledger.Add(ledger)
			m.ByCategory.Add(cmp.Or(o.Category, t.Category), ledger)
		}
	}
	if err := a.checkLabels(ctx, &m); err != nil {
		return sum, err
	}
	if err := a.choose(ctx, &m, plan); err != nil {
		return sum, err
	}
	if err := a.addSpent(ctx, &m, req); err != nil {
		return sum, err
	}
	sum = summary(m)
	return sum, shard.PutJSON(ctx, a.store, sum.Manifest, m, shard.PutOptions{})
}

// summary is what the workflow knows of a manifest.
func summary(m schemas.Manifest) schemas.StageSum {
	sum := schemas.StageSum{
		Stage: m.Stage, Manifest: schemas.ManifestObject(m.Run, m.Stage), Tasks: m.Plan.Tasks, Ledger: m.Ledger, Usage: m.Usage,
		Digest: m.Digest(), Note: checkNote(m.Check), Milestones: len(m.Milestones),
	}
	if m.Selection != nil {
		sum.Note = m.Selection.Note()
	}
	if len(m.ByCategory) <= schemas.CarriedCategories {
		sum.ByCategory = m.ByCategory
	}
	if len(m.Costs) <= schemas.CarriedCategories {
		sum.Costs = m.Costs
	}
	for _, refs := range m.Outputs {
		for _, ref := range refs {
			sum.Rows += ref.Rows
		}
	}
	for _, s := range m.Spent {
		sum.Seconds += s.Finished.Sub(s.Started).Round(time.Millisecond).Seconds()
	}
	return sum
}

// addSpent sums what this execution of the stage took and what earlier ones under
// this run ID did, as their manifest says, or the records of their tasks where they came
// to no manifest.
func (a *Activities) addSpent(ctx context.Context, m *schemas.Manifest, req ManifestRequest) error {
	var err error
	if m.Spent, err = a.spendings(ctx, req.Run, req.Stage, req.Started); err != nil {
		return err
	}
	m.Spent = append(m.Spent, schemas.Spending{Started: req.Started, Finished: req.Finished, Usage: req.Usage, Costs: req.Costs})
	for _, s := range m.Spent {
		m.Usage.Add(s.Usage)
		m.Costs.AddAll(s.Costs)
	}
	return nil
}

func missing(stage schemas.Stage, t schemas.Task, o schemas.Output) error {
	return schemas.Errorf("close stage", string(stage), schemas.Internal, "task %q left no %s under key %s", t.Title, o.Kind, o.Key.Short())
}

// codeVersion is the build's revision, where the build recorded one.
func codeVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}
