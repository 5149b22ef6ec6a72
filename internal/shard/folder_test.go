package shard_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/internal/shard"
	"precept/internal/shard/shardtest"
	"precept/schemas"
)

func makeFolder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "folder")
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func readFolder(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		files[filepath.ToSlash(name)] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

var model = map[string]string{
	"config.json": "{}", "model.safetensors": strings.Repeat("weights ", 1000), "sub/empty.txt": "", "model.safetensors.index.json": "{}",
}

func models(digest schemas.Digest) string { return "models/" + string(digest) }

func TestFolder(t *testing.T) {
	for name, s := range map[string]shard.Store{"memory": shard.NewMemory(), "s3": shardtest.S3(t)} {
		t.Run(name, func(t *testing.T) {
			ctx, source := t.Context(), makeFolder(t, model)
			digest, err := shard.PutFolder(ctx, s, source, models)
			if err != nil {
				t.Fatal(err)
			}
			if want, err := shard.FolderDigest(source); err != nil || digest != want {
				t.Errorf("PutFolder = %s, FolderDigest = %s, %v", digest, want, err)
			}
			target := filepath.Join(t.TempDir(), "a", "b")
			for range 2 {
				if err := shard.GetFolder(ctx, s, models(digest), target); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(model, readFolder(t, target)); diff != "" {
					t.Errorf("GetFolder (-want +got):\n%s", diff)
				}
			}
			// A folder that isn't right is replaced whole.
			os.WriteFile(filepath.Join(target, "config.json"), []byte("[]"), 0o644)
			os.WriteFile(filepath.Join(target, "extra"), nil, 0o644)
			if err := shard.GetFolder(ctx, s, models(digest), target); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(model, readFolder(t, filepath.Dir(target)), cmp.Transformer("below", func(m map[string]string) map[string]string {
				below := map[string]string{}
				for name, content := range m {
					below[strings.TrimPrefix(name, "b/")] = content
				}
				return below
			})); diff != "" {
				t.Errorf("GetFolder over another folder (-want +got):\n%s", diff)
			}
			// What is stored under a prefix stays, and is what PutFolder answers.
			other := makeFolder(t, map[string]string{"config.json": "other"})
			got, err := shard.PutFolder(ctx, s, other, func(schemas.Digest) string { return models(digest) })
			if err != nil || got != digest {
				t.Errorf("PutFolder where another one is = %s, %v, want %s", got, err, digest)
			}
		})
	}
}

// interrupted is a store that fails from the nth upload of a file on.
type interrupted struct {
	shard.Store
	left int
}

func (s *interrupted) PutFile(ctx context.Context, key, path string, opts shard.PutOptions) (shard.Info, error) {
	if s.left == 0 {
		return shard.Info{}, schemas.E("put", key, schemas.Unavailable, nil)
	}
	s.left--
	return s.Store.PutFile(ctx, key, path, opts)
}

func TestFolderInterrupted(t *testing.T) {
	ctx, source := t.Context(), makeFolder(t, model)
	s := &interrupted{Store: shard.NewMemory(), left: 2}
	if _, err := shard.PutFolder(ctx, s, source, models); schemas.KindOf(err) != schemas.Unavailable {
		t.Fatalf("PutFolder: %v, want Unavailable", err)
	}
	digest, err := shard.FolderDigest(source)
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "target")
	if err := shard.GetFolder(ctx, s, models(digest), target); schemas.KindOf(err) != schemas.NotFound {
		t.Errorf("GetFolder of half a folder: %v, want NotFound", err)
	}
	s.left = 2 // as many as are missing
	if _, err := shard.PutFolder(ctx, s, source, models); err != nil {
		t.Errorf("PutFolder again: %v", err)
	}
	if err := shard.GetFolder(ctx, s, models(digest), target); err != nil {
		t.Error(err)
	}
}

func TestFolderDamaged(t *testing.T) {
	ctx, source := t.Context(), makeFolder(t, model)
	s := shard.NewMemory()
	digest, err := shard.PutFolder(ctx, s, source, models)
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "target")
	fetch := func(what string) {
		t.Helper()
		if err := shard.GetFolder(ctx, s, models(digest), target); schemas.KindOf(err) != schemas.InvalidInput {
			t.Errorf("GetFolder with %s: %v, want InvalidInput", what, err)
		}
		if entries, _ := os.ReadDir(filepath.Dir(target)); len(entries) > 0 {
			t.Errorf("GetFolder with %s leaves %v", what, entries)
		}
	}
	s.Put(ctx, models(digest)+"/config.json", []byte("changed"), shard.PutOptions{})
	fetch("a changed file")

	// An index is outside data: its paths must not lead out of the folder.
	folder := shard.Folder{Files: []shard.File{{Path: "../escaped", Digest: schemas.DigestBytes(nil)}}}
	type identity struct {
		Path   string         `json:"path"`
		Digest schemas.Digest `json:"digest"`
	}
	folder.Digest = schemas.DigestOf([]identity{{folder.Files[0].Path, folder.Files[0].Digest}})
	if err := shard.PutJSON(ctx, s, models(digest)+"/index.json", folder, shard.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	fetch("a path that leads out")
	folder.Files[0].Path = "config.json"
	if err := shard.PutJSON(ctx, s, models(digest)+"/index.json", folder, shard.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	fetch("an index that doesn't add up")
}

func TestFolderRefused(t *testing.T) {
	empty := t.TempDir()
	loop := makeFolder(t, map[string]string{"a": "1"})
	if err := os.Symlink(".", filepath.Join(loop, "loop")); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{
		"missing": filepath.Join(empty, "missing"), "empty": empty, "link to a folder": loop,
		"index.json": makeFolder(t, map[string]string{"index.json": "{}"}),
		"odd name":   makeFolder(t, map[string]string{"ä": ""}),
	} {
		if _, err := shard.FolderDigest(dir); schemas.KindOf(err) != schemas.InvalidInput {
			t.Errorf("%s: %v, want InvalidInput", name, err)
		}
	}
	linked := makeFolder(t, map[string]string{"a": "1"})
	if err := os.Symlink("a", filepath.Join(linked, "b")); err != nil {
		t.Fatal(err)
	}
	got, err := shard.FolderDigest(linked)
	want, _ := shard.FolderDigest(makeFolder(t, map[string]string{"a": "1", "b": "1"}))
	if err != nil || got != want {
		t.Errorf("a link to a file: %s, %v, want %s", got, err, want)
	}
}
