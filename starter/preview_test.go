package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"precept/activities"
	"precept/schemas"
)

func TestSettings(t *testing.T) {
	spec := schemas.RunSpec{Name: "first"}
	for _, tt := range []struct{ set, want, err string }{
		{"filter.threshold=0.8", `"threshold":0.8`, ""},
		{"prompts.imports=[{\"path\":\"a.jsonl\"}]", `"path":"a.jsonl"`, ""},
		{"base=some/model", `"base":"some/model"`, ""},
		{"name=007 and on", `"name":"007 and on"`, ""},
		{"rl.skip=true", `"skip":true`, ""},
		{"filter.treshold=0.8", "", `unknown field "filter.treshold"`},
		{"filter.votes=many", "", `filter.votes: want a whole number, got "many"`},
		{"filter.votes=-1", "", "filter.votes is -1"},
		{"base.path=x", "", "base has no fields"},
		{"threshold", "", "names no value"},
	} {
		spec.Base = "base"
		got, err := withSettings(spec, []string{tt.set})
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) || schemas.KindOf(err) != schemas.InvalidInput {
				t.Errorf("%s: got %v, want %q", tt.set, err, tt.err)
			}
			continue
		}
		raw, jsonErr := schemas.CanonicalJSON(got)
		if err != nil || jsonErr != nil || !strings.Contains(string(raw), tt.want) {
			t.Errorf("%s: %v, %v: %s", tt.set, err, jsonErr, raw)
		}
	}
}

func TestStoredSpec(t *testing.T) {
	store := storedRun(t)
	spec, err := storedSpec(t.Context(), store, "first")
	if err != nil || spec.Name != "My: first" || *spec.Filter.Threshold != 0.7 {
		t.Errorf("%v: %+v", err, spec)
	}
	// The arms follow from what is skipped, unless somebody chose them.
	if spec, err = withSettings(spec, []string{"rl.skip=true"}); err != nil || len(spec.WithDefaults().Evaluate.Arms) != 3 {
		t.Errorf("%v: %v", err, spec.WithDefaults().Evaluate.Arms)
	}
	if _, err := storedSpec(t.Context(), store, "nobody"); schemas.KindOf(err) != schemas.NotFound {
		t.Errorf("got %v", err)
	}
}

func TestPreviewTable(t *testing.T) {
	got := previewTable([]activities.StagePreview{
		{Stage: schemas.StagePrompts, Tasks: 1, Found: 1, USD: new(0.0), Seconds: new(0.0)},
		{Stage: schemas.StageFilter, Tasks: 8, Changed: []string{"params.threshold"}, Answered: 300, Least: 20, Most: 40, USD: new(1.5), Seconds: new(75.0)},
		{Stage: schemas.StageCurate, Tasks: 8, Changed: []string{"inputs"}, USD: new(0.0), Seconds: new(0.0), Estimated: "it follows from answers that aren't there yet"},
		{Stage: schemas.StageSFT, Tasks: 1, Works: true, Changed: []string{"inputs"}, USD: new(0.0), Seconds: new(400.0)},
		{Stage: schemas.StageGrade, Estimated: "unknown: a model is trained first, and no run tells what it takes"},
	})
	want := `stage    reused     to ask        from the journal  cost     time     changed
prompts  1/1 tasks  0             0                 -        -        
filter   0/8 tasks  20 to 40      300               $1.50    1m15s    params.threshold
curate   0/8 tasks  about 0       0                 $0.00    0.0s     inputs
sft      0/1 tasks  a GPU's work  -                 $0.00    6m40s    inputs
grade    -          unknown       -                 unknown  unknown  
curate is estimated: it follows from answers that aren't there yet
grade is estimated: unknown: a model is trained first, and no run tells what it takes
`
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(- want, + got)\n%s", d)
	}
}

func TestStartFromWantsOneOfThem(t *testing.T) {
	for _, args := range [][]string{{"start"}, {"start", "-", "--from", "first"}} {
		if code, _, stderr := transcript(t, &fakeServer{}, storedRun(t), args...); code != exitBadInput || !strings.Contains(stderr, "name either a file or a run") {
			t.Errorf("%v: exit code %d: %s", args, code, stderr)
		}
	}
}

func TestRefreshed(t *testing.T) {
	var spec schemas.RunSpec
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	if err := refreshed(&spec, []string{"filter"}, at); err != nil || spec.Refresh[schemas.StageFilter] != "2026-03-01T12:00:00Z" {
		t.Errorf("%v: %v", err, spec.Refresh)
	}
	if err := refreshed(&spec, []string{"filter=again"}, at); err != nil || spec.Refresh[schemas.StageFilter] != "again" {
		t.Errorf("%v: %v", err, spec.Refresh)
	}
	if err := refreshed(&spec, []string{"curate"}, at); schemas.KindOf(err) != schemas.InvalidInput {
		t.Errorf("got %v", err)
	}
}

func FuzzSettings(f *testing.F) {
	f.Add("filter.threshold=0.8")
	f.Add("prompts..imports=[")
	f.Fuzz(func(t *testing.T, setting string) {
		if spec, err := withSettings(schemas.RunSpec{Name: "x"}, []string{setting}); err == nil && spec.WithDefaults().Validate() != nil {
			t.Errorf("%q makes a spec that is not valid", setting)
		}
	})
}
