package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"precept/internal/shard"
	"precept/internal/trainer"
	"precept/schemas"
)

// job is a training job of a task: it survives the death of trainer, worker and
// machine by checkpoints in the store.
type job struct {
	*work
	key   schemas.Key
	dir   string
	curve []schemas.CurvePoint
	// extra is what else a checkpoint must bring back, by file name.
	extra map[string]any

	uploads sync.WaitGroup
	mu      sync.Mutex
	failed  error // the first failed upload
}

func (w *work) newJob() (*job, error) {
	key, err := w.Output(schemas.OutputModel)
	if err != nil {
		return nil, err
	}
	j := &job{work: w, key: key, dir: w.Activities.work("jobs", string(key))}
	j.extra = map[string]any{"precept-curve.json": &j.curve}
	return j, os.MkdirAll(j.path("checkpoints"), 0o755)
}

func (j *job) path(name string) string { return filepath.Join(j.dir, name) }

// fetch writes shards to files that the trainer reads.
func (j *job) fetch(ctx context.Context, refs []schemas.ShardRef) (files []string, err error) {
	for i, ref := range refs {
		if ref.Rows == 0 {
			continue
		}
		path := j.path(fmt.Sprintf("data-%04d.parquet", i))
		if _, err := j.store.GetFile(ctx, ref.Object, path); err != nil {
			return nil, err
		}
		files = append(files, path)
	}
	if len(files) == 0 {
		return nil, schemas.Errorf("train", j.Title, schemas.InvalidInput, "there are no rows to train on")
	}
	return files, nil
}

// resume brings back the last stored checkpoint and returns its folder, or "".
func (j *job) resume(ctx context.Context) (string, error) {
	last := -1
	prefix := "checkpoints/" + string(j.key) + "/"
	for info, err := range j.store.List(ctx, prefix) {
		if err != nil {
			return "", err
		}
		name, ok := strings.CutSuffix(strings.TrimPrefix(info.Key, prefix), "/index.json")
		if !ok {
			continue
		}
		step, err := strconv.Atoi(name)
		if err != nil {
			return "", schemas.E("resume", info.Key, schemas.Internal, err)
		}
		last = max(last, step)
	}
	// What an earlier attempt left on this machine is not known to be whole.
	if err := os.RemoveAll(j.path("checkpoints")); err != nil {
		return "", schemas.E("resume", j.Title, schemas.Unavailable, err)
	}
	if err := os.MkdirAll(j.path("checkpoints"), 0o755); err != nil {
		return "", schemas.E("resume", j.Title, schemas.Unavailable, err)
	}
	if last < 0 {
		return "", nil
	}
	j.beat.say(fmt.Sprintf("resuming from step %d", last))
	dir := j.path(fmt.Sprintf("checkpoints/checkpoint-%d", last))
	if err := shard.GetFolder(ctx, j.store, schemas.CheckpointPrefix(j.key, last), dir); err != nil {
		return "", err
	}
	for name, v := range j.extra {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = json.Unmarshal(raw, v)
		}
		if err != nil {
			return "", schemas.E("resume", dir, schemas.Internal, err)
		}
	}
	return dir, nil
}

// run trains and stores model and result.
func (j *job) run(ctx context.Context, command string, spec any, env ...string) (schemas.ModelRef, trainer.Event, error) {
	done, err := trainer.Run(ctx, j.config.Trainer, command, j.dir, spec, func(e trainer.Event) error {
		return j.event(ctx, e)
	}, env...)
	j.uploads.Wait()
	if err := errors.Join(err, j.uploadError()); err != nil {
		return schemas.ModelRef{}, done, err
	}
	j.beat.say("storing the model")
	ref := schemas.ModelRef{Base: j.Model.Base, Metrics: done.Metrics}
	if ref.Digest, err = shard.PutFolder(ctx, j.store, done.Path, schemas.ModelPrefix); err != nil {
		return ref, done, err
	}
	ref.Prefix = schemas.ModelPrefix(ref.Digest)
	return ref, done, nil
}

// event follows the trainer: people see its steps, checkpoints are uploaded
// while training goes on.
func (j *job) event(ctx context.Context, e trainer.Event) error {
	switch e.Event {
	case trainer.EventStart:
		j.beat.set(schemas.TaskProgress{Total: int64(e.TotalSteps), Unit: "steps"})
	case trainer.EventProgress:
		metrics := e.Metrics
		if metrics == nil {
			metrics = map[string]float64{}
		}
		metrics["loss"], metrics["tokens_per_second"] = e.Loss, e.TokensPerSecond
		j.mu.Lock()
		j.curve = append(j.curve, schemas.CurvePoint{Step: e.Step, Metrics: metrics})
		j.mu.Unlock()
		j.beat.set(schemas.TaskProgress{Done: int64(e.Step), Total: int64(e.TotalSteps), Unit: "steps", Metrics: metrics})
	case trainer.EventCheckpoint:
		return j.checkpoint(ctx, e)
	}
	return j.uploadError()
}

// checkpoint starts an upload. The one before must have ended: a trainer that
// saves faster than the store takes is slowed down, not outrun.
func (j *job) checkpoint(ctx context.Context, e trainer.Event) error {
	j.uploads.Wait()
	if err := j.uploadError(); err != nil {
		return err
	}
	for name, v := range j.extra {
		j.mu.Lock()
		raw, err := json.Marshal(v)
		j.mu.Unlock()
		if err == nil {
			err = os.WriteFile(filepath.Join(e.Path, name), raw, 0o644)
		}
		if err != nil {
			return schemas.E("save checkpoint", e.Path, schemas.Unavailable, err)
		}
	}
	// The checkpoint that a job leaves when its context ends is stored too.
	ctx = context.WithoutCancel(ctx)
	j.uploads.Add(1)
	go func() {
		defer j.uploads.Done()
		prefix := schemas.CheckpointPrefix(j.key, e.Step)
		_, err := shard.PutFolder(ctx, j.store, e.Path, func(schemas.Digest) string { return prefix })
		if err == nil {
			err = j.prune(ctx, e.Step)
		}
		if err != nil {
			j.mu.Lock()
			j.failed = errors.Join(j.failed, err)
			j.mu.Unlock()
		}
	}()
	return nil
}

// prune removes stored checkpoints older than the one at step. The index goes
// first, so that a half-removed one is not taken for whole.
func (j *job) prune(ctx context.Context, step int) error {
	prefix, keep := "checkpoints/"+string(j.key)+"/", schemas.CheckpointPrefix(j.key, step)+"/"
	var indexes, files []string
	for info, err := range j.store.List(ctx, prefix) {
		if err != nil {
			return err
		}
		switch {
		case strings.HasPrefix(info.Key, keep):
		case strings.HasSuffix(info.Key, "/index.json"):
			indexes = append(indexes, info.Key)
		default:
			files = append(files, info.Key)
		}
	}
	for _, key := range append(indexes, files...) {
		if err := j.store.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

func (j *job) uploadError() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failed
}

// finish stores the job's result, which ends it, and drops what it needed.
func (j *job) finish(ctx context.Context, result schemas.JobResult) error {
	result.Key, result.Curve = j.key, j.curve
	err := shard.PutJSON(ctx, j.store, schemas.JobObject(j.key), result, shard.PutOptions{IfNoneMatch: true})
	if err != nil && schemas.KindOf(err) != schemas.Conflict {
		return err
	}
	if err := j.prune(ctx, -1); err != nil {
		return err
	}
	return os.RemoveAll(j.dir)
}
