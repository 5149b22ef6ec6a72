package activities

import (
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
