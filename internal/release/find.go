package release

import (
	"context"
	"slices"
	"strings"

	"precept/internal/shard"
	"precept/schemas"
)

const op = "find model"

// Model is a stored model. Run and Arm are empty where only its digest is known.
type Model struct {
	Digest schemas.Digest
	Run    schemas.RunID
	Arm    schemas.Arm // base, sft or rl
}

// Name is the model's for people.
func (m Model) Name() string {
	if m.Run == "" {
		return m.Digest.Short()
	}
	return string(m.Run) + "/" + string(m.Arm)
}

// Thinks reports whether the model was trained to answer with a chain of thought. Where others are
// read as if they did, all they say is taken for one.
func (m Model) Thinks() bool { return m.Arm == schemas.ArmSFT || m.Arm == schemas.ArmRL }

// Title is the name with the digest.
func (m Model) Title() string {
	if m.Run == "" {
		return m.Digest.Short()
	}
	return m.Name() + " (" + m.Digest.Short() + ")"
}

// Find finds the model that a name stands for: RUN, which is the last model that it trained,
// RUN/base, RUN/sft, RUN/rl, or a digest, of which the first eight characters may do.
func Find(ctx context.Context, s shard.Store, name string) (Model, error) {
	if isDigest(name) && len(name) == 64 {
		_, ok, err := shard.FindFolder(ctx, s, schemas.ModelPrefix(schemas.Digest(name)))
		if err == nil && !ok {
			err = schemas.Errorf(op, name, schemas.NotFound, "no model of this digest is stored")
		}
		return Model{Digest: schemas.Digest(name)}, err
	}
	run, arm := name, ""
	if i := strings.LastIndex(name, "/"); i >= 0 {
		run, arm = name[:i], name[i+1:]
	}
	var err error
	var m Model
	switch schemas.Arm(arm) {
	case "":
		m, err = final(ctx, s, schemas.RunID(name))
	case schemas.ArmBase, schemas.ArmSFT, schemas.ArmRL:
		m, err = ofArm(ctx, s, schemas.RunID(run), schemas.Arm(arm))
	default:
		m, err = final(ctx, s, schemas.RunID(name)) // a run whose ID has a slash in it
	}
	if schemas.KindOf(err) == schemas.NotFound && isDigest(name) && len(name) >= 8 {
		return begins(ctx, s, name)
	}
	return m, err
}

func isDigest(name string) bool { return strings.Trim(name, "0123456789abcdef") == "" && name != "" }

// final is the last model that a run trained.
func final(ctx context.Context, s shard.Store, run schemas.RunID) (Model, error) {
	for _, arm := range []schemas.Arm{schemas.ArmRL, schemas.ArmSFT} {
		m, err := ofArm(ctx, s, run, arm)
		if err == nil || schemas.KindOf(err) != schemas.NotFound {
			return m, err
		}
	}
	if _, err := ofArm(ctx, s, run, schemas.ArmBase); err == nil {
		return Model{}, schemas.Errorf(op, string(run), schemas.NotFound, "the run has trained no model yet").
			WithHint("Its base is %s/base. See how far the run is: starter progress %s", schemas.ShellWord(string(run)), schemas.ShellWord(string(run)))
	}
	return Model{}, schemas.Errorf(op, string(run), schemas.NotFound, "there is no such run, or it has no model yet").
		WithHint("Name a run as RUN, RUN/base, RUN/sft or RUN/rl, or a model by its digest.")
}

// ofArm is the model that one of a run's arms is.
func ofArm(ctx context.Context, s shard.Store, run schemas.RunID, arm schemas.Arm) (Model, error) {
	m := Model{Run: run, Arm: arm}
	if arm == schemas.ArmBase {
		base, err := baseOf(ctx, s, run)
		m.Digest = base.Digest
		return m, err
	}
	manifest, err := trained(ctx, s, run, schemas.Stage(arm))
	if schemas.KindOf(err) == schemas.NotFound || err == nil && manifest.Model == nil {
		return m, schemas.Errorf(op, m.Name(), schemas.NotFound, "the run's stage %s has made no model", arm).
			WithHint("See how far the run is: starter progress %s", schemas.ShellWord(string(run)))
	}
	if err != nil {
		return m, err
	}
	m.Digest = manifest.Model.Digest
	return m, nil
}

// trained is the manifest of a training stage. Its model is the milestone that was chosen or, where none
// was, the last weights.
func trained(ctx context.Context, s shard.Store, run schemas.RunID, stage schemas.Stage) (m schemas.Manifest, err error) {
	if err := shard.GetJSON(ctx, s, schemas.ManifestObject(run, stage), &m); err != nil {
		return m, err
	}
	var graded schemas.Manifest
	err = shard.GetJSON(ctx, s, schemas.ManifestObject(run, stage.Grades()), &graded)
	if schemas.KindOf(err) == schemas.NotFound {
		return m, nil
	}
	if err != nil || graded.Model == nil {
		return m, err
	}
	// One of an earlier job is of no account.
	if slices.ContainsFunc(m.Milestones, func(x schemas.Milestone) bool { return x.Model.Digest == graded.Model.Digest }) {
		m.Model, m.Selection = graded.Model, graded.Selection
	}
	return m, nil
}

// baseOf is the model that a run began with: that of its first task that has one.
func baseOf(ctx context.Context, s shard.Store, run schemas.RunID) (schemas.ModelRef, error) {
	for _, stage := range []schemas.Stage{schemas.StageSFT, schemas.StageRL, schemas.StageSample} {
		var plan schemas.Plan
		err := shard.GetJSON(ctx, s, schemas.PlanObject(run, stage), &plan)
		if schemas.KindOf(err) == schemas.NotFound {
			continue
		}
		if err != nil {
			return schemas.ModelRef{}, err
		}
		for _, t := range plan.Tasks {
			if t.Model != nil && (t.Arm == "" || t.Arm == schemas.ArmBase) {
				return *t.Model, nil
			}
		}
	}
	return schemas.ModelRef{}, schemas.Errorf(op, string(run)+"/"+string(schemas.ArmBase), schemas.NotFound, "the run has planned no stage that needs its base").
		WithHint("See how far the run is: starter progress %s", schemas.ShellWord(string(run)))
}

// begins is the one model whose digest begins so.
func begins(ctx context.Context, s shard.Store, name string) (m Model, err error) {
	for info, err := range s.List(ctx, schemas.ModelPrefix(schemas.Digest(name))) {
		if err != nil {
			return m, err
		}
		digest, ok := strings.CutSuffix(strings.TrimPrefix(info.Key, schemas.ModelPrefix("")), "/index.json")
		if !ok || strings.Contains(digest, "/") {
			continue
		}
		if m.Digest != "" {
			return Model{}, schemas.Errorf(op, name, schemas.InvalidInput, "several models begin so").WithHint("Give more of the digest.")
		}
		m.Digest = schemas.Digest(digest)
	}
	if m.Digest == "" {
		return m, schemas.Errorf(op, name, schemas.NotFound, "there is no such run, and no model whose digest begins so")
	}
	return m, nil
}
