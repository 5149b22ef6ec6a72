package shard

import (
	"context"
	"iter"

	"precept/schemas"
)

// Overlay is a Store over another one, which it never changes: what is written is in
// memory, and found before what lies below.
type Overlay struct {
	below Store
	above *Memory
}

// NewOverlay returns an Overlay without writes.
func NewOverlay(below Store) *Overlay { return &Overlay{below, NewMemory()} }

var _ Store = (*Overlay)(nil)

// Get implements Store.
func (o *Overlay) Get(ctx context.Context, key string) ([]byte, Info, error) {
	body, info, err := o.above.Get(ctx, key)
	if schemas.KindOf(err) == schemas.NotFound {
		return o.below.Get(ctx, key)
	}
	return body, info, err
}

// Head implements Store.
func (o *Overlay) Head(ctx context.Context, key string) (Info, error) {
	info, err := o.above.Head(ctx, key)
	if schemas.KindOf(err) == schemas.NotFound {
		return o.below.Head(ctx, key)
	}
	return info, err
}

// Put implements Store.
func (o *Overlay) Put(ctx context.Context, key string, body []byte, opts PutOptions) (Info, error) {
	if err := o.allows(ctx, key, opts); err != nil {
		return Info{}, err
	}
	opts.IfMatch = ""
	return o.above.Put(ctx, key, body, opts)
}

// PutFile implements Store.
func (o *Overlay) PutFile(ctx context.Context, key, path string, opts PutOptions) (Info, error) {
	if err := o.allows(ctx, key, opts); err != nil {
		return Info{}, err
	}
	opts.IfMatch = ""
	return o.above.PutFile(ctx, key, path, opts)
}

// allows checks a write's condition against what is found.
func (o *Overlay) allows(ctx context.Context, key string, opts PutOptions) error {
	if !opts.IfNoneMatch && opts.IfMatch == "" {
		return nil
	}
	info, err := o.Head(ctx, key)
	switch {
	case schemas.KindOf(err) == schemas.NotFound && opts.IfNoneMatch:
		return nil
	case err != nil:
		return err
	case opts.IfNoneMatch:
		return schemas.Errorf("put", key, schemas.Conflict, "the object exists")
	case info.ETag != opts.IfMatch:
		return schemas.Errorf("put", key, schemas.Conflict, "the object has changed")
	}
	return nil
}

// GetFile implements Store.
func (o *Overlay) GetFile(ctx context.Context, key, path string) (Info, error) {
	info, err := o.above.GetFile(ctx, key, path)
	if schemas.KindOf(err) == schemas.NotFound {
		return o.below.GetFile(ctx, key, path)
	}
	return info, err
}

// List implements Store.
func (o *Overlay) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return o.ListAfter(ctx, prefix, "")
}

// ListAfter implements Store.
func (o *Overlay) ListAfter(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		seen := map[string]bool{}
		for info, err := range o.above.ListAfter(ctx, prefix, after) {
			seen[info.Key] = true
			if !yield(info, err) || err != nil {
				return
			}
		}
		for info, err := range o.below.ListAfter(ctx, prefix, after) {
			if err == nil && seen[info.Key] {
				continue
			}
			if !yield(info, err) || err != nil {
				return
			}
		}
	}
}

// Delete implements Store. It removes only what was written here.
func (o *Overlay) Delete(ctx context.Context, key string) error {
	if _, err := o.above.Head(ctx, key); schemas.KindOf(err) == schemas.NotFound {
		return schemas.Errorf("delete", key, schemas.InvalidInput, "an overlay removes nothing from the store below it")
	}
	return o.above.Delete(ctx, key)
}
