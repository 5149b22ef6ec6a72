package shard

import (
	"cmp"
	"context"
	"slices"
	"time"

	"precept/schemas"
)

// Remove removes an object that was written before a time. It reports false where
// there is none: it is gone, or was written again since.
func Remove(ctx context.Context, s Store, key string, before time.Time) (bool, error) {
	info, err := s.Head(ctx, key)
	if schemas.KindOf(err) == schemas.NotFound {
		return false, nil
	}
	if err != nil || !info.Modified.Before(before) {
		return false, err
	}
	return true, s.Delete(ctx, key)
}

// RemoveFolder removes the folder under prefix, unless an object of it was written at a
// time or after it: then somebody may be storing it. The index goes first, so that
// what is left is never taken for whole. It returns what it has removed.
func RemoveFolder(ctx context.Context, s Store, prefix string, before time.Time) (removed []Info, err error) {
	index := prefix + "/" + indexName
	var objects []Info
	for info, err := range s.List(ctx, prefix+"/") {
		if err != nil || !info.Modified.Before(before) {
			return nil, err
		}
		objects = append(objects, info)
	}
	slices.SortFunc(objects, func(x, y Info) int {
		switch index {
		case x.Key:
			return -1
		case y.Key:
			return +1
		}
		return cmp.Compare(x.Key, y.Key)
	})
	for _, info := range objects {
		if err := s.Delete(ctx, info.Key); err != nil {
			return removed, err
		}
		removed = append(removed, info)
	}
	// Who began to store the folder meanwhile may have counted on files that are gone
	// now. PutFolder looks for them when it has written the index, and this looks for
	// the index when it has removed the files, so that one of the two notices.
	folder, ok, err := FindFolder(ctx, s, prefix)
	if err != nil || !ok {
		return removed, err
	}
	if whole, err := folder.whole(ctx, s, prefix); err != nil || whole {
		return removed, err
	}
	return removed, s.Delete(ctx, index)
}
