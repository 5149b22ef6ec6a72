package garbage_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"precept/internal/garbage"
	"precept/internal/shard"
	"precept/internal/shard/shardtest"
	"precept/schemas"
)

func wantKeys(t *testing.T, what string, want, got []string) {
	t.Helper()
	slices.Sort(want)
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// TestShared: what runs have in common stays as long as one of them refers to it.
func TestShared(t *testing.T) {
	w := newWorld(t)
	w.run("first")
	w.run("second")
	w.Age("", month)
	wantKeys(t, "garbage of two runs", nil, w.garbage(options()))

	own := w.keys("runs/second/", "plans/second/")
	own = append(own, w.keys(
		shard.Object(schemas.StageSynthesize, schemas.DigestOf("second")),
		shard.Object(schemas.StageFilter, schemas.DigestOf("second but for a row")), schemas.JobObject(schemas.DigestOf("second")),
		schemas.ModelPrefix(schemas.DigestOf("second")))...)
	o := options()
	o.Forget = []schemas.RunID{"second"}
	wantKeys(t, "garbage when the second is forgotten", own, w.garbage(o))

	o.Forget = []schemas.RunID{"second", "first"}
	wantKeys(t, "garbage when both are forgotten", w.keys(), w.garbage(o))
}

// TestReplacedPlan: what a manifest names itself stays when another execution of the
// run has replaced its plan.
func TestReplacedPlan(t *testing.T) {
	w := newWorld(t)
	w.run("first")
	other := schemas.Plan{Run: "first", Stage: schemas.StageSynthesize, Inputs: schemas.Inputs{Policy: w.policy("other")}, Tasks: []schemas.Task{
		{Outputs: []schemas.Output{{Kind: schemas.OutputCompletions, Key: w.shard(schemas.StageSynthesize, "unfinished").Key}}},
	}}
	other.Spec.Name = "other"
	w.putJSON(schemas.PlanObject("first", schemas.StageSynthesize), other)
	w.Age("", month)
	wantKeys(t, "garbage", w.keys(shard.Object(schemas.StageSynthesize, schemas.DigestOf("unfinished"))), w.garbage(options()))
}

// planned is a run that has planned its training and not ended it.
func (w *world) planned(id schemas.RunID) {
	inputs := schemas.Inputs{Policy: w.policy("planned policy"), Prompts: []schemas.Input{w.input("planned prompts")}}
	w.putJSON(schemas.RunObject(id, "inputs.json"), inputs)
	base := w.model("planned base")
	plan := schemas.Plan{Run: id, Stage: schemas.StageRL, Inputs: inputs, Tasks: []schemas.Task{{
		Inputs: []schemas.ShardRef{w.shard(schemas.StageCurate, "planned examples")}, Model: &base,
		Outputs: []schemas.Output{
			{Kind: schemas.OutputModel, Key: w.job("planned job", "planned model")},
			{Kind: schemas.OutputRollouts, Key: w.shard(schemas.StageRL, "planned rollouts").Key},
		},
	}}}
	plan.Spec.Name = string(id)
	w.putJSON(schemas.PlanObject(id, schemas.StageRL), plan)
	w.checkpoint("planned job", 4)
	w.checkpoint("planned job", 8)
}

func TestOpenRun(t *testing.T) {
	w := newWorld(t)
	w.run("first")
	w.planned("a/b c.d") // an ID that is escaped in keys
	w.Age("", month)
	wantKeys(t, "garbage while the run is open", nil, w.garbage(options("a/b c.d")))
	wantKeys(t, "garbage when nobody knows which are open", nil, w.garbage(garbage.Options{Grace: grace}))

	// Of a run that has ended without a manifest, its inputs are all that is named.
	want := w.keys("plans/a%2Fb%20c%2Ed/", "checkpoints/", shard.Object(schemas.StageCurate, schemas.DigestOf("planned examples")),
		shard.Object(schemas.StageRL, schemas.DigestOf("planned rollouts")), schemas.JobObject(schemas.DigestOf("planned job")),
		schemas.ModelPrefix(schemas.DigestOf("planned base")), schemas.ModelPrefix(schemas.DigestOf("planned model")))
	if len(want) != 14 {
		t.Fatalf("the run has left %d objects: %v", len(want), want)
	}
	wantKeys(t, "garbage when the run has ended", want, w.garbage(options("first")))

	// It may have been started again a moment ago.
	plan := schemas.PlanObject("a/b c.d", schemas.StageRL)
	body, _, err := w.Get(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	w.put(plan, string(body))
	wantKeys(t, "garbage when the plan is young", nil, w.garbage(options("first")))
}

func TestGrace(t *testing.T) {
	for _, test := range []struct {
		name  string
		old   time.Duration
		young func(w *world) // what is written again, or later
		want  bool
	}{
		{"old", grace + time.Hour, func(*world) {}, true},
		{"young", grace - time.Hour, func(*world) {}, false},
		{"a folder of which a file is young", month, func(w *world) {
			w.put(schemas.ModelPrefix(schemas.DigestOf("lone"))+"/sub/config.json", "{}")
			w.put(schemas.PolicyPrefix(schemas.DigestOf("lone"))+"/style.md", "")
			w.put(schemas.CheckpointPrefix(schemas.DigestOf("lone"), 4)+"/optimizer.pt", "")
			w.put(shard.Object(schemas.StageGrade, schemas.DigestOf("lone")), "")
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.model("lone")
			w.policy("lone")
			w.checkpoint("lone", 4)
			w.shard(schemas.StageGrade, "lone")
			w.Age("", test.old)
			test.young(w)
			var want []string
			if test.want {
				want = w.keys()
			}
			f := w.find(options())
			wantKeys(t, "garbage", want, slices.Sorted(f.Garbage))
			if kept, _ := f.Total(); !test.want && (kept.Objects != 8 || f.Young != kept) {
				t.Errorf("%+v is kept, %+v since it is young", kept, f.Young)
			}
		})
	}
}

// TestYoungJob: a job that is kept for its youth keeps its model: who finds the one
// takes the other to be there.
func TestYoungJob(t *testing.T) {
	w := newWorld(t)
	w.job("job", "weights")
	w.Age("models/", month)
	wantKeys(t, "garbage", nil, w.garbage(options()))
}

// The record of a task's batches is needed while its run is under way.
func TestBatches(t *testing.T) {
	w := newWorld(t)
	w.run("open")
	w.run("ended")
	of := func(name string) string { return w.put(schemas.BatchesObject(schemas.DigestOf(name)), "{}") }
	of("open")
	ended, nobody := of("ended"), of("nobody")
	w.Age("", month)
	wantKeys(t, "garbage", []string{ended, nobody}, w.garbage(options("open")))
}

func TestLeases(t *testing.T) {
	w := newWorld(t)
	for _, key := range []schemas.Key{"old", "held"} {
		l, err := shard.Acquire(t.Context(), w, schemas.DigestOf(key), shard.LeaseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Release(t.Context())
	}
	old := "leases/" + string(schemas.DigestOf("old")) + ".json"
	w.Age(old, month)
	dead := schemas.LimitObject("teacher", "dead.host-1")
	w.put(dead, "{}")
	w.Age(dead, month)
	w.put(schemas.LimitObject("teacher", "host-2"), "{}")
	probe := "probes/" + string(schemas.DigestOf("old")) + ".json"
	w.put(probe, "{}")
	w.Age(probe, month)
	w.put("probes/"+string(schemas.DigestOf("young"))+".json", "{}")
	wantKeys(t, "garbage", []string{old, dead, probe}, w.garbage(options()))
}

func TestForeign(t *testing.T) {
	w := newWorld(t)
	digest := string(schemas.DigestOf("x"))
	for _, key := range []string{
		"notes.txt", "backup/shards/prompts/" + digest + ".parquet", "shards/other/" + digest + ".parquet", "shards/prompts/x.parquet",
		"shards/prompts/" + digest + ".json", "jobs/x.json", "jobs/" + digest + "/x.json", "models/x/model.safetensors", "models/" + digest[:8] + "/index.json",
		"checkpoints/" + digest + "/last/x", "inputs/" + digest, "policies/x/style.md", "plans/x", "runs/x", "leases/x/y.json",
		"journal/0/x.jsonl.zst", "journal/x/20260301T120000.000000000Z-w-00.jsonl.zst", "journal/0/20260301T120000.000000000Z-w-00.jsonl",
		"journal/0/20260301T120000.000000000Z-w/00.jsonl.zst", "limits/x.json", "limits/teacher/x",
	} {
		w.put(key, "x")
	}
	w.Age("", month)
	o := options()
	o.JournalOlderThan = time.Hour
	f := w.find(o)
	wantKeys(t, "garbage", nil, slices.Sorted(f.Garbage))
	if n := int64(len(w.keys())); f.Foreign.Objects != n || len(f.Rows) != 0 {
		t.Errorf("%d of %d objects are foreign; the others: %v", f.Foreign.Objects, n, f.Rows)
	}
}

// TestUnreadable: a root of which nobody knows what it refers to ends everything.
func TestUnreadable(t *testing.T) {
	manifest, plan := schemas.ManifestObject("first", schemas.StageSFT), schemas.PlanObject("first", schemas.StageSFT)
	inputs, job := schemas.RunObject("first", "inputs.json"), schemas.JobObject(schemas.DigestOf("first"))
	edit := func(old, new string) func(string) string {
		return func(body string) string { return strings.Replace(body, old, new, 1) }
	}
	whole := func(body string) func(string) string { return func(string) string { return body } }
	for _, test := range []struct {
		name, key string
		change    func(string) string
	}{
		{"manifest, no JSON", manifest, whole("{")},
		{"manifest, empty", manifest, whole("")},
		{"manifest, of nothing", manifest, whole("{}")},
		{"manifest, null", manifest, whole("null")},
		{"manifest, a field of another version", manifest, edit(`"outputs"`, `"parts":[],"outputs"`)},
		{"manifest, of another type", manifest, edit(`"outputs":{}`, `"outputs":[]`)},
		{"manifest, more after it", manifest, func(body string) string { return body + "{}" }},
		{"manifest, another run's", manifest, edit(`"run":"first"`, `"run":"second"`)},
		{"manifest, a model elsewhere", manifest, edit(`"prefix":"models/`, `"prefix":"weights/`)},
		{"manifest, a plan elsewhere", manifest, edit(`plans/first/sft.json`, `plans/sft.json`)},
		{"plan, no JSON", plan, whole("{")},
		{"plan, of nothing", plan, whole("{}")},
		{"plan, a field of another version", plan, edit(`"outputs":[{`, `"outputs":[{"place":"x",`)},
		{"plan, a spec of another version", plan, edit(`"spec":{`, `"spec":{"place":"x",`)},
		{"plan, a policy elsewhere", plan, edit(`"policy":"`, `"policy":"v2/`)},
		{"inputs, no JSON", inputs, whole("[")},
		{"inputs, of nothing", inputs, whole("{}")},
		{"inputs, a shard elsewhere", inputs, edit(`"object":"shards/`, `"object":"sets/`)},
		{"job, no JSON", job, whole("x")},
		{"job, of nothing", job, whole("{}")},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.run("first")
			body, _, err := w.Get(t.Context(), test.key)
			if err != nil {
				t.Fatal(err)
			}
			changed := test.change(string(body))
			if changed == string(body) {
				t.Fatal("the test changes nothing")
			}
			w.put(test.key, changed)
			w.shard(schemas.StageGrade, "lone")
			w.Age("", month)
			for _, open := range [][]schemas.RunID{nil, {"first"}} {
				_, err := garbage.Find(t.Context(), w, options(open...))
				if schemas.KindOf(err) != schemas.InvalidInput || !strings.Contains(err.Error(), test.key+" can't be read") {
					t.Errorf("open runs %v: %v", open, err)
				}
			}
		})
	}

	t.Run("plan, gone", func(t *testing.T) {
		w := newWorld(t)
		w.run("first")
		if err := w.Delete(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		_, err := garbage.Find(t.Context(), w, options())
		if err == nil || !strings.Contains(err.Error(), "there is no plan "+plan) || !strings.Contains(err.Error(), "starter gc --forget first") {
			t.Error(err)
		}
		w.Age("", month)
		o := options()
		o.Forget = []schemas.RunID{"first"}
		wantKeys(t, "garbage when the run is forgotten", w.keys(), w.garbage(o))
	})

	t.Run("an output of another version", func(t *testing.T) {
		w := newWorld(t)
		w.planned("open")
		body, _, _ := w.Get(t.Context(), schemas.PlanObject("open", schemas.StageRL))
		w.put(schemas.PlanObject("open", schemas.StageRL), strings.Replace(string(body), `"kind":"rollouts"`, `"kind":"traces"`, 1))
		if _, err := garbage.Find(t.Context(), w, options("open")); err == nil || !strings.Contains(err.Error(), `unknown kind "traces"`) {
			t.Error(err)
		}
	})
}

func TestRefused(t *testing.T) {
	forget := func(open ...schemas.RunID) garbage.Options {
		o := options(open...)
		o.Forget = []schemas.RunID{"first"}
		return o
	}
	offline := forget()
	offline.Runs = nil
	unknown := forget()
	unknown.Forget = []schemas.RunID{"frist"}
	away := options()
	away.Runs = func(context.Context) ([]garbage.Run, error) { return nil, errors.New("away") }
	for _, test := range []struct {
		name    string
		options garbage.Options
		young   bool
		want    string
	}{
		{"a short grace", garbage.Options{Grace: time.Minute}, false, "must be at least 1h"},
		{"no age", garbage.Options{Grace: grace, JournalOlderThan: -1}, false, "the journal's age"},
		{"forget without knowing", offline, false, "nobody knows whether run first is under way"},
		{"forget an open run", forget("first"), false, "run first is under way"},
		{"forget a young run", forget(), true, "can't be forgotten yet"},
		{"forget nobody's run", unknown, false, "nothing of a run frist"},
		{"nobody answers", away, false, "away"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.run("first")
			if !test.young {
				w.Age("", month)
			}
			if _, err := garbage.Find(t.Context(), w, test.options); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// TestJournal: answers go only when a person says so, by the later of the times in name
// and object.
func TestJournal(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	segment := func(name string, named, written time.Duration) string {
		key := "journal/0/" + now.Add(-named).UTC().Format("20060102T150405.000000000Z") + "-" + name + "-00.jsonl.zst"
		w.put(key, name)
		w.Age(key, written)
		return key
	}
	year := 12 * month
	old := segment("worker", year, year)
	segment("compacted", year, month) // of answers up to a month old
	segment("copied", month, year)
	segment("worker", month, month)
	segment("worker", 0, 0)
	wantKeys(t, "garbage", nil, w.garbage(options()))
	o := options()
	o.JournalOlderThan = 6 * month
	wantKeys(t, "garbage of half a year", []string{old}, w.garbage(o))
	o.JournalOlderThan = time.Hour // younger than the grace period
	wantKeys(t, "garbage of an hour", without(w.keys(), w.keys("journal/0/"+now.UTC().Format("20060102"))), w.garbage(o))
}

func TestRows(t *testing.T) {
	w := newWorld(t)
	w.run("first")
	w.model("lone")
	w.Age("", month)
	w.shard(schemas.StageGrade, "young")
	f := w.find(options("first"))
	type row struct {
		kind          garbage.Kind
		stage         schemas.Stage
		kept, garbage int64
	}
	var got []row
	for _, r := range f.Rows {
		got = append(got, row{r.Kind, r.Stage, r.Kept.Objects, r.Garbage.Objects})
	}
	want := []row{
		{garbage.Shards, schemas.StagePrompts, 2, 0}, {garbage.Shards, schemas.StageSynthesize, 1, 0},
		{garbage.Shards, schemas.StageFilter, 1, 0}, {garbage.Shards, schemas.StageGrade, 1, 0},
		{garbage.Jobs, "", 1, 0}, {garbage.Models, "", 6, 3}, {garbage.Inputs, "", 4, 0}, {garbage.Policies, "", 2, 0},
		{garbage.Plans, "", 3, 0}, {garbage.Runs, "", 6, 0},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(row{})); diff != "" {
		t.Error(diff)
	}
	if _, all := f.Total(); all != (garbage.Sum{Objects: 3, Bytes: int64(len("lone") + len("{}") + len("{}"))}) {
		t.Errorf("the garbage is %+v", all)
	}
	if diff := cmp.Diff([]schemas.RunID{"first"}, f.Open); diff != "" {
		t.Error(diff)
	}
}

var _ shard.Store = (*shardtest.Aging)(nil)
