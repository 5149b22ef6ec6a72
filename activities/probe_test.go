package activities

import (
	"testing"

	"precept/schemas"
)

// TestARefusedAccountIsNoRowsFault: the task ends at the first refusal, tells whom it is
// about, and leaves no row behind.
func TestARefusedAccountIsNoRowsFault(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]reply{
		"no money":       {status: 429, code: "insufficient_quota", text: "You exceeded your current quota"},
		"no key":         {status: 401, text: "no"},
		"not allowed":    {status: 403, text: "no"},
		"suspended":      {status: 400, code: "account_suspended", text: "no"},
		"model is gone":  {status: 404, code: "model_not_found", text: "no"},
		"payment needed": {status: 402, text: "no"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			models := newModels(t)
			models.says(func(q question) *reply {
				if q.Model == "teacher" {
					return &refusal
				}
				return nil
			})
			spec := imported(t, fivePrompts()...)
			spec.Tripwires.After = 1 // they are no failed rows either
			w := newWorld(t, spec, options{models: models}).stages(schemas.StagePrompts)
			plan := w.plans(schemas.StageSynthesize)
			_, err := w.does(schemas.StageSynthesize, plan, 0)
			f := failure(t, err)
			var told schemas.TaskFailure
			if err := f.Details(&told); err != nil {
				t.Fatal(err)
			}
			if !told.Account || told.Endpoint != "teacher" || told.Rows != 0 || told.Tripwire || !f.NonRetryable() {
				t.Errorf("the failure tells %+v: %v", told, err)
			}
			if calls := models.calls(); calls["teacher"] > 4 { // as many as were in flight
				t.Errorf("asked %d times", calls["teacher"])
			}
			for key := range objects(t, w.store, "shards/synthesize/") {
				t.Errorf("%s was written", key)
			}
		})
	}
}

// TestProbe: it fails until the endpoint answers, and may be tried again.
func TestProbe(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	models.says(func(question) *reply { return &reply{status: 401, text: "no such key"} })
	w := newWorld(t, imported(t, fivePrompts()...), options{models: models})
	probe := func(endpoint string) (schemas.Usage, error) {
		return call[schemas.Usage](w, w.Probe, ProbeRequest{Spec: w.spec, Endpoint: endpoint})
	}
	_, err := probe("teacher")
	if f := failure(t, err); f.NonRetryable() {
		t.Errorf("%v is never tried again", err)
	}
	models.says(nil)
	usage, err := probe("teacher")
	if err != nil || usage.Paid != 1 || usage.PromptTokens != 10 {
		t.Errorf("took %+v, %v", usage, err)
	}
	asked := models.take()
	if len(asked) != 2 || asked[1].last() != "Say OK." {
		t.Errorf("asked %+v", asked)
	}
	_, err = probe("nobody")
	if f := failure(t, err); f.Type() != string(schemas.InvalidInput) || !f.NonRetryable() {
		t.Errorf("an endpoint that isn't there: %v", err)
	}
}
