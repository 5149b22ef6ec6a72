package activities

import (
	"cmp"
	"context"
	"math"
	"slices"

	"precept/internal/shard"
	"precept/schemas"
)

// A quota draws prompts in rounds. The prompts of a category (or of one of its intents)
// have one order, by shard and ID, and every round takes the next ones: so a round's
// tasks stay what they are when another round follows. Accepted are the first ones in the
// order of round, shard and ID.

// DrawRequest asks for the next round.
type DrawRequest struct {
	Run   schemas.RunID      `json:"run"`
	Spec  schemas.RunSpec    `json:"spec"`
	Sums  []schemas.StageSum `json:"sums"` // up to prompts, or to the filter of the round before
	First bool               `json:"first"`
	Draws []schemas.Draw     `json:"draws"`
}

// DrawResult is the next round; Done says that there is none.
type DrawResult struct {
	Draws []schemas.Draw `json:"draws"`
	Done  bool           `json:"done"`
}

const (
	firstRate = 0.8 // share of prompts that a first round is expected to have accepted
	leastRate = 0.1
	margin    = 1.1 // of the later rounds
)

// Draw says which prompts the next round of a quota takes.
func (a *Activities) Draw(ctx context.Context, req DrawRequest) (DrawResult, error) {
	beat := startBeat(ctx)
	defer beat.stop()
	result, err := a.draw(ctx, req)
	return result, fail(err)
}

func (a *Activities) draw(ctx context.Context, req DrawRequest) (r DrawResult, err error) {
	want := int64(req.Spec.Quota.Accepted)
	if req.First {
		pools, err := a.pools(ctx, req.Sums, req.Spec.Quota.ByIntent)
		if err != nil {
			return r, err
		}
		for _, p := range pools {
			p.Taken = []int64{min(p.Pool, int64(math.Ceil(float64(want)/firstRate)))}
			r.Draws = append(r.Draws, p)
		}
		return r, nil
	}
	filtered, plan, err := a.passed(ctx, req.Sums, schemas.StageFilter)
	if err != nil {
		return r, err
	}
	accepted, err := a.accepted(ctx, filtered, plan, req.Spec.Quota.ByIntent)
	if err != nil {
		return r, err
	}
	r.Done = true
	for _, d := range req.Draws {
		d.Accepted = 0
		for i, t := range plan.Tasks {
			if t.Category == d.Category {
				d.Accepted += accepted[i][d.Intent]
			}
		}
		r.Draws = append(r.Draws, d)
	}
	if len(req.Draws) == 0 || len(req.Draws[0].Taken) >= req.Spec.Quota.Rounds {
		return r, nil
	}
	next := slices.Clone(r.Draws)
	for i, d := range next {
		taken := d.Last()
		if missing := want - d.Accepted; missing > 0 && taken < d.Pool {
			rate := max(leastRate, float64(d.Accepted)/float64(max(1, taken)))
			taken = min(d.Pool, taken+int64(math.Ceil(margin*float64(missing)/rate)))
			r.Done = false
		}
		next[i].Taken = append(slices.Clone(d.Taken), taken)
	}
	if !r.Done {
		r.Draws = next
	}
	return r, nil
}

// pools counts the kept prompts that a quota can draw from.
func (a *Activities) pools(ctx context.Context, sums []schemas.StageSum, byIntent bool) (pools []schemas.Draw, err error) {
	m, plan, err := a.passed(ctx, sums, schemas.StagePrompts)
	if err != nil {
		return nil, err
	}
	counts, err := a.promptCounts(ctx, m.Outputs[schemas.OutputPrompts], byIntent)
	if err != nil {
		return nil, err
	}
	// A group whose prompts have all been rejected has a pool of none, and falls short.
	for i := range counts {
		o := plan.Tasks[0].Outputs[i]
		for intent, n := range counts[i] {
			k := slices.IndexFunc(pools, func(d schemas.Draw) bool { return d.Category == o.Category && d.Intent == intent })
			if k < 0 {
				k = len(pools)
				pools = append(pools, schemas.Draw{Category: o.Category, Intent: intent})
			}
			pools[k].Pool += n
		}
	}
	slices.SortFunc(pools, func(x, y schemas.Draw) int {
		return cmp.Or(cmp.Compare(x.Category, y.Category), cmp.Compare(x.Intent, y.Intent))
	})
	return pools, nil
}

// promptCounts counts each shard's kept prompts, by intent where that is asked.
func (a *Activities) promptCounts(ctx context.Context, refs []schemas.ShardRef, byIntent bool) ([]map[schemas.Intent]int64, error) {
	counts := make([]map[schemas.Intent]int64, len(refs))
	for i, ref := range refs {
		if !byIntent {
			counts[i] = map[schemas.Intent]int64{"": ref.Ledger.Kept}
			continue
		}
		prompts, err := shard.Read[schemas.Prompt](ctx, a.store, ref)
		if err != nil {
			return nil, err
		}
		counts[i] = map[schemas.Intent]int64{}
		for _, p := range prompts {
			counts[i][p.Intent] += 0
			if p.Reason == "" {
				counts[i][p.Intent]++
			}
		}
	}
	return counts, nil
}

// accepted counts the accepted prompts of each task of the filter, by intent where that
// is asked.
func (a *Activities) accepted(ctx context.Context, m schemas.Manifest, plan *schemas.Plan, byIntent bool) ([]map[schemas.Intent]int64, error) {
	counts := make([]map[schemas.Intent]int64, len(plan.Tasks))
	for i, ref := range m.Outputs[schemas.OutputVerdicts] {
		verdicts, err := shard.Read[schemas.Verdict](ctx, a.store, ref)
		if err != nil {
			return nil, err
		}
		counts[i] = map[schemas.Intent]int64{}
		seen := map[string]bool{}
		for _, v := range verdicts {
			if v.Reason == "" && !seen[v.PromptID] {
				seen[v.PromptID] = true
				counts[i][group(v.Intent, byIntent)]++
			}
		}
	}
	return counts, nil
}

// group is what a prompt's intent counts for.
func group(intent schemas.Intent, byIntent bool) schemas.Intent {
	if byIntent {
		return intent
	}
	return ""
}

// shares parts the rounds of a category's draws over its shards: for every round and
// shard what of it is taken. Counts are the shards' kept prompts.
func shares(draws []schemas.Draw, category schemas.Category, counts []map[schemas.Intent]int64) (rounds [][][]schemas.Share) {
	for _, d := range draws {
		if d.Category != category {
			continue
		}
		for round, to := range d.Taken {
			if round == len(rounds) {
				rounds = append(rounds, make([][]schemas.Share, len(counts)))
			}
			var from, at int64
			if round > 0 {
				from = d.Taken[round-1]
			}
			for i := range counts {
				n := counts[i][d.Intent]
				if low, high := max(from, at), min(to, at+n); low < high {
					rounds[round][i] = append(rounds[round][i], schemas.Share{Intent: d.Intent, From: low - at, To: high - at})
				}
				at += n
			}
		}
	}
	return rounds
}

// drawn picks a task's prompts of a shard's kept ones.
func drawn(prompts []schemas.Prompt, draw []schemas.Share) (out []schemas.Prompt) {
	if len(draw) == 0 {
		return prompts
	}
	at := map[schemas.Intent]int64{}
	for _, p := range prompts {
		for _, s := range draw {
			if s.Intent != "" && s.Intent != p.Intent {
				continue
			}
			if n := at[s.Intent]; n >= s.From && n < s.To {
				out = append(out, p)
			}
			at[s.Intent]++
		}
	}
	return out
}

// allowances parts a quota over the tasks of the filter: how many accepted prompts each
// may keep, in the order of the plan, which is that of the rounds.
func allowances(plan *schemas.Plan, accepted []map[schemas.Intent]int64, want int64) []map[schemas.Intent]int64 {
	type key struct {
		category schemas.Category
		intent   schemas.Intent
	}
	used := map[key]int64{}
	out := make([]map[schemas.Intent]int64, len(plan.Tasks))
	for i, t := range plan.Tasks {
		out[i] = map[schemas.Intent]int64{}
		for intent, n := range accepted[i] {
			k := key{t.Category, intent}
			out[i][intent] = min(n, want-used[k])
			used[k] += out[i][intent]
		}
	}
	return out
}
