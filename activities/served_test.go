package activities

import (
	"strings"
	"testing"

	"precept/schemas"
)

// TestAnotherModelIsNoticed: recorded answers are not used beside those of another model
// before people have seen it.
func TestAnotherModelIsNoticed(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	models.hosted = true
	models.served("gpt-1", "fp_a")
	spec := imported(t, fivePrompts()[0])
	spec.Until = schemas.StageFilter
	w := newWorld(t, spec, options{models: models}).imports()
	look := func() schemas.Served {
		t.Helper()
		s, err := call[schemas.Served](w, w.Served, ServedRequest{Spec: w.spec, Policy: w.inputs.Policy})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if got := strings.Join(w.inputs.Hosted, " "); got != "judge teacher" {
		t.Errorf("hosted: %s", got)
	}
	if s := look(); len(s.Changed)+len(s.Notes) != 0 {
		t.Errorf("nothing was recorded, and has changed: %+v", s)
	}
	w.stage(schemas.StagePrompts)
	w.stage(schemas.StageSynthesize)
	w.flush()
	if s := look(); len(s.Changed)+len(s.Notes) != 0 {
		t.Errorf("the same model has changed: %+v", s)
	}
	models.served("gpt-1", "fp_b")
	if s := look(); len(s.Changed) != 0 || len(s.Notes) != 1 ||
		s.Notes[0] != "endpoint teacher (test/teacher@1) answers as gpt-1 (fingerprint fp_b), and was gpt-1 (fingerprint fp_a) when answers were recorded" {
		t.Errorf("another fingerprint: %+v", s)
	}
	models.served("gpt-2", "fp_a")
	// Another worker, which has seen nothing yet.
	w = newWorld(t, w.spec, options{models: models, store: w.store}).imports()
	if s := look(); len(s.Changed) != 1 || !strings.Contains(s.Changed[0], "answers as gpt-2") {
		t.Errorf("another model: %+v", s)
	}
	// The word is asked for as the teacher is asked, and its answer is kept nowhere.
	w.flush()
	for key, raw := range objects(t, w.store, "journal/") {
		if strings.Contains(raw, "Say OK.") {
			t.Errorf("%s holds the probe", key)
		}
	}
	if probes := models.take(); len(probes) == 0 || probes[len(probes)-1].last() != "Say OK." {
		t.Errorf("asked %+v", probes)
	}
	// An endpoint that is away doesn't stop a run that may have all its answers.
	models.says(func(question) *reply { return &reply{status: 401, text: "no such key"} })
	if s := look(); len(s.Changed) != 0 || len(s.Notes) != 1 || !strings.Contains(s.Notes[0], "endpoint teacher did not say which model answers") {
		t.Errorf("an endpoint that is away: %+v", s)
	}
}

// TestTwoCheckpointsUnderOneName: what one checkpoint has answered is no answer of another
// one, whatever name and address they are served under.
func TestTwoCheckpointsUnderOneName(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	spec := imported(t, fivePrompts()...)
	spec.Synthesize.Samples, spec.Filter.Votes = 1, 1
	one := newWorld(t, spec, options{models: models})
	served := func(w *world, weights string) *world {
		e := models.endpoint("teacher")
		e.Provider, e.Revision, e.Weights = "", "", schemas.DigestOf(weights)
		w.config.Endpoints["teacher"] = e
		return w
	}
	served(one, "checkpoint 1").stages(schemas.StagePrompts, schemas.StageSynthesize)
	one.flush()
	models.take()
	two := served(newWorld(t, spec, options{models: models, store: one.store, run: "two"}), "checkpoint 2").stages(schemas.StagePrompts, schemas.StageSynthesize)
	if calls := models.calls(); calls["teacher"] != 5 {
		t.Errorf("the second checkpoint was asked %d times, want all 5", calls["teacher"])
	}
	keys := map[schemas.Key]bool{}
	for _, w := range []*world{one, two} {
		for _, c := range rows[schemas.Completion](w, schemas.StageSynthesize, schemas.OutputCompletions) {
			keys[c.Request] = true
		}
	}
	if len(keys) != 10 || one.sums[1].Digest == two.sums[1].Digest {
		t.Errorf("%d request keys, want 10", len(keys))
	}
	// The first one again: it finds its own.
	again := served(newWorld(t, spec, options{models: models, store: one.store, run: "again"}), "checkpoint 1").stages(schemas.StagePrompts, schemas.StageSynthesize)
	if calls := models.calls(); calls["teacher"] != 0 || again.sums[1].Digest != one.sums[1].Digest {
		t.Errorf("the first checkpoint was asked %d times", calls["teacher"])
	}
}
