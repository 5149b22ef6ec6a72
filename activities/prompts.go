package activities

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"precept/internal/prompts"
	"precept/internal/shard"
	"precept/schemas"
)

// promptsVersion changes when the same files give other prompts.
const promptsVersion = 4

// prompts plans one task: what is a duplicate can be told only by who has seen all
// rows. It writes a shard for every category and bucket.
func (p *planner) prompts(ctx context.Context) ([]schemas.Task, error) {
	if err := p.openEndpoints(); err != nil {
		return nil, err
	}
	var inputs []schemas.Digest
	var imports []schemas.Import
	counts := map[schemas.Category]int64{}
	var total int64
	for _, in := range p.inputs.Prompts {
		inputs = append(inputs, in.Digest)
		imports = append(imports, prompts.Meaning(in.Name, in.Import))
		for c, n := range in.ByCategory {
			counts[c] += n
			total += n
		}
	}
	labels, matches, err := p.classified(ctx)
	if err != nil {
		return nil, err
	}
	for _, ref := range slices.Concat(labels, matches) {
		kept, err := keptLabels(ctx, p.store, ref)
		if err != nil {
			return nil, err
		}
		for _, l := range kept {
			counts[l.Prompt.Category]++
			total++
		}
	}
	suites := suiteDigests(p.inputs.Suites)
	l := lineage{
		Stage: schemas.StagePrompts, Version: promptsVersion, Inputs: inputs,
		Params: map[string]any{
			"imports": imports, "limit": p.Spec.Prompts.Limit, "suites": suites, "near_duplicates": p.Spec.Prompts.NearDuplicates,
		},
	}
	if len(labels) > 0 {
		l.Params["labels"] = digests(labels...)
	}
	if len(matches) > 0 {
		l.Params["generated"] = digests(matches...)
	}
	if p.Spec.HoldsOut() {
		l.Params["dev"] = p.Spec.Dev.Prompts
	}
	t := newTask("import and remove duplicates", total, l)
	t.Inputs = slices.Concat(labels, matches)
	most := int64(p.Spec.Prompts.RowsPerShard)
	if most == 0 {
		most = rowsPerShard(total)
	}
	for _, c := range slices.Sorted(maps.Keys(counts)) {
		buckets := prompts.Buckets(counts[c], most)
		for b := range buckets {
			o := schemas.Output{Kind: schemas.OutputPrompts, Category: c, Bucket: b}
			o.Key = l.bucket(o, buckets).key()
			t.Outputs = append(t.Outputs, o)
		}
	}
	if p.Spec.HoldsOut() {
		t.Outputs = append(t.Outputs, l.of(schemas.OutputDev).output()) // the last one
	}
	return []schemas.Task{t}, nil
}

// classified is what classify wrote: the labels of imported prompts, and the generated
// prompts.
func (p *planner) classified(ctx context.Context) (labels, matches []schemas.ShardRef, err error) {
	if !p.Spec.Passes(schemas.StageClassify) {
		return nil, nil, nil
	}
	m, err := p.manifest(ctx, schemas.StageClassify)
	return m.Outputs[schemas.OutputLabels], m.Outputs[schemas.OutputMatches], err
}

func keptLabels(ctx context.Context, store shard.Store, ref schemas.ShardRef) ([]schemas.Label, error) {
	rows, err := shard.Read[schemas.Label](ctx, store, ref)
	return slices.DeleteFunc(rows, func(l schemas.Label) bool { return l.Reason != "" }), err
}

// bucket is the lineage of one shard of a task that writes many.
func (l lineage) bucket(o schemas.Output, buckets int) lineage {
	l = l.of(o.Kind)
	l.Params = maps.Clone(l.Params)
	l.Params["category"], l.Params["bucket"], l.Params["buckets"] = o.Category, o.Bucket, buckets
	return l
}

// rowsPerShard keeps a small run's shards small, for progress to be seen, and a large
// run's few, for its history to stay short.
func rowsPerShard(total int64) int64 { return max(500, min(total/256, 4000)) }

// Prompts writes the imported prompts: what is a duplicate or stands in a suite is
// rejected. Rows pass through files, so that memory doesn't grow with them.
func (a *Activities) Prompts(ctx context.Context, req TaskRequest) (schemas.TaskResult, error) {
	return a.task(ctx, req, doPrompts)
}

func doPrompts(ctx context.Context, w *work) error {
	dir := w.work("import", string(w.Outputs[0].Key))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return schemas.E("import prompts", dir, schemas.Unavailable, err)
	}
	defer os.RemoveAll(dir)
	suites, err := w.suites(ctx, w.plan.Inputs.Suites)
	if err != nil {
		return err
	}
	s, err := newSorting(dir, w)
	if err != nil {
		return err
	}
	defer s.close()
	s.suites = suites
	w.beat.total(w.Planned, "rows")
	refs := w.Inputs
	for _, in := range w.plan.Inputs.Prompts {
		n := chunks(in.Unlabelled)
		if err := s.read(ctx, dir, in, refs[:n]); err != nil {
			return err
		}
		refs = refs[n:]
	}
	for _, ref := range refs { // of generated prompts
		kept, err := keptLabels(ctx, w.store, ref)
		if err != nil {
			return err
		}
		for _, l := range kept {
			if err := s.add(ctx, l.Prompt); err != nil {
				return err
			}
		}
	}
	return s.write(ctx)
}

// suites reads what the evaluation suites consist of.
func (a *Activities) suites(ctx context.Context, inputs []schemas.Input) (*prompts.Suites, error) {
	var all []schemas.Prompt
	for _, in := range inputs {
		rows, err := shard.Read[schemas.Prompt](ctx, a.store, *in.Shard)
		if err != nil {
			return nil, err
		}
		all = append(all, rows...)
	}
	return prompts.NewSuites(all), nil
}

// sorting is the way of the rows from their files to their buckets.
type sorting struct {
	w       *work
	suites  *prompts.Suites
	lineage lineage
	outputs map[schemas.Category][]schemas.Output // by bucket
	parts   int                                   // a power of two
	spill   *prompts.Spill
	near    *prompts.Near // nil where only exact duplicates count
	rows    int
}

// partRows is how many rows are sorted in memory at a time, on average.
const partRows = 16_000

func newSorting(dir string, w *work) (*sorting, error) {
	s := &sorting{w: w, outputs: map[schemas.Category][]schemas.Output{}, parts: min(prompts.Buckets(w.Planned, partRows), 512)}
	for _, o := range w.Outputs {
		if o.Kind == schemas.OutputPrompts {
			s.outputs[o.Category] = append(s.outputs[o.Category], o)
		}
	}
	err := json.Unmarshal(w.Lineage, &s.lineage)
	if err != nil {
		return nil, schemas.E("read lineage", w.Title, schemas.Internal, err)
	}
	if s.spill, err = prompts.NewSpill(dir, s.parts); err != nil {
		return nil, err
	}
	if threshold := *w.spec.Prompts.NearDuplicates; threshold > 0 {
		if s.near, err = prompts.NewNear(dir, threshold); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func (s *sorting) close() {
	s.spill.Close()
	if s.near != nil {
		s.near.Close()
	}
}

// read takes a file's rows, those that had no label as the labels say.
func (s *sorting) read(ctx context.Context, dir string, in schemas.Input, labels []schemas.ShardRef) error {
	path := filepath.Join(dir, "input")
	if _, err := s.w.store.GetFile(ctx, in.Object, path); err != nil {
		return err
	}
	defer os.Remove(path)
	var told []schemas.Label // of the shard that is being used
	row := int64(0)
	return scanFile(path, in.Name, in.Import, s.w.spec.Prompts.Limit, func(p schemas.Prompt) error {
		row++
		if labelled(p) {
			return s.add(ctx, p)
		}
		for len(told) == 0 && len(labels) > 0 {
			var err error
			if told, err = keptLabels(ctx, s.w.store, labels[0]); err != nil {
				return err
			}
			labels = labels[1:]
		}
		if len(told) == 0 || told[0].Row != row {
			return nil // it was rejected, or failed
		}
		p, told = told[0].Prompt, told[1:]
		return s.add(ctx, p)
	})
}

// add puts a row into the spill. The rows of a bucket come into one part.
func (s *sorting) add(ctx context.Context, p schemas.Prompt) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.Expected = "" // a label is a suite's; training sees none
	if p.Reason == "" && s.suites.Contaminate(p) {
		p.Reason = schemas.ReasonContaminated
	}
	if err := s.show(p); err != nil {
		return err
	}
	buckets := len(s.outputs[p.Category])
	if buckets == 0 {
		return schemas.Errorf("import prompts", p.ID, schemas.Internal, "the plan has no shard for category %q", p.Category)
	}
	part := prompts.Bucket(prompts.Normal(p), buckets) & (s.parts - 1)
	err := s.spill.Add(part, prompts.Row{Prompt: p, Number: s.rows})
	s.rows++
	s.w.beat.add(1)
	return err
}

// show shows a row to the search for near-duplicates. What a suite contains is no
// row that another could be the duplicate of.
func (s *sorting) show(p schemas.Prompt) error {
	switch {
	case s.near == nil:
		return nil
	case p.Reason != "":
		return s.near.Skip()
	}
	return s.near.Add(p)
}

// write writes the shards, a part's at a time.
func (s *sorting) write(ctx context.Context) error {
	similar := func(int) bool { return false }
	if s.near != nil {
		s.w.beat.say("looking for near-duplicates")
		found, err := s.near.Duplicates(ctx)
		if err != nil {
			return err
		}
		similar = found.Has
		s.w.beat.say("")
	}
	dev, err := s.holdOut(ctx, similar)
	if err != nil {
		return err
	}
	s.w.beat.total(int64(len(s.w.Outputs)), "shards")
	type bucket struct {
		category schemas.Category
		number   int
	}
	for part := range s.parts {
		buckets := map[bucket][]schemas.Prompt{}
		err := s.part(part, similar, func(p schemas.Prompt, normal string) {
			if p.Reason == "" && dev[p.ID] {
				p.Reason = schemas.ReasonDev
			}
			b := bucket{p.Category, prompts.Bucket(normal, len(s.outputs[p.Category]))}
			buckets[b] = append(buckets[b], p)
		})
		if err != nil {
			return err
		}
		for category, outputs := range s.outputs {
			for number, o := range outputs {
				if number&(s.parts-1) != part {
					continue
				}
				if err := s.writeShard(ctx, o, buckets[bucket{category, number}]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// part yields a part's rows with why they are rejected, in import order: of duplicates the
// earliest stays.
func (s *sorting) part(part int, similar func(int) bool, each func(p schemas.Prompt, normal string)) error {
	rows, err := s.spill.Rows(part)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, r := range rows {
		p, normal := r.Prompt, prompts.Normal(r.Prompt)
		usable := p.Reason == "" || p.Reason == schemas.ReasonContaminated
		switch {
		case !usable:
		case seen[normal]:
			p.Reason = schemas.ReasonDuplicate
		case similar(r.Number):
			p.Reason = schemas.ReasonNearDuplicate
		}
		seen[normal] = seen[normal] || usable
		each(p, normal)
	}
	return nil
}

// holdOut chooses the dev split, where the run has one, and writes its shard. The rows stand
// in their category's shards, too, rejected as held out.
func (s *sorting) holdOut(ctx context.Context, similar func(int) bool) (map[string]bool, error) {
	key, err := s.w.Output(schemas.OutputDev)
	if err != nil {
		return nil, nil // there is none
	}
	choice := newSplit(s.w.spec.Dev.Prompts)
	for part := range s.parts {
		err := s.part(part, similar, func(p schemas.Prompt, _ string) {
			if p.Reason == "" {
				choice.add(p)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	rows, ids := choice.prompts(), map[string]bool{}
	for _, p := range rows {
		ids[p.ID] = true
	}
	_, err = shard.Write(ctx, s.w.store, s.w.stage, key, rows, schemas.Ledger{}, s.lineage.of(schemas.OutputDev))
	return ids, err
}

func (s *sorting) writeShard(ctx context.Context, o schemas.Output, rows []schemas.Prompt) error {
	ledger := schemas.Ledger{Planned: int64(len(rows))}
	for _, r := range rows {
		ledger.Count(r.Reason)
	}
	// By ID, so that the files' order doesn't change the bytes.
	slices.SortStableFunc(rows, func(x, y schemas.Prompt) int { return strings.Compare(x.ID, y.ID) })
	_, err := shard.Write(ctx, s.w.store, s.w.stage, o.Key, rows, ledger, s.lineage.bucket(o, len(s.outputs[o.Category])))
	s.w.beat.add(1)
	return err
}
