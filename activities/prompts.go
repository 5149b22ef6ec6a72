package activities

import (
	"context"
	"maps"
	"slices"
	"strings"

	"precept/internal/prompts"
	"precept/internal/shard"
	"precept/schemas"
)

// promptsVersion changes when the same files give other prompts.
const promptsVersion = 1

// prompts plans a task for every category and bucket.
func (p *planner) prompts(ctx context.Context) (tasks []schemas.Task, err error) {
	rows, err := p.importedPrompts(ctx, p.inputs.Prompts, p.Spec.Prompts.Limit)
	if err != nil {
		return nil, err
	}
	counts := map[schemas.Category]int{}
	for _, r := range rows {
		counts[r.Category]++
	}
	// Before anything is paid, on a queue that calls models.
	for _, name := range []string{p.Spec.Synthesize.Teacher, p.Spec.Filter.Judge, p.Spec.Evaluate.Grader} {
		if _, err := p.client(name); err != nil {
			return nil, err
		}
	}
	var inputs []schemas.Digest
	var imports []schemas.Import
	for _, in := range p.inputs.Prompts {
		inputs = append(inputs, in.Digest)
		imports = append(imports, prompts.Meaning(in.Name, in.Import))
	}
	var suites []schemas.Digest
	for _, in := range p.inputs.Suites {
		suites = append(suites, in.Shard.Digest)
	}
	for _, c := range slices.Sorted(maps.Keys(counts)) {
		buckets := prompts.Buckets(counts[c], p.Spec.Prompts.RowsPerShard)
		planned := make([]int64, buckets)
		for _, r := range rows {
			if r.Category == c {
				planned[prompts.Bucket(r, buckets)]++
			}
		}
		for b := range buckets {
			l := lineage{
				Stage: schemas.StagePrompts, Version: promptsVersion, Inputs: inputs,
				Params: map[string]any{"imports": imports, "limit": p.Spec.Prompts.Limit, "category": c, "bucket": b, "buckets": buckets, "suites": suites},
			}
			t := newTask(title("%s %d/%d", c, b+1, buckets), planned[b], l, schemas.OutputPrompts)
			t.Category, t.Bucket, t.Buckets = c, b, buckets
			tasks = append(tasks, t)
		}
	}
	return tasks, nil
}

// Prompts writes one category's bucket of prompts: what is a duplicate or stands
// in a suite is rejected.
func (a *Activities) Prompts(ctx context.Context, req TaskRequest) (schemas.TaskResult, error) {
	return a.task(ctx, req, func(ctx context.Context, w *work) error {
		rows, err := a.importedPrompts(ctx, w.plan.Inputs.Prompts, w.spec.Prompts.Limit)
		if err != nil {
			return err
		}
		var suites []schemas.Prompt
		for _, in := range w.plan.Inputs.Suites {
			s, err := shard.Read[schemas.Prompt](ctx, a.store, *in.Shard)
			if err != nil {
				return err
			}
			suites = append(suites, s...)
		}
		filter := prompts.NewFilter(suites)
		var mine []schemas.Prompt
		ledger := schemas.Ledger{Planned: w.Planned}
		for _, r := range rows {
			if r.Category != w.Category || prompts.Bucket(r, w.Buckets) != w.Bucket {
				continue
			}
			r.Reason = filter.Reason(r)
			ledger.Count(r.Reason)
			mine = append(mine, r)
		}
		// By ID, so that the files' order doesn't change the bytes.
		slices.SortStableFunc(mine, func(x, y schemas.Prompt) int { return strings.Compare(x.ID, y.ID) })
		key, err := w.Output(schemas.OutputPrompts)
		if err != nil {
			return err
		}
		_, err = shard.Write(ctx, a.store, w.stage, key, mine, ledger, w.Lineage)
		return err
	})
}

// importedPrompts reads all rows of the copied files, in import order.
func (a *Activities) importedPrompts(ctx context.Context, inputs []schemas.Input, limit int) (rows []schemas.Prompt, err error) {
	for _, in := range inputs {
		raw, _, err := a.store.Get(ctx, in.Object)
		if err != nil {
			return nil, err
		}
		part, err := prompts.Read(in.Name, raw, in.Import)
		if err != nil {
			return nil, err
		}
		if limit > 0 && len(part) > limit {
			part = part[:limit]
		}
		for i := range part {
			part[i].Expected = "" // a label is a suite's; training sees none
		}
		rows = append(rows, part...)
	}
	return rows, nil
}
