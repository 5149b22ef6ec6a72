package shard_test

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"precept/internal/shard"
	"precept/internal/shard/shardtest"
	"precept/schemas"
)

func keysOf(t *testing.T, s shard.Store, prefix string) (keys []string) {
	t.Helper()
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	slices.Sort(keys)
	return keys
}

func TestRemove(t *testing.T) {
	for name, s := range map[string]shard.Store{"memory": shard.NewMemory(), "s3": shardtest.S3(t)} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			if _, err := s.Put(ctx, "a/b", []byte("x"), shard.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			info, err := s.Head(ctx, "a/b")
			if err != nil {
				t.Fatal(err)
			}
			if ok, err := shard.Remove(ctx, s, "a/b", info.Modified); ok || err != nil {
				t.Errorf("Remove of what was written just then = %v, %v", ok, err)
			}
			if ok, err := shard.Remove(ctx, s, "a/b", info.Modified.Add(time.Nanosecond)); !ok || err != nil {
				t.Errorf("Remove = %v, %v", ok, err)
			}
			if ok, err := shard.Remove(ctx, s, "a/b", info.Modified.Add(time.Hour)); ok || err != nil {
				t.Errorf("Remove of what is gone = %v, %v", ok, err)
			}

			digest, err := shard.PutFolder(ctx, s, makeFolder(t, model), models)
			if err != nil {
				t.Fatal(err)
			}
			stored := keysOf(t, s, "models/")
			if removed, err := shard.RemoveFolder(ctx, s, models(digest), time.Now().Add(-time.Hour)); len(removed) > 0 || err != nil {
				t.Errorf("RemoveFolder of a young one = %v, %v", removed, err)
			}
			if diff := cmp.Diff(stored, keysOf(t, s, "models/")); diff != "" {
				t.Errorf("a young folder (-want +got):\n%s", diff)
			}
			removed, err := shard.RemoveFolder(ctx, s, models(digest), time.Now().Add(time.Hour))
			if err != nil || len(removed) != len(stored) || removed[0].Key != models(digest)+"/index.json" {
				t.Errorf("RemoveFolder = %v, %v", removed, err)
			}
			if left := keysOf(t, s, ""); len(left) > 0 {
				t.Errorf("%v is left", left)
			}
		})
	}
}

// hooked is a store that has something happen before a Put or after another call.
type hooked struct {
	shard.Store
	put, head, delete func(key string)
}

func (s hooked) Put(ctx context.Context, key string, body []byte, opts shard.PutOptions) (shard.Info, error) {
	if s.put != nil {
		s.put(key)
	}
	return s.Store.Put(ctx, key, body, opts)
}

func (s hooked) Head(ctx context.Context, key string) (shard.Info, error) {
	info, err := s.Store.Head(ctx, key)
	if s.head != nil {
		s.head(key)
	}
	return info, err
}

func (s hooked) Delete(ctx context.Context, key string) error {
	err := s.Store.Delete(ctx, key)
	if s.delete != nil {
		s.delete(key)
	}
	return err
}

// TestPutWhileRemoved: a folder that is stored while it is removed is whole in the end,
// or not there.
func TestPutWhileRemoved(t *testing.T) {
	ctx, source := t.Context(), makeFolder(t, model)
	halfRemoved := func() (*shard.Memory, schemas.Digest, []byte) {
		s := shard.NewMemory()
		digest, err := shard.PutFolder(ctx, s, source, models)
		if err != nil {
			t.Fatal(err)
		}
		index, _, err := s.Get(ctx, models(digest)+"/index.json")
		if err != nil {
			t.Fatal(err)
		}
		s.Delete(ctx, models(digest)+"/index.json")
		return s, digest, index
	}

	// The removal takes each file right after it was found there, once.
	s, digest, _ := halfRemoved()
	taken := map[string]bool{}
	take := func(key string) {
		if !taken[key] {
			taken[key] = true
			s.Delete(ctx, key)
		}
	}
	if got, err := shard.PutFolder(ctx, hooked{Store: s, head: take}, source, models); err != nil || got != digest {
		t.Errorf("PutFolder = %s, %v", got, err)
	}
	if len(taken) != len(model) {
		t.Errorf("%d files were taken", len(taken))
	}
	target := filepath.Join(t.TempDir(), "model")
	if err := shard.GetFolder(ctx, s, models(digest), target); err != nil {
		t.Error(err)
	}

	// Again and again a file goes just before the index is written.
	s, digest, _ = halfRemoved()
	again := hooked{Store: s, put: func(string) { s.Delete(ctx, models(digest)+"/config.json") }}
	if _, err := shard.PutFolder(ctx, again, source, models); schemas.KindOf(err) != schemas.Unavailable {
		t.Errorf("PutFolder: %v, want Unavailable", err)
	}
	if _, ok, err := shard.FindFolder(ctx, s, models(digest)); ok || err != nil {
		t.Errorf("FindFolder = %v, %v", ok, err)
	}

	// The one who stores it writes the index when the removal has not come to the end.
	s, digest, index := halfRemoved()
	removal := hooked{Store: s, delete: func(key string) {
		if strings.HasSuffix(key, "model.safetensors") {
			s.Put(ctx, models(digest)+"/index.json", index, shard.PutOptions{})
		}
	}}
	if _, err := shard.RemoveFolder(ctx, removal, models(digest), time.Now().Add(time.Hour)); err != nil {
		t.Error(err)
	}
	if _, ok, err := shard.FindFolder(ctx, s, models(digest)); ok || err != nil {
		t.Errorf("FindFolder after RemoveFolder = %v, %v", ok, err)
	}
}
