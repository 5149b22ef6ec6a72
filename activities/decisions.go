package activities

import (
	"context"
	"fmt"
	"slices"

	"precept/internal/shard"
	"precept/schemas"
)

// Decisions reads what was decided under a run ID, in order.
func (a *Activities) Decisions(ctx context.Context, run schemas.RunID) ([]schemas.DecisionRecord, error) {
	out := []schemas.DecisionRecord{}
	for info, err := range a.store.List(ctx, schemas.RunObject(run, "decisions/")) {
		if err != nil {
			return nil, fail(err)
		}
		var d schemas.DecisionRecord
		if err := shard.GetJSON(ctx, a.store, info.Key, &d); err != nil {
			return nil, fail(err)
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(x, y schemas.DecisionRecord) int { return x.Number - y.Number })
	return out, nil
}

// RecordDecision writes a decision. A number that is taken, as after a reset,
// moves on to the next free one: no decision overwrites another.
func (a *Activities) RecordDecision(ctx context.Context, run schemas.RunID, d schemas.DecisionRecord) error {
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
