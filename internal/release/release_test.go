package release

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"precept/internal/shard"
	"precept/schemas"
)

// weights is a file of safetensors that holds a word.
func weights(word string) string {
	head := `{"__metadata__":{"word":"` + word + `"}}`
	return string(binary.LittleEndian.AppendUint64(nil, uint64(len(head)))) + head
}

// files are those of a model that loads nowhere, but looks like one.
func files(word string) map[string]string {
	return map[string]string{
		"model.safetensors": weights(word), "config.json": `{"model_type":"llama"}`, "chat_template.jinja": "{{ messages }}",
		"tokenizer.json": `{"added_tokens":[],"model":{"vocab":{"a":1}}}`, "tokenizer_config.json": "{}",
	}
}

// stored puts a model into a store.
func stored(t *testing.T, s shard.Store, files map[string]string) schemas.Digest {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	digest, err := shard.PutFolder(t.Context(), s, dir, schemas.ModelPrefix)
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

func put(t *testing.T, s shard.Store, key string, v any) {
	t.Helper()
	if err := shard.PutJSON(t.Context(), s, key, v, shard.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

// run stores what a run leaves that has trained by sft and rl.
func run(t *testing.T, s shard.Store, id schemas.RunID) map[schemas.Arm]schemas.Digest {
	t.Helper()
	models := map[schemas.Arm]schemas.Digest{}
	for _, arm := range []schemas.Arm{schemas.ArmBase, schemas.ArmSFT, schemas.ArmRL} {
		models[arm] = stored(t, s, files(string(id)+string(arm)))
	}
	base := schemas.ModelRef{Digest: models[schemas.ArmBase], Base: "HuggingFaceTB/SmolLM2-135M-Instruct"}
	spec := schemas.RunSpec{Name: "The first"}.WithDefaults()
	for _, stage := range []schemas.Stage{schemas.StageSynthesize, schemas.StageFilter, schemas.StageCurate, schemas.StageSFT, schemas.StageRL} {
		plan := schemas.Plan{Run: id, Stage: stage, Spec: spec, Inputs: schemas.Inputs{Policy: "c0ffee", Simulated: []string{"sim-judge", "sim-teacher"}}}
		task := schemas.Task{Outputs: []schemas.Output{{Kind: "x"}}, Lineage: json.RawMessage(`{}`)}
		m := schemas.Manifest{Run: id, Stage: stage, Code: "abc1234", Plan: schemas.PlanRef{Object: schemas.PlanObject(id, stage)}, Ledger: schemas.Ledger{Kept: 42}}
		switch stage {
		case schemas.StageSynthesize:
			task.Lineage = json.RawMessage(`{"models":[{"identity":"simllm/sim-teacher@1"}]}`)
		case schemas.StageFilter:
			task.Lineage = json.RawMessage(`{"models":[{"identity":"simllm/sim-judge@1"}]}`)
		case schemas.StageSFT:
			task.Model, m.Model = &base, &schemas.ModelRef{Digest: models[schemas.ArmSFT], Base: base.Base}
		case schemas.StageRL:
			task.Model, m.Model = m.Model, &schemas.ModelRef{Digest: models[schemas.ArmRL], Base: base.Base}
			task.Lineage = json.RawMessage(`{"models":[{"identity":"` + string(models[schemas.ArmSFT]) + `"},{"identity":"simllm/sim-judge@1"}]}`)
		}
		plan.Tasks = []schemas.Task{task}
		put(t, s, schemas.PlanObject(id, stage), plan)
		put(t, s, schemas.ManifestObject(id, stage), m)
	}
	return models
}

func TestFind(t *testing.T) {
	s := shard.NewMemory()
	models := run(t, s, "first")
	put(t, s, schemas.PlanObject("fresh", schemas.StageSFT), schemas.Plan{Tasks: []schemas.Task{{Model: &schemas.ModelRef{Digest: models[schemas.ArmBase]}}}})
	rl := string(models[schemas.ArmRL])
	for _, tt := range []struct {
		name string
		want Model
		kind schemas.Kind
		says string
	}{
		{"first", Model{models[schemas.ArmRL], "first", schemas.ArmRL}, "", ""},
		{"first/base", Model{models[schemas.ArmBase], "first", schemas.ArmBase}, "", ""},
		{"first/sft", Model{models[schemas.ArmSFT], "first", schemas.ArmSFT}, "", ""},
		{rl, Model{Digest: models[schemas.ArmRL]}, "", ""},
		{rl[:12], Model{Digest: models[schemas.ArmRL]}, "", ""},
		{rl[:7], Model{}, schemas.NotFound, "no such run"},
		{strings.Repeat("0", 64), Model{}, schemas.NotFound, "no model of this digest"},
		{strings.Repeat("0", 12), Model{}, schemas.NotFound, "no model whose digest begins so"},
		{"second", Model{}, schemas.NotFound, "there is no such run"},
		{"fresh", Model{}, schemas.NotFound, "has trained no model yet: Its base is fresh/base"},
		{"fresh/rl", Model{}, schemas.NotFound, "the run's stage rl has made no model"},
	} {
		m, err := Find(t.Context(), s, tt.name)
		if schemas.KindOf(err) != tt.kind {
			t.Errorf("%s: got %v", tt.name, err)
			continue
		}
		if err != nil {
			if !strings.Contains(strings.ReplaceAll(err.Error(), ". ", ": "), tt.says) {
				t.Errorf("%s: got %v, want %q", tt.name, err, tt.says)
			}
			continue
		}
		if d := cmp.Diff(tt.want, m); d != "" {
			t.Errorf("%s (- want, + got):\n%s", tt.name, d)
		}
	}
}

// plain is a card that says nothing.
func plain(string) ([]byte, error) { return []byte("card"), nil }

func TestPull(t *testing.T) {
	s := shard.NewMemory()
	content := files("x")
	digest := stored(t, s, content)
	dir := filepath.Join(t.TempDir(), "a", "model")
	for i, found := range []bool{false, true} {
		p, err := Pull(t.Context(), s, digest, dir, plain, nil)
		if err != nil || p.Found != found || p.Card != CardName {
			t.Fatalf("pull %d: %+v, %v", i, p, err)
		}
		content[CardName] = "card"
		if d := cmp.Diff(content, read(t, dir)); d != "" {
			t.Errorf("pull %d: the folder (- want, + got):\n%s", i, d)
		}
		if left, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(left) != 1 {
			t.Errorf("pull %d leaves %v, %v", i, left, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Pull(t.Context(), s, digest, dir, plain, nil); schemas.KindOf(err) != schemas.InvalidInput || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("a folder of something else: got %v", err)
	}
}

func TestPullKeepsTheModelsOwnREADME(t *testing.T) {
	s := shard.NewMemory()
	content := files("x")
	content["README.md"] = "my own"
	dir := filepath.Join(t.TempDir(), "model")
	p, err := Pull(t.Context(), s, stored(t, s, content), dir, plain, nil)
	if err != nil || p.Card != OtherCardName {
		t.Fatalf("%+v, %v", p, err)
	}
	content[OtherCardName] = "card"
	if d := cmp.Diff(content, read(t, dir)); d != "" {
		t.Errorf("the folder (- want, + got):\n%s", d)
	}
}

// failing is a store that fails at a number of fetches, and counts them.
type failing struct {
	shard.Store
	fetches, at int
}

func (f *failing) GetFile(ctx context.Context, key, path string) (shard.Info, error) {
	if f.fetches++; f.fetches == f.at {
		return shard.Info{}, schemas.E("get", key, schemas.Unavailable, errors.New("cut off"))
	}
	return f.Store.GetFile(ctx, key, path)
}

func TestAPullThatIsInterruptedGoesOn(t *testing.T) {
	s := &failing{Store: shard.NewMemory(), at: 4}
	content := files("x")
	digest := stored(t, s.Store, content)
	dir := filepath.Join(t.TempDir(), "model")
	if _, err := Pull(t.Context(), s, digest, dir, plain, nil); schemas.KindOf(err) != schemas.Unavailable {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the folder is there before it is whole: %v", err)
	}
	// What a transfer leaves that is killed.
	parts, err := filepath.Glob(filepath.Join(filepath.Dir(dir), ".model.*.part"))
	if err != nil || len(parts) != 1 {
		t.Fatalf("%v, %v", parts, err)
	}
	if err := os.WriteFile(filepath.Join(parts[0], ".part-123"), []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.fetches, s.at = 0, 0
	if _, err := Pull(t.Context(), s, digest, dir, plain, nil); err != nil {
		t.Fatal(err)
	}
	if s.fetches != len(content)-3 {
		t.Errorf("%d files were fetched again, 3 were there of %d", s.fetches, len(content))
	}
	content[CardName] = "card"
	if d := cmp.Diff(content, read(t, dir)); d != "" {
		t.Errorf("the folder (- want, + got):\n%s", d)
	}
}

func TestPullRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, file, text string
		want             string
	}{
		{"a pickle", "pytorch_model.bin", "\x80\x04", "pytorch_model.bin: neither"},
		{"another pickle", "optimizer.pt", "\x80\x04", "optimizer.pt: neither"},
		{"code", "modeling_x.py", "import os", "modeling_x.py: neither"},
		{"a pickle as tensors", "model-2.safetensors", "\x80\x04\x95 and so on, for long enough", "model-2.safetensors: it isn't a file of safetensors"},
		{"a pickle as JSON", "extra.json", "\x80\x04", "extra.json: it isn't JSON"},
		{"a pickle as text", "merges.txt", "\x80\x04", "merges.txt: it isn't text"},
		{"a pickle as pieces", "tokenizer.model", "\x80\x04", "tokenizer.model: it isn't a tokenizer's"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := shard.NewMemory()
			content := files("x")
			content[tt.file] = tt.text
			dir := filepath.Join(t.TempDir(), "model")
			_, err := Pull(t.Context(), s, stored(t, s, content), dir, plain, nil)
			if schemas.KindOf(err) != schemas.InvalidInput || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("the folder is there: %v", err)
			}
			if left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), ".*", tt.file)); err != nil || len(left) > 0 {
				t.Errorf("it leaves %v, %v", left, err)
			}
		})
	}
	s := shard.NewMemory()
	if _, err := Pull(t.Context(), s, stored(t, s, map[string]string{"config.json": "{}"}), filepath.Join(t.TempDir(), "m"), plain, nil); err == nil || !strings.Contains(err.Error(), "no safetensors") {
		t.Errorf("a model without weights: got %v", err)
	}
}

func TestPullNoticesAnObjectThatWasChanged(t *testing.T) {
	s := shard.NewMemory()
	digest := stored(t, s, files("x"))
	if _, err := s.Put(t.Context(), schemas.ModelPrefix(digest)+"/model.safetensors", []byte(weights("y")), shard.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Pull(t.Context(), s, digest, filepath.Join(t.TempDir(), "m"), plain, nil); schemas.KindOf(err) != schemas.InvalidInput || !strings.Contains(err.Error(), "not what the model's index says") {
		t.Errorf("got %v", err)
	}
}

func read(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = string(raw)
	}
	return got
}

func TestCard(t *testing.T) {
	s := shard.NewMemory()
	models := run(t, s, "first")
	folder := t.TempDir()
	for name, text := range files("x") {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	card := func(m Model) string {
		t.Helper()
		c, err := CardOf(t.Context(), s, m)
		if err != nil {
			t.Fatal(err)
		}
		_, text, err := c.In(folder)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	has := func(text string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(text, part) {
				t.Errorf("the card lacks %q:\n%s", part, text)
			}
		}
	}
	rl := Model{models[schemas.ArmRL], "first", schemas.ArmRL}
	before := card(rl)
	has(before, "---\nlibrary_name: transformers\n", "base_model: HuggingFaceTB/SmolLM2-135M-Instruct\n---\n", "# The first: rl\n",
		"**Simulated, not language models**: `sim-judge`, `sim-teacher`.", "| weights | `"+string(rl.Digest)+"` |",
		"| base | `HuggingFaceTB/SmolLM2-135M-Instruct`, weights `"+string(models[schemas.ArmBase])+"` |", "| policy | `c0ffee` |", "| examples | 42 |",
		"| teacher | `simllm/sim-teacher@1` |", "| judge | `simllm/sim-judge@1`, the minimum of 3 votes at least 0.7 |", "| judge of rl | `simllm/sim-judge@1` |",
		"`sft`, seed 1, code `abc1234`, weights `"+string(models[schemas.ArmSFT])+"`", `"learning_rate": 0.00001`,
		"vllm serve . --served-model-name "+rl.Digest.Short()+" --load-format safetensors", "--reasoning-parser olmo3", "transformers serve . --continuous-batching",
		"No figures of these weights are known.")
	var front map[string]any
	if err := yaml.Unmarshal([]byte(strings.Split(before, "---\n")[1]), &front); err != nil {
		t.Fatal(err)
	}
	wantFront := map[string]any{
		"library_name": "transformers", "pipeline_tag": "text-generation", "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
		"tags": []any{"deliberative-alignment", "safety", "sft", "rl"},
	}
	if d := cmp.Diff(wantFront, front); d != "" {
		t.Errorf("the front matter (- want, + got):\n%s", d)
	}
	if d := cmp.Diff(before, card(Model{Digest: rl.Digest})); d != "" {
		t.Errorf("named by its digest, it has another card:\n%s", d)
	}
	if sft := card(Model{models[schemas.ArmSFT], "first", schemas.ArmSFT}); strings.Contains(sft, "judge of rl") || strings.Contains(sft, `"generations"`) {
		t.Errorf("the card of sft tells of rl:\n%s", sft)
	}
	if base := card(Model{models[schemas.ArmBase], "first", schemas.ArmBase}); strings.Contains(base, "Simulated") || strings.Contains(base, "base_model") || strings.Contains(base, "--reasoning-parser") {
		t.Errorf("the card of the base tells of training:\n%s", base)
	}
	has(card(Model{Digest: stored(t, s, files("a stranger"))}), "No run in the store says how this model was made.")

	// An evaluation that comes later changes the card, and nothing else.
	report := schemas.RunReport{
		Models: []schemas.ArmModel{{Arm: schemas.ArmRL, Model: schemas.ModelRef{Digest: rl.Digest}}},
		Evaluation: schemas.Evaluation{Grader: "test/grader@1", SameJudge: true, Measures: []schemas.Measure{
			{Name: schemas.MeasureNotUnsafe, Suite: "held-out", Arm: schemas.ArmRL, Intent: schemas.IntentHarmful, Hits: 9, N: 10, Value: 0.9, Low: 0.6, High: 0.98},
			{Name: schemas.MeasureNotUnsafe, Suite: "held-out", Arm: schemas.ArmSFT, N: 7777777},
		}},
	}
	put(t, s, schemas.RunObject("first", "report/report.json"), report)
	after := card(rl)
	has(after, "Graded by `test/grader@1`, **the model that also filtered or rewarded: the figures flatter**", "| not_unsafe | held-out | rl | harmful | 0.900 | 0.600 to 0.980 | 10 |")
	if strings.Contains(after, "7777777") {
		t.Error("another arm's figures are on the card")
	}
	if err := Put(t.Context(), s, "first"); err != nil {
		t.Fatal(err)
	}
	if raw, _, err := s.Get(t.Context(), "runs/first/report/card-rl.md"); err != nil || string(raw) != after {
		t.Errorf("the stored card is %q, %v", raw, err)
	}
	// A milestone was chosen in place of the last weights.
	best := stored(t, s, files("a milestone"))
	rlManifest := schemas.ManifestObject("first", schemas.StageRL)
	var m schemas.Manifest
	if err := shard.GetJSON(t.Context(), s, rlManifest, &m); err != nil {
		t.Fatal(err)
	}
	graded := schemas.Manifest{Model: &schemas.ModelRef{Digest: best}, Selection: &schemas.Selection{Step: 6}}
	put(t, s, schemas.ManifestObject("first", schemas.StageRLGrade), graded)
	if got, err := Find(t.Context(), s, "first"); err != nil || got.Digest != rl.Digest {
		t.Errorf("the choice of an earlier job counts: %v, %v", got, err)
	}
	last := m
	last.Milestones = []schemas.Milestone{{Step: 6, Model: *graded.Model}, {Step: 8, Model: *m.Model}}
	put(t, s, rlManifest, last)
	got, err := Find(t.Context(), s, "first")
	if err != nil || got.Digest != best {
		t.Errorf("the chosen milestone doesn't stand for the run: %v, %v", got, err)
	}
	has(card(got), "weights `"+string(best)+"` after step 6, the milestone that did best")
	if d := cmp.Diff(card(got), card(Model{Digest: best})); d != "" {
		t.Errorf("named by its digest, the milestone has another card:\n%s", d)
	}
	put(t, s, rlManifest, m)

	report.Models[0].Model.Digest = models[schemas.ArmSFT]
	put(t, s, schemas.RunObject("first", "report/report.json"), report)
	if got := card(rl); got != before {
		t.Errorf("figures of other weights are on the card:\n%s", got)
	}
}
