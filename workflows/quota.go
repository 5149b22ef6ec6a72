package workflows

import (
	"fmt"
	"strings"

	"go.temporal.io/sdk/workflow"

	"precept/activities"
	"precept/schemas"
)

// draw runs a quota's rounds: before synthesize it draws the first, before curate, when
// the filter has ended, the next one, which takes the run back to synthesize. What earlier
// rounds wrote is found in the store. When all rounds have passed and something falls
// short, people are asked.
func (f *factory) draw(ctx workflow.Context, stage schemas.Stage) error {
	first := stage == schemas.StageSynthesize && f.carried.Draws == nil
	next := stage == schemas.StageCurate && !f.carried.Drawn
	if f.spec.Quota.Accepted == 0 || !first && !next {
		return nil
	}
	var result activities.DrawResult
	err := f.retrying(ctx, stage, func() error {
		return workflow.ExecuteActivity(light(ctx, "draw prompts"), act.Draw, activities.DrawRequest{
			Run: f.id, Spec: f.spec, Sums: f.carried.Sums, First: first, Draws: f.carried.Draws,
		}).Get(ctx, &result)
	})
	if err != nil {
		return err
	}
	f.carried.Draws = result.Draws
	if first {
		return nil
	}
	if !result.Done {
		return &rewindError{schemas.StageSynthesize}
	}
	if short := f.short(); short != "" {
		question := fmt.Sprintf("The quota of %d is not met: %s. Go on with what there is?", f.spec.Quota.Accepted, short)
		if err := f.gate(ctx, schemas.GateQuota, schemas.DigestOf([]any{f.spec.Quota, f.sum(schemas.StageFilter).Digest, result.Draws}), question); err != nil {
			return err
		}
	}
	f.carried.Drawn = true
	delete(f.carried.Retry, schemas.StageSynthesize)
	delete(f.carried.Retry, schemas.StageFilter)
	return nil
}

// short names what falls short of the quota.
func (f *factory) short() string {
	var short []string
	for _, d := range f.carried.Draws {
		if d.Accepted >= int64(f.spec.Quota.Accepted) {
			continue
		}
		name := string(d.Category)
		if d.Intent != "" {
			name += " " + string(d.Intent)
		}
		used := fmt.Sprintf("%d of %d prompts used", d.Last(), d.Pool)
		if d.Last() == d.Pool {
			used = fmt.Sprintf("all %d prompts used", d.Pool)
		}
		short = append(short, fmt.Sprintf("%s has %d (%s)", name, d.Accepted, used))
	}
	return strings.Join(short, "; ")
}

// prompts is how many prompts the run works on so far.
func (f *factory) prompts() (n int64) {
	if f.spec.Quota.Accepted == 0 {
		return f.sum(schemas.StagePrompts).Ledger.Kept
	}
	for _, d := range f.carried.Draws {
		n += d.Last()
	}
	return n
}
