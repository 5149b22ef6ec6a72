package activities

import (
	"context"
	"fmt"
	"slices"

	"precept/internal/shard"
	"precept/schemas"
)

// Decisions reads what was decided under a run ID, in the order in which it was
// recorded.
func (a *Activities) Decisions(ctx context.Context, run schemas.RunID) ([]schemas.DecisionRecord, error) {
	beat := startBeat(ctx)
	defer beat.stop()
	var keys []string
	for info, err := range a.store.List(ctx, schemas.RunObject(run, "decisions/")) {
		if err != nil {
			return nil, fail(err)
		}
		keys = append(keys, info.Key)
	}
	// By key: after a reset, a record's own number may be lower than its place.
	slices.Sort(keys)
	out := make([]schemas.DecisionRecord, len(keys))
	for i, key := range keys {
		if err := shard.GetJSON(ctx, a.store, key, &out[i]); err != nil {
			return nil, fail(err)
		}
	}
	return out, nil
}

// RecordDecision writes a decision. A number that is taken, as after a reset,
// moves on to the next free one: no decision overwrites another.
func (a *Activities) RecordDecision(ctx context.Context, run schemas.RunID, d schemas.DecisionRecord) error {
	beat := startBeat(ctx)
	defer beat.stop()
	for n := d.Number; ; n++ {
		object := schemas.RunObject(run, fmt.Sprintf("decisions/%06d.json", n))
		err := shard.PutJSON(ctx, a.store, object, d, shard.PutOptions{IfNoneMatch: true})
		if schemas.KindOf(err) != schemas.Conflict {
			return fail(err)
		}
		var stored schemas.DecisionRecord
		if err := shard.GetJSON(ctx, a.store, object, &stored); err != nil {
			return fail(err)
		}
		if schemas.DigestOf(stored) == schemas.DigestOf(d) {
			return nil
		}
	}
}
