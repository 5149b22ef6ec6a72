package garbage_test

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"precept/internal/garbage"
	"precept/internal/shard"
	"precept/internal/shard/shardtest"
	"precept/schemas"
)

const (
	month = 30 * 24 * time.Hour
	grace = 7 * 24 * time.Hour
)

// tester is a *testing.T or a *rapid.T.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// world is a store that tests fill as runs do.
type world struct {
	t tester
	*shardtest.Aging
}

func newWorld(t tester) *world { return &world{t, shardtest.NewAging()} }

func (w *world) put(key, body string) string {
	w.t.Helper()
	if _, err := w.Put(context.Background(), key, []byte(body), shard.PutOptions{}); err != nil {
		w.t.Fatal(err)
	}
	return key
}

func (w *world) putJSON(key string, v any) string {
	w.t.Helper()
	if err := shard.PutJSON(context.Background(), w, key, v, shard.PutOptions{}); err != nil {
		w.t.Fatal(err)
	}
	return key
}

// The following store something under the digest of a name.

func (w *world) shard(stage schemas.Stage, name string) schemas.ShardRef {
	key := schemas.DigestOf(name)
	return schemas.ShardRef{Stage: stage, Key: key, Object: w.put(shard.Object(stage, key), name)}
}

func (w *world) input(name string) schemas.Input {
	return schemas.Input{Name: name, Object: w.put(schemas.InputObject(schemas.DigestOf(name)), name)}
}

func (w *world) policy(name string) schemas.Digest {
	digest := schemas.DigestOf(name)
	w.put(schemas.PolicyPrefix(digest)+"/style.md", name)
	w.put(schemas.PolicyPrefix(digest)+"/violence.md", name)
	return digest
}

func (w *world) model(name string) schemas.ModelRef {
	digest := schemas.DigestOf(name)
	prefix := schemas.ModelPrefix(digest)
	w.put(prefix+"/model.safetensors", name)
	w.put(prefix+"/sub/config.json", "{}")
	w.put(prefix+"/index.json", "{}")
	return schemas.ModelRef{Digest: digest, Prefix: prefix}
}

func (w *world) checkpoint(job string, step int) string {
	prefix := schemas.CheckpointPrefix(schemas.DigestOf(job), step)
	w.put(prefix+"/optimizer.pt", job)
	w.put(prefix+"/index.json", "{}")
	return prefix
}

func (w *world) job(name, model string) schemas.Key {
	key := schemas.DigestOf(name)
	w.putJSON(schemas.JobObject(key), schemas.JobResult{Key: key, Model: w.model(model)})
	return key
}

// keys are those of all objects under prefixes.
func (w *world) keys(prefixes ...string) (keys []string) {
	if len(prefixes) == 0 {
		prefixes = []string{""}
	}
	for _, prefix := range prefixes {
		for info := range w.List(context.Background(), prefix) {
			keys = append(keys, info.Key)
		}
	}
	slices.Sort(keys)
	return keys
}

// run stores what a run leaves when it has passed prompts, synthesize and sft: its
// prompts and policy are the shared ones, its completions and model its own.
func (w *world) run(id schemas.RunID) {
	name := string(id)
	inputs := schemas.Inputs{
		Policy: w.policy("policy"), Prompts: []schemas.Input{w.input("prompts")}, Suites: []schemas.Input{w.input("suite")},
		Dataset: []schemas.Input{w.input("dataset")}, Mix: []schemas.Input{w.input("mix")},
	}
	suite := w.shard(schemas.StagePrompts, "suite")
	inputs.Suites[0].Shard = &suite
	w.putJSON(schemas.RunObject(id, "inputs.json"), inputs)

	prompts := w.shard(schemas.StagePrompts, "prompts")
	w.stage(schemas.Plan{Run: id, Stage: schemas.StagePrompts, Inputs: inputs, Tasks: []schemas.Task{
		{Outputs: []schemas.Output{{Kind: schemas.OutputPrompts, Key: prompts.Key}}},
	}}, schemas.Manifest{Outputs: map[string][]schemas.ShardRef{schemas.OutputPrompts: {prompts}}})

	completions := w.shard(schemas.StageSynthesize, name)
	w.stage(schemas.Plan{Run: id, Stage: schemas.StageSynthesize, Inputs: inputs, Tasks: []schemas.Task{
		{Inputs: []schemas.ShardRef{prompts}, Outputs: []schemas.Output{{Kind: schemas.OutputCompletions, Key: completions.Key}}},
	}}, schemas.Manifest{Outputs: map[string][]schemas.ShardRef{schemas.OutputCompletions: {completions}}})

	base, trained := w.model("base"), w.model(name)
	w.stage(schemas.Plan{Run: id, Stage: schemas.StageSFT, Inputs: inputs, Tasks: []schemas.Task{
		{Inputs: []schemas.ShardRef{completions}, Model: &base, Outputs: []schemas.Output{{Kind: schemas.OutputModel, Key: w.job(name, name)}}},
	}}, schemas.Manifest{Outputs: map[string][]schemas.ShardRef{}, Model: &trained})
	w.putJSON(schemas.PartialObject(id, schemas.StageFilter, schemas.DigestOf("verdicts")),
		schemas.Partial{Shard: w.shard(schemas.StageFilter, name+" but for a row")})
	w.putJSON(schemas.RunObject(id, "decisions/000001.json"), schemas.DecisionRecord{})
}

// stage stores a stage's plan and manifest.
func (w *world) stage(p schemas.Plan, m schemas.Manifest) {
	p.Spec.Name = string(p.Run)
	m.Run, m.Stage = p.Run, p.Stage
	m.Plan.Object = w.putJSON(schemas.PlanObject(p.Run, p.Stage), p)
	w.putJSON(schemas.ManifestObject(p.Run, p.Stage), m)
}

// options are those of a person who gives none, with these runs under way.
func options(open ...schemas.RunID) garbage.Options {
	return garbage.Options{Grace: grace, Runs: func(context.Context) (runs []garbage.Run, err error) {
		for _, id := range open {
			runs = append(runs, garbage.Run{ID: id})
		}
		return runs, nil
	}}
}

func (w *world) find(o garbage.Options) *garbage.Found {
	w.t.Helper()
	f, err := garbage.Find(context.Background(), w, o)
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

// garbage are the keys of the garbage.
func (w *world) garbage(o garbage.Options) []string {
	w.t.Helper()
	return slices.Sorted(w.find(o).Garbage)
}

// without is keys less some.
func without(keys, less []string) (rest []string) {
	gone := maps.Collect(func(yield func(string, bool) bool) {
		for _, key := range less {
			yield(key, true)
		}
	})
	return slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return gone[key] })
}

var _ tester = (*testing.T)(nil)
