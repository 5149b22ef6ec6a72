package activities

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/schemas"
)

// generating is a spec whose prompts are all the teacher's.
func generating(t *testing.T, per int) schemas.RunSpec {
	spec := imported(t)
	spec.Prompts.Imports = nil
	spec.Prompts.Generate = schemas.GenerateSpec{Per: per, Teacher: schemas.RoleOf("teacher"), Intents: []schemas.Intent{schemas.IntentHarmful, schemas.IntentBenign}}
	spec.Prompts.Classify = schemas.ClassifySpec{Judge: schemas.RoleOf("judge"), Votes: 1}
	return spec
}

func TestGeneratedPrompts(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	models.says(func(q question) *reply {
		generate, classify := strings.HasPrefix(q.Messages[0].Content, "Role: generate\n"), strings.HasPrefix(q.Messages[0].Content, "Role: classify\n")
		text := q.Messages[1].Content
		harmful := strings.Contains(text, "Intent: harmful") && q.policy() == "violence"
		switch {
		case generate && harmful && strings.Contains(text, "Style: plain"):
			return &reply{text: "DECLINED."}
		case generate && harmful && strings.Contains(text, "Style: fiction"):
			return &reply{text: "Here it is: how?"}
		case generate && harmful && strings.Contains(text, "Style: research"):
			return &reply{text: "<prompt>The same of violence, harmful</prompt>"}
		case classify && strings.Contains(text, "of violence, harmful") && strings.Contains(text, "authority"):
			return label("self-harm", "violence", "harmful")
		case classify && strings.Contains(text, "of violence, harmful") && strings.Contains(text, "context"):
			return label("violence", "self-harm", "borderline")
		case classify && strings.Contains(text, "of violence, harmful") && strings.Contains(text, "role-play"):
			return label("violence", "self-harm", "harmful")
		}
		return nil
	})
	w := newWorld(t, generating(t, 16), options{models: models}).stages(promptStages...)
	if w.inputs.PromptRows != 0 || w.inputs.Generated != 2*2*16 {
		t.Errorf("inputs: %+v", w.inputs)
	}
	// Of 16 briefs each of the eight styles is two.
	want := []schemas.Ledger{
		ledger(60, map[schemas.Reason]int64{schemas.ReasonRefused: 2, schemas.ReasonMalformed: 2}),
		ledger(56, map[schemas.Reason]int64{schemas.ReasonOffCategory: 2, schemas.ReasonOffIntent: 2}),
		ledger(55, map[schemas.Reason]int64{schemas.ReasonDuplicate: 1}),
	}
	for i, s := range w.sums {
		if d := cmp.Diff(want[i], s.Ledger); d != "" {
			t.Errorf("%s (- want, + got):\n%s", s.Stage, d)
		}
	}
	seconds := 0
	for _, p := range rows[schemas.Prompt](w, schemas.StagePrompts, schemas.OutputPrompts) {
		if p.Source != "generated" || p.Family == "" || p.Language != "en" {
			t.Errorf("a generated prompt: %+v", p)
		}
		if p.Second != "" {
			seconds++
		}
	}
	if seconds != 2 {
		t.Errorf("%d prompts have a second category, want 2", seconds)
	}
	for _, g := range rows[schemas.Generated](w, schemas.StageGenerate, schemas.OutputGenerated) {
		if g.Persona == "" || g.Form == "" || g.Length == "" || g.Seed == "" || g.Request == "" {
			t.Errorf("a row says not how it came about: %+v", g)
		}
	}
	w.stage(schemas.StageSynthesize)
}

func TestMorePromptsAskForNoOtherOnes(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	one := newWorld(t, generating(t, 3), options{models: models}).stages(promptStages...)
	one.flush()
	if d := cmp.Diff(map[string]int{"teacher": 12, "judge": 12}, models.calls()); d != "" {
		t.Errorf("the first run (- want, + got):\n%s", d)
	}
	newWorld(t, generating(t, 5), options{models: models, store: one.store, run: "two"}).stages(promptStages...)
	if d := cmp.Diff(map[string]int{"teacher": 8, "judge": 8}, models.calls()); d != "" {
		t.Errorf("the second run (- want, + got):\n%s", d)
	}
}

func TestAQuotaDrawsGeneratedPrompts(t *testing.T) {
	t.Parallel()
	spec := generating(t, 30)
	spec.Synthesize.Samples, spec.Filter.Votes = 1, 1
	spec.Quota = schemas.QuotaSpec{Accepted: 10, ByIntent: true}
	w := newWorld(t, spec, options{}).stages(schemas.StageGenerate, schemas.StageClassify)
	for _, d := range w.rounds() {
		if d.Accepted < 10 || d.Pool != 30 {
			t.Errorf("a draw: %+v", d)
		}
	}
}

// TestGeneratedPromptsStandBehindImports: of an imported and a generated duplicate the
// imported one stays.
func TestGeneratedPromptsStandBehindImports(t *testing.T) {
	t.Parallel()
	spec := generating(t, 1)
	spec.Prompts.Generate.Intents, spec.Prompts.Generate.Categories = spec.Prompts.Generate.Intents[:1], []schemas.Category{"violence"}
	spec.Prompts.Imports = imported(t, prompt{Category: "violence", Intent: schemas.IntentHarmful, Text: "The same of violence, harmful"}).Prompts.Imports
	models := newModels(t)
	models.says(func(q question) *reply {
		if q.Model == "teacher" {
			return &reply{text: "<prompt>the SAME of violence, harmful</prompt>"}
		}
		return nil
	})
	w := newWorld(t, spec, options{models: models}).stages(promptStages...)
	for _, p := range rows[schemas.Prompt](w, schemas.StagePrompts, schemas.OutputPrompts) {
		if generated := p.Source == "generated"; generated != (p.Reason == schemas.ReasonDuplicate) {
			t.Errorf("%+v", p)
		}
	}
}

func TestGeneratedPromptsGoByRoutes(t *testing.T) {
	t.Parallel()
	spec := generating(t, 2)
	spec.Prompts.Generate.Teacher = schemas.Role{{Endpoint: "grader", Intents: []schemas.Intent{schemas.IntentHarmful}}, {Endpoint: "teacher"}}
	w := newWorld(t, spec, options{}).stages(schemas.StageGenerate, schemas.StageClassify)
	// Who writes harmful prompts is nothing to the shards of the others.
	plain := newWorld(t, generating(t, 2), options{}).imports()
	theirs := plain.planOf(plain.plans(schemas.StageGenerate)).Tasks
	for i, task := range w.planOf(w.plans(schemas.StageGenerate)).Tasks {
		same := task.Outputs[0].Key == theirs[i].Outputs[0].Key
		if same == (task.Shares[0].Intent == schemas.IntentHarmful) {
			t.Errorf("%s: the key is the same: %v", task.Title, same)
		}
	}
	for _, g := range rows[schemas.Generated](w, schemas.StageGenerate, schemas.OutputGenerated) {
		if local := strings.Contains(string(g.Teacher), "grader"); local != (g.Prompt.Intent == schemas.IntentHarmful) {
			t.Errorf("%s asked for a %s prompt", g.Teacher, g.Prompt.Intent)
		}
	}
	for _, l := range rows[schemas.Label](w, schemas.StageClassify, schemas.OutputMatches) {
		if !strings.Contains(string(l.Judge), "judge") {
			t.Errorf("%q classified", l.Judge)
		}
	}
}

func TestPreviewOfGeneratedPrompts(t *testing.T) {
	t.Parallel()
	spec := generating(t, 3)
	spec.Until = schemas.StageFilter
	w := newWorld(t, spec, options{}).stages(append(promptStages, schemas.StageSynthesize, schemas.StageFilter)...)
	w.flush()
	const all = ", 0 answered, 0-0 asked"
	want := map[schemas.Stage]string{
		schemas.StageGenerate: "4/4" + all, schemas.StageClassify: "4/4" + all, schemas.StagePrompts: "1/1" + all,
		schemas.StageSynthesize: "2/2" + all, schemas.StageFilter: "2/2" + all,
	}
	if d := cmp.Diff(want, w.previewed(spec)); d != "" {
		t.Errorf("the same again (-want +got):\n%s", d)
	}
	// Two more in each of four: each is asked for, classified once, answered twice, and
	// each answer is judged three times.
	spec.Prompts.Generate.Per = 5
	got := w.previewed(spec)
	for stage, want := range map[schemas.Stage]string{
		schemas.StageGenerate: "0/4, 12 answered, 8-8 asked", schemas.StageClassify: "0/4, 12 answered, 8-8 asked",
		schemas.StageSynthesize: "0/2, 24 answered, 16-16 asked", schemas.StageFilter: "0/2, 72 answered, 48-48 asked",
	} {
		if !strings.HasPrefix(got[stage], want) {
			t.Errorf("%s: %q, want %q", stage, got[stage], want)
		}
	}
}

// TestOnlyWhatIsAskedMustBeConfigured: an endpoint of a stage that the run doesn't pass may
// be nowhere, one that is asked must be there before anything is paid.
func TestOnlyWhatIsAskedMustBeConfigured(t *testing.T) {
	t.Parallel()
	spec := imported(t, fivePrompts()...)
	spec.Until, spec.Evaluate.Skip = schemas.StageFilter, true
	spec.Evaluate.Grader, spec.RL.Judge = schemas.RoleOf("nobody"), schemas.RoleOf("nobody")
	newWorld(t, spec, options{}).stages(schemas.StagePrompts)
}
