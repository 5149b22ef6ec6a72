package garbage

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"precept/internal/shard"
	"precept/schemas"
)

// Options say what counts as garbage.
type Options struct {
	// Grace is how long an object is young. It must be longer than what a run takes to
	// copy its inputs or to store a model.
	Grace time.Duration
	// JournalOlderThan makes the journal's segments of that age garbage; 0 makes none.
	JournalOlderThan time.Duration
	// Forget names runs whose records are to be removed too.
	Forget []schemas.RunID
	// Runs tells which runs are under way. Where it is nil, nobody knows: then all plans
	// are roots, and no run can be forgotten.
	Runs func(context.Context) ([]Run, error)
}

// Run is a run under way.
type Run struct {
	ID schemas.RunID
	// Started is when the first link of its chain began; zero where that isn't known.
	Started time.Time
}

// LeastGrace is the shortest grace period.
const LeastGrace = time.Hour

func (o Options) check() error {
	switch {
	case o.Grace < LeastGrace:
		return schemas.Errorf(op, "", schemas.InvalidInput, "the grace period is %s; it must be at least %s: a run writes objects before it names them", o.Grace, LeastGrace)
	case o.JournalOlderThan < 0:
		return schemas.Errorf(op, "", schemas.InvalidInput, "the journal's age is %s", o.JournalOlderThan)
	case len(o.Forget) > 0 && o.Runs == nil:
		return schemas.Errorf(op, "", schemas.InvalidInput, "nobody knows whether run %s is under way, so that it can't be forgotten", o.Forget[0])
	case slices.Contains(o.Forget, ""):
		return schemas.Errorf(op, "", schemas.InvalidInput, "a run to forget has no name")
	}
	return nil
}

// Sum counts objects.
type Sum struct {
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

func (s *Sum) add(o Sum) { s.Objects, s.Bytes = s.Objects+o.Objects, s.Bytes+o.Bytes }

// Row counts the objects of a kind; those of shards are parted by stage.
type Row struct {
	Kind    Kind          `json:"kind"`
	Stage   schemas.Stage `json:"stage,omitempty"`
	Kept    Sum           `json:"kept"`
	Garbage Sum           `json:"garbage"`
}

// Found is what was found in a store. It counts the garbage, and can remove it.
type Found struct {
	Rows []Row `json:"kinds"`
	// Young is the part of what is kept that is garbage once it is older.
	Young Sum `json:"young"`
	// Foreign is what is not of Precept's layout, with some of the first names of keys.
	Foreign      Sum      `json:"foreign"`
	ForeignNames []string `json:"foreign_names,omitempty"`
	// Open lists the runs under way.
	Open []schemas.RunID `json:"open"`

	options Options
	roots   *roots
	items   []item // in the order in which they are removed
}

// item is what is removed at a time: an object, or a folder.
type item struct {
	place
	objects []shard.Info
	newest  time.Time
	removed bool
}

func (i item) sum() (s Sum) {
	for _, o := range i.objects {
		s.add(Sum{1, o.Size})
	}
	return s
}

// Find finds the garbage of a store. It changes nothing.
func Find(ctx context.Context, store shard.Store, options Options) (*Found, error) {
	if err := options.check(); err != nil {
		return nil, err
	}
	now := time.Now()
	f := &Found{Open: []schemas.RunID{}, options: options, roots: &roots{
		store: store, underway: options.Runs, cutoff: now.Add(-options.Grace), forgotten: map[string]schemas.RunID{},
		read: map[string]string{}, refs: map[string]string{},
	}}
	for _, run := range options.Forget {
		f.roots.forgotten[schemas.RunKey(run)] = run
	}
	if err := f.roots.look(ctx); err != nil {
		return nil, err
	}
	for _, run := range f.roots.open {
		f.Open = append(f.Open, run.ID)
	}
	slices.Sort(f.Open)
	if err := f.sort(ctx, now); err != nil {
		return nil, err
	}
	return f, nil
}

// Garbage yields the keys of all garbage, in the order in which it is removed.
func (f *Found) Garbage(yield func(key string) bool) {
	for _, i := range f.items {
		for _, o := range i.objects {
			if !yield(o.Key) {
				return
			}
		}
	}
}

// Total sums the rows.
func (f *Found) Total() (kept, garbage Sum) {
	for _, r := range f.Rows {
		kept.add(r.Kept)
		garbage.add(r.Garbage)
	}
	return kept, garbage
}

// sort goes through all objects and parts the garbage from what is kept.
func (f *Found) sort(ctx context.Context, now time.Time) error {
	store, cutoff := f.roots.store, f.roots.cutoff
	left, err := shard.LeftBehind(ctx, store, cutoff)
	if err != nil {
		return err
	}
	s := sorting{
		found: f, rows: map[row]*Row{}, folders: map[string]*item{}, forgotten: map[string]bool{}, left: map[string]bool{},
		journal: now.Add(-f.options.JournalOlderThan),
	}
	for _, name := range left {
		s.left[name] = true
	}
	for info, err := range store.List(ctx, "") {
		if err != nil {
			return err
		}
		if err := s.object(info); err != nil {
			return err
		}
	}
	for _, folder := range s.folders {
		s.item(*folder)
	}
	for name, run := range f.roots.forgotten {
		if !s.forgotten[name] {
			return schemas.Errorf(op, "", schemas.NotFound, "the store has nothing of a run %s", run).
				WithHint("List the runs with: temporal workflow list")
		}
	}
	f.Rows = s.table()
	slices.SortFunc(f.items, func(x, y item) int {
		return cmp.Or(
			cmp.Compare(slices.Index(kinds, x.kind), slices.Index(kinds, y.kind)),
			strings.Compare(x.objects[0].Key, y.objects[0].Key))
	})
	slices.Sort(f.ForeignNames)
	return nil
}

// sorting is what is known of a store half-way through its objects.
type sorting struct {
	found     *Found
	rows      map[row]*Row
	folders   map[string]*item
	forgotten map[string]bool // runs of which there is something
	left      map[string]bool // segments that a compaction has left behind
	journal   time.Time       // segments before it are garbage, where any are
}

type row struct {
	kind  Kind
	stage schemas.Stage
}

// shownNames bounds how many names of foreign keys are listed.
const shownNames = 8

func (s *sorting) object(info shard.Info) error {
	f := s.found
	p, ok := locate(info.Key)
	if !ok {
		f.Foreign.add(Sum{1, info.Size})
		name, _, more := strings.Cut(info.Key, "/")
		if more {
			name += "/"
		}
		if !slices.Contains(f.ForeignNames, name) && len(f.ForeignNames) < shownNames {
			f.ForeignNames = append(f.ForeignNames, name)
		}
		return nil
	}
	if run, ok := f.roots.forgotten[p.run]; ok {
		s.forgotten[p.run] = true
		if !info.Modified.Before(f.roots.cutoff) {
			return schemas.Errorf(op, "", schemas.Conflict, "run %s can't be forgotten yet: %s was written %s ago, and the grace period is %s",
				run, info.Key, time.Since(info.Modified).Round(time.Second), f.options.Grace).
				WithHint("Wait, or shorten it: --grace %s", LeastGrace)
		}
	}
	if p.folder == "" {
		s.item(item{place: p, objects: []shard.Info{info}, newest: info.Modified})
		return nil
	}
	folder := s.folders[p.folder]
	if folder == nil {
		folder = &item{place: p}
		s.folders[p.folder] = folder
	}
	folder.objects = append(folder.objects, info)
	if info.Modified.After(folder.newest) {
		folder.newest = info.Modified
	}
	return nil
}

// item counts an item, and keeps it in mind where it is garbage.
func (s *sorting) item(i item) {
	f := s.found
	r := s.row(i.place)
	switch young := !i.newest.Before(f.roots.cutoff); {
	case s.needed(i):
		r.Kept.add(i.sum())
	case young:
		f.Young.add(i.sum())
		r.Kept.add(i.sum())
	default:
		r.Garbage.add(i.sum())
		f.items = append(f.items, i)
	}
}

func (s *sorting) row(p place) *Row {
	key := row{p.kind, p.stage}
	if s.rows[key] == nil {
		s.rows[key] = &Row{Kind: p.kind, Stage: p.stage}
	}
	return s.rows[key]
}

// needed tells whether an item is to be kept at whatever age.
func (s *sorting) needed(i item) bool {
	roots := s.found.roots
	switch i.kind {
	case Runs:
		return roots.forgotten[i.run] == ""
	case Served: // it goes with the journal, in which there may always be more
		return true
	case Leases, Limits, // a holder writes it every few seconds
		Probes: // it counts for a day
		return false
	case Journal:
		// The name of a compacted segment is as old as its first answer, the object as
		// young as its last one.
		old := s.found.options.JournalOlderThan > 0 && i.at.Before(s.journal) && i.newest.Before(s.journal)
		return !old && !s.left[i.name]
	}
	return roots.has(i.name)
}

// table is the rows in the order in which people think of them.
func (s *sorting) table() (out []Row) {
	order := []Kind{Shards, Jobs, Models, Checkpoints, Inputs, Policies, Plans, Runs, Batches, Leases, Limits, Probes, Journal, Served}
	for r := range maps.Values(s.rows) {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(x, y Row) int {
		return cmp.Or(
			cmp.Compare(slices.Index(order, x.Kind), slices.Index(order, y.Kind)),
			cmp.Compare(slices.Index(schemas.Stages, x.Stage), slices.Index(schemas.Stages, y.Stage)))
	})
	return out
}
