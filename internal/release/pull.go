package release

import (
	"context"
	"os"
	"path/filepath"

	"precept/internal/shard"
	"precept/schemas"
)

// CardName is the card's file. Where a model brings a README.md of its own, the card stands
// beside it, as OtherCardName.
const (
	CardName      = "README.md"
	OtherCardName = "PRECEPT.md"
)

// Pulled is what a pull did.
type Pulled struct {
	Found bool  // the folder was there already
	Bytes int64 // of the model
	Card  string
}

// Pull makes dir the folder of a stored model, with its card. Dir appears when it is whole and
// verified. A pull that was interrupted goes on with the files that are missing; one of what is
// there already writes the card anew. Say is told of every file.
func Pull(ctx context.Context, s shard.Store, digest schemas.Digest, dir string, card func(folder string) ([]byte, error), say func(shard.File)) (p Pulled, err error) {
	const op = "pull model"
	fail := func(path string, err error) (Pulled, error) { return p, schemas.E(op, path, schemas.Unavailable, err) }
	prefix := schemas.ModelPrefix(digest)
	folder, ok, err := shard.FindFolder(ctx, s, prefix)
	if err != nil {
		return p, err
	}
	if !ok {
		return p, schemas.Errorf(op, digest.Short(), schemas.NotFound, "no complete model of this digest is stored")
	}
	p.Card = CardName
	for _, f := range folder.Files {
		p.Bytes += f.Size
		if f.Path == CardName {
			p.Card = OtherCardName
		}
	}
	if err := checkNames(folder.Files); err != nil {
		return p, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fail(dir, err)
	}
	switch entries, err := os.ReadDir(dir); {
	case err == nil && len(entries) > 0:
		if wrong := folder.Differs(dir); wrong != "" {
			return p, schemas.Errorf(op, dir, schemas.InvalidInput, "the folder is there and isn't this model: %s", wrong).WithHint("Name a folder that isn't there yet.")
		}
		p.Found = true
		return p, writeCard(dir, p.Card, card)
	case err != nil && !os.IsNotExist(err):
		return p, schemas.E(op, dir, schemas.InvalidInput, err).WithHint("Name a folder that isn't there yet.")
	}

	// What is on its way lies beside the folder, under the name of both: another pull of the
	// same goes on with it.
	part := filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+"."+digest.Short()+".part")
	for _, f := range folder.Files {
		path := filepath.Join(part, filepath.FromSlash(f.Path))
		if !f.Is(path) {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return fail(path, err)
			}
			if _, err := s.GetFile(ctx, prefix+"/"+f.Path, path); err != nil {
				return p, err
			}
			if !f.Is(path) {
				_ = os.Remove(path)
				return p, schemas.Errorf(op, prefix+"/"+f.Path, schemas.InvalidInput, "the object is not what the model's index says").
					WithHint("It was changed in the store; restore it, or train the model again.")
			}
		}
		if err := checkContent(path, f.Path); err != nil {
			_ = os.Remove(path) // it must not stay
			return p, err
		}
		if say != nil {
			say(f)
		}
	}
	if err := onlyThese(part, folder.Files); err != nil {
		return fail(part, err)
	}
	if err := writeCard(part, p.Card, card); err != nil {
		return p, err
	}
	_ = os.Remove(dir) // an empty one
	if err := os.Rename(part, dir); err != nil {
		return fail(dir, err)
	}
	return p, nil
}

// onlyThese removes what an interrupted transfer left.
func onlyThese(dir string, files []shard.File) error {
	known := map[string]bool{}
	for _, f := range files {
		known[filepath.Join(dir, filepath.FromSlash(f.Path))] = true
	}
	return filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || known[path] {
			return err
		}
		return os.Remove(path)
	})
}

// writeCard writes a card, which appears whole.
func writeCard(folder, name string, card func(folder string) ([]byte, error)) error {
	text, err := card(folder)
	if err != nil {
		return err
	}
	path := filepath.Join(folder, name)
	temp := path + ".new"
	if err = os.WriteFile(temp, text, 0o644); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return schemas.E("write card", path, schemas.Unavailable, err)
	}
	return nil
}
