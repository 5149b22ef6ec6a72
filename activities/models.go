package activities

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"precept/internal/shard"
	"precept/internal/trainer"
	"precept/schemas"
)

// base resolves the spec's base model to stored weights: a folder on this worker,
// an s3:// prefix, a Hugging Face name that the configuration maps to a folder,
// or one that the trainer fetches.
func (a *Activities) base(ctx context.Context, name string) (ref schemas.ModelRef, err error) {
	const op = "resolve base model"
	if known, ok := a.bases[name]; ok {
		return known, nil
	}
	if a.offline {
		return ref, schemas.Errorf(op, name, schemas.NotFound, "its weights are not known here")
	}
	ref.Base = name
	dir := name
	switch {
	case strings.HasPrefix(name, "s3://"):
		if dir, err = a.download(ctx, name); err != nil {
			return ref, err
		}
	case isDir(name):
	case a.config.Models[name] != "":
		if dir = a.config.Models[name]; !isDir(dir) {
			return ref, schemas.Errorf(op, name, schemas.NotFound, "the worker's configuration maps it to %s, where nothing is", dir).
				WithHint("Put the model there, or mend models in the configuration.")
		}
	default:
		dir = a.work("base", schemas.DigestOf(name).Short())
		if !isDir(dir) {
			job := map[string]any{"kind": "base", "source": name, "output": dir}
			if _, err := trainer.Run(ctx, a.config.Trainer, "base", a.work("jobs", "base-"+schemas.DigestOf(name).Short()), job,
				func(trainer.Event) error { return nil }); err != nil {
				return ref, err
			}
		}
	}
	if ref.Digest, err = shard.PutFolder(ctx, a.store, dir, schemas.ModelPrefix); err != nil {
		return ref, err
	}
	ref.Prefix = schemas.ModelPrefix(ref.Digest)
	return ref, nil
}

// download copies an s3:// prefix of loose files to a work folder.
func (a *Activities) download(ctx context.Context, uri string) (string, error) {
	store, prefix, err := a.openURI(ctx, uri)
	if err != nil {
		return "", err
	}
	prefix = strings.TrimSuffix(prefix, "/") + "/"
	dir := a.work("base", schemas.DigestOf(uri).Short())
	// What is gone at the source must not stay here.
	if err := os.RemoveAll(dir); err != nil {
		return "", schemas.E("download model", uri, schemas.Unavailable, err)
	}
	files := 0
	for info, err := range store.List(ctx, prefix) {
		if err != nil {
			return "", err
		}
		name := strings.TrimPrefix(info.Key, prefix)
		if name == "index.json" {
			continue // another store's own index
		}
		path := filepath.Join(dir, filepath.FromSlash(name))
		if !strings.HasPrefix(path, dir+string(filepath.Separator)) {
			return "", schemas.Errorf("download model", uri, schemas.InvalidInput, "key %q leaves its folder", info.Key)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", schemas.E("download model", uri, schemas.Unavailable, err)
		}
		if _, err := store.GetFile(ctx, info.Key, path); err != nil {
			return "", err
		}
		files++
	}
	if files == 0 {
		return "", schemas.Errorf("download model", uri, schemas.InvalidInput, "nothing lies there")
	}
	return dir, nil
}

// local returns a folder on this worker that holds a stored model.
func (a *Activities) local(ctx context.Context, ref schemas.ModelRef) (string, error) {
	dir := a.work("models", string(ref.Digest))
	return dir, shard.GetFolder(ctx, a.store, ref.Prefix, dir)
}

// work is a path in the worker's folder for jobs. What lies there may be lost.
func (a *Activities) work(parts ...string) string { return a.config.Trainer.Work(parts...) }

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
