package activities

import (
	"context"
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

// upload stores a job's checkpoints while training goes on. One is stored at a time;
// of those that come meanwhile the newest waits, and the others are passed over.
type upload struct {
	job *job

	mu      sync.Mutex
	running sync.WaitGroup
	busy    bool
	next    *checkpoint
	failed  error // the first failure
}

type checkpoint struct {
	step int
	dir  string // links to its files, which the trainer doesn't remove
}

// add has the checkpoint in dir stored. It returns the failure of an earlier one.
func (u *upload) add(ctx context.Context, step int, dir string) error {
	c := &checkpoint{step, u.job.path(fmt.Sprintf("uploads/%08d", step))}
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
	if !u.busy {
		u.busy = true
		u.running.Go(func() { u.work(ctx) })
	}
	return u.failed
}

func (u *upload) work(ctx context.Context) {
	for {
		u.mu.Lock()
		c := u.next
		u.next = nil
		u.busy = c != nil
		u.mu.Unlock()
		if c == nil {
			return
		}
		if err := u.job.storeCheckpoint(ctx, *c); err != nil {
			u.mu.Lock()
			u.failed = errors.Join(u.failed, err)
			u.mu.Unlock()
		}
	}
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

// storeCheckpoint stores one checkpoint, and removes earlier ones. Only the holder of the
// job's lease may: another may be further by now.
func (j *job) storeCheckpoint(ctx context.Context, c checkpoint) error {
	if err := j.lease.Check(); err != nil {
		return err
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
