package activities

import (
	"cmp"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"precept/internal/serving"
	"precept/internal/shard"
	"precept/internal/trainer"
	"precept/schemas"
)

// base resolves the spec's base model to stored weights: a folder on this worker,
// an s3:// prefix, or a Hugging Face name, which the configuration maps to a folder or to a
// mirror, or which the trainer fetches.
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
		dir, err = a.download(ctx, name)
	case isDir(name):
	case a.config.Models[name] != "":
		if dir = a.config.Models[name]; !isDir(dir) {
			err = schemas.Errorf(op, name, schemas.NotFound, "the worker's configuration maps it to %s, where nothing is", dir).
				WithHint("Put the model there, or mend models in the configuration.")
		}
	case strings.HasPrefix(name, "pypi:"):
		dir, ref.Commit, err = a.fetch(ctx, name, schemas.HubModel{Repo: name})
	default:
		var m schemas.HubModel
		if m, err = schemas.ParseHubModel(name); err != nil {
			return ref, err
		}
		if mirror := a.config.Trainer.Mirror; mirror != "" {
			dir, err = a.download(ctx, strings.TrimSuffix(mirror, "/")+"/"+m.Repo+"/"+cmp.Or(m.Revision, "main"))
		} else {
			dir, ref.Commit, err = a.fetch(ctx, name, m)
		}
	}
	if err == nil {
		err = serving.CheckWeights(dir)
	}
	if err != nil {
		return ref, err
	}
	if ref.Digest, err = shard.PutFolder(ctx, a.store, dir, schemas.ModelPrefix); err != nil {
		return ref, err
	}
	ref.Prefix = schemas.ModelPrefix(ref.Digest)
	return ref, nil
}

// fetch has the trainer fetch a model, once. It tells the commit that it came at.
func (a *Activities) fetch(ctx context.Context, name string, m schemas.HubModel) (dir, commit string, err error) {
	digest := schemas.DigestOf(name).Short()
	dir = a.work("base", digest)
	record := dir + ".commit"
	if isDir(dir) {
		raw, err := os.ReadFile(record)
		if err != nil && !os.IsNotExist(err) {
			return "", "", schemas.E("fetch base model", name, schemas.Unavailable, err)
		}
		return dir, string(raw), nil
	}
	job := trainer.Base{Kind: "base", Source: m.Repo, Revision: m.Revision, Output: dir}
	done, err := trainer.Run(ctx, a.config.Trainer, "base", a.work("jobs", "base-"+digest), job,
		func(trainer.Event) error { return nil }, a.config.Trainer.HubEnvironment()...)
	if err != nil {
		return "", "", err
	}
	if err := os.WriteFile(record, []byte(done.Commit), 0o644); err != nil {
		return "", "", schemas.E("fetch base model", name, schemas.Unavailable, err)
	}
	return dir, done.Commit, nil
}

// download copies an s3:// prefix of loose files to a work folder.
func (a *Activities) download(ctx context.Context, uri string) (string, error) {
	store, prefix, err := a.openURI(ctx, uri)
	if err != nil {
		return "", err
	}
	dir := a.work("base", schemas.DigestOf(uri).Short())
	return dir, mirror(ctx, store, strings.TrimSuffix(prefix, "/")+"/", uri, dir)
}

// mirror makes dir hold what lies under a prefix now. What is there already and is still the
// same at the source stays.
func mirror(ctx context.Context, store shard.Store, prefix, uri, dir string) error {
	const op = "download model"
	record := dir + ".etags"
	had, has := map[string]string{}, map[string]string{}
	if raw, err := os.ReadFile(record); err == nil {
		_ = json.Unmarshal(raw, &had) // what can't be read is fetched again
	}
	for info, err := range store.List(ctx, prefix) {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(info.Key, prefix)
		if name == "index.json" {
			continue // another store's own index
		}
		if !filepath.IsLocal(filepath.FromSlash(name)) {
			return schemas.Errorf(op, uri, schemas.InvalidInput, "key %q leaves its folder", info.Key)
		}
		has[name] = info.ETag
	}
	if len(has) == 0 {
		return schemas.Errorf(op, uri, schemas.InvalidInput, "nothing lies there").
			WithHint("Copy the model there: its safetensors, JSON and text files.")
	}
	// What is gone at the source, or was cut off on its way, must not stay here.
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			name, err := filepath.Rel(dir, path)
			if name = filepath.ToSlash(name); err != nil || has[name] != "" && has[name] == had[name] {
				return err
			}
			return os.Remove(path)
		})
	}
	if err != nil {
		return schemas.E(op, uri, schemas.Unavailable, err)
	}
	for name := range has {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if _, err := os.Stat(path); err == nil {
			continue
		}
		info, err := store.GetFile(ctx, prefix+name, path)
		if err != nil {
			return err
		}
		has[name] = info.ETag
	}
	raw, err := json.Marshal(has)
	if err == nil {
		err = os.WriteFile(record, raw, 0o644)
	}
	if err != nil {
		return schemas.E(op, uri, schemas.Unavailable, err)
	}
	return nil
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
