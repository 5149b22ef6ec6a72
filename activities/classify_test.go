package activities

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"precept/schemas"
)

// lines writes a file of JSON lines and returns its import.
func lines(t *testing.T, rows ...any) schemas.Import {
	t.Helper()
	var b strings.Builder
	for _, r := range rows {
		raw, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(raw, '\n'))
	}
	return schemas.Import{Path: filepath.Join(write(t, map[string]string{"wild.jsonl": b.String()}), "wild.jsonl")}
}

type row map[string]any

// mixed is a file of which some rows have labels.
func mixed(t *testing.T) schemas.RunSpec {
	spec := imported(t)
	in := lines(t,
		row{"text": "First, of violence, harmful"},
		row{"text": "Labelled", "category": "violence", "intent": "benign"},
		row{"text": "Of the weather"},
		row{"text": "split votes"},
		row{"text": "Half labelled, of violence, borderline", "category": "self-harm"},
		row{"text": "garbled"},
		row{"text": "Two of self-harm, benign"},
		row{"text": "first, of VIOLENCE, harmful"}, // a duplicate once both are classified
		row{"messages": []row{{"role": "assistant", "content": "Hello."}}},
	)
	in.Classify = true
	spec.Prompts.Imports = []schemas.Import{in}
	spec.Prompts.Classify = schemas.ClassifySpec{Judge: schemas.RoleOf("judge"), Check: 5}
	return spec
}

// labels scripts a judge that classifies by what told says, with exceptions.
func labels() func(question) *reply {
	var mu sync.Mutex
	votes := 0 // on what is split
	return func(q question) *reply {
		if !strings.HasPrefix(q.Messages[0].Content, "Role: classify\n") {
			return nil
		}
		switch text := q.Messages[1].Content; {
		case strings.Contains(text, "garbled"):
			return &reply{text: "hm"}
		case strings.Contains(text, "VIOLENCE"):
			return label("violence", "none", "harmful")
		case strings.Contains(text, "Two of"):
			return label("self-harm", "violence", "benign")
		case strings.Contains(text, "split votes"):
			mu.Lock()
			defer mu.Unlock()
			votes++
			return label([]string{"violence", "self-harm", "none"}[votes%3], "none", "benign")
		}
		return nil
	}
}

func TestRowsWithoutLabelsAreClassified(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	models.says(labels())
	w := newWorld(t, mixed(t), options{models: models}).stages(schemas.StageClassify, schemas.StagePrompts)
	if w.inputs.PromptRows != 9 || w.inputs.Unlabelled != 8 || w.inputs.Checks != 1 {
		t.Errorf("inputs: %+v", w.inputs)
	}
	want := []schemas.Ledger{
		ledger(4, map[schemas.Reason]int64{
			schemas.ReasonNoneOfThese: 1, schemas.ReasonUnclear: 1, schemas.ReasonMalformedVerdict: 1, schemas.ReasonEmpty: 1,
		}),
		ledger(4, map[schemas.Reason]int64{schemas.ReasonDuplicate: 1}),
	}
	want[0].Checked, want[0].Planned = 1, want[0].Planned+1
	for i, s := range w.sums {
		if d := cmp.Diff(want[i], s.Ledger); d != "" {
			t.Errorf("%s (- want, + got):\n%s", s.Stage, d)
		}
	}
	// What the workflow holds the plan of the next stage against.
	if planned := w.inputs.PromptRows - w.inputs.Unlabelled + w.sums[0].Ledger.Kept; planned != w.sums[1].Ledger.Planned {
		t.Errorf("prompts has %d rows, what came before makes %d", w.sums[1].Ledger.Planned, planned)
	}
	got := map[string]string{}
	for _, p := range rows[schemas.Prompt](w, schemas.StagePrompts, schemas.OutputPrompts) {
		got[p.Text()] = fmt.Sprintf("%s/%s/%s %s", p.Category, p.Second, p.Intent, p.Reason)
		if p.ID != schemas.PromptID(p.Category, p.Messages) {
			t.Errorf("%q has another ID", p.Text())
		}
	}
	if d := cmp.Diff(map[string]string{
		"First, of violence, harmful":            "violence//harmful ",
		"Labelled":                               "violence//benign ",
		"Half labelled, of violence, borderline": "self-harm//borderline ",
		"Two of self-harm, benign":               "self-harm/violence/benign ",
		"first, of VIOLENCE, harmful":            "violence//harmful duplicate", // the earlier one in the file stays
	}, got); d != "" {
		t.Errorf("prompts (- want, + got):\n%s", d)
	}
	check := w.closed(schemas.StageClassify).Check
	if check == nil || check.Category.N != 1 || check.Category.Agree != 0 || w.sums[0].Note == "" {
		t.Errorf("the check of the one labelled row: %+v, %q", check, w.sums[0].Note)
	}
}

func TestLabelsSurviveAnotherRun(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	models.says(labels())
	spec := mixed(t)
	stages := []schemas.Stage{schemas.StageClassify, schemas.StagePrompts}
	one := newWorld(t, spec, options{models: models}).stages(stages...)
	one.flush()
	models.take()
	spec.Prompts.Classify.Votes, spec.Prompts.Classify.Check = 5, 0
	two := newWorld(t, spec, options{models: models, store: one.store, run: "two"}).stages(stages...)
	// Two votes that agree are no majority of five: a third is asked for on five prompts.
	// On the one that none agree on all are; on the garbled one a third, which ends the
	// voting, and the request to repair it.
	if n := models.calls()["judge"]; n != 5+2+2 {
		t.Errorf("%d votes were asked for", n)
	}
	if d := cmp.Diff(one.sums[1].Ledger, two.sums[1].Ledger); d != "" {
		t.Errorf("the prompts differ:\n%s", d)
	}
}

func TestManyRowsAreClassifiedInChunks(t *testing.T) {
	t.Parallel()
	const n = classifyRows + 1
	all := make([]any, n)
	for i := range all {
		all[i] = row{"text": fmt.Sprintf("Number %d of violence, harmful with words of its own: %d %d", i, i*7919, i*104_729)}
	}
	spec := imported(t)
	in := lines(t, all...)
	in.Classify = true
	spec.Prompts.Imports = []schemas.Import{in}
	spec.Prompts.Classify = schemas.ClassifySpec{Judge: schemas.RoleOf("judge"), Votes: 1}
	w := newWorld(t, spec, options{}).imports()
	if results := w.stage(schemas.StageClassify); len(results) != 2 || results[0].Rows != classifyRows || results[1].Rows != 1 {
		t.Errorf("tasks: %+v", results)
	}
	w.stage(schemas.StagePrompts)
	if d := cmp.Diff(ledger(n, nil), w.sums[1].Ledger); d != "" {
		t.Error(d)
	}
}

func TestARunGoesOnWithoutLabelsThatFailed(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	usual := labels()
	models.says(func(q question) *reply {
		if strings.Contains(q.Messages[1].Content, "First, of") {
			return &reply{status: 400, text: "no"}
		}
		return usual(q)
	})
	w := newWorld(t, mixed(t), options{models: models}).imports()
	plan := w.plans(schemas.StageClassify)
	request := TaskRequest{Run: w.run, Stage: schemas.StageClassify, Plan: plan, Index: 0}
	if _, err := call[schemas.TaskResult](w, w.Classify, request); err == nil {
		t.Fatal("a row that failed was passed over")
	}
	request.MayMiss = 1
	if _, err := call[schemas.TaskResult](w, w.Classify, request); err != nil {
		t.Fatal(err)
	}
	w.stage(schemas.StageClassify)
	w.stage(schemas.StagePrompts)
	if l := w.sums[0].Ledger; l.Missing() != 1 || l.Kept != 3 {
		t.Errorf("classify: %v", l)
	}
	if l := w.sums[1].Ledger; l.Kept != 4 || l.Planned != 4 {
		t.Errorf("prompts: %v", l)
	}
}

func TestChecksAreComparedWithTheirLabels(t *testing.T) {
	t.Parallel()
	var all []prompt
	for i := range 20 {
		said := []string{"violence, harmful", "self-harm, benign"}[i%2]
		p := prompt{Category: "violence", Intent: schemas.IntentHarmful, Text: fmt.Sprintf("%d of %s, as it says", i, said)}
		if i%2 == 1 && i != 1 { // the first of them is labelled otherwise
			p.Category, p.Intent = "self-harm", schemas.IntentBenign
		}
		all = append(all, p)
	}
	spec := imported(t, all...)
	spec.Prompts.Classify = schemas.ClassifySpec{Judge: schemas.RoleOf("judge"), Check: 50}
	w := newWorld(t, spec, options{}).stages(schemas.StageClassify, schemas.StagePrompts)
	want := &schemas.LabelCheck{
		Category: schemas.LabelFigure{N: 20, Agree: 19, Kappa: new(0.9)}, Intent: schemas.LabelFigure{N: 20, Agree: 19, Kappa: new(0.9)},
		ByCategory: map[schemas.Category]schemas.CategoryCheck{"violence": {Labelled: 11, Told: 10, Agree: 10}, "self-harm": {Labelled: 9, Told: 10, Agree: 9}},
	}
	if d := cmp.Diff(want, w.closed(schemas.StageClassify).Check, cmpopts.EquateApprox(0, 1e-9)); d != "" {
		t.Errorf("(- want, + got):\n%s", d)
	}
	if l := w.sums[1].Ledger; l.Planned != 20 {
		t.Errorf("prompts: %v", l)
	}
	// The judge saw none of the labels: one that it could copy would stand before the prompt.
	for _, l := range rows[schemas.Label](w, schemas.StageClassify, schemas.OutputChecks) {
		if l.Reason != schemas.ReasonCheck || len(l.Votes) != 2 {
			t.Errorf("a check: %+v", l)
		}
	}
}

func TestUnusableConversationsAreRejected(t *testing.T) {
	t.Parallel()
	turns := func(words ...string) (out []row) {
		for i, w := range words {
			out = append(out, row{"role": []string{"user", "assistant"}[i%2], "content": w, "toxic": false})
		}
		return out
	}
	spec := imported(t)
	in := lines(t,
		row{"conversation": turns("One?", "Yes.", "And then?", "That."), "language": "English"},
		row{"conversations": []row{{"from": "human", "value": "Two?"}, {"from": "gpt", "value": "No."}}},
		row{"conversation": turns(" ", "What?")},
		row{"conversation": []row{{"role": "tool", "content": "x"}}},
		row{"conversation": turns("Three is quite a long one?")},
		row{"conversation": turns("Four?")},
	)
	in.Category, in.Intent, in.MaxChars = "violence", schemas.IntentBenign, 20
	spec.Prompts.Imports = []schemas.Import{in}
	w := newWorld(t, spec, options{}).stages(schemas.StagePrompts)
	want := ledger(3, map[schemas.Reason]int64{schemas.ReasonEmpty: 1, schemas.ReasonMalformed: 1, schemas.ReasonTooLong: 1})
	if d := cmp.Diff(want, w.sums[0].Ledger); d != "" {
		t.Errorf("(- want, + got):\n%s", d)
	}

	// A file of which no row can be used is taken for another one.
	spec.Prompts.Imports[0].MaxChars = 3
	w = newWorld(t, spec, options{})
	_, err := call[schemas.InputsRef](w, w.Import, ImportRequest{Run: w.run, Spec: w.spec})
	if f := failure(t, err); f.Type() != string(schemas.InvalidInput) || !strings.Contains(f.Message(), ".jsonl: none of its rows can be used; row 1: has more than 3 characters in its last turn. Name the column") {
		t.Errorf("got %v", err)
	}
}

// TestARowWithoutATextIsRejected: it ends up in the ledger, not the run, and the run's notes
// say which one it is.
func TestARowWithoutATextIsRejected(t *testing.T) {
	t.Parallel()
	spec := imported(t)
	in := lines(t, row{"text": "One?"}, row{"text": "  "}, row{"text": "Two?"}, row{"text": 3})
	in.Category, in.Intent = "violence", schemas.IntentBenign
	spec.Prompts.Imports = []schemas.Import{in}
	w := newWorld(t, spec, options{}).stages(schemas.StagePrompts)
	want := ledger(2, map[schemas.Reason]int64{schemas.ReasonEmpty: 1, schemas.ReasonMalformed: 1})
	if d := cmp.Diff(want, w.sums[0].Ledger); d != "" {
		t.Errorf("(- want, + got):\n%s", d)
	}
	if d := cmp.Diff([]string{in.Path + `: 2 of 4 rows can't be used and are rejected; the first is row 2: column "text" is empty`}, w.inputs.Notes); d != "" {
		t.Error(d)
	}
	spec.Evaluate = schemas.EvaluateSpec{Suites: []schemas.Import{in}, Grader: schemas.RoleOf("grader")}
	w = newWorld(t, spec, options{})
	_, err := call[schemas.InputsRef](w, w.Import, ImportRequest{Run: w.run, Spec: w.spec})
	if f := failure(t, err); f.Type() != string(schemas.InvalidInput) || !strings.HasSuffix(f.Message(), `.jsonl: row 2: column "text" is empty`) {
		t.Errorf("a suite must be whole: %v", err)
	}
}

func TestImportRefusesWhatCannotBeClassified(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*schemas.RunSpec)
		want   string
	}{
		{"not asked for", func(s *schemas.RunSpec) { s.Prompts.Imports[0].Classify = false }, `"classify": true`},
		{"a category of others", func(s *schemas.RunSpec) { s.Prompts.Imports[0].Columns = map[string]string{"category": "text"} }, `"columns": {"category": ""}`},
		{"no such judge", func(s *schemas.RunSpec) { s.Prompts.Classify.Judge = schemas.RoleOf("nobody") }, "prompts.classify.judge"},
		{"no such category", func(s *schemas.RunSpec) {
			s.Prompts.Generate = schemas.GenerateSpec{Per: 1, Teacher: schemas.RoleOf("teacher"), Categories: []schemas.Category{"weather"}}
		}, `no category "weather"`},
		{"no such teacher", func(s *schemas.RunSpec) {
			s.Prompts.Generate = schemas.GenerateSpec{Per: 1, Teacher: schemas.RoleOf("nobody")}
		}, "prompts.generate.teacher"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spec := mixed(t)
			tt.change(&spec)
			w := newWorld(t, spec, options{})
			_, err := call[schemas.InputsRef](w, w.Import, ImportRequest{Run: w.run, Spec: w.spec})
			if f := failure(t, err); f.Type() != string(schemas.InvalidInput) || !strings.Contains(f.Message(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	spec := mixed(t)
	spec.Prompts.Imports[0].Columns = map[string]string{"category": ""}
	if w := newWorld(t, spec, options{}).imports(); w.inputs.Unlabelled != 9 {
		t.Errorf("with the file's categories left out, %d rows have no label", w.inputs.Unlabelled)
	}
}
