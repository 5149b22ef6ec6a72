package main

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"precept/internal/shard"
	"precept/schemas"
)

// Rows are compared by their IDs: no more is decoded, and no more is held, a shard at a
// time. What a shard of both runs holds is the same in both and is not read.

// rowDiff is what became of the prompts of two SFT sets.
type rowDiff struct {
	rowCounts
	ByCategory map[schemas.Category]rowCounts `json:"by_category"`
	// OnlyA counts by what B says of A's prompts, OnlyB the other way round.
	WhyOnlyA map[string]int64 `json:"why_only_a"`
	WhyOnlyB map[string]int64 `json:"why_only_b"`
	// Some prompts of each class, by ID.
	OtherIDs []listed `json:"other_ids,omitempty"`
	OnlyAIDs []listed `json:"only_a_ids,omitempty"`
	OnlyBIDs []listed `json:"only_b_ids,omitempty"`
}

// rowCounts counts prompts: in both with equal examples, in both with another
// completion, in one alone.
type rowCounts struct {
	Same  int64 `json:"same"`
	Other int64 `json:"other"`
	OnlyA int64 `json:"only_a"`
	OnlyB int64 `json:"only_b"`
}

func (c *rowCounts) add(o rowCounts) {
	c.Same, c.Other, c.OnlyA, c.OnlyB = c.Same+o.Same, c.Other+o.Other, c.OnlyA+o.OnlyA, c.OnlyB+o.OnlyB
}

type listed struct {
	ID  string `json:"id"`
	Why string `json:"why,omitempty"`
}

// The columns that are read of a row.
type (
	exampleIDs struct {
		ID       string           `parquet:"id"`
		PromptID string           `parquet:"prompt_id"`
		Category schemas.Category `parquet:"category,dict"`
	}
	promptIDs struct {
		ID     string         `parquet:"id"`
		Reason schemas.Reason `parquet:"reason,dict"`
	}
	completionIDs struct {
		Prompt struct {
			ID string `parquet:"id"`
		} `parquet:"prompt"`
		Reason schemas.Reason `parquet:"reason,dict"`
	}
	verdictIDs struct {
		PromptID string         `parquet:"prompt_id"`
		Reason   schemas.Reason `parquet:"reason,dict"`
	}
)

func eachRow[T any](ctx context.Context, store shard.Store, refs []schemas.ShardRef, do func(T)) error {
	for _, ref := range refs {
		rows, err := shard.Read[T](ctx, store, ref)
		if err != nil {
			return err
		}
		for _, row := range rows {
			do(row)
		}
	}
	return nil
}

// sftRow is a prompt of an SFT set with its examples, by ID.
type sftRow struct {
	category schemas.Category
	examples string
}

// compareRows compares the SFT sets; it returns nil where a run has none yet.
func compareRows(ctx context.Context, store shard.Store, a, b *archive, list int) (*rowDiff, error) {
	setA, setB := a.manifests[schemas.StageCurate], b.manifests[schemas.StageCurate]
	if setA == nil || setB == nil {
		return nil, nil
	}
	d := &rowDiff{ByCategory: map[schemas.Category]rowCounts{}}
	count := func(c schemas.Category, n rowCounts) {
		d.add(n)
		of := d.ByCategory[c]
		of.add(n)
		d.ByCategory[c] = of
	}
	refsA, refsB := setA.Outputs[schemas.OutputExamples], setB.Outputs[schemas.OutputExamples]
	if !a.repeats() && !b.repeats() {
		var shared []schemas.ShardRef
		shared, refsA, refsB = part(refsA, refsB)
		if err := a.countShared(ctx, store, shared, count); err != nil {
			return nil, err
		}
	}
	rowsA, err := sftRows(ctx, store, refsA)
	if err != nil {
		return nil, err
	}
	rowsB, err := sftRows(ctx, store, refsB)
	if err != nil {
		return nil, err
	}
	var other, onlyA, onlyB []string
	for id, row := range rowsA {
		switch there, ok := rowsB[id]; {
		case !ok:
			onlyA = append(onlyA, id)
			count(row.category, rowCounts{OnlyA: 1})
		case row.examples == there.examples:
			count(row.category, rowCounts{Same: 1})
		default:
			other = append(other, id)
			count(row.category, rowCounts{Other: 1})
		}
	}
	for id, row := range rowsB {
		if _, ok := rowsA[id]; !ok {
			onlyB = append(onlyB, id)
			count(row.category, rowCounts{OnlyB: 1})
		}
	}
	slices.Sort(other)
	for _, id := range other[:min(list, len(other))] {
		d.OtherIDs = append(d.OtherIDs, listed{ID: id})
	}
	if d.WhyOnlyA, d.OnlyAIDs, err = why(ctx, store, b, a, onlyA, list); err != nil {
		return nil, err
	}
	d.WhyOnlyB, d.OnlyBIDs, err = why(ctx, store, a, b, onlyB, list)
	return d, err
}

// repeats reports whether a prompt may stand in several shards: imported prompts are
// rid of duplicates, a data set of one's own is taken as it is.
func (a *archive) repeats() bool {
	for _, p := range a.plans {
		if len(p.spec.From.Dataset) > 0 {
			return true
		}
	}
	return false
}

// part parts the shards of two runs by their content: those of both, and the others of
// each.
func part(a, b []schemas.ShardRef) (both, onlyA, onlyB []schemas.ShardRef) {
	inA, inB := map[schemas.Digest]bool{}, map[schemas.Digest]bool{}
	for _, ref := range a {
		inA[ref.Digest] = true
	}
	for _, ref := range b {
		inB[ref.Digest] = true
		if !inA[ref.Digest] {
			onlyB = append(onlyB, ref)
		}
	}
	for _, ref := range a {
		if inB[ref.Digest] {
			both = append(both, ref)
		} else {
			onlyA = append(onlyA, ref)
		}
	}
	return both, onlyA, onlyB
}

// countShared counts the rows of shards that both runs have. They are read only where the
// plan doesn't say of which category they are.
func (a *archive) countShared(ctx context.Context, store shard.Store, refs []schemas.ShardRef, count func(schemas.Category, rowCounts)) error {
	categories := map[schemas.Key]schemas.Category{}
	for _, t := range a.plans[schemas.StageCurate].tasks {
		for _, o := range t.Outputs {
			categories[o.Key] = t.Category
		}
	}
	for _, ref := range refs {
		c := categories[ref.Key]
		switch {
		case ref.Rows == 0:
		case c != "":
			count(c, rowCounts{Same: ref.Rows})
		default:
			err := eachRow(ctx, store, []schemas.ShardRef{ref}, func(row exampleIDs) { count(row.Category, rowCounts{Same: 1}) })
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func sftRows(ctx context.Context, store shard.Store, refs []schemas.ShardRef) (map[string]sftRow, error) {
	rows := map[string]sftRow{}
	err := eachRow(ctx, store, refs, func(row exampleIDs) {
		examples := row.ID
		if before, again := rows[row.PromptID]; again {
			ids := append(strings.Fields(before.examples), row.ID)
			slices.Sort(ids)
			examples = strings.Join(ids, " ")
		}
		rows[row.PromptID] = sftRow{row.Category, examples}
	})
	return rows, err
}

// finding is what a run did with one prompt, as far as it has been found.
type finding struct{ prompt, completion, verdict outcome }

// outcome is what became of a prompt's rows in one stage.
type outcome struct {
	seen, kept bool
	reasons    []string
}

func (o *outcome) note(reason string) {
	o.seen = true
	switch {
	case reason == "":
		o.kept = true
	case !slices.Contains(o.reasons, reason):
		o.reasons = append(o.reasons, reason)
	}
}

func (o outcome) rejected() bool { return o.seen && !o.kept }

// of is the outcome of a stage.
func (f *finding) of(stage schemas.Stage) *outcome {
	switch stage {
	case schemas.StagePrompts:
		return &f.prompt
	case schemas.StageSynthesize:
		return &f.completion
	default:
		return &f.verdict
	}
}

// search looks in a run for the prompts that only another run has.
type search struct {
	*archive
	other *archive
	found map[string]*finding
	// imported is true once all prompts of the run have been looked at.
	imported bool
}

// why counts prompts by what a run says of them that doesn't have them, other being the
// run that has; it lists some.
func why(ctx context.Context, store shard.Store, run, other *archive, ids []string, list int) (map[string]int64, []listed, error) {
	s := search{archive: run, other: other, found: make(map[string]*finding, len(ids))}
	for _, id := range ids {
		s.found[id] = &finding{}
	}
	if err := s.look(ctx, store); err != nil {
		return nil, nil, err
	}
	counts := map[string]int64{}
	var some []listed
	slices.Sort(ids)
	for i, id := range ids {
		reason := s.reason(s.found[id])
		counts[reason]++
		if i < list {
			some = append(some, listed{id, reason})
		}
	}
	return counts, some, nil
}

// look reads the run's stages until all is settled. What the other run shares is
// looked at last: a prompt that only one of them kept lies there only where their specs
// differ behind the filter.
func (s *search) look(ctx context.Context, store shard.Store) error {
	for _, pass := range []struct {
		stage  schemas.Stage
		shared bool
	}{
		{schemas.StageFilter, false}, {schemas.StageSynthesize, false}, {schemas.StagePrompts, false},
		{schemas.StagePrompts, true}, {schemas.StageFilter, true}, {schemas.StageSynthesize, true},
	} {
		if s.settled() {
			return nil
		}
		if err := s.lookAt(ctx, store, pass.stage, pass.shared); err != nil {
			return err
		}
		s.imported = s.imported || pass.stage == schemas.StagePrompts && pass.shared
	}
	return nil
}

// settled reports whether nothing that is not read yet can say more.
func (s *search) settled() bool {
	for _, f := range s.found {
		known := f.verdict.seen || f.completion.rejected() || f.prompt.rejected() ||
			s.imported && !f.prompt.seen && !f.completion.seen
		if !known {
			return false
		}
	}
	return true
}

// lookAt reads the shards of a stage: those that the other run has too, or the others.
func (s *search) lookAt(ctx context.Context, store shard.Store, stage schemas.Stage, sharedOnes bool) error {
	m := s.manifests[stage]
	if m == nil {
		return nil
	}
	var theirs []schemas.ShardRef
	if o := s.other.manifests[stage]; o != nil {
		theirs = o.Outputs[kindOf[stage]]
	}
	shared, refs, _ := part(m.Outputs[kindOf[stage]], theirs)
	if sharedOnes {
		refs = shared
	}
	note := func(id string, reason schemas.Reason) {
		if f := s.found[id]; f != nil {
			f.of(stage).note(string(reason))
		}
	}
	var err error
	switch stage {
	case schemas.StagePrompts:
		err = eachRow(ctx, store, refs, func(row promptIDs) { note(row.ID, row.Reason) })
	case schemas.StageSynthesize:
		err = eachRow(ctx, store, refs, func(row completionIDs) { note(row.Prompt.ID, row.Reason) })
	case schemas.StageFilter:
		err = eachRow(ctx, store, refs, func(row verdictIDs) { note(row.PromptID, row.Reason) })
	}
	if err != nil || sharedOnes {
		return err
	}
	return failedRows(ctx, store, m, func(row schemas.FailedRow) { note(row.PromptID, "failed: "+row.Reason) })
}

// kindOf is the kind of rows that decide a prompt's outcome of a stage.
var kindOf = map[schemas.Stage]string{
	schemas.StagePrompts: schemas.OutputPrompts, schemas.StageSynthesize: schemas.OutputCompletions, schemas.StageFilter: schemas.OutputVerdicts,
}

// failedRows goes through the rows that a stage ended without.
func failedRows(ctx context.Context, store shard.Store, m *schemas.Manifest, do func(schemas.FailedRow)) error {
	for _, object := range m.Partial {
		var p schemas.Partial
		err := shard.GetJSON(ctx, store, object, &p)
		if schemas.KindOf(err) == schemas.NotFound {
			continue // the run that it was taken from has been forgotten
		}
		if err != nil {
			return err
		}
		for _, row := range p.Missing {
			do(row)
		}
	}
	return nil
}

// reason says in short why the run's SFT set lacks a prompt: what the furthest stage says
// that the prompt came to.
func (s *search) reason(f *finding) string {
	for _, o := range []struct {
		outcome outcome
		stage   schemas.Stage
		next    schemas.Stage
	}{
		{f.verdict, schemas.StageFilter, schemas.StageCurate},
		{f.completion, schemas.StageSynthesize, schemas.StageFilter},
		{f.prompt, schemas.StagePrompts, schemas.StageSynthesize},
	} {
		switch {
		case o.outcome.kept:
			return string(o.next) + ": " + s.lacking(o.next)
		case o.outcome.seen:
			slices.Sort(o.outcome.reasons)
			return string(o.stage) + ": " + strings.Join(o.outcome.reasons, ", ")
		}
	}
	return "not imported"
}

// lacking says why a stage has no row of a prompt that the stage before it kept.
func (s *search) lacking(stage schemas.Stage) string {
	m := s.manifests[stage]
	switch {
	case m == nil:
		return "no result"
	case stage == schemas.StageCurate && m.Ledger.Rejected[schemas.ReasonOverQuota] > 0:
		return string(schemas.ReasonOverQuota)
	case stage == schemas.StageSynthesize && s.plans[stage].spec.Quota.Accepted > 0:
		return "not drawn for the quota"
	}
	return "no row"
}

// byCount sorts reasons by their number, the largest first.
func byCount(counts map[string]int64) []string {
	return slices.SortedFunc(maps.Keys(counts), func(x, y string) int {
		return cmp.Or(cmp.Compare(counts[y], counts[x]), strings.Compare(x, y))
	})
}
