package activities

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"precept/internal/garbage"
	"precept/internal/shard"
	"precept/internal/shard/shardtest"
	"precept/internal/trainer"
	"precept/schemas"
)

// manyPrompts are enough for one of each intent to be held out, and one benign one more.
func manyPrompts() (out []prompt) {
	for intent, n := range map[schemas.Intent]int{schemas.IntentHarmful: 12, schemas.IntentBorderline: 10, schemas.IntentBenign: 21} {
		for k := range n {
			out = append(out, prompt{Category: []schemas.Category{"violence", "self-harm"}[k%2], Intent: intent, Text: fmt.Sprintf("%s%d is all I ask about %s%d", intent, k, intent, k*k+100)})
		}
	}
	slices.SortFunc(out, func(x, y prompt) int { return strings.Compare(x.Text, y.Text) })
	return out
}

// held is a spec with a dev split.
func held(t *testing.T) schemas.RunSpec {
	spec := imported(t, manyPrompts()...)
	spec.Dev = schemas.DevSpec{Prompts: 24, Milestones: 3}
	return spec
}

// TestHeldOutPromptsAreNotTrainedOn follows them through the data stages.
func TestHeldOutPromptsAreNotTrainedOn(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	w := newWorld(t, held(t), options{models: models}).stages(dataStages...)
	dev := rows[schemas.Prompt](w, schemas.StagePrompts, schemas.OutputDev)
	got := map[schemas.Intent]int{}
	ids := map[string]bool{}
	for _, p := range dev {
		got[p.Intent]++
		ids[p.ID] = true
	}
	if d := cmp.Diff(map[schemas.Intent]int{schemas.IntentHarmful: 1, schemas.IntentBorderline: 1, schemas.IntentBenign: 2}, got); d != "" {
		t.Fatalf("the dev split (- want, + got):\n%s", d)
	}
	if d := cmp.Diff(ledger(39, map[schemas.Reason]int64{schemas.ReasonDev: 4}), w.sums[0].Ledger); d != "" {
		t.Errorf("the ledger of prompts (- want, + got):\n%s", d)
	}
	if n := schemas.HeldOut(w.sums); n != 4 {
		t.Errorf("the run knows of %d held-out prompts", n)
	}
	for _, c := range rows[schemas.Completion](w, schemas.StageSynthesize, schemas.OutputCompletions) {
		if ids[c.Prompt.ID] {
			t.Errorf("the teacher was asked about %s", c.Prompt.ID)
		}
	}
	examples := rows[schemas.Example](w, schemas.StageCurate, schemas.OutputExamples)
	rl := rows[schemas.RLPrompt](w, schemas.StageCurate, schemas.OutputRLPrompts)
	if len(examples) != 39 || len(rl) != 39 {
		t.Errorf("%d examples and %d prompts for RL, want 39 of each", len(examples), len(rl))
	}
	for _, q := range models.take() {
		for _, p := range dev {
			if q.has(p.Text()) {
				t.Errorf("%s was asked about a held-out prompt", q.Model)
			}
		}
	}
}

// General data that holds a dev prompt is not trained on, and the ledger says so where
// nothing is left in its place.
func TestTheMixHasNoDevPrompts(t *testing.T) {
	t.Parallel()
	first := newWorld(t, held(t), options{}).stages(schemas.StagePrompts)
	dev := rows[schemas.Prompt](first, schemas.StagePrompts, schemas.OutputDev)[0]
	line, err := json.Marshal(map[string]any{"messages": append(slices.Clone(dev.Messages), schemas.Message{Role: "assistant", Content: "Leaked."})})
	if err != nil {
		t.Fatal(err)
	}
	spec := held(t)
	spec.RL.Skip = true
	spec.SFT.Mix = schemas.MixSpec{Files: []schemas.Import{general(t, 4, string(line))}, Share: 0.5}
	w := newWorld(t, spec, options{trainer: python(t, `echo '{"event":"start","total_steps":1,"rows":43}'; step 1; finish`)}).stages(dataStages...)
	if w.inputs.MixRows != 5 {
		t.Fatalf("%d rows are usable", w.inputs.MixRows)
	}
	plan := w.planOf(w.plans(schemas.StageSFT)).Tasks[0]
	mixed, err := shard.Read[schemas.Example](t.Context(), w.store, plan.Inputs[len(plan.Inputs)-1])
	if err != nil || len(mixed) != 4 {
		t.Fatalf("%d rows are mixed in (%v)", len(mixed), err)
	}
	for _, e := range mixed {
		if e.Completion[0].Content == "Leaked." {
			t.Error("a dev prompt is trained on")
		}
	}
	w.stage(schemas.StageSFT)
	if d := cmp.Diff(ledger(43, map[schemas.Reason]int64{schemas.ReasonDev: 1}), w.sums[len(w.sums)-1].Ledger); d != "" {
		t.Errorf("the ledger of sft (- want, + got):\n%s", d)
	}
}

func TestGradingMilestonesIsEstimated(t *testing.T) {
	t.Parallel()
	spec := held(t)
	w := newWorld(t, spec, options{})
	e, err := EstimateRun(t.Context(), w.config, w.store, w.journal, "new", spec.WithDefaults())
	if err != nil {
		t.Fatal(err)
	}
	got := map[schemas.Stage]Range{}
	for _, s := range e.Stages {
		got[s.Stage] = s.Calls
	}
	// Four prompts of three milestones and the start, with a vote on the answer and on its
	// chain of thought, each asked twice where it can't be read.
	want := Range{0, 4 * (3 + 1) * 2 * 2}
	for _, stage := range []schemas.Stage{schemas.StageSFTGrade, schemas.StageRLGrade} {
		if got[stage] != want {
			t.Errorf("%s takes %v calls, want %v", stage, got[stage], want)
		}
	}
}

func TestSplit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 12).Draw(t, "most")
		var all []schemas.Prompt
		for _, intent := range schemas.Intents {
			for i := range rapid.IntRange(0, 90).Draw(t, string(intent)) {
				all = append(all, schemas.Prompt{ID: string(schemas.DigestOf([]any{intent, i})[:24]), Intent: intent})
			}
		}
		choose := func(prompts []schemas.Prompt) []schemas.Prompt {
			s := newSplit(most)
			for _, p := range prompts {
				s.add(p)
			}
			return s.prompts()
		}
		got := choose(all)
		if d := cmp.Diff(got, choose(rapid.Permutation(all).Draw(t, "order"))); d != "" {
			t.Fatalf("the order of the prompts shows:\n%s", d)
		}
		kept, taken := map[schemas.Intent]int{}, map[schemas.Intent]int{}
		for _, p := range all {
			kept[p.Intent]++
		}
		for _, p := range got {
			taken[p.Intent]++
		}
		room := 0
		for intent, n := range kept {
			room += n / devShare
			if taken[intent] > n/devShare {
				t.Errorf("%d of %d %s prompts are held out", taken[intent], n, intent)
			}
		}
		if len(got) != min(most, room) {
			t.Errorf("%d prompts are held out, want %d", len(got), min(most, room))
		}
		for a, n := range taken {
			for b := range kept {
				// An intent has less than another only where it has no more to give.
				if taken[b] < n-1 && taken[b] < kept[b]/devShare {
					t.Errorf("%d of %s and %d of %s", n, a, taken[b], b)
				}
			}
		}
	})
}

// leaves trains to step 6 with milestones at 2 and 4. It is killed behind the checkpoint of
// step 4 and, where it resumes, goes on from there.
const leaves = `
if [ "$3" = serve ]; then
	case $(cat "$(field model)/model.safetensors") in
	"weights 2") name=two ;;
	"weights 4") name=four ;;
	trained) name=six ;;
	*) name=base ;;
	esac
	echo "{\"event\":\"ready\",\"url\":\"%s/v1\",\"model\":\"$name\"}"
	trap 'exit 0' TERM
	while :; do sleep 0.02; done
fi
echo '{"event":"start","total_steps":6,"rows":39}'
if [ -z "$(field resume_from)" ]; then
	step 1; save 1; step 2; milestone 2; step 3; save 3; step 4; milestone 4; save 4
	kill -9 $$
fi
step 5; step 6; save 6
finish`

// answers has the milestones differ: that of step 4 is the best, since those before comply
// with everything, and the last one refuses everything. Only the last two think.
func answers(q question) *reply {
	switch q.Model {
	case "base", "two":
		return &reply{text: "Here you are."}
	case "four":
		if q.has("harmful") {
			return &reply{text: "<think>Policy violence, rule V1: refuse.</think> I can't help with that."}
		}
		return &reply{text: "<think>Policy violence, rule V2: comply.</think> Here you are."}
	case "six":
		return &reply{text: "<think>Policy self-harm: refuse.</think> I can't help with that."}
	}
	if q.Model != "grader" {
		return nil
	}
	score := 10
	if q.has("<think>") || strings.Contains(q.last(), "Policy violence, rule V2") {
		score = 6
	}
	if q.has("I can't help") {
		return vote(score, schemas.ActionRefuse)
	}
	return vote(score, schemas.ActionComply)
}

func TestTheBestMilestoneGoesOn(t *testing.T) {
	t.Parallel()
	models, store := newModels(t), shardtest.NewAging()
	models.says(answers)
	c := python(t, fmt.Sprintf(leaves, models.URL))
	spec := held(t)
	spec.RL.Skip = true
	w := newWorld(t, spec, options{models: models, trainer: c, store: store}).stages(dataStages...)
	plan := w.plans(schemas.StageSFT)
	if _, err := w.does(schemas.StageSFT, plan, 0); err == nil {
		t.Fatal("the killed attempt succeeded")
	}

	// What is not named by any result yet is named by the checkpoint.
	store.Age("", 1000*garbage.LeastGrace)
	found, err := garbage.Find(t.Context(), store, garbage.Options{Grace: garbage.LeastGrace})
	if err != nil {
		t.Fatal(err)
	}
	for key := range found.Garbage {
		if strings.HasPrefix(key, "models/") {
			t.Errorf("a milestone is garbage while its job is under way: %s", key)
		}
	}

	// The next attempt runs on another machine, and leaves no milestone a second time.
	other := newWorld(t, w.spec, options{models: models, trainer: elsewhere(t, c), store: store, holder: "other"})
	other.inputs, other.sums = w.inputs, w.sums
	other.stage(schemas.StageSFT)
	w = other
	m := w.closed(schemas.StageSFT)
	var steps []int
	for _, milestone := range m.Milestones {
		steps = append(steps, milestone.Step)
		if len(objects(t, store, milestone.Model.Prefix+"/")) == 0 {
			t.Errorf("the milestone of step %d is not stored", milestone.Step)
		}
	}
	if d := cmp.Diff([]int{2, 4, 6}, steps); d != "" {
		t.Fatalf("the milestones (- want, + got):\n%s", d)
	}
	if last := m.Milestones[2].Model; last.Digest != m.Model.Digest {
		t.Errorf("the last milestone is %s, the model %s", last.Digest, m.Model.Digest)
	}

	models.take()
	w.stage(schemas.StageSFTSample)
	if d := cmp.Diff(map[string]int{"base": 4, "two": 4, "four": 4, "six": 4}, models.calls()); d != "" {
		t.Errorf("calls (- want, + got):\n%s", d)
	}
	w.stage(schemas.StageSFTGrade)
	// Every answer that differs, and every chain of thought.
	if d := cmp.Diff(map[string]int{"grader": 8 + 8}, models.calls()); d != "" {
		t.Errorf("calls (- want, + got):\n%s", d)
	}
	chosen := w.closed(schemas.StageSFTGrade)
	type score struct {
		Step             int
		Score, Retrieval float64
		CoT              bool
	}
	var scores []score
	for _, s := range chosen.Selection.Scores {
		scores = append(scores, score{s.Step, s.Score, s.Retrieval.Value, s.CoT.Value > 0})
	}
	// One harmful prompt, two benign ones and a borderline one that the grader reads the
	// policy to allow.
	if d := cmp.Diff([]float64{0.5, 0.5, 1, 0.5}, []float64{scores[0].Score, scores[1].Score, scores[2].Score, scores[3].Score}); d != "" {
		t.Errorf("scores (- want, + got):\n%s\n%+v", d, scores)
	}
	if scores[1].CoT || !scores[2].CoT || scores[1].Retrieval > 0 || scores[2].Retrieval == 0 {
		t.Errorf("chains of thought: %+v", scores)
	}
	if s := chosen.Selection; s.Step != 4 || chosen.Model.Digest != m.Milestones[1].Model.Digest || s.Rule == "" {
		t.Errorf("chosen is %+v with model %+v", s, chosen.Model)
	}
	if note := w.sums[len(w.sums)-1].Note; !strings.Contains(note, "step 4 of sft goes on") || !strings.Contains(note, "chance") {
		t.Errorf("the note is %q", note)
	}

	// What comes behind takes it.
	w.spec.RL.Skip = false
	if start := w.planOf(w.plans(schemas.StageRL)).Tasks[0].Model; start.Digest != chosen.Model.Digest {
		t.Errorf("RL begins with %+v", start)
	}
	w.spec.RL.Skip, w.spec.Evaluate.Skip = true, false
	w.spec.Evaluate.Suites = []schemas.Import{{Path: filepath.Join(write(t, map[string]string{"s.jsonl": jsonl(t,
		prompt{Category: "violence", Intent: schemas.IntentBenign, Text: "How do I shoot a film at night?"})}), "s.jsonl")}}
	w.spec.Evaluate.Arms = []schemas.Arm{schemas.ArmBase, schemas.ArmSFT}
	w.imports()
	arms := w.planOf(w.plans(schemas.StageSample)).Tasks
	if arms[1].Arm != schemas.ArmSFT || arms[1].Model.Digest != chosen.Model.Digest || arms[0].Model.Digest == chosen.Model.Digest {
		t.Errorf("the arms are %+v", arms)
	}

	report, err := call[schemas.RunReport](w, w.Report, ReportRequest{Run: w.run, Spec: w.spec, Inputs: w.inputs, Sums: w.sums, State: schemas.StateCompleted})
	if err != nil {
		t.Fatal(err)
	}
	page := objects(t, store, report.HTML)[report.HTML]
	if len(report.Selections) != 1 || report.Selections[0].Grader != "test/grader@1" || !strings.Contains(page, schemas.SelectionRule) {
		t.Errorf("the report tells %+v", report.Selections)
	}

	// Another run finds the choice, and nothing is trained, asked or graded again.
	w.flush()
	models.take()
	started := attempts(t, c)
	again := newWorld(t, spec, options{models: models, trainer: c, store: store, run: "again"}).stages(append(slices.Clone(dataStages), schemas.StageSFT, schemas.StageSFTSample, schemas.StageSFTGrade)...)
	if d := cmp.Diff(chosen.Selection, again.closed(schemas.StageSFTGrade).Selection); d != "" {
		t.Errorf("another run chooses otherwise (- first, + again):\n%s", d)
	}
	if n := len(models.take()); n != 0 || attempts(t, c) != started {
		t.Errorf("%d calls were paid again, and the trainer was started %d times", n, attempts(t, c)-started)
	}

	// A preview finds it all, too; with more milestones all is trained anew.
	for _, more := range []int{0, 1} {
		looked := spec
		looked.Dev.Milestones += more
		seen, err := Preview(t.Context(), again.config, store, again.journal, PreviewRequest{Run: "looked", Spec: looked.WithDefaults(), Like: "again"})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range seen {
			switch trains := !s.Stage.Before(schemas.StageSFT); {
			case more == 0 || !trains:
				if s.Tasks == 0 || s.Found != s.Tasks || s.Most != 0 {
					t.Errorf("a preview of the same run: %+v", s)
				}
			case s.Found != 0:
				t.Errorf("a preview with another number of milestones: %+v", s)
			}
		}
		if last := seen[len(seen)-1]; last.Stage != schemas.StageSFTGrade {
			t.Errorf("the last stage of the preview is %s", last.Stage)
		}
	}

	// Garbage is collected around the milestones of a run.
	store.Age("", 1000*garbage.LeastGrace)
	if found, err = garbage.Find(t.Context(), store, garbage.Options{Grace: garbage.LeastGrace}); err != nil {
		t.Fatal(err)
	}
	for key := range found.Garbage {
		if strings.HasPrefix(key, "models/") {
			t.Errorf("a milestone of a finished job is garbage: %s", key)
		}
	}

	// A run that begins with this one's results takes its choice.
	from := spec
	from.RL.Skip, from.From = false, schemas.FromSpec{Stage: schemas.StageRL, Run: "again"}
	next := newWorld(t, from, options{models: models, trainer: c, store: store, run: "next"}).imports()
	adopted, err := call[AdoptResult](next, next.Adopt, AdoptRequest{Run: "next", Spec: next.spec, Inputs: next.inputs})
	if err != nil {
		t.Fatal(err)
	}
	next.sums = adopted.Sums
	if start := next.planOf(next.plans(schemas.StageRL)).Tasks[0]; start.Model.Digest != chosen.Model.Digest || start.Milestones != 3 {
		t.Errorf("RL of a run that begins there begins with %+v", start)
	}
}

func TestWithoutADevSplitTheLastWeightsGoOn(t *testing.T) {
	t.Parallel()
	c := python(t, dies)
	spec := imported(t, fivePrompts()...) // too few to hold any out
	spec.Dev.Skip = false
	w := newWorld(t, spec, options{trainer: c}).stages(dataStages...)
	if n := schemas.HeldOut(w.sums); n != 0 {
		t.Fatalf("%d of five prompts are held out", n)
	}
	plan := w.planOf(w.plans(schemas.StageSFT))
	if plan.Tasks[0].Milestones != 0 || strings.Contains(string(plan.Tasks[0].Lineage), "milestones") {
		t.Errorf("milestones that nobody chooses among: %+v", plan.Tasks[0])
	}
	if _, err := w.does(schemas.StageSFT, w.plans(schemas.StageSFT), 0); err == nil {
		t.Fatal("the killed attempt succeeded")
	}
	w.stage(schemas.StageSFT)
	m := w.closed(schemas.StageSFT)
	if len(m.Milestones) != 0 {
		t.Errorf("milestones %+v", m.Milestones)
	}
	if start := w.planOf(w.plans(schemas.StageRL)).Tasks[0].Model; start.Digest != m.Model.Digest {
		t.Errorf("RL begins with %+v", start)
	}
	var job trainer.SFT
	if err := json.Unmarshal([]byte(beside(t, c, "job-1.json")), &job); err != nil || job.Milestones != 0 {
		t.Errorf("the job asks for %d milestones (%v)", job.Milestones, err)
	}
}
