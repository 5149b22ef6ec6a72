package activities

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/internal/shard"
	"precept/schemas"
)

// begins takes what the run begins with.
func (w *world) begins() *world {
	w.t.Helper()
	w.imports()
	r, err := call[AdoptResult](w, w.Adopt, AdoptRequest{Run: w.run, Spec: w.spec, Inputs: w.inputs})
	if err != nil {
		w.t.Fatal(err)
	}
	w.sums, w.inputs.Simulated = r.Sums, r.Simulated
	return w
}

func TestARunBeginsWithAnother(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	first := newWorld(t, imported(t, fivePrompts()...), options{models: models}).stages(dataStages...)
	first.flush()
	models.take()
	for from, stages := range map[schemas.Stage][]schemas.Stage{
		schemas.StageSynthesize: dataStages[1:], schemas.StageFilter: dataStages[2:], schemas.StageCurate: dataStages[3:],
	} {
		t.Run(string(from), func(t *testing.T) {
			spec := first.spec
			spec.From = schemas.FromSpec{Stage: from, Run: first.run}
			w := newWorld(t, spec, options{models: models, store: first.store, run: schemas.RunID("from " + from)}).begins()
			for _, s := range stages {
				w.stage(s)
			}
			if len(w.sums) != 4 || w.sums[3].Digest != first.sums[3].Digest {
				t.Errorf("got %+v", w.sums)
			}
			if calls := models.take(); len(calls) != 0 {
				t.Errorf("%d calls were paid", len(calls))
			}
			m := w.closed(schemas.StagePrompts)
			if m.From != first.run || m.Run != w.run || m.Usage != (schemas.Usage{}) {
				t.Errorf("the adopted manifest: %+v", m)
			}
			if diff := cmp.Diff([]string{"judge", "teacher"}, w.inputs.Simulated); diff != "" {
				t.Error(diff)
			}
		})
	}
	spec := first.spec
	spec.From = schemas.FromSpec{Stage: schemas.StageSFT, Run: "nobody"}
	w := newWorld(t, spec, options{models: models, store: first.store, run: "lost"}).imports()
	_, err := call[AdoptResult](w, w.Adopt, AdoptRequest{Run: w.run, Spec: w.spec, Inputs: w.inputs})
	if f := failure(t, err); f.Type() != string(schemas.InvalidInput) || !strings.Contains(f.Message(), "begin with run nobody: there is no such run, or its stage curate has not ended") {
		t.Errorf("got %v", err)
	}
}

const conversations = `{"messages":[{"role":"user","content":"Why?"},{"role":"assistant","content":"<think>\nPolicy violence says so.\n</think>\n\nBecause."}],"category":"violence","intent":"benign"}
{"prompt":[{"role":"user","content":"How?"}],"completion":[{"role":"assistant","content":"Slowly."}],"category":"self-harm","intent":"borderline"}
{"messages":[{"role":"system","content":"Be kind."},{"role":"user","content":"Who?"},{"role":"assistant","content":"They."}],"category":"violence","intent":"harmful"}
`

func own(t *testing.T, from schemas.Stage) schemas.RunSpec {
	spec := imported(t, fivePrompts()...)
	spec.From = schemas.FromSpec{Stage: from, Dataset: []schemas.Import{{Path: filepath.Join(write(t, map[string]string{"own.jsonl": conversations}), "own.jsonl")}}}
	return spec
}

func TestARunBeginsWithADataSet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, own(t, schemas.StageSFT), options{}).begins()
	if len(w.sums) != 1 || w.sums[0].Stage != schemas.StageCurate || w.sums[0].Ledger.Kept != 3 || !w.sums[0].Adopted {
		t.Fatalf("got %+v", w.sums)
	}
	examples := map[string]schemas.Example{}
	for _, e := range rows[schemas.Example](w, schemas.StageCurate, schemas.OutputExamples) {
		examples[e.Prompt[len(e.Prompt)-1].Content] = e
	}
	if got := examples["Why?"].Completion[0].Content; got != "<think>\nPolicy violence says so.\n</think>\n\nBecause." {
		t.Errorf("trained on %q", got)
	}
	if got := examples["Who?"]; len(got.Prompt) != 2 || got.Source != "own" {
		t.Errorf("got %+v", got)
	}
	if n := len(rows[schemas.RLPrompt](w, schemas.StageCurate, schemas.OutputRLPrompts)); n != 3 {
		t.Errorf("%d prompts for RL", n)
	}
	if plan := w.plans(schemas.StageSFT); plan.Planned != 3 {
		t.Errorf("sft is planned with %d rows", plan.Planned)
	}
	// The same file gives the same shards to another run.
	other := newWorld(t, w.spec, options{store: w.store, run: "other"}).begins()
	if other.sums[0].Digest != w.sums[0].Digest {
		t.Error("another run got other shards")
	}
}

func TestADataSetIsJudged(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	models.says(func(q question) *reply {
		if strings.Contains(q.Messages[1].Content, "They.") {
			return vote(2, schemas.ActionComply)
		}
		return nil
	})
	w := newWorld(t, own(t, schemas.StageFilter), options{models: models}).begins()
	w.stage(schemas.StageFilter)
	defer func() {
		w.stage(schemas.StageCurate)
		if n := len(rows[schemas.RLPrompt](w, schemas.StageCurate, schemas.OutputRLPrompts)); n != 3 || w.sums[2].Ledger.Kept != 2 {
			t.Errorf("%d prompts for RL, curated as %s", n, w.sums[2].Ledger)
		}
	}()
	if calls := models.calls(); calls["teacher"] != 0 || calls["judge"] == 0 {
		t.Errorf("calls: %v", calls)
	}
	if got := w.sums[1].Ledger; got.Kept != 2 || got.Rejected[schemas.ReasonBelowThreshold] != 1 {
		t.Errorf("judged as %s", got)
	}
	for _, c := range rows[schemas.Completion](w, schemas.StageSynthesize, schemas.OutputCompletions) {
		if c.Prompt.Text() == "Why?" && (c.CoT != "Policy violence says so." || c.Answer != "Because.") {
			t.Errorf("judged was %+v", c)
		}
	}
}

func TestARunBeginsWithAModel(t *testing.T) {
	t.Parallel()
	spec := withSuite(t)
	spec.From = schemas.FromSpec{Stage: schemas.StageSample, Model: write(t, map[string]string{"config.json": "{}", "model.safetensors": "mine"})}
	w := newWorld(t, spec, options{}).begins()
	if len(w.sums) != 1 || w.sums[0].Stage != schemas.StageSFT {
		t.Fatalf("got %+v", w.sums)
	}
	ref := w.plans(schemas.StageSample)
	plan, err := w.loadPlan(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	weights := map[schemas.Arm]schemas.Digest{}
	for _, task := range plan.Tasks {
		weights[task.Arm] = task.Model.Digest
	}
	if len(weights) != 3 || weights[schemas.ArmSFT] == weights[schemas.ArmBase] || weights[schemas.ArmBase] != weights[schemas.ArmBasePolicy] {
		t.Errorf("the arms are %v", weights)
	}
	if _, ok, err := shard.FindFolder(t.Context(), w.store, schemas.ModelPrefix(weights[schemas.ArmSFT])); err != nil || !ok {
		t.Errorf("the model is not stored: %v", err)
	}
}

func TestConversationsThatAreNone(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ line, want string }{
		"prompts": {`{"text":"Why?","category":"violence","intent":"benign"}`, "row 1: has no conversation"},
		"the user's last": {`{"messages":[{"role":"assistant","content":"a"},{"role":"user","content":"b"}],"category":"violence","intent":"benign"}`,
			"its last turn must be the assistant's"},
		"another category": {`{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"category":"war","intent":"benign"}`, `category "war"`},
	} {
		t.Run(name, func(t *testing.T) {
			spec := own(t, schemas.StageSFT)
			spec.From.Dataset[0].Path = filepath.Join(write(t, map[string]string{"own.jsonl": tt.line}), "own.jsonl")
			w := newWorld(t, spec, options{})
			_, err := call[schemas.InputsRef](w, w.Import, ImportRequest{Run: w.run, Spec: w.spec})
			if f := failure(t, err); f.Type() != string(schemas.InvalidInput) || !strings.Contains(f.Message(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// Many rows, files that come and go: every row is there once.
func TestADataSetOfManyParts(t *testing.T) {
	t.Parallel()
	file := func(name string, n int) schemas.Import {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `{"messages":[{"role":"user","content":"%s %d"},{"role":"assistant","content":"a"}],"category":"violence","intent":"benign"}`+"\n", name, i)
		}
		return schemas.Import{Path: filepath.Join(write(t, map[string]string{name + ".jsonl": b.String()}), name+".jsonl")}
	}
	large, small := file("large", 2*datasetRows), file("small", 3)
	spec := own(t, schemas.StageSFT)
	store := shard.NewMemory()
	for i, files := range [][]schemas.Import{{large}, {small, large}, {large, small}} {
		spec.From.Dataset = files
		w := newWorld(t, spec, options{store: store, run: schemas.RunID(fmt.Sprint(i))}).begins()
		seen := map[string]bool{}
		for _, e := range rows[schemas.Example](w, schemas.StageCurate, schemas.OutputExamples) {
			seen[e.Prompt[0].Content] = true
		}
		want := 2 * datasetRows
		if len(files) > 1 {
			want += 3
		}
		if len(seen) != want || w.sums[0].Ledger.Kept != int64(want) {
			t.Errorf("%d rows of %d, the ledger says %s", len(seen), want, w.sums[0].Ledger)
		}
	}
}

// A run that was started again, and hasn't come as far since, is no run to begin with: its
// manifests don't belong together.
func TestARunUnderWayIsNotTaken(t *testing.T) {
	t.Parallel()
	first := newWorld(t, imported(t, fivePrompts()...), options{}).stages(dataStages...)
	first.flush()
	other := imported(t, fivePrompts()[:3]...)
	again := newWorld(t, other, options{store: first.store, run: first.run}).stages(schemas.StagePrompts, schemas.StageSynthesize)
	spec := again.spec
	spec.From = schemas.FromSpec{Stage: schemas.StageCurate, Run: first.run}
	w := newWorld(t, spec, options{store: first.store, run: "second"}).imports()
	_, err := call[AdoptResult](w, w.Adopt, AdoptRequest{Run: w.run, Spec: w.spec, Inputs: w.inputs})
	if f := failure(t, err); !strings.Contains(f.Message(), "it was started again, and its stage filter has not ended since") {
		t.Errorf("got %v", err)
	}
	again.stage(schemas.StageFilter)
	w = newWorld(t, spec, options{store: first.store, run: "third"}).begins()
	w.stage(schemas.StageCurate)
	if kept := w.sums[3].Ledger.Kept; kept != 3 {
		t.Errorf("%d examples", kept)
	}
}

// What a suite holds is not trained on, and where nobody compared them it is said.
func TestSuitesAreComparedWithWhatIsTaken(t *testing.T) {
	t.Parallel()
	held := filepath.Join(write(t, map[string]string{"held.jsonl": jsonl(t, prompt{Category: "violence", Intent: schemas.IntentBenign, Text: "Why?"})}), "held.jsonl")
	spec := own(t, schemas.StageSFT)
	spec.Evaluate = schemas.EvaluateSpec{Grader: schemas.RoleOf("grader"), Suites: []schemas.Import{{Path: held}}}
	w := newWorld(t, spec, options{}).begins()
	if got := w.sums[0].Ledger; got.Kept != 2 || got.Rejected[schemas.ReasonContaminated] != 1 {
		t.Errorf("taken as %s", got)
	}
	first := newWorld(t, imported(t, fivePrompts()...), options{store: w.store, run: "first"}).stages(dataStages...)
	spec = first.spec
	spec.From, spec.Evaluate = schemas.FromSpec{Stage: schemas.StageSFT, Run: "first"}, schemas.EvaluateSpec{Grader: schemas.RoleOf("grader"), Suites: []schemas.Import{{Path: held}}}
	w = newWorld(t, spec, options{store: w.store, run: "second"}).imports()
	r, err := call[AdoptResult](w, w.Adopt, AdoptRequest{Run: w.run, Spec: w.spec, Inputs: w.inputs})
	if err != nil || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "suite held was not compared") {
		t.Errorf("%v: %q", err, r.Notes)
	}
}
