package shard

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"precept/schemas"
)

// Folder is the index of a stored folder: what index.json holds. It is written
// last, so a folder whose index is there is complete.
type Folder struct {
	// Digest is over the files' paths and digests.
	Digest schemas.Digest `json:"digest"`
	// Files are in the order of their paths.
	Files []File `json:"files"`
}

// File is one file of a folder. Its path is relative, with slashes.
type File struct {
	Path   string         `json:"path"`
	Digest schemas.Digest `json:"digest"`
	Size   int64          `json:"size"`
}

// indexName is the object that makes a folder complete.
const indexName = "index.json"

// digest is what Folder.Digest must be.
func (f Folder) digest() schemas.Digest {
	type identity struct {
		Path   string         `json:"path"`
		Digest schemas.Digest `json:"digest"`
	}
	files := make([]identity, len(f.Files))
	for i, file := range f.Files {
		files[i] = identity{file.Path, file.Digest}
	}
	return schemas.DigestOf(files)
}

// check refuses an index that can't be trusted: its paths become names of files.
func (f Folder) check() error {
	const op = "read folder index"
	for _, file := range f.Files {
		if !isKey(file.Path) || !filepath.IsLocal(filepath.FromSlash(file.Path)) {
			return schemas.Errorf(op, file.Path, schemas.InvalidInput, "not a path within the folder")
		}
	}
	if got := f.digest(); got != f.Digest {
		return schemas.Errorf(op, "", schemas.InvalidInput, "its files give digest %s, it says %s", got.Short(), f.Digest.Short())
	}
	return nil
}

// Is reports whether the file is at a path on this machine, to the byte.
func (f File) Is(path string) bool {
	if stat, err := os.Stat(path); err != nil || !stat.Mode().IsRegular() || stat.Size() != f.Size {
		return false
	}
	digest, _, err := digestFile(path)
	return err == nil && digest == f.Digest
}

// Differs names the first file of f that dir lacks or has otherwise, or is empty. Other files
// in dir don't count.
func (f Folder) Differs(dir string) string {
	for _, file := range f.Files {
		if !file.Is(filepath.Join(dir, filepath.FromSlash(file.Path))) {
			return file.Path
		}
	}
	return ""
}

// FolderDigest is the digest that dir is stored under.
func FolderDigest(dir string) (schemas.Digest, error) {
	f, err := scan(dir)
	return f.Digest, err
}

// scan reads all of a folder's files. Links to files count as files, empty folders
// as nothing.
func scan(dir string) (Folder, error) {
	const op = "read folder"
	var f Folder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(relative)
		switch stat, err := os.Stat(path); {
		case err != nil:
			return err
		case !stat.Mode().IsRegular():
			return schemas.Errorf(op, path, schemas.InvalidInput, "neither a file nor a link to one")
		case !isKey(name):
			return schemas.Errorf(op, path, schemas.InvalidInput, "names of stored files must be printable ASCII")
		case name == indexName:
			return schemas.Errorf(op, path, schemas.InvalidInput, "the name is taken by the stored folder's index").WithHint("Rename the file")
		}
		digest, size, err := digestFile(path)
		f.Files = append(f.Files, File{Path: name, Digest: digest, Size: size})
		return err
	})
	if err != nil {
		if kind := schemas.KindOf(err); kind != schemas.Internal {
			return Folder{}, err
		}
		return Folder{}, fileError(op, dir, err)
	}
	if len(f.Files) == 0 {
		return Folder{}, schemas.Errorf(op, dir, schemas.InvalidInput, "there is no file in it")
	}
	slices.SortFunc(f.Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	f.Digest = f.digest()
	return f, nil
}

func digestFile(path string) (schemas.Digest, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	return schemas.Digest(hex.EncodeToString(sum.Sum(nil))), size, err
}

// PutFolder stores the files of dir under the prefix that its digest gives, without
// slashes at the ends. Where a complete folder is there already, nothing is
// written and the stored one's digest is returned. One that was interrupted goes on
// with the files that are missing.
func PutFolder(ctx context.Context, s Store, dir string, prefix func(schemas.Digest) string) (schemas.Digest, error) {
	const op = "store folder"
	folder, err := scan(dir)
	if err != nil {
		return "", err
	}
	root := prefix(folder.Digest)
	stored, ok, err := FindFolder(ctx, s, root)
	if err != nil || ok {
		return stored.Digest, err
	}
	for range 3 {
		for _, file := range folder.Files {
			if err := putFile(ctx, s, root+"/"+file.Path, filepath.Join(dir, filepath.FromSlash(file.Path)), file); err != nil {
				return "", err
			}
		}
		// What was uploaded must be what was read: a trainer may still be writing.
		if again, err := scan(dir); err != nil {
			return "", err
		} else if again.Digest != folder.Digest {
			return "", schemas.Errorf(op, dir, schemas.Conflict, "its files changed while they were uploaded")
		}
		err = PutJSON(ctx, s, root+"/"+indexName, folder, PutOptions{IfNoneMatch: true})
		if schemas.KindOf(err) == schemas.Conflict {
			stored, _, err := FindFolder(ctx, s, root)
			return stored.Digest, err
		}
		if err != nil {
			return "", err
		}
		// Files that were found there may have been what a removal had not come to yet.
		if whole, err := folder.whole(ctx, s, root); err != nil || whole {
			return folder.Digest, err
		}
		if err := s.Delete(ctx, root+"/"+indexName); err != nil {
			return "", err
		}
	}
	return "", schemas.Errorf(op, root, schemas.Unavailable, "its files are being removed while they are stored")
}

// whole reports whether all files of f are stored under root.
func (f Folder) whole(ctx context.Context, s Store, root string) (bool, error) {
	sizes := map[string]int64{}
	for info, err := range s.List(ctx, root+"/") {
		if err != nil {
			return false, err
		}
		sizes[strings.TrimPrefix(info.Key, root+"/")] = info.Size
	}
	for _, file := range f.Files {
		if size, ok := sizes[file.Path]; !ok || size != file.Size {
			return false, nil
		}
	}
	return true, nil
}

// PutContent stores a file under the key that its digest gives, unless it is there.
func PutContent(ctx context.Context, s Store, path string, key func(schemas.Digest) string) (schemas.Digest, error) {
	const op = "store file"
	digest, size, err := digestFile(path)
	if err != nil {
		return "", fileError(op, path, err)
	}
	if err := putFile(ctx, s, key(digest), path, File{Path: path, Digest: digest, Size: size}); err != nil {
		return "", err
	}
	// What was stored must be what was read.
	again, _, err := digestFile(path)
	if err != nil {
		return "", fileError(op, path, err)
	}
	if again != digest {
		return "", schemas.Errorf(op, path, schemas.Conflict, "the file changed while it was stored")
	}
	return digest, nil
}

func putFile(ctx context.Context, s Store, key, path string, file File) error {
	info, err := s.Head(ctx, key)
	if err == nil && info.Meta[metaDigest] == string(file.Digest) && info.Size == file.Size {
		return nil
	}
	if err != nil && schemas.KindOf(err) != schemas.NotFound {
		return err
	}
	_, err = s.PutFile(ctx, key, path, PutOptions{Meta: map[string]string{metaDigest: string(file.Digest)}})
	return err
}

// FindFolder looks for a complete folder under prefix.
func FindFolder(ctx context.Context, s Store, prefix string) (folder Folder, ok bool, err error) {
	err = GetJSON(ctx, s, prefix+"/"+indexName, &folder)
	if schemas.KindOf(err) == schemas.NotFound {
		return Folder{}, false, nil
	}
	if err == nil {
		err = folder.check()
	}
	if err != nil {
		return Folder{}, false, schemas.E("find folder", prefix, schemas.KindOf(err), err)
	}
	return folder, true, nil
}

// GetFolder makes dir the folder that is stored under prefix. Dir appears when it
// is complete and verified; one that is right already is left as it is, any other
// is replaced.
func GetFolder(ctx context.Context, s Store, prefix, dir string) error {
	const op = "fetch folder"
	folder, ok, err := FindFolder(ctx, s, prefix)
	if err != nil {
		return err
	}
	if !ok {
		return schemas.Errorf(op, prefix, schemas.NotFound, "no complete folder is stored there")
	}
	if _, err := os.Stat(dir); err == nil {
		if digest, err := FolderDigest(dir); err == nil && digest == folder.Digest {
			return nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fileError(op, dir, err)
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), ".part-*")
	if err != nil {
		return fileError(op, dir, err)
	}
	defer os.RemoveAll(temp)
	fresh := filepath.Join(temp, "new")
	for _, file := range folder.Files {
		path := filepath.Join(fresh, filepath.FromSlash(file.Path))
		if _, err := s.GetFile(ctx, prefix+"/"+file.Path, path); err != nil {
			return err
		}
		digest, _, err := digestFile(path)
		if err != nil {
			return fileError(op, path, err)
		}
		if digest != file.Digest {
			return schemas.Errorf(op, prefix+"/"+file.Path, schemas.InvalidInput, "the object's digest is %s, the folder's index says %s", digest.Short(), file.Digest.Short()).
				WithHint("The object was changed; restore it, or remove the folder and make it again")
		}
	}
	err = os.Rename(dir, filepath.Join(temp, "old"))
	if err == nil || os.IsNotExist(err) {
		err = os.Rename(fresh, dir)
	}
	if err == nil {
		return nil
	}
	// Another process on this machine may have put the same folder there.
	if digest, scanErr := FolderDigest(dir); scanErr == nil && digest == folder.Digest {
		return nil
	}
	return fileError(op, dir, err)
}
