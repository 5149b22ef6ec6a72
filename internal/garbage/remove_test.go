package garbage_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"precept/internal/garbage"
	"precept/internal/shard"
	"precept/schemas"
)

const ownLease = "leases/gc.json"

func TestRemove(t *testing.T) {
	w := newWorld(t)
	w.run("first")
	w.run("second")
	for i := range 700 { // more than a batch
		w.shard(schemas.StageFilter, string(rune('a'+i%26))+strings.Repeat("x", i/26))
	}
	w.checkpoint("lone", 4)
	w.Age("", month)
	w.put("other/file", "")
	o := options("first")
	o.Forget = []schemas.RunID{"second"}
	f := w.find(o)
	all, gone := w.keys(), slices.Collect(f.Garbage)
	if len(gone) < 700 {
		t.Fatalf("%d objects are garbage", len(gone))
	}
	removed, err := f.Remove(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantKeys(t, "what is left", append(without(all, gone), ownLease), w.keys())
	if _, want := f.Total(); removed.Sum != want || removed.Spared != 0 {
		t.Errorf("%+v was removed, want %+v", removed, want)
	}
	wantKeys(t, "garbage afterwards", nil, w.garbage(options("first")))
}

// TestOrder: whatever is found by name goes before what it leads to, and a folder's
// index before its files, so that an interruption leaves nothing that seems whole.
func TestOrder(t *testing.T) {
	w := newWorld(t)
	w.run("first")
	w.checkpoint("first", 4)
	w.Age("", month)
	o := options()
	o.Forget = []schemas.RunID{"first"}
	s := &watched{Store: w}
	f, err := garbage.Find(t.Context(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := func(prefix string) (at int) {
		for i, key := range s.deleted {
			if strings.HasPrefix(key, prefix) {
				at = i
			}
		}
		return at
	}
	first := func(prefix string) int {
		return slices.IndexFunc(s.deleted, func(key string) bool { return strings.HasPrefix(key, prefix) })
	}
	order := []string{"runs/", "plans/", "jobs/", "models/", "checkpoints/", "shards/"}
	for i := range order[1:] {
		if last(order[i]) > first(order[i+1]) {
			t.Errorf("%s goes after %s: %v", order[i], order[i+1], s.deleted)
		}
	}
	for _, folder := range []string{schemas.ModelPrefix(schemas.DigestOf("base")), schemas.CheckpointPrefix(schemas.DigestOf("first"), 4)} {
		if i := first(folder + "/"); s.deleted[i] != folder+"/index.json" {
			t.Errorf("of the folder %s, %s goes first", folder, s.deleted[i])
		}
	}
}

// watched is a store that notes what is deleted, and can do something before that.
type watched struct {
	shard.Store
	before  func(key string)
	mu      sync.Mutex
	deleted []string
}

func (s *watched) Delete(ctx context.Context, key string) error {
	if s.before != nil {
		s.before(key)
	}
	s.mu.Lock()
	s.deleted = append(s.deleted, key)
	s.mu.Unlock()
	return s.Store.Delete(ctx, key)
}

// TestHalfRemoved: what an interrupted removal has left of a model goes with the next
// one, and is not taken for a model meanwhile.
func TestHalfRemoved(t *testing.T) {
	w := newWorld(t)
	ref := w.model("lone")
	w.Age("", month)
	ctx, cancel := context.WithCancel(t.Context())
	s := &watched{Store: w, before: func(key string) {
		if !strings.HasSuffix(key, "index.json") {
			cancel()
		}
	}}
	f, err := garbage.Find(ctx, s, options())
	if err != nil {
		t.Fatal(err)
	}
	removed, err := f.Remove(ctx)
	if err == nil || removed.Objects != 1 {
		t.Fatalf("%+v was removed, %v", removed, err)
	}
	if _, ok, err := shard.FindFolder(t.Context(), w, ref.Prefix); ok || err != nil {
		t.Errorf("the model is there: %v, %v", ok, err)
	}
	left := w.keys("models/")
	if len(left) != 2 {
		t.Fatalf("%v is left", left)
	}
	wantKeys(t, "garbage", left, w.garbage(options()))
}

// TestMeanwhile: what others do between a look and a removal.
func TestMeanwhile(t *testing.T) {
	lone := shard.Object(schemas.StageSynthesize, schemas.DigestOf("lone"))
	planOf := func(run schemas.RunID, name string) func(w *world) {
		return func(w *world) {
			p := schemas.Plan{Run: run, Stage: schemas.StageSynthesize, Inputs: schemas.Inputs{Policy: w.policy("late")}, Tasks: []schemas.Task{
				{Outputs: []schemas.Output{{Kind: schemas.OutputCompletions, Key: schemas.DigestOf(name)}}},
			}}
			p.Spec.Name = "late"
			w.putJSON(schemas.PlanObject(run, schemas.StageSynthesize), p)
		}
	}
	plan := planOf("late", "lone")
	open := func(started time.Time) garbage.Options {
		o := options()
		o.Runs = func(context.Context) ([]garbage.Run, error) {
			return []garbage.Run{{ID: "late", Started: started}}, nil
		}
		return o
	}
	inputs := func(w *world) {
		w.putJSON(schemas.RunObject("late", "inputs.json"), schemas.Inputs{Policy: w.policy("late")})
	}
	for _, test := range []struct {
		name    string
		options garbage.Options
		before  func(w *world) // before the removal
		during  func(w *world) // before the first object goes
		left    bool
		want    string
	}{
		{"nothing", options(), func(*world) {}, func(*world) {}, false, ""},
		{"a plan names it before", options(), plan, func(*world) {}, true, ""},
		{"a plan that was read names it before", options(), planOf("known", "lone"), func(*world) {}, true, ""},
		{"it is written again before", options(), func(w *world) { w.put(lone, "lone") }, func(*world) {}, true, ""},
		{"somebody else removes it before", options(), func(w *world) { w.Delete(context.Background(), lone) }, func(*world) {}, false, ""},
		{"a plan names it too late", options(), func(*world) {}, plan, false, lone + " came to be needed while garbage was removed: plans/late/synthesize.json"},
		{"a run has no inputs yet", open(time.Time{}), func(*world) {}, func(*world) {}, true, "run late has not copied all its inputs yet"},
		{"a run has inputs of an earlier execution", open(time.Now().Add(time.Hour)), inputs, func(*world) {}, true, "run late has not copied all its inputs yet"},
		{"a run has its inputs", open(time.Now()), inputs, func(*world) {}, false, ""},
		{"a root becomes unreadable", options(), func(w *world) { w.put(schemas.ManifestObject("x", schemas.StageRL), "{") }, func(*world) {}, true, "can't be read"},
		{"the clock is wrong", options(), func(*world) {}, func(w *world) {}, true, "clock"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.shard(schemas.StageSynthesize, "lone")
			w.Age("", month)
			planOf("known", "something")(w)
			s := &watched{Store: w, before: func(string) { test.during(w) }}
			var store shard.Store = s
			if test.want == "clock" {
				store = ahead{s}
			}
			f, err := garbage.Find(t.Context(), store, test.options)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(slices.Collect(f.Garbage)); n != 1 {
				t.Fatalf("%d objects are garbage", n)
			}
			test.before(w)
			removed, err := f.Remove(t.Context())
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("%v, want %q", err, test.want)
			}
			if left := len(w.keys(lone)) == 1; left != test.left {
				t.Errorf("is it left: %v, want %v", left, test.left)
			}
			if err == nil && removed.Objects+removed.Spared != 1 {
				t.Errorf("%+v", removed)
			}
		})
	}
}

// TestOpenedMeanwhile: a plan that was read for what it had read is read again for what
// it writes, when its run has been started again.
func TestOpenedMeanwhile(t *testing.T) {
	w := newWorld(t)
	w.run("first")
	w.checkpoint("first", 4)
	w.Age("", month)
	var runs []garbage.Run
	o := options()
	o.Runs = func(context.Context) ([]garbage.Run, error) { return runs, nil }
	f := w.find(o)
	wantKeys(t, "garbage", w.keys("checkpoints/"), slices.Collect(f.Garbage))
	runs = []garbage.Run{{ID: "first"}}
	if removed, err := f.Remove(t.Context()); err != nil || removed.Objects != 0 || removed.Spared != 2 {
		t.Errorf("%+v was removed, %v", removed, err)
	}
}

// ahead is a store whose clock is.
type ahead struct{ shard.Store }

func (s ahead) Head(ctx context.Context, key string) (shard.Info, error) {
	info, err := s.Store.Head(ctx, key)
	info.Modified = info.Modified.Add(time.Hour)
	return info, err
}

// TestStartedMeanwhile: a run that copies its inputs while garbage is removed may have
// found some that are gone now.
func TestStartedMeanwhile(t *testing.T) {
	w := newWorld(t)
	w.input("lone")
	w.Age("", month)
	var runs []garbage.Run
	o := options()
	o.Runs = func(context.Context) ([]garbage.Run, error) { return runs, nil }
	s := &watched{Store: w, before: func(string) { runs = []garbage.Run{{ID: "late"}} }}
	f, err := garbage.Find(t.Context(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Remove(t.Context()); err == nil || !strings.Contains(err.Error(), "run late began to copy its inputs") {
		t.Error(err)
	}
}
