package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"precept/internal/shard"
	"precept/schemas"
)

// upload stores a job's milestones and checkpoints while training goes on, one at a time. Of
// checkpoints that come meanwhile the newest waits, and the others are passed over. Every
// milestone is stored, and before the next checkpoint: who resumes from that one needs it.
type upload struct {
	job *job

	mu         sync.Mutex
	running    sync.WaitGroup
	busy       bool
	milestones []folder
	next       *folder // a checkpoint
	failed     error   // the first failure
}

// folder is what the trainer wrote after a step. That of a checkpoint holds links to its
// files, which the trainer doesn't remove.
type folder struct {
	step int
	dir  string
}

// milestone has the milestone in dir, which is the upload's from now on, stored.
func (u *upload) milestone(ctx context.Context, step int, dir string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.milestones = append(u.milestones, folder{step, dir})
	u.start(ctx)
	return u.failed
}

// start has what waits stored, unless that is under way.
func (u *upload) start(ctx context.Context) {
	if !u.busy {
		u.busy = true
		u.running.Go(func() { u.work(ctx) })
	}
}

// add has the checkpoint in dir stored. It returns the failure of an earlier one.
func (u *upload) add(ctx context.Context, step int, dir string) error {
	c := &folder{step, u.job.path(fmt.Sprintf("uploads/%08d", step))}
	if err := linkAll(dir, c.dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the trainer has removed it: newer ones come
		}
		return schemas.E("save checkpoint", dir, schemas.Unavailable, err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.next != nil {
		_ = os.RemoveAll(u.next.dir) // scratch space, emptied at the next start
	}
	u.next = c
	u.start(ctx)
	return u.failed
}

func (u *upload) work(ctx context.Context) {
	for {
		store := u.take()
		if store == nil {
			return
		}
		if err := store(ctx); err != nil {
			u.mu.Lock()
			u.failed = errors.Join(u.failed, err)
			u.mu.Unlock()
		}
	}
}

// take returns what to store next; nil where nothing waits.
func (u *upload) take() func(context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.milestones) > 0 {
		m := u.milestones[0]
		u.milestones = u.milestones[1:]
		return func(ctx context.Context) error { return u.job.storeMilestone(ctx, m) }
	}
	if c := u.next; c != nil {
		u.next = nil
		return func(ctx context.Context) error { return u.job.storeCheckpoint(ctx, *c) }
	}
	u.busy = false
	return nil
}

func (u *upload) err() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.failed
}

// wait returns when all that was added is stored, or passed over.
func (u *upload) wait() error {
	u.running.Wait()
	return u.err()
}

// linkAll makes to a folder of hard links to from's files.
func linkAll(from, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, relative), 0o755)
		}
		return os.Link(path, filepath.Join(to, relative))
	})
}

// storeMilestone stores a milestone as a model of its own.
func (j *job) storeMilestone(ctx context.Context, m folder) error {
	digest, err := shard.PutFolder(ctx, j.store, m.dir, schemas.ModelPrefix)
	if err != nil {
		return err
	}
	ref := schemas.ModelRef{Base: j.Model.Base, Commit: j.Model.Commit, Digest: digest, Prefix: schemas.ModelPrefix(digest)}
	j.milestones = append(j.milestones, schemas.Milestone{Step: m.step, Model: ref})
	if err := os.RemoveAll(m.dir); err != nil {
		return schemas.E("save milestone", m.dir, schemas.Unavailable, err)
	}
	return nil
}

// storeCheckpoint stores one checkpoint, and removes earlier ones. Only the holder of the
// job's lease may: another may be further by now.
func (j *job) storeCheckpoint(ctx context.Context, c folder) error {
	if err := j.lease.Check(); err != nil {
		return err
	}
	before := []schemas.Milestone{}
	for _, m := range j.milestones {
		if m.Step <= c.step {
			before = append(before, m)
		}
	}
	raw, err := json.Marshal(before)
	if err == nil {
		err = os.WriteFile(filepath.Join(c.dir, schemas.MilestonesFile), raw, 0o644)
	}
	if err != nil {
		return schemas.E("save checkpoint", c.dir, schemas.Unavailable, err)
	}
	prefix := schemas.CheckpointPrefix(j.key, c.step)
	if _, err := shard.PutFolder(ctx, j.store, c.dir, func(schemas.Digest) string { return prefix }); err != nil {
		return err
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return schemas.E("save checkpoint", c.dir, schemas.Unavailable, err)
	}
	if err := j.lease.Check(); err != nil {
		return err
	}
	return j.prune(ctx, c.step)
}

// prune removes stored checkpoints of steps before step. The index goes first, so
// that a half-removed one is not taken for whole.
func (j *job) prune(ctx context.Context, step int) error {
	prefix := j.checkpoints()
	var indexes, files []string
	for info, err := range j.store.List(ctx, prefix) {
		if err != nil {
			return err
		}
		folder, name, _ := strings.Cut(strings.TrimPrefix(info.Key, prefix), "/")
		if at, err := strconv.Atoi(folder); err != nil || at >= step {
			continue
		}
		if name == "index.json" {
			indexes = append(indexes, info.Key)
		} else {
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
