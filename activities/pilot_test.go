package activities

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/schemas"
)

// TestAPilotIsPartOfTheFullRun: what a run over the first prompts has asked, the run over
// all of them finds, and has the same rows of it.
func TestAPilotIsPartOfTheFullRun(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	spec := imported(t, fivePrompts()...)
	spec.Prompts.Limit = 2
	pilot := newWorld(t, spec, options{models: models, run: "pilot"}).stages(dataStages...)
	if d := cmp.Diff(map[string]int{"teacher": 2 * 2, "judge": 2 * 2 * 3}, models.calls()); d != "" {
		t.Fatalf("the pilot (- want, + got):\n%s", d)
	}
	pilot.flush()

	spec.Prompts.Limit = 0
	full := newWorld(t, spec, options{models: models, store: pilot.store, run: "full"}).stages(dataStages...)
	if d := cmp.Diff(map[string]int{"teacher": 3 * 2, "judge": 3 * 2 * 3}, models.calls()); d != "" {
		t.Errorf("the full run paid again for the pilot's (- want, + got):\n%s", d)
	}
	all := map[string]schemas.Verdict{}
	for _, v := range rows[schemas.Verdict](full, schemas.StageFilter, schemas.OutputVerdicts) {
		all[v.CompletionID] = v
	}
	few := rows[schemas.Verdict](pilot, schemas.StageFilter, schemas.OutputVerdicts)
	for _, v := range few {
		if d := cmp.Diff(v, all[v.CompletionID]); d != "" {
			t.Errorf("verdict on %s (- pilot, + full):\n%s", v.CompletionID, d)
		}
	}
	if len(few) != 2*2 || len(all) != 5*2 {
		t.Errorf("%d verdicts, then %d", len(few), len(all))
	}
}

// TestTryIsPartOfTheRun: what was tried is asked once, and comes to the same verdicts.
func TestTryIsPartOfTheRun(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	models.says(func(q question) *reply {
		if q.Model == "judge" && q.has("I feel low.") {
			return vote(5, schemas.ActionComply)
		}
		if q.Model == "teacher" && q.has("a duel") {
			return &reply{text: "Gladly."}
		}
		return nil
	})
	w := newWorld(t, imported(t, fivePrompts()...), options{models: models})
	trials, usage, err := Try(t.Context(), w.config, w.store, w.journal, TryRequest{Spec: w.spec, Most: 4})
	if err != nil {
		t.Fatal(err)
	}
	// Of four prompts one has no chain of thought, and one is rejected by its first votes.
	want := map[string]int{"teacher": 4 * 2, "judge": 2*2*3 + 2}
	if d := cmp.Diff(want, models.calls()); d != "" || usage.Paid != 8+14 {
		t.Errorf("tried (- want, + got):\n%s%+v", d, usage)
	}
	tried := map[string]schemas.Verdict{}
	for _, trial := range trials {
		if len(trial.Messages) != 2 || trial.Policy == "" || trial.Tokens == 0 {
			t.Errorf("%+v", trial)
		}
		for _, s := range trial.Samples {
			if s.Verdict == nil {
				if s.Fate() != schemas.ReasonNoCoT {
					t.Errorf("no verdict on %+v", s.Completion)
				}
				continue
			}
			tried[s.Completion.ID] = *s.Verdict
		}
	}
	w.flush()
	w.stages(dataStages...)
	if d := cmp.Diff(map[string]int{"teacher": 2, "judge": 2 * 3}, models.calls()); d != "" {
		t.Errorf("the run (- want, + got):\n%s", d)
	}
	for _, v := range rows[schemas.Verdict](w, schemas.StageFilter, schemas.OutputVerdicts) {
		if was, ok := tried[v.CompletionID]; ok {
			if d := cmp.Diff(was, v); d != "" {
				t.Errorf("(- tried, + run):\n%s", d)
			}
			delete(tried, v.CompletionID)
		}
	}
	if len(tried) != 0 {
		t.Errorf("the run lacks %d of what was tried", len(tried))
	}
}

// TestTryAsksNobodyWhatItMustNot: not before all prompts are fit to be asked about, and no
// endpoint that a route may keep a prompt from.
func TestTryAsksNobodyWhatItMustNot(t *testing.T) {
	t.Parallel()
	byIntent := schemas.Role{{Endpoint: "grader", Intents: []schemas.Intent{schemas.IntentHarmful}}, {Endpoint: "teacher"}}
	own := []schemas.Prompt{{Messages: []schemas.Message{{Role: "user", Content: "How?"}}, Category: "violence"}}
	for _, tt := range []struct {
		name   string
		adapts func(*schemas.RunSpec)
		own    []schemas.Prompt
		want   string
	}{
		{"a category that isn't there", func(s *schemas.RunSpec) {}, append(own[:1:1], schemas.Prompt{Category: "weather"}), "no such category"},
		{"a teacher by intents", func(s *schemas.RunSpec) { s.Synthesize.Teacher = byIntent }, own, "has to have both"},
		{"a judge by intents", func(s *schemas.RunSpec) { s.Filter.Judge = byIntent }, own, "has to have both"},
		{"nothing that is labelled", func(s *schemas.RunSpec) {
			s.Prompts.Imports = imported(t, prompt{Text: "How?"}).Prompts.Imports
			s.Prompts.Imports[0].Classify = true
		}, nil, "imports no prompt with category and intent"},
		{"nothing that is imported", func(s *schemas.RunSpec) { s.Prompts.Imports = nil }, nil, "imports no prompt with category and intent"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			models := newModels(t)
			w := newWorld(t, imported(t, fivePrompts()...), options{models: models})
			tt.adapts(&w.spec)
			_, _, err := Try(t.Context(), w.config, w.store, w.journal, TryRequest{Spec: w.spec, Prompts: tt.own, Most: 4})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if n := models.calls(); len(n) > 0 {
				t.Errorf("asked: %v", n)
			}
		})
	}
}
