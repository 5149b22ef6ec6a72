package activities

import (
	"testing"

	"precept/schemas"
)

func TestEstimate(t *testing.T) {
	t.Parallel()
	spec := imported(t, fivePrompts()...)
	spec.Evaluate.Skip, spec.SFT.Skip = true, true
	w := newWorld(t, spec, options{})
	estimate := func() (Estimate, map[schemas.Stage]StageEstimate) {
		t.Helper()
		e, err := EstimateRun(t.Context(), w.config, w.store, w.journal, "other", w.spec)
		if err != nil {
			t.Fatal(err)
		}
		stages := map[schemas.Stage]StageEstimate{}
		for _, s := range e.Stages {
			stages[s.Stage] = s
		}
		return e, stages
	}
	check := func(what string, s StageEstimate, calls Range) {
		t.Helper()
		if s.Calls != calls {
			t.Errorf("%s: %v calls, want %v", what, s.Calls, calls)
		}
		if calls.High > 0 && (s.USD.High <= 0 || s.USD.Low > s.USD.High || s.Prompt.High <= s.Prompt.Low && s.Answered == 0 || s.Completion.High == 0) {
			t.Errorf("%s: %+v", what, s)
		}
	}
	e, stages := estimate()
	check("synthesize", stages[schemas.StageSynthesize], Range{10, 10})
	check("filter", stages[schemas.StageFilter], Range{10, 30})
	rollouts := float64(w.spec.RL.Steps * w.spec.RL.PromptsPerStep * w.spec.RL.Generations)
	check("rl", stages[schemas.StageRL], Range{0, rollouts})
	if e.Total.Calls != (Range{20, 40 + rollouts}) || len(e.Assumes) == 0 {
		t.Errorf("in all %+v, assuming %q", e.Total, e.Assumes)
	}
	if len(objects(t, w.store, "plans/")) != 0 {
		t.Error("an estimate has written plans")
	}

	// The bytes of the rendered requests are those that are sent.
	w.stages(dataStages...)
	w.flush()
	_, stages = estimate()
	check("synthesize, answered", stages[schemas.StageSynthesize], Range{0, 0})
	if s := stages[schemas.StageFilter]; s.Calls != (Range{}) || s.USD != (Range{}) {
		t.Errorf("filter, answered: %+v", s)
	}

	// What some answers took is what the others are taken to.
	w.spec.Synthesize.Samples = 6
	_, stages = estimate()
	if s := stages[schemas.StageSynthesize]; s.Answered != 10 || s.Calls != (Range{20, 20}) {
		t.Errorf("with more samples: %+v", s)
	}
	if s := stages[schemas.StageFilter]; s.Answered != 30 || s.Calls != (Range{20, 60}) || s.Prompt != (Range{200, 600}) || s.Completion != (Range{100, 300}) ||
		s.USD != (Range{400e-6, 1200e-6}) {
		t.Errorf("with more samples: %+v", s)
	}
}
