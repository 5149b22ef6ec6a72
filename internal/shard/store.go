package shard

import (
	"context"
	"iter"
	"maps"
	"strings"
	"time"

	"precept/schemas"
)

// Store holds objects by key. Its errors are of these kinds: NotFound, Conflict
// (the condition of a write does not hold), Unavailable (network or server, worth
// a retry) and InvalidInput (a bad key, no such bucket, access denied).
type Store interface {
	// Get returns an object's content.
	Get(ctx context.Context, key string) ([]byte, Info, error)
	// Head returns what is known of an object without its content.
	Head(ctx context.Context, key string) (Info, error)
	// Put writes an object whole, or not at all.
	Put(ctx context.Context, key string, body []byte, opts PutOptions) (Info, error)
	// PutFile writes an object from a file of any size.
	PutFile(ctx context.Context, key, path string, opts PutOptions) (Info, error)
	// GetFile writes an object's content to a file, which appears when it is
	// complete.
	GetFile(ctx context.Context, key, path string) (Info, error)
	// List yields the objects whose keys begin with prefix, in no promised order
	// and without their Meta. It ends at the first error.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// ListAfter is List without the objects whose keys don't come after a key, in the
	// order of their bytes.
	ListAfter(ctx context.Context, prefix, after string) iter.Seq2[Info, error]
	// Delete removes an object; to remove one that isn't there is no error.
	Delete(ctx context.Context, key string) error
}

// Info describes an object.
type Info struct {
	Key  string
	ETag string
	Size int64
	// Modified is the server's time of the write. Put and PutFile leave it zero.
	Modified time.Time
	// Age is how long ago Get found the write to be, at least. It depends on nobody's
	// clock but the server's.
	Age time.Duration
	// Meta is the object's own metadata; its names are lower-case.
	Meta map[string]string
}

// PutOptions are the conditions and properties of a write.
type PutOptions struct {
	// IfNoneMatch writes only where no object is.
	IfNoneMatch bool
	// IfMatch writes only over the object with this ETag.
	IfMatch string
	// Meta is kept with the object: names and values in ASCII, 2 KB in all.
	Meta map[string]string
	// ContentType defaults to application/octet-stream.
	ContentType string
}

func (o PutOptions) check(op, key string) error {
	if err := checkKey(op, key); err != nil {
		return err
	}
	if o.IfNoneMatch && o.IfMatch != "" {
		return schemas.Errorf(op, key, schemas.InvalidInput, "IfNoneMatch and IfMatch exclude each other")
	}
	for name, value := range o.Meta {
		if !isPlain(name) || !isPlain(value) {
			return schemas.Errorf(op, key, schemas.InvalidInput, "metadata %q is not printable ASCII", name)
		}
	}
	return nil
}

func (o PutOptions) contentType() string {
	if o.ContentType == "" {
		return "application/octet-stream"
	}
	return o.ContentType
}

// meta is o.Meta as a server gives it back.
func (o PutOptions) meta() map[string]string {
	meta := make(map[string]string, len(o.Meta))
	for name, value := range maps.All(o.Meta) {
		meta[strings.ToLower(name)] = value
	}
	return meta
}

// checkKey refuses keys that some server would not take, or would take for
// another one.
func checkKey(op, key string) error {
	if len(key) > 1024 || !isKey(key) {
		return schemas.Errorf(op, key, schemas.InvalidInput, "not an object key: want names of printable ASCII joined by single slashes")
	}
	return nil
}

func isKey(key string) bool {
	if !isPlain(key) {
		return false
	}
	for name := range strings.SplitSeq(key, "/") {
		if name == "" || name == "." || name == ".." || len(name) > 255 {
			return false
		}
	}
	return true
}

func isPlain(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}
