package gpu

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"precept/schemas"
)

// markEnv is the environment variable by which the processes of a lease are known. Its value is drawn anew
// for every lease, and children inherit it: whoever has it belongs to that lease, and nobody else.
const markEnv = "PRECEPT_DEVICES_LEASE"

// Lease is the right to use devices, held by locks on files of a folder: one a device, so that
// two jobs never share one, whatever sets they want. The kernel gives the locks back when this process dies.
type Lease struct {
	files []*os.File
	record
}

// record is what stands in a lock's file while it is held, and after its holder was killed.
type record struct {
	Mark   string    `json:"mark"`
	Holder string    `json:"holder"`
	Since  time.Time `json:"since"`
}

// Take waits for devices, and ends what a dead holder has left on them. While it waits, it tells who
// holds them.
func Take(ctx context.Context, dir string, devices []Device, holder string, waiting func(holder string)) (*Lease, error) {
	const op = "take devices"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, schemas.E(op, dir, schemas.Unavailable, err)
	}
	l := &Lease{record: record{Mark: rand.Text(), Holder: fmt.Sprintf("process %d: %s", os.Getpid(), holder), Since: time.Now().UTC()}}
	// In one order, so that two who want the same ones can't wait for each other.
	var names []string
	for _, d := range devices {
		names = append(names, filepath.Base(d.UUID)+".lock")
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		f, err := lock(ctx, filepath.Join(dir, name), waiting)
		if err != nil {
			l.unlock()
			return nil, err
		}
		l.files = append(l.files, f)
	}
	for _, f := range l.files {
		if err := l.inherit(ctx, f); err != nil {
			l.unlock()
			return nil, err
		}
	}
	return l, nil
}

// lock waits for one file's lock.
func lock(ctx context.Context, path string, waiting func(string)) (*os.File, error) {
	const op = "take devices"
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, schemas.E(op, path, schemas.Unavailable, err)
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, syscall.EINTR):
			continue
		case !errors.Is(err, syscall.EWOULDBLOCK):
			f.Close()
			return nil, schemas.E(op, path, schemas.Unavailable, err).WithHint("The worker's trainer.work_dir must lie on a file system that has locks.")
		}
		if r, err := read(f); err == nil {
			waiting(r.Holder)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		}
	}
}

// inherit ends what the last holder left, and writes down the new one.
func (l *Lease) inherit(ctx context.Context, f *os.File) error {
	const op = "take devices"
	if former, err := read(f); err == nil {
		if err := endLeftovers(ctx, former.Mark); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(l.record)
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(raw, 0)
	}
	if err != nil {
		return schemas.E(op, f.Name(), schemas.Unavailable, err)
	}
	return nil
}

// read reads a record; an empty file has none.
func read(f *os.File) (r record, err error) {
	raw, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<16))
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err == nil && r.Mark == "" {
		err = errors.New("no mark")
	}
	return r, err
}

// Env is what a process needs that uses some of the lease's devices, and no others.
func (l *Lease) Env(devices []Device) []string {
	var seen []string
	for _, d := range devices {
		seen = append(seen, d.visible())
	}
	return []string{markEnv + "=" + l.Mark, "CUDA_VISIBLE_DEVICES=" + strings.Join(seen, ",")}
}

// Release gives the devices back, free of what was started on them.
func (l *Lease) Release(ctx context.Context) error {
	err := endLeftovers(ctx, l.Mark)
	if err == nil {
		for _, f := range l.files {
			err = errors.Join(err, f.Truncate(0))
		}
	}
	l.unlock()
	return err
}

func (l *Lease) unlock() {
	for _, f := range l.files {
		f.Close()
	}
	l.files = nil
}
