package activities

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"precept/internal/policy/policytest"
	"precept/schemas"
)

// previewed is what a preview says, a line for a stage.
func (w *world) previewed(spec schemas.RunSpec) map[schemas.Stage]string {
	w.t.Helper()
	before := objects(w.t, w.store, "")
	stages, err := Preview(w.t.Context(), w.config, w.store, w.journal, PreviewRequest{Run: "next", Spec: spec.WithDefaults(), Like: w.run})
	if err != nil {
		w.t.Fatal(err)
	}
	if d := cmp.Diff(before, objects(w.t, w.store, "")); d != "" {
		w.t.Errorf("a preview wrote:\n%.500s", d)
	}
	out := map[schemas.Stage]string{}
	for _, s := range stages {
		out[s.Stage] = fmt.Sprintf("%d/%d, %d answered, %d-%d asked", s.Found, s.Tasks, s.Answered, s.Least, s.Most)
		if len(s.Changed) > 0 {
			out[s.Stage] += ": " + strings.Join(s.Changed, ", ")
		}
		if s.Estimated != "" {
			out[s.Stage] += " (estimated)"
		}
	}
	return out
}

func TestPreview(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	models.says(func(q question) *reply {
		if q.Model == "judge" && q.has("I feel low.") {
			return vote(5, schemas.ActionComply)
		}
		return nil
	})
	spec := imported(t, fivePrompts()...)
	spec.Until = schemas.StageCurate
	w := newWorld(t, spec, options{models: models}).stages(dataStages...)
	w.flush()
	models.take()
	more := filepath.Join(write(t, map[string]string{"more.jsonl": jsonl(t,
		prompt{Category: "violence", Intent: schemas.IntentBenign, Text: "Why do films show fights?"})}), "more.jsonl")
	texts := map[string]string{}
	for name, f := range policytest.Files() {
		texts[name] = strings.Replace(string(f.Data), "One brief apology.", "An apology.", 1) // in violence alone
	}
	edited := write(t, texts)
	const all = ", 0 answered, 0-0 asked"
	tests := []struct {
		name   string
		change func(*schemas.RunSpec)
		want   [4]string // of the data stages
	}{
		{"nothing", func(*schemas.RunSpec) {}, [4]string{"1/1" + all, "2/2" + all, "2/2" + all, "2/2" + all}},
		{"a higher threshold", func(s *schemas.RunSpec) { s.Filter.Threshold = new(0.9) }, [4]string{
			"1/1" + all, "2/2" + all, "0/2, 26 answered, 0-0 asked: params.threshold", "0/2" + all + ": inputs",
		}},
		// The vote that was early is there; two more of each sample are not.
		{"a lower threshold", func(s *schemas.RunSpec) { s.Filter.Threshold = new(0.4) }, [4]string{
			"1/1" + all, "2/2" + all, "0/2, 26 answered, 2-4 asked: params.threshold", "0/2" + all + ": inputs (estimated)",
		}},
		{"another sample", func(s *schemas.RunSpec) { s.Synthesize.Samples = 3 }, [4]string{
			"1/1" + all, "0/2, 10 answered, 5-5 asked: params.samples", "0/2, 26 answered, 13-13 asked: inputs (estimated)", "0/2" + all + ": inputs (estimated)",
		}},
		{"another prompt", func(s *schemas.RunSpec) {
			s.Prompts.Imports = append(s.Prompts.Imports, schemas.Import{Path: more})
		}, [4]string{
			"0/1" + all + ": inputs, params.imports", "0/2, 10 answered, 2-2 asked: inputs",
			"0/2, 26 answered, 5-5 asked: inputs (estimated)", "0/2" + all + ": inputs (estimated)",
		}},
		{"a refreshed filter", func(s *schemas.RunSpec) { s.Refresh = map[schemas.Stage]string{schemas.StageFilter: "today"} }, [4]string{
			"1/1" + all, "2/2" + all, "0/2, 0 answered, 10-30 asked: params.refresh", "0/2" + all + ": inputs (estimated)",
		}},
		{"an edited category", func(s *schemas.RunSpec) { s.Policy.Source = edited }, [4]string{
			"1/1" + all, "1/2, 0 answered, 6-6 asked: policy (1 of 2 tasks)",
			"1/2, 0 answered, 16-16 asked: inputs (1 of 2 tasks), policy (1 of 2 tasks) (estimated)", "1/2" + all + ": inputs (1 of 2 tasks) (estimated)",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			changed := w.spec
			tt.change(&changed)
			got := w.previewed(changed)
			for i, stage := range dataStages {
				if got[stage] != tt.want[i] {
					t.Errorf("%s: %s\nwant %s", stage, got[stage], tt.want[i])
				}
			}
			if calls := models.take(); len(calls) != 0 {
				t.Errorf("a preview made %d calls", len(calls))
			}
		})
	}
}

// What can't be known before a model is trained is told by the other run.
func TestPreviewOfTraining(t *testing.T) {
	t.Parallel()
	spec := withSuite(t)
	spec.RL.Skip = true
	c := python(t, `echo '{"event":"start","total_steps":4,"rows":5}'; step 2; finish`)
	models := newModels(t)
	w := newWorld(t, spec, options{models: models, trainer: c}).stages(dataStages...)
	w.stage(schemas.StageSFT)
	w.flush()
	spec.Until = schemas.StageSFT
	if got := w.previewed(spec)[schemas.StageSFT]; got != "1/1, 0 answered, 0-0 asked" {
		t.Errorf("the same again: %s", got)
	}
	spec.SFT.Epochs, spec.Until = 7, ""
	stages, err := Preview(t.Context(), w.config, w.store, w.journal, PreviewRequest{Run: "next", Spec: spec.WithDefaults(), Like: w.run})
	if err != nil {
		t.Fatal(err)
	}
	last := stages[len(stages)-1]
	if sft := stages[4]; !sft.Works || sft.Found != 0 || sft.Changed[0] != "params.epochs" {
		t.Errorf("sft: %+v", sft)
	}
	if last.Stage != schemas.StageGrade || !strings.HasPrefix(last.Estimated, "unknown") || last.Seconds != nil {
		t.Errorf("grade: %+v", last)
	}
}

func TestPreviewPrices(t *testing.T) {
	begun := time.Now()
	p := &preview{like: map[schemas.Stage]*past{schemas.StageFilter: {manifest: schemas.Manifest{Spent: []schemas.Spending{
		{Started: begun, Finished: begun.Add(time.Minute), Usage: schemas.Usage{Paid: 100, USD: 2}},
		{Started: begun, Finished: begun.Add(time.Second), Usage: schemas.Usage{Cached: 100}},
	}}}}}
	s := StagePreview{Stage: schemas.StageFilter, Tasks: 4, Least: 25, Most: 50}
	p.price(&s)
	if *s.USD != 1 || *s.Seconds != 30 {
		t.Errorf("50 requests for $%v in %v s", *s.USD, *s.Seconds)
	}
	s = StagePreview{Stage: schemas.StageSynthesize, Tasks: 4, Least: 1, Most: 1}
	if p.price(&s); s.USD != nil {
		t.Errorf("nothing tells what a call takes, and it is said to be $%v", *s.USD)
	}
}
