package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"

	"precept/internal/gpu"
	"precept/internal/shard"
	"precept/internal/trainer"
	"precept/schemas"
)

// job is a training job of a task: it survives the death of trainer, worker and
// machine by checkpoints in the store.
type job struct {
	*work
	key  schemas.Key
	dir  string
	rows int64  // that the trainer trains on
	note string // how it is placed on devices
	// Beside them it read some to measure the loss of, and general data that was too long.
	heldOut, tooLong int64
	started          bool // it has said what it trains on
	curve            []schemas.CurvePoint
	// extra is what else a checkpoint must bring back, by file name.
	extra map[string]any
	// milestones are those that are stored. Only the upload adds to them.
	milestones []schemas.Milestone
	upload     *upload
}

func (w *work) newJob() (*job, error) {
	key, err := w.Output(schemas.OutputModel)
	if err != nil {
		return nil, err
	}
	j := &job{work: w, key: key, dir: w.Activities.work("jobs", string(key))}
	j.extra = map[string]any{"precept-curve.json": &j.curve}
	if err := os.MkdirAll(j.path("checkpoints"), 0o755); err != nil {
		return nil, schemas.E("train", j.Title, schemas.Unavailable, err)
	}
	j.upload = &upload{job: j}
	return j, nil
}

func (j *job) path(name string) string { return filepath.Join(j.dir, name) }

// fetch writes shards to files that the trainer reads.
func (j *job) fetch(ctx context.Context, name string, refs []schemas.ShardRef) (files []string, err error) {
	for i, ref := range refs {
		if ref.Rows == 0 {
			continue
		}
		path := j.path(fmt.Sprintf("%s-%04d.parquet", name, i))
		if err := shard.Fetch(ctx, j.store, ref, path); err != nil {
			return nil, err
		}
		files = append(files, path)
	}
	return files, nil
}

// resume brings back the last stored checkpoint and returns its folder and step, or
// "" and 0.
func (j *job) resume(ctx context.Context) (from string, step int, err error) {
	var steps []int
	prefix := j.checkpoints()
	for info, err := range j.store.List(ctx, prefix) {
		if err != nil {
			return "", 0, err
		}
		name, ok := strings.CutSuffix(strings.TrimPrefix(info.Key, prefix), "/index.json")
		if !ok {
			continue
		}
		step, err := strconv.Atoi(name)
		if err != nil {
			return "", 0, schemas.E("resume", info.Key, schemas.Internal, err)
		}
		steps = append(steps, step)
	}
	// What an earlier attempt left on this machine is not known to be whole.
	for _, dir := range []string{"checkpoints", "uploads"} {
		if err := os.RemoveAll(j.path(dir)); err != nil {
			return "", 0, schemas.E("resume", j.Title, schemas.Unavailable, err)
		}
		if err := os.MkdirAll(j.path(dir), 0o755); err != nil {
			return "", 0, schemas.E("resume", j.Title, schemas.Unavailable, err)
		}
	}
	slices.Sort(steps)
	for _, step := range slices.Backward(steps) {
		j.beat.say(fmt.Sprintf("resuming from step %d", step))
		dir := j.path(fmt.Sprintf("checkpoints/checkpoint-%d", step))
		err := shard.GetFolder(ctx, j.store, schemas.CheckpointPrefix(j.key, step), dir)
		if schemas.KindOf(err) == schemas.InvalidInput {
			// Two holders have written it at the same time. An earlier one does too, and
			// this step is stored again when it is reached.
			activity.GetLogger(ctx).Warn("a checkpoint is broken", "step", step, "error", err)
			if err := j.store.Delete(ctx, schemas.CheckpointPrefix(j.key, step)+"/index.json"); err != nil {
				return "", 0, err
			}
			continue
		}
		if err != nil {
			return "", 0, err
		}
		extra := maps.Clone(j.extra)
		extra[schemas.MilestonesFile] = &j.milestones
		for name, v := range extra {
			raw, err := os.ReadFile(filepath.Join(dir, name))
			if err == nil {
				err = json.Unmarshal(raw, v)
			}
			if err != nil {
				return "", 0, schemas.E("resume", dir, schemas.Internal, err)
			}
		}
		return dir, step, nil
	}
	return "", 0, nil
}

// checkpoints is the prefix of the job's stored checkpoints.
func (j *job) checkpoints() string { return "checkpoints/" + string(j.key) + "/" }

// training fills in what all jobs say alike, and how this one is placed.
func (j *job) training(spec schemas.TrainerSpec, p gpu.Plan, t trainer.Training) trainer.Training {
	t.Output, t.Checkpoints, t.Seed = j.path("model"), j.path("checkpoints"), j.spec.Seed
	t.GradientAccumulation, t.Device, t.DType = p.Accumulation, "auto", p.DType
	if t.GradientCheckpointing = p.Checkpointing; p.Processes > 1 {
		t.Processes = p.Processes
	}
	t.ReportTo, t.Trainer = spec.ReportTo, spec.Trainer
	return t
}

// run trains and stores the model. When the worker stops, the trainer is asked for a
// checkpoint first. While busy, nothing is to be heard of it.
func (j *job) run(ctx context.Context, command string, spec schemas.TrainerSpec, file any, busy func() bool, env ...string) (ref schemas.ModelRef, err error) {
	training, cancel := j.untilStop(ctx)
	defer cancel()
	training, heard, end := trainer.Watch(training, time.Duration(spec.HangAfter), busy)
	defer end()
	if len(spec.ReportTo) > 0 {
		env = append(env, j.config.Trainer.Named()...)
	}
	done, err := trainer.Run(training, j.config.Trainer, command, j.dir, file, func(e trainer.Event) error {
		heard()
		return j.event(ctx, e)
	}, env...)
	if err := errors.Join(err, j.upload.wait()); err != nil {
		return ref, err
	}
	if !j.started {
		return ref, schemas.Errorf("train", j.Title, schemas.Internal, "the trainer is done and has never said what it trains on")
	}
	j.beat.say("storing the model")
	ref = schemas.ModelRef{Base: j.Model.Base, Commit: j.Model.Commit, Metrics: done.Metrics}
	if ref.Digest, err = shard.PutFolder(ctx, j.store, done.Path, schemas.ModelPrefix); err != nil {
		return ref, err
	}
	ref.Prefix = schemas.ModelPrefix(ref.Digest)
	if j.Milestones > 0 { // the last one is the end, which may come early
		j.milestones = slices.DeleteFunc(j.milestones, func(m schemas.Milestone) bool { return m.Step >= done.Steps })
		j.milestones = append(j.milestones, schemas.Milestone{Step: done.Steps, Model: ref})
	}
	return ref, nil
}

// event follows the trainer: people see its steps, checkpoints are uploaded
// while training goes on.
func (j *job) event(ctx context.Context, e trainer.Event) error {
	switch e.Event {
	case trainer.EventStart:
		j.started, j.rows, j.heldOut, j.tooLong = true, e.Rows, e.HeldOut, e.TooLong
		j.beat.set(schemas.TaskProgress{Total: int64(e.TotalSteps), Unit: "steps", Note: j.note})
	case trainer.EventProgress:
		metrics := e.Metrics
		if metrics == nil {
			metrics = map[string]float64{}
		}
		metrics["loss"], metrics["tokens_per_second"] = e.Loss, e.TokensPerSecond
		j.curve = append(j.curve, schemas.CurvePoint{Step: e.Step, Metrics: metrics})
		j.beat.set(schemas.TaskProgress{Done: int64(e.Step), Total: int64(e.TotalSteps), Unit: "steps", Note: j.note, Metrics: metrics})
	case trainer.EventEvaluation:
		j.evaluated(e)
	case trainer.EventCheckpoint:
		return j.checkpoint(ctx, e)
	case trainer.EventMilestone:
		return j.upload.milestone(context.WithoutCancel(ctx), e.Step, e.Path)
	}
	return j.upload.err()
}

// evaluated adds what was measured on held-out rows to the curve's point of the step.
func (j *job) evaluated(e trainer.Event) {
	for i := range j.curve {
		if j.curve[i].Step == e.Step {
			maps.Copy(j.curve[i].Metrics, e.Metrics)
		}
	}
}

// checkpoint completes a checkpoint and has it uploaded.
func (j *job) checkpoint(ctx context.Context, e trainer.Event) error {
	for name, v := range j.extra {
		raw, err := json.Marshal(v)
		if err == nil {
			err = os.WriteFile(filepath.Join(e.Path, name), raw, 0o644)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the trainer has gone on so far that it removed it: newer ones come
		}
		if err != nil {
			return schemas.E("save checkpoint", e.Path, schemas.Unavailable, err)
		}
	}
	// The checkpoint that a job leaves when its context ends is stored too.
	return j.upload.add(context.WithoutCancel(ctx), e.Step, e.Path)
}

// finish stores the job's result, which ends it, and drops what it needed.
func (j *job) finish(ctx context.Context, result schemas.JobResult) error {
	result.Key, result.Curve, result.Milestones = j.key, j.curve, j.milestones
	err := shard.PutJSON(ctx, j.store, schemas.JobObject(j.key), result, shard.PutOptions{IfNoneMatch: true})
	if err != nil && schemas.KindOf(err) != schemas.Conflict {
		return err
	}
	if err := j.prune(ctx, math.MaxInt); err != nil {
		return err
	}
	return os.RemoveAll(j.dir)
}
