package shardtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"precept/internal/shard"
	"precept/schemas"
)

// Store is the suite that every shard.Store must pass. The store must be empty.
func Store(t *testing.T, s shard.Store) {
	t.Run("objects", func(t *testing.T) { objects(t, s) })
	t.Run("conditions", func(t *testing.T) { conditions(t, s) })
	t.Run("one of many", func(t *testing.T) { oneOfMany(t, s) })
	t.Run("list", func(t *testing.T) { list(t, s) })
	t.Run("files", func(t *testing.T) { files(t, s) })
	t.Run("bad keys", func(t *testing.T) { badKeys(t, s) })
	t.Run("ended context", func(t *testing.T) { endedContext(t, s) })
}

func objects(t *testing.T, s shard.Store) {
	ctx, key := t.Context(), "objects/a.json"
	if _, _, err := s.Get(ctx, key); schemas.KindOf(err) != schemas.NotFound {
		t.Errorf("Get of nothing: %v, want NotFound", err)
	}
	if _, err := s.Head(ctx, key); schemas.KindOf(err) != schemas.NotFound {
		t.Errorf("Head of nothing: %v, want NotFound", err)
	}
	if err := s.Delete(ctx, key); err != nil {
		t.Errorf("Delete of nothing: %v", err)
	}
	for _, body := range []string{"first", "", "second, longer\x00\xff"} {
		meta := map[string]string{"Rows": "3", "ledger": `{"kept":3}`}
		put, err := s.Put(ctx, key, []byte(body), shard.PutOptions{Meta: meta, ContentType: "application/json"})
		if err != nil {
			t.Fatal(err)
		}
		got, info, err := s.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != body {
			t.Errorf("Get = %q, want %q", got, body)
		}
		if info.Age < 0 || info.Age > time.Hour {
			t.Errorf("Age = %v", info.Age)
		}
		info.Age = 0
		head, err := s.Head(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(info, head); diff != "" {
			t.Errorf("Get and Head differ (-Get +Head):\n%s", diff)
		}
		if age := time.Since(info.Modified); age > time.Hour || age < -time.Hour {
			t.Errorf("Modified = %v", info.Modified)
		}
		want := shard.Info{
			Key: key, ETag: put.ETag, Size: int64(len(body)),
			Meta: map[string]string{"rows": "3", "ledger": `{"kept":3}`},
		}
		if diff := cmp.Diff(want, put); diff != "" {
			t.Errorf("Put (-want +got):\n%s", diff)
		}
		info.Modified = time.Time{}
		if diff := cmp.Diff(want, info); diff != "" {
			t.Errorf("Get (-want +got):\n%s", diff)
		}
	}
	if err := s.Delete(ctx, key); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Head(ctx, key); schemas.KindOf(err) != schemas.NotFound {
		t.Errorf("Head after Delete: %v, want NotFound", err)
	}
}

func conditions(t *testing.T, s shard.Store) {
	ctx, key := t.Context(), "conditions/a.json"
	put := func(body string, opts shard.PutOptions) (string, schemas.Kind) {
		t.Helper()
		info, err := s.Put(ctx, key, []byte(body), opts)
		return info.ETag, schemas.KindOf(err)
	}
	if _, kind := put("x", shard.PutOptions{IfMatch: "0123456789abcdef0123456789abcdef"}); kind != schemas.NotFound {
		t.Errorf("IfMatch on nothing: %q, want NotFound", kind)
	}
	first, kind := put("first", shard.PutOptions{IfNoneMatch: true})
	if kind != "" {
		t.Fatalf("IfNoneMatch on nothing: %s", kind)
	}
	if _, kind := put("again", shard.PutOptions{IfNoneMatch: true}); kind != schemas.Conflict {
		t.Errorf("IfNoneMatch on something: %q, want Conflict", kind)
	}
	second, kind := put("second", shard.PutOptions{IfMatch: first})
	if kind != "" {
		t.Errorf("IfMatch: %s", kind)
	}
	if second == first {
		t.Errorf("the ETag did not change: %s", first)
	}
	if _, kind := put("third", shard.PutOptions{IfMatch: first}); kind != schemas.Conflict {
		t.Errorf("stale IfMatch: %q, want Conflict", kind)
	}
	if _, kind := put("third", shard.PutOptions{IfMatch: second, IfNoneMatch: true}); kind != schemas.InvalidInput {
		t.Errorf("both conditions: %q, want InvalidInput", kind)
	}
	body, _, err := s.Get(ctx, key)
	if err != nil || string(body) != "second" {
		t.Errorf("Get = %q, %v, want second", body, err)
	}
}

func oneOfMany(t *testing.T, s shard.Store) {
	race := func(what string, opts shard.PutOptions) (winner string) {
		var wg sync.WaitGroup
		var written, refused atomic.Int32
		for i := range 16 {
			wg.Go(func() {
				info, err := s.Put(t.Context(), "race/a.json", fmt.Append(nil, what, i), opts)
				switch schemas.KindOf(err) {
				case "":
					written.Add(1)
					winner = info.ETag
				case schemas.Conflict:
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if written.Load() != 1 || refused.Load() != 15 {
			t.Fatalf("%s: %d written and %d refused, want 1 and 15", what, written.Load(), refused.Load())
		}
		return winner
	}
	etag := race("created", shard.PutOptions{IfNoneMatch: true})
	for i := range 5 { // with other bytes each time, since ETags may follow from them
		etag = race(fmt.Sprintf("overwritten %d ", i), shard.PutOptions{IfMatch: etag})
	}
}

func list(t *testing.T, s shard.Store) {
	ctx := t.Context()
	var want []shard.Info
	for _, key := range []string{"list/a/1.json", "list/a/b/2.json", "list/a-b/3.json", "list/ab.json", "lis.json"} {
		info, err := s.Put(ctx, key, []byte(key), shard.PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, shard.Info{Key: key, ETag: info.ETag, Size: info.Size})
	}
	tests := map[string][]shard.Info{
		"list/":   {want[0], want[1], want[2], want[3]},
		"list/a/": {want[0], want[1]},
		"list/a":  {want[0], want[1], want[2], want[3]},
		"list/z":  nil,
		"li":      want,
	}
	for prefix, want := range tests {
		var got []shard.Info
		for info, err := range s.List(ctx, prefix) {
			if err != nil {
				t.Fatal(err)
			}
			if info.Modified.IsZero() {
				t.Errorf("List(%q): %s has no time", prefix, info.Key)
			}
			info.Modified = time.Time{}
			got = append(got, info)
		}
		byKey := func(a, b shard.Info) int { return bytes.Compare([]byte(a.Key), []byte(b.Key)) }
		slices.SortFunc(got, byKey)
		want = slices.SortedFunc(slices.Values(want), byKey)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("List(%q) (-want +got):\n%s", prefix, diff)
		}
	}
	var later, wantLater []string
	for info, err := range s.ListAfter(ctx, "list/", "list/a/1.json") {
		if err != nil {
			t.Fatal(err)
		}
		later = append(later, info.Key)
	}
	slices.Sort(later)
	for info, err := range s.List(ctx, "list/") {
		if err != nil {
			t.Fatal(err)
		}
		if info.Key > "list/a/1.json" {
			wantLater = append(wantLater, info.Key)
		}
	}
	slices.Sort(wantLater)
	if diff := cmp.Diff(wantLater, later); diff != "" || len(later) == 0 {
		t.Errorf("ListAfter (-want +got):\n%s", diff)
	}
	for range s.List(ctx, "list/") {
		break // a caller may stop early
	}
}

func files(t *testing.T, s shard.Store) {
	ctx, dir := t.Context(), t.TempDir()
	for _, size := range []int{0, 1, 1 << 20, 17<<20 + 1} { // the last in parts
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			key := fmt.Sprintf("files/%d.bin", size)
			body := bytes.Repeat([]byte("0123456789abcde\n"), size/16+1)[:size]
			path := filepath.Join(dir, "source")
			if err := os.WriteFile(path, body, 0o644); err != nil {
				t.Fatal(err)
			}
			opts := shard.PutOptions{IfNoneMatch: true, Meta: map[string]string{"sha256": "x"}}
			put, err := s.PutFile(ctx, key, path, opts)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.PutFile(ctx, key, path, opts); schemas.KindOf(err) != schemas.Conflict {
				t.Errorf("second PutFile: %v, want Conflict", err)
			}
			if _, err := s.PutFile(ctx, key, path, shard.PutOptions{IfMatch: "stale"}); schemas.KindOf(err) != schemas.Conflict {
				t.Errorf("PutFile over another ETag: %v, want Conflict", err)
			}
			target := filepath.Join(dir, "deep", fmt.Sprint("er", size), "target")
			info, err := s.GetFile(ctx, key, target)
			if err != nil {
				t.Fatal(err)
			}
			if info.Size != int64(size) || info.ETag != put.ETag || info.Meta["sha256"] != "x" {
				t.Errorf("GetFile = %+v after PutFile = %+v", info, put)
			}
			got, err := os.ReadFile(target)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, body) {
				t.Error("GetFile gives other content than PutFile took")
			}
			if entries, _ := os.ReadDir(filepath.Dir(target)); len(entries) != 1 {
				t.Errorf("GetFile leaves %v", entries)
			}
		})
	}
	if _, err := s.PutFile(ctx, "files/none.bin", filepath.Join(dir, "none"), shard.PutOptions{}); schemas.KindOf(err) != schemas.InvalidInput {
		t.Errorf("PutFile of no file: %v, want InvalidInput", err)
	}
	target := filepath.Join(dir, "none")
	if _, err := s.GetFile(ctx, "files/none.bin", target); schemas.KindOf(err) != schemas.NotFound {
		t.Errorf("GetFile of nothing: %v, want NotFound", err)
	}
	if _, err := os.Stat(target); !os.IsNotExist(err) {
		t.Errorf("GetFile of nothing leaves a file: %v", err)
	}
}

func badKeys(t *testing.T, s shard.Store) {
	ctx := t.Context()
	for _, key := range []string{"", "/a", "a/", "a//b", "a/../b", "./a", "ä.json", "a\nb"} {
		if _, err := s.Put(ctx, key, nil, shard.PutOptions{}); schemas.KindOf(err) != schemas.InvalidInput {
			t.Errorf("Put(%q): %v, want InvalidInput", key, err)
		}
		if _, _, err := s.Get(ctx, key); schemas.KindOf(err) != schemas.InvalidInput {
			t.Errorf("Get(%q): %v, want InvalidInput", key, err)
		}
		if err := s.Delete(ctx, key); schemas.KindOf(err) != schemas.InvalidInput {
			t.Errorf("Delete(%q): %v, want InvalidInput", key, err)
		}
	}
	if _, err := s.Put(ctx, "a.json", nil, shard.PutOptions{Meta: map[string]string{"a": "ü"}}); schemas.KindOf(err) != schemas.InvalidInput {
		t.Errorf("Put with other than ASCII in Meta: %v, want InvalidInput", err)
	}
	if _, err := s.Put(ctx, "folder/a.json", nil, shard.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"folder", "folder/a.json/b.json"} {
		if _, err := s.Put(ctx, key, []byte("x"), shard.PutOptions{}); schemas.KindOf(err) != schemas.InvalidInput {
			t.Errorf("Put(%q) beside folder/a.json: %v, want InvalidInput", key, err)
		}
	}
}

func endedContext(t *testing.T, s shard.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Put(ctx, "ended/a.json", nil, shard.PutOptions{}); schemas.KindOf(err) != schemas.Unavailable {
		t.Errorf("Put: %v, want Unavailable", err)
	}
	if _, err := s.Head(ctx, "ended/a.json"); schemas.KindOf(err) != schemas.Unavailable {
		t.Errorf("Head: %v, want Unavailable", err)
	}
	for _, err := range s.List(ctx, "ended/") {
		if schemas.KindOf(err) != schemas.Unavailable {
			t.Errorf("List: %v, want Unavailable", err)
		}
	}
}
