package shard

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"precept/schemas"
)

// Memory is a Store in memory, for tests. It is as strict as a gateway over a
// file system: no key may be another's folder.
type Memory struct {
	mu      sync.Mutex
	objects map[string]object
	folders map[string]int // objects below
}

type object struct {
	info Info
	body []byte
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory {
	return &Memory{objects: map[string]object{}, folders: map[string]int{}}
}

var _ Store = (*Memory)(nil)

// Get implements Store.
func (m *Memory) Get(ctx context.Context, key string) ([]byte, Info, error) {
	o, err := m.find(ctx, "get", key)
	if err == nil {
		o.info.Age = time.Since(o.info.Modified)
	}
	return slices.Clone(o.body), o.info, err
}

// Head implements Store.
func (m *Memory) Head(ctx context.Context, key string) (Info, error) {
	o, err := m.find(ctx, "head", key)
	return o.info, err
}

func (m *Memory) find(ctx context.Context, op, key string) (object, error) {
	if err := checkKey(op, key); err != nil {
		return object{}, err
	}
	if err := ctx.Err(); err != nil {
		return object{}, schemas.E(op, key, schemas.Unavailable, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key]
	if !ok {
		return object{}, schemas.Errorf(op, key, schemas.NotFound, "no such object")
	}
	o.info.Meta = maps.Clone(o.info.Meta)
	return o, nil
}

// Put implements Store.
func (m *Memory) Put(ctx context.Context, key string, body []byte, opts PutOptions) (Info, error) {
	const op = "put"
	if err := opts.check(op, key); err != nil {
		return Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return Info{}, schemas.E(op, key, schemas.Unavailable, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, exists := m.objects[key]
	switch {
	case opts.IfNoneMatch && exists:
		return Info{}, schemas.Errorf(op, key, schemas.Conflict, "the object exists")
	case opts.IfMatch != "" && !exists:
		return Info{}, schemas.Errorf(op, key, schemas.NotFound, "no such object")
	case opts.IfMatch != "" && opts.IfMatch != old.info.ETag:
		return Info{}, schemas.Errorf(op, key, schemas.Conflict, "the object has changed")
	}
	if m.folders[key] > 0 {
		return Info{}, schemas.Errorf(op, key, schemas.InvalidInput, "the key is the folder of other objects")
	}
	for parent := range parents(key) {
		if _, ok := m.objects[parent]; ok {
			return Info{}, schemas.Errorf(op, key, schemas.InvalidInput, "the key's folder %s is an object", parent)
		}
	}
	if !exists {
		m.count(key, +1)
	}
	sum := md5.Sum(body)
	o := object{
		body: slices.Clone(body),
		info: Info{Key: key, ETag: hex.EncodeToString(sum[:]), Size: int64(len(body)), Modified: time.Now(), Meta: opts.meta()},
	}
	m.objects[key] = o
	info := o.info
	info.Modified, info.Meta = time.Time{}, opts.meta()
	return info, nil
}

// PutFile implements Store.
func (m *Memory) PutFile(ctx context.Context, key, path string, opts PutOptions) (Info, error) {
	body, err := os.ReadFile(path)
	if err != nil {
		return Info{}, fileError("put", key, err)
	}
	return m.Put(ctx, key, body, opts)
}

// GetFile implements Store.
func (m *Memory) GetFile(ctx context.Context, key, path string) (Info, error) {
	body, info, err := m.Get(ctx, key)
	if err != nil {
		return Info{}, err
	}
	err = createFile(path, func(f *os.File) error {
		_, err := f.Write(body)
		return err
	})
	if err != nil {
		return Info{}, fileError("get", key, err)
	}
	return info, nil
}

// List implements Store.
func (m *Memory) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return m.ListAfter(ctx, prefix, "")
}

// ListAfter implements Store.
func (m *Memory) ListAfter(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(Info{}, schemas.E("list", prefix, schemas.Unavailable, err))
			return
		}
		m.mu.Lock()
		var found []Info
		for _, key := range slices.Sorted(maps.Keys(m.objects)) {
			if strings.HasPrefix(key, prefix) && key > after {
				info := m.objects[key].info
				info.Meta = nil
				found = append(found, info)
			}
		}
		m.mu.Unlock()
		for _, info := range found {
			if !yield(info, nil) {
				return
			}
		}
	}
}

// Delete implements Store.
func (m *Memory) Delete(ctx context.Context, key string) error {
	if err := checkKey("delete", key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return schemas.E("delete", key, schemas.Unavailable, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key]; ok {
		delete(m.objects, key)
		m.count(key, -1)
	}
	return nil
}

func (m *Memory) count(key string, n int) {
	for parent := range parents(key) {
		m.folders[parent] += n
	}
}

// parents yields the folders that key lies in.
func parents(key string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i, r := range key {
			if r == '/' && !yield(key[:i]) {
				return
			}
		}
	}
}

// createFile makes a file that appears under its name when it is complete.
func createFile(path string, write func(*os.File) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".part-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := write(f); err != nil {
		f.Close()
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// fileError says what went wrong with a local file beside an object.
func fileError(op, key string, err error) error {
	kind := schemas.Internal
	if os.IsNotExist(err) {
		kind = schemas.InvalidInput
	}
	return schemas.E(op, key, kind, err)
}
