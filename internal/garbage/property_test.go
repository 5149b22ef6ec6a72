package garbage_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"precept/schemas"
)

// TestProperty fills a store with runs of all sorts that share all they can, and keeps
// account of what they need by itself. Garbage is exactly what is not needed and not
// young, and its removal leaves exactly the rest.
func TestProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt)
		n := rapid.IntRange(0, 3)
		name := func() string { return fmt.Sprint("thing ", n.Draw(rt, "thing")) }
		yes := func(what string) bool { return rapid.Bool().Draw(rt, what) }
		stage := func() schemas.Stage {
			return rapid.SampledFrom(schemas.Stages[:len(schemas.Stages)-1]).Draw(rt, "stage")
		}
		young := func(key string) bool { // as the world's ages are drawn here
			if yes("young") {
				return true
			}
			w.Age(key, month)
			return false
		}
		needed := map[string]bool{} // prefixes of keys
		need := func(keys ...string) {
			for _, key := range keys {
				needed[key] = true
			}
		}
		ofInputs := func(in schemas.Inputs) (keys []string) {
			keys = append(keys, schemas.PolicyPrefix(in.Policy)+"/")
			for _, in := range slices.Concat(in.Prompts, in.Suites, in.Dataset, in.Mix) {
				keys = append(keys, in.Object)
				if in.Shard != nil {
					keys = append(keys, in.Shard.Object)
				}
			}
			return keys
		}

		// A pool of things, of which some aren't there though runs refer to them.
		shards := func(stage schemas.Stage) schemas.ShardRef { return w.shard(stage, name()) }
		drawInputs := func() schemas.Inputs {
			in := schemas.Inputs{Policy: w.policy(name()), Prompts: []schemas.Input{w.input(name())}, Suites: []schemas.Input{w.input(name())}}
			in.Dataset, in.Mix = []schemas.Input{w.input(name())}, []schemas.Input{w.input(name())}
			if yes("suite") {
				ref := shards(schemas.StagePrompts)
				in.Suites[0].Shard = &ref
			}
			return in
		}
		jobs := map[schemas.Key]string{} // the model of each
		job := func() schemas.Key {
			job := name()
			key, model := schemas.DigestOf(job), "model of "+job
			if yes("job ended") || jobs[key] != "" {
				jobs[key] = schemas.ModelPrefix(schemas.DigestOf(model)) + "/"
				return w.job(job, model)
			}
			w.model(model)
			w.checkpoint(job, 4)
			return key
		}
		type planned struct {
			open   bool
			key    string
			reads  []string
			writes []string
			jobs   []schemas.Key
		}
		var plans []planned
		var open []schemas.RunID
		var closed []planned // by manifests
		for i := range rapid.IntRange(0, 4).Draw(rt, "runs") {
			id := schemas.RunID(fmt.Sprintf("run/%d.", i))
			isOpen := yes("open")
			if isOpen {
				open = append(open, id)
			}
			if isOpen || yes("inputs") {
				in := drawInputs()
				w.putJSON(schemas.RunObject(id, "inputs.json"), in)
				need(ofInputs(in)...)
			}
			seen := map[schemas.Stage]bool{}
			for range rapid.IntRange(0, 4).Draw(rt, "stages") {
				p := schemas.Plan{Run: id, Stage: stage(), Inputs: drawInputs()}
				p.Spec.Name = "x"
				if seen[p.Stage] {
					continue
				}
				seen[p.Stage] = true
				m := schemas.Manifest{Outputs: map[string][]schemas.ShardRef{}}
				got := planned{open: isOpen, key: schemas.PlanObject(id, p.Stage), reads: ofInputs(p.Inputs)}
				var made []string // as the manifest says
				for range rapid.IntRange(0, 3).Draw(rt, "tasks") {
					task := schemas.Task{Inputs: []schemas.ShardRef{shards(stage())}}
					got.reads = append(got.reads, task.Inputs[0].Object)
					if yes("has a model") {
						ref := w.model(name())
						task.Model = &ref
						got.reads = append(got.reads, ref.Prefix+"/")
					}
					if yes("trains") {
						key := job()
						task.Outputs = append(task.Outputs, schemas.Output{Kind: schemas.OutputModel, Key: key})
						got.jobs = append(got.jobs, key)
						got.writes = append(got.writes, "checkpoints/"+string(key)+"/")
						if yes("manifest has a model") {
							ref := w.model("model of manifest")
							m.Model = &ref
							made = append(made, ref.Prefix+"/")
						}
					}
					ref := shards(p.Stage)
					task.Outputs = append(task.Outputs, schemas.Output{Kind: schemas.OutputGrades, Key: ref.Key})
					m.Outputs[schemas.OutputGrades] = append(m.Outputs[schemas.OutputGrades], ref)
					got.writes, made = append(got.writes, ref.Object), append(made, ref.Object)
					p.Tasks = append(p.Tasks, task)
				}
				if yes("manifest") {
					w.stage(p, m)
					need(made...)
					closed = append(closed, got)
				} else {
					w.putJSON(got.key, p)
				}
				plans = append(plans, got)
			}
		}
		w.shard(schemas.StageGrade, "of nobody")
		w.put("leases/"+string(schemas.DigestOf("x"))+".json", "{}")
		for _, key := range w.keys() {
			if rapid.IntRange(0, 9).Draw(rt, "gone") == 0 && !strings.HasPrefix(key, "runs/") && !strings.HasPrefix(key, "plans/") {
				w.Delete(context.Background(), key)
			}
		}
		isYoung := map[string]bool{}
		all := w.keys()
		for _, key := range all {
			isYoung[key] = young(key)
		}

		follow := func(p planned) {
			need(p.key)
			need(p.reads...)
			for _, j := range p.jobs {
				need(schemas.JobObject(j))
			}
		}
		for _, p := range closed {
			follow(p)
		}
		for _, p := range plans {
			if p.open || isYoung[p.key] {
				follow(p)
				need(p.writes...)
			}
		}
		for key, model := range jobs {
			object := schemas.JobObject(key)
			if slices.Contains(all, object) && (needed[object] || isYoung[object]) {
				need(model)
			}
		}
		youngFolders := map[string]bool{}
		folder := func(key string) string {
			parts := strings.Split(key, "/")
			switch parts[0] {
			case "models", "policies":
				return strings.Join(parts[:2], "/")
			case "checkpoints":
				return strings.Join(parts[:3], "/")
			}
			return key
		}
		for _, key := range all {
			youngFolders[folder(key)] = youngFolders[folder(key)] || isYoung[key]
		}
		var want []string
		for _, key := range all {
			isNeeded := strings.HasPrefix(key, "runs/")
			for prefix := range maps.Keys(needed) {
				isNeeded = isNeeded || strings.HasPrefix(key, prefix)
			}
			if !isNeeded && !youngFolders[folder(key)] {
				want = append(want, key)
			}
		}

		f := w.find(options(open...))
		if diff := cmp.Diff(want, slices.Sorted(f.Garbage), cmpopts.EquateEmpty()); diff != "" {
			rt.Fatalf("garbage (-want +got):\n%s", diff)
		}
		kept, total := f.Total()
		if kept.Objects+total.Objects != int64(len(all)) || total.Objects != int64(len(want)) {
			rt.Fatalf("%d objects are kept and %d garbage, of %d", kept.Objects, total.Objects, len(all))
		}
		if _, err := f.Remove(context.Background()); err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(without(all, want), without(w.keys(), []string{ownLease}), cmpopts.EquateEmpty()); diff != "" {
			rt.Fatalf("what is left (-want +got):\n%s", diff)
		}
	})
}
