package activities

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"precept/internal/garbage"
	"precept/internal/shard/shardtest"
	"precept/internal/trainer"
	"precept/schemas"
)

// able is a trainer that trains, asks for rewards and says that models is the server
// it started.
func able(t *testing.T, models *models) trainer.Config {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return python(t, fmt.Sprintf(`
item() { echo "{\"prompt_id\":\"p\",\"category\":\"violence\",\"intent\":\"benign\",\"prompt\":[{\"role\":\"user\",\"content\":\"Ask.\"}],\"completion\":\"<think>So.</think> Answer $1.\"}"; }
if [ "$3" = serve ]; then
	echo '{"event":"ready","url":"%s/v1","model":"served"}'
	trap 'exit 0' TERM
	while :; do sleep 0.02; done
fi
echo '{"event":"start","total_steps":2,"rows":39}'
if [ "$3" = rl ]; then
	echo "{\"step\":0,\"items\":[$(item a),$(item b)]}" | %s=$(field url) %q >> "$here/rewards" || exit 1
fi
step 1; milestone 1; step 2; save 2
finish`, models.URL, postEnv, self))
}

// TestGarbage removes what is garbage among what activities really write. Runs that
// have ended lose nothing; one that was forgotten is made again, and only its training
// is paid for.
func TestGarbage(t *testing.T) {
	t.Parallel()
	models, store := newModels(t), shardtest.NewAging()
	c := able(t, models)
	spec := evaluated(t)
	spec.Prompts, spec.Dev = imported(t, manyPrompts()...).Prompts, schemas.DevSpec{Milestones: 2}
	spec.SFT, spec.RL = schemas.SFTSpec{}, schemas.RLSpec{Judge: schemas.RoleOf("judge"), Steps: 1, PromptsPerStep: 1, Generations: 2}
	spec.Prompts.Classify = schemas.ClassifySpec{Judge: schemas.RoleOf("judge"), Check: 2}
	other := spec
	other.Filter.MaxTokens = 300

	const month = 30 * 24 * time.Hour
	stages := schemas.Stages[slices.Index(schemas.Stages, schemas.StageClassify) : len(schemas.Stages)-1]
	start := func(run schemas.RunID, spec schemas.RunSpec) *world {
		return newWorld(t, spec, options{models: models, trainer: elsewhere(t, c), store: store, run: run})
	}
	remove := func(forget ...schemas.RunID) []string {
		t.Helper()
		store.Age("", month)
		f, err := garbage.Find(t.Context(), store, garbage.Options{Grace: 7 * 24 * time.Hour, Forget: forget, Runs: func(context.Context) ([]garbage.Run, error) { return nil, nil }})
		if err != nil {
			t.Fatal(err)
		}
		if f.Foreign.Objects > 0 {
			t.Errorf("not Precept's: %v", f.ForeignNames)
		}
		keys := slices.Collect(f.Garbage)
		if _, err := f.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(keys, func(key string) bool { return strings.HasPrefix(key, "leases/") })
	}

	one := start("one", spec).stages(stages...)
	one.flush()
	two := start("two", other).stages(stages[:3]...)
	plan := two.plans(schemas.StageFilter) // it has ended half-way
	if _, err := two.does(schemas.StageFilter, plan, 0); err != nil {
		t.Fatal(err)
	}
	two.flush()
	gone := remove()
	if len(gone) != 2 || gone[0] != plan.Object || !strings.HasPrefix(gone[1], "shards/filter/") {
		t.Errorf("besides leases there went %v", gone)
	}

	// Nothing that the first run needs is gone, and the second one goes on.
	models.take()
	trained := attempts(t, c)
	again := start("one", spec).imports()
	for _, stage := range stages {
		for _, r := range again.stage(stage) {
			if !r.Found {
				t.Errorf("task %q of stage %s was done again", r.Title, stage)
			}
		}
	}
	start("two", other).stages(stages[:5]...)
	if asked := models.calls(); len(asked) != 0 || attempts(t, c) != trained {
		t.Errorf("%v was asked, and the trainer was started %d times", asked, attempts(t, c)-trained)
	}

	// The first run is forgotten: what the second one shares with it stays.
	gone = remove("one")
	for _, prefix := range []string{"runs/one/", "plans/one/", "jobs/", "models/", "shards/filter/", "shards/grade/"} {
		if !slices.ContainsFunc(gone, func(key string) bool { return strings.HasPrefix(key, prefix) }) {
			t.Errorf("nothing of %s went", prefix)
		}
	}
	models.take()
	for _, stage := range []schemas.Stage{schemas.StagePrompts, schemas.StageSynthesize} {
		if objects := objects(t, store, "shards/"+string(stage)+"/"); len(objects) < 2 {
			t.Errorf("%d shards of %s are left", len(objects), stage)
		}
	}
	start("one", spec).stages(stages...)
	if asked := models.calls(); len(asked) != 0 || attempts(t, c) == trained {
		t.Errorf("%v was asked anew, and the trainer was started %d times", asked, attempts(t, c)-trained)
	}
}
