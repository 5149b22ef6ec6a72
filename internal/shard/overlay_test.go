package shard_test

import (
	"maps"
	"slices"
	"testing"

	"precept/internal/shard"
	"precept/schemas"
)

func TestOverlayLeavesTheStoreBelow(t *testing.T) {
	ctx := t.Context()
	below := shard.NewMemory()
	put := func(s shard.Store, key, body string, o shard.PutOptions) error {
		_, err := s.Put(ctx, key, []byte(body), o)
		return err
	}
	if err := put(below, "a/old", "1", shard.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	o := shard.NewOverlay(below)
	if err := put(o, "a/old", "2", shard.PutOptions{IfNoneMatch: true}); schemas.KindOf(err) != schemas.Conflict {
		t.Errorf("got %v, want a conflict with what lies below", err)
	}
	old, err := o.Head(ctx, "a/old")
	if err != nil {
		t.Fatal(err)
	}
	if err := put(o, "a/old", "2", shard.PutOptions{IfMatch: "another"}); schemas.KindOf(err) != schemas.Conflict {
		t.Errorf("got %v, want a conflict", err)
	}
	for _, err := range []error{
		put(o, "a/old", "2", shard.PutOptions{IfMatch: old.ETag}), put(o, "a/new", "3", shard.PutOptions{IfNoneMatch: true}),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	found := map[string]string{}
	for info, err := range o.List(ctx, "a/") {
		if err != nil {
			t.Fatal(err)
		}
		body, _, err := o.Get(ctx, info.Key)
		if err != nil {
			t.Fatal(err)
		}
		found[info.Key] += string(body)
	}
	if !maps.Equal(found, map[string]string{"a/old": "2", "a/new": "3"}) {
		t.Errorf("the overlay has %v", found)
	}
	if err := o.Delete(ctx, "a/new"); err != nil {
		t.Error(err)
	}
	var left []string
	for info := range below.List(ctx, "") {
		left = append(left, info.Key)
	}
	if body, _, _ := below.Get(ctx, "a/old"); string(body) != "1" || !slices.Equal(left, []string{"a/old"}) {
		t.Errorf("the store below has %v, %s", left, body)
	}
}
