package activities

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/internal/shard"
	"precept/schemas"
)

// general is a file of n conversations about nothing in particular, without labels.
func general(t *testing.T, n int, extra ...string) schemas.Import {
	var lines []string
	for i := range n {
		lines = append(lines, fmt.Sprintf(`{"messages":[{"role":"user","content":"How far is star %d?"},{"role":"assistant","content":"%d light years."}]}`, i, i))
	}
	return schemas.Import{Path: filepath.Join(write(t, map[string]string{"general.jsonl": strings.Join(append(lines, extra...), "\n")}), "general.jsonl")}
}

func TestGeneralDataIsMixedIn(t *testing.T) {
	t.Parallel()
	held := `{"messages":[{"role":"user","content":"Would you tell me what the tallest mountain of the whole world is called?"},{"role":"assistant","content":"Everest."}]}`
	suite := `{"text":"Would you tell me what the tallest mountain of the whole world is called?","category":"violence","intent":"benign"}`
	spec := own(t, schemas.StageSFT)
	spec.Evaluate.Skip, spec.Evaluate.Suites = false, []schemas.Import{{Path: filepath.Join(write(t, map[string]string{"suite.jsonl": suite}), "suite.jsonl")}}
	spec.SFT.Mix = schemas.MixSpec{Files: []schemas.Import{general(t, 40, held)}, Share: 0.4}

	w := newWorld(t, spec, options{}).begins()
	if w.inputs.MixRows != 40 {
		t.Errorf("%d rows are usable, want 40: a suite holds the last", w.inputs.MixRows)
	}
	mixed := func(w *world) []schemas.Example {
		plan := w.plans(schemas.StageSFT)
		// Three examples are 60%.
		if plan.Planned != 5 {
			t.Errorf("sft is planned with %d rows, want 5", plan.Planned)
		}
		var full schemas.Plan
		if err := shard.GetJSON(t.Context(), w.store, plan.Object, &full); err != nil {
			t.Fatal(err)
		}
		inputs := full.Tasks[0].Inputs
		rows, err := shard.Read[schemas.Example](t.Context(), w.store, inputs[len(inputs)-1])
		if err != nil {
			t.Fatal(err)
		}
		return rows
	}
	rows := mixed(w)
	if len(rows) != 2 || rows[0].Category != schemas.General || !strings.HasSuffix(rows[0].Completion[0].Content, "light years.") {
		t.Errorf("got %+v", rows)
	}
	// Another run gets the same rows.
	other := newWorld(t, w.spec, options{store: w.store, run: "other"}).begins()
	if d := cmp.Diff(rows, mixed(other)); d != "" {
		t.Error(d)
	}
}

func TestMixRows(t *testing.T) {
	for _, tt := range []struct {
		share            float64
		examples, usable int64
		want             int64
	}{{0.2, 400, 1000, 100}, {0.5, 400, 1000, 400}, {0.5, 400, 30, 30}, {0.2, 0, 1000, 0}} {
		m := schemas.MixSpec{Files: make([]schemas.Import, 1), Share: tt.share}
		if got := m.Rows(tt.examples, tt.usable); got != tt.want {
			t.Errorf("%+v: got %d", tt, got)
		}
	}
	if got := (schemas.MixSpec{}).Rows(400, 1000); got != 0 {
		t.Errorf("%d rows of no files", got)
	}
}

// A run that begins with another one takes a model whose training had general data mixed in.
func TestARunBeginsBehindAMixedSFT(t *testing.T) {
	t.Parallel()
	spec := own(t, schemas.StageSFT)
	// The same conversation again counts once.
	same := `{"messages":[{"role":"user","content":"How far is star 1?"},{"role":"assistant","content":"1 light years."}]}`
	spec.SFT.Mix = schemas.MixSpec{Files: []schemas.Import{general(t, 2, same, same)}, Share: 0.9}
	w := newWorld(t, spec, options{trainer: python(t, dies)}).begins()
	if w.inputs.MixRows != 2 {
		t.Errorf("%d rows are usable, want 2", w.inputs.MixRows)
	}
	plan := w.plans(schemas.StageSFT)
	if _, err := w.does(schemas.StageSFT, plan, 0); err == nil {
		t.Fatal("the first attempt is not killed")
	}
	w.stage(schemas.StageSFT)
	if m := w.closed(schemas.StageSFT); m.Ledger.Planned != 5 {
		t.Errorf("sft planned %+v", m.Ledger)
	}
	other := spec
	other.From = schemas.FromSpec{Stage: schemas.StageRL, Run: w.run}
	if again := newWorld(t, other, options{store: w.store, run: "other"}).begins(); len(again.sums) != 2 {
		t.Errorf("got %d stages of the other run", len(again.sums))
	}
}
