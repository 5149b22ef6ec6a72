package activities

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/internal/shard"
	"precept/schemas"
)

// faulty is five prompts of which the model refuses two: number 1 with a 500, number 3
// with a 400 that says nothing of the content.
func faulty(t *testing.T, model string) (*world, *models) {
	t.Helper()
	spec := imported(t)
	spec.Prompts.Imports[0].Path = filepath.Join(write(t, map[string]string{"p.jsonl": numbered(t, 5)}), "p.jsonl")
	spec.Synthesize.Samples, spec.Filter.Votes = 1, 1
	models := newModels(t)
	models.says(func(q question) *reply {
		if q.Model == model && strings.Contains(q.Messages[1].Content, "question 1") {
			return &reply{status: 500, text: "out of order"}
		}
		if q.Model == model && strings.Contains(q.Messages[1].Content, "question 3") {
			return &reply{status: 400, text: "what?"}
		}
		return nil
	})
	return newWorld(t, spec, options{models: models, tries: 1}).imports(), models
}

func TestAStageWithoutRowsThatFailed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		stage schemas.Stage
		model string
		kind  string
	}{
		{schemas.StageSynthesize, "teacher", schemas.OutputCompletions},
		{schemas.StageFilter, "judge", schemas.OutputVerdicts},
	} {
		t.Run(string(tt.stage), func(t *testing.T) {
			t.Parallel()
			w, models := faulty(t, tt.model)
			for _, s := range dataStages {
				if s == tt.stage {
					break
				}
				w.stage(s)
			}
			plan := w.plans(tt.stage)
			ask := func(mayMiss int64, retry *schemas.Reason) (schemas.TaskResult, error) {
				return call[schemas.TaskResult](w, map[schemas.Stage]any{schemas.StageSynthesize: w.Synthesize, schemas.StageFilter: w.Filter}[tt.stage],
					TaskRequest{Run: w.run, Stage: tt.stage, Plan: plan, MayMiss: mayMiss, Retry: retry})
			}
			closed := func() schemas.StageSum {
				sum, err := call[schemas.StageSum](w, w.Manifest, ManifestRequest{Run: w.run, Stage: tt.stage, Plan: plan})
				if err != nil {
					t.Fatal(err)
				}
				if err := sum.Ledger.Check(plan.Planned); err != nil {
					t.Error(err)
				}
				return sum
			}
			// Two rows are more than one.
			_, err := ask(1, nil)
			var told schemas.TaskFailure
			if f := failure(t, err); f.Details(&told) != nil || told.Rows != 2 || !strings.Contains(f.Message(), "2 of 5 rows failed") {
				t.Fatalf("got %v, %+v", err, told)
			}
			models.take()
			r, err := ask(2, nil)
			if err != nil {
				t.Fatal(err)
			}
			want := schemas.Ledger{Planned: 5, Kept: 3, Failed: map[schemas.Reason]int64{schemas.ReasonUnavailable: 1, schemas.ReasonBadRequest: 1}}
			if d := cmp.Diff(want, r.Ledger); d != "" {
				t.Errorf("(- want, + got):\n%s", d)
			}
			if n := len(models.take()); n != 2 {
				t.Errorf("%d calls for two rows", n)
			}
			if d := cmp.Diff(want, closed().Ledger); d != "" {
				t.Errorf("the manifest (- want, + got):\n%s", d)
			}
			m := schemas.Manifest{}
			if err := shard.GetJSON(t.Context(), w.store, schemas.ManifestObject(w.run, tt.stage), &m); err != nil {
				t.Fatal(err)
			}
			if len(m.Partial) != 1 || m.Outputs[tt.kind][0].Rows != 3 {
				t.Errorf("the manifest has %+v", m)
			}
			var p schemas.Partial
			if err := shard.GetJSON(t.Context(), w.store, m.Partial[0], &p); err != nil || len(p.Missing) != 2 || p.Missing[0].PromptID == "" || p.Missing[0].Error == "" {
				t.Errorf("the record: %v, %+v", err, p)
			}
			// It counts as done, also when the run is started again.
			if r, err := ask(0, nil); err != nil || !r.Found || len(models.take()) != 0 {
				t.Errorf("again: %v, %+v", err, r)
			}
			// A retry of one reason leaves the other row alone.
			models.says(nil)
			if r, err := ask(0, new(schemas.ReasonRateLimited)); err != nil || !r.Found {
				t.Errorf("a retry of what is not missing: %v, %+v", err, r)
			}
			r, err = ask(0, new(schemas.ReasonUnavailable))
			if err != nil || r.Ledger.Kept != 4 || r.Ledger.Failed[schemas.ReasonBadRequest] != 1 || r.Found {
				t.Errorf("a retry of one reason: %v, %+v", err, r)
			}
			if n := len(models.take()); n != 1 {
				t.Errorf("%d calls for one row", n)
			}
			r, err = ask(0, new(schemas.Reason("")))
			if err != nil || r.Ledger.Missing() != 0 || r.Ledger.Kept != 5 {
				t.Errorf("a retry of all: %v, %+v", err, r)
			}
			sum := closed()
			if sum.Ledger.Kept != 5 {
				t.Errorf("closed with %s", sum.Ledger)
			}

			// What came in late is what an undisturbed run writes.
			calm := newWorld(t, w.spec, options{models: models, run: "calm"}).imports()
			for _, s := range dataStages {
				calm.stage(s)
				if s == tt.stage {
					break
				}
			}
			if got := calm.sums[len(calm.sums)-1].Digest; got != sum.Digest {
				t.Errorf("an undisturbed run has digest %s, this one %s", got.Short(), sum.Digest.Short())
			}
		})
	}
}

// The next stages go on with what there is, and with more when it is there.
func TestTheNextStagesFollowAPartialOne(t *testing.T) {
	t.Parallel()
	w, models := faulty(t, "teacher")
	w.stage(schemas.StagePrompts)
	plan := w.plans(schemas.StageSynthesize)
	if _, err := call[schemas.TaskResult](w, w.Synthesize, TaskRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan, MayMiss: 2}); err != nil {
		t.Fatal(err)
	}
	w.stage(schemas.StageSynthesize)
	for _, s := range []schemas.Stage{schemas.StageFilter, schemas.StageCurate} {
		w.stage(s)
	}
	if kept := w.sums[3].Ledger.Kept; kept != 3 {
		t.Errorf("%d examples, want 3", kept)
	}
	models.says(nil)
	models.take()
	if _, err := call[schemas.TaskResult](w, w.Synthesize, TaskRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan, Retry: new(schemas.Reason(""))}); err != nil {
		t.Fatal(err)
	}
	w.sums = w.sums[:1]
	for _, s := range dataStages[1:] {
		w.stage(s)
	}
	if kept := w.sums[3].Ledger.Kept; kept != 5 {
		t.Errorf("%d examples, want 5", kept)
	}
	if calls := models.calls(); calls["teacher"] != 2 || calls["judge"] != 2 {
		t.Errorf("two rows came in for %v", calls)
	}
}
