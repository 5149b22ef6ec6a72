package shard

import (
	"context"

	"precept/schemas"
)

// FindOutput finds what a run has under a planned key: the whole shard, or else the one
// that it goes on with although rows of it failed, with its record.
func FindOutput(ctx context.Context, s Store, run schemas.RunID, stage schemas.Stage, key schemas.Key) (ref schemas.ShardRef, partial *schemas.Partial, ok bool, err error) {
	ref, ok, err = Find(ctx, s, stage, key)
	if ok || err != nil {
		return ref, nil, ok, err
	}
	p, ok, err := FindPartial(ctx, s, run, stage, key)
	if !ok || err != nil {
		return ref, nil, false, err
	}
	return p.Shard, &p, true, nil
}

// FindPartial looks for the record of an output that a run goes on with although rows of
// it failed.
func FindPartial(ctx context.Context, s Store, run schemas.RunID, stage schemas.Stage, key schemas.Key) (p schemas.Partial, ok bool, err error) {
	err = GetJSON(ctx, s, schemas.PartialObject(run, stage, key), &p)
	if schemas.KindOf(err) == schemas.NotFound {
		return p, false, nil
	}
	return p, err == nil, err
}
