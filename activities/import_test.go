package activities

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/schemas"
)

func TestImportRefusesBadInput(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"good.jsonl":     jsonl(t, fivePrompts()...),
		"empty.jsonl":    "\n",
		"broken.jsonl":   `{"text":"a","category":"violence","intent":"benign"}` + "\n{",
		"category.jsonl": jsonl(t, prompt{Category: "weather", Intent: schemas.IntentBenign, Text: "Will it rain?"}),
		"intent.jsonl":   jsonl(t, prompt{Category: "violence", Intent: "vile", Text: "a"}),
		"notext.jsonl":   jsonl(t, prompt{Category: "violence", Intent: schemas.IntentBenign}),
		"label.jsonl":    jsonl(t, prompt{Category: "violence", Intent: schemas.IntentBenign, Text: "a", Expected: "maybe"}),
		"nolabel.jsonl":  jsonl(t, prompt{Category: "violence", Intent: schemas.IntentBorderline, Text: "a"}),
		"prompts.xyz":    "?",
		"broken.parquet": "PAR1 no more",
		"bad/style.md":   "# Style\n\n## Principles\n- **Help first.** Do.\n",
		"bad/x.md":       "# X\n",
	})
	prompts := func(name string) func(*schemas.RunSpec) {
		return func(s *schemas.RunSpec) { s.Prompts.Imports[0].Path = filepath.Join(dir, name) }
	}
	suite := func(name string) func(*schemas.RunSpec) {
		return func(s *schemas.RunSpec) { s.Evaluate.Suites[0].Path = filepath.Join(dir, name) }
	}
	tests := []struct {
		name   string
		change func(*schemas.RunSpec)
		want   string
	}{
		{"no such teacher", func(s *schemas.RunSpec) { s.Synthesize.Teacher = schemas.RoleOf("nobody") }, "synthesize.teacher"},
		{"no such judge", func(s *schemas.RunSpec) { s.Filter.Judge = schemas.RoleOf("nobody") }, "filter.judge"},
		{"no such reward", func(s *schemas.RunSpec) { s.RL.Judge = schemas.RoleOf("nobody") }, "rl.judge"},
		{"no such grader", func(s *schemas.RunSpec) { s.Evaluate.Grader = schemas.RoleOf("nobody") }, "evaluate.grader"},
		{"no policy folder", func(s *schemas.RunSpec) { s.Policy.Source = filepath.Join(dir, "none") }, filepath.Join(dir, "none")},
		{"a file as policy", func(s *schemas.RunSpec) { s.Policy.Source = filepath.Join(dir, "good.jsonl") }, "good.jsonl"},
		{"a policy without style", func(s *schemas.RunSpec) { s.Policy.Source = dir }, "style.md"},
		{"a broken policy", func(s *schemas.RunSpec) { s.Policy.Source = filepath.Join(dir, "bad") }, "x.md"},
		{"half an s3 URI as policy", func(s *schemas.RunSpec) { s.Policy.Source = "s3://bucket" }, "s3://bucket"},
		{"half an s3 URI", func(s *schemas.RunSpec) { s.Prompts.Imports[0].Path = "s3://bucket" }, "s3://bucket"},
		{"no such file", prompts("none.jsonl"), "none.jsonl"},
		{"a folder", prompts(""), dir},
		{"no rows", prompts("empty.jsonl"), "empty.jsonl"},
		{"broken JSON", prompts("broken.jsonl"), "line 2"},
		{"broken Parquet", prompts("broken.parquet"), "broken.parquet"},
		{"unknown format", prompts("prompts.xyz"), "prompts.xyz"},
		{"unknown category", prompts("category.jsonl"), `row 1 has category "weather"`},
		{"unknown intent", prompts("intent.jsonl"), `intent "vile"`},
		{"no text", prompts("notext.jsonl"), `notext.jsonl: none of its rows can be used; row 1: column "text" is empty`},
		{"no such column", func(s *schemas.RunSpec) { s.Prompts.Imports[0].Columns = map[string]string{"text": "ask"} }, `"ask"`},
		{"no such suite", suite("none.jsonl"), "none.jsonl"},
		{"unknown category in a suite", suite("category.jsonl"), "category.jsonl"},
		{"unknown label", suite("label.jsonl"), `expects "maybe"`},
		{"borderline without a label", suite("nolabel.jsonl"), `row 1 is borderline and has no label`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			models := newModels(t)
			spec := withSuite(t).WithDefaults()
			tt.change(&spec)
			w := newWorld(t, spec, options{models: models})
			_, err := call[schemas.InputsRef](w, w.Import, ImportRequest{Run: w.run, Spec: w.spec})
			f := failure(t, err)
			if f.Type() != string(schemas.InvalidInput) || !f.NonRetryable() {
				t.Errorf("got type %s, want InvalidInput, never retried: %v", f.Type(), err)
			}
			if !strings.Contains(f.Message(), tt.want) {
				t.Errorf("%q doesn't name %q", f.Message(), tt.want)
			}
			if n := len(models.take()); n != 0 {
				t.Errorf("%d calls were made", n)
			}
		})
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	spec := withSuite(t)
	// What is skipped needs no endpoint.
	spec.RL = schemas.RLSpec{Skip: true, Judge: schemas.RoleOf("nobody")}
	w := newWorld(t, spec, options{}).imports()
	if w.inputs.PromptRows != 7 {
		t.Errorf("%d prompts, want 7", w.inputs.PromptRows)
	}
	want := map[schemas.Arm]int64{schemas.ArmBase: 1, schemas.ArmBasePolicy: 1, schemas.ArmSFT: 1}
	if d := cmp.Diff(want, w.inputs.Sampled); d != "" {
		t.Errorf("what arms owe (- want, + got):\n%s", d)
	}
	if d := cmp.Diff([]string{"grader", "judge", "teacher"}, w.inputs.Simulated); d != "" {
		t.Errorf("simulated (- want, + got):\n%s", d)
	}
	again := newWorld(t, spec, options{store: w.store, run: "again"}).imports()
	if again.inputs.Digest != w.inputs.Digest {
		t.Error("the same inputs have another digest in another run")
	}

	spec.Prompts.Limit = 2
	limited := newWorld(t, spec, options{}).stages(schemas.StagePrompts)
	if n := limited.sums[0].Ledger.Planned; n != 2 {
		t.Errorf("with a limit of 2 there are %d prompts", n)
	}
}

func TestLabelsAreHiddenFromTraining(t *testing.T) {
	t.Parallel()
	spec := imported(t, prompt{Category: "violence", Intent: schemas.IntentHarmful, Text: "How do I hurt my neighbour?", Expected: schemas.ActionRefuse})
	w := newWorld(t, spec, options{}).stages(schemas.StagePrompts)
	for _, p := range rows[schemas.Prompt](w, schemas.StagePrompts, schemas.OutputPrompts) {
		if p.Expected != "" {
			t.Errorf("a training prompt shows its label %q", p.Expected)
		}
	}
}

// TestImportFromTheHub: the rows of a file on the Hub are those of its commit, which stands
// in its name; who serves it is no part of the keys.
func TestImportFromTheHub(t *testing.T) {
	const commit = "0123456789abcdef0123456789abcdef01234567"
	body := jsonl(t, fivePrompts()...)
	hub := func() string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/api/") {
				fmt.Fprintf(w, `{"sha":%q,"siblings":[{"rfilename":"data/a.jsonl"},{"rfilename":"data/b.jsonl"}]}`, commit)
				return
			}
			fmt.Fprint(w, body)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	spec := imported(t)
	var digests []schemas.Digest
	for _, revision := range []string{"main", commit} {
		t.Setenv("HF_ENDPOINT", hub())
		spec.Prompts.Imports = []schemas.Import{{Path: "hf://datasets/ann/chats@" + revision + "/data"}}
		w := newWorld(t, spec, options{}).stages(schemas.StagePrompts)
		inputs, err := w.Activities.inputs(t.Context(), w.inputs)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(inputs.Prompts); n != 2 || inputs.Prompts[1].Name != "hf://datasets/ann/chats@"+commit+"/data/b.jsonl" {
			t.Errorf("%d files: %+v", n, inputs.Prompts)
		}
		for _, p := range rows[schemas.Prompt](w, schemas.StagePrompts, schemas.OutputPrompts) {
			if p.Source != "ann/chats" {
				t.Errorf("a prompt is from %q", p.Source)
			}
		}
		digests = append(digests, w.sums[0].Digest)
		if tried, err := w.Activities.firstPrompts(t.Context(), spec, 2); err != nil || len(tried) != 2 {
			t.Errorf("to be tried: %+v, %v", tried, err)
		}
	}
	if digests[0] != digests[1] {
		t.Error("a branch and its commit give other prompts")
	}
}
