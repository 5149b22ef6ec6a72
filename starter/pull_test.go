package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/internal/shard"
	"precept/schemas"
)

// storedModel puts what looks like a model into a store. Models of other words are others.
func storedModel(t *testing.T, s shard.Store, word string) schemas.Digest {
	t.Helper()
	head := `{"__metadata__":{"word":"` + word + `"}}`
	dir := files(t, map[string]string{
		"model.safetensors": string(binary.LittleEndian.AppendUint64(nil, uint64(len(head)))) + head,
		"config.json":       `{"model_type":"llama"}`,
		"tokenizer.json":    `{"added_tokens":[],"model":{"vocab":{"a":1}}}`,
	})
	digest, err := shard.PutFolder(t.Context(), s, dir, schemas.ModelPrefix)
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// trainedRun is a run that has trained two models, of a simulated teacher.
func trainedRun(t *testing.T, s shard.Store, run schemas.RunID) (sft, rl schemas.Digest) {
	t.Helper()
	base := storedModel(t, s, "base")
	sft, rl = storedModel(t, s, "sft"), storedModel(t, s, "rl")
	for stage, digest := range map[schemas.Stage]schemas.Digest{schemas.StageSFT: sft, schemas.StageRL: rl} {
		object := schemas.PlanObject(run, stage)
		put(t, s, object, schemas.Plan{
			Run: run, Stage: stage, Spec: schemas.RunSpec{Name: "My run"}.WithDefaults(), Inputs: schemas.Inputs{Simulated: []string{"sim-teacher"}},
			Tasks: []schemas.Task{{Model: &schemas.ModelRef{Digest: base, Base: "org/base"}}},
		})
		put(t, s, schemas.ManifestObject(run, stage), schemas.Manifest{
			Run: run, Stage: stage, Plan: schemas.PlanRef{Object: object}, Model: &schemas.ModelRef{Digest: digest, Base: "org/base"},
		})
	}
	return sft, rl
}

func TestPull(t *testing.T) {
	store := shard.NewMemory()
	sft, rl := trainedRun(t, store, "my-run")
	t.Chdir(t.TempDir())
	code, out, stderr := transcript(t, nil, store, "pull", "my-run", "model")
	want := "my-run/rl (" + rl.Short() + `), 105 B: model fetched and verified
Simulated, not real models: sim-teacher
Its card: model/README.md
Serve it with: starter serve my-run
Or: cd model && vllm serve . --served-model-name ` + rl.Short() + ` --load-format safetensors --generation-config vllm --enable-prompt-tokens-details --reasoning-parser olmo3 --host 127.0.0.1 --port 8000
`
	if d := cmp.Diff(want, out); code != exitOK || d != "" {
		t.Errorf("exit code %d: %s%s", code, stderr, d)
	}
	if d := cmp.Diff("   22 B  config.json\n   38 B  model.safetensors\n   45 B  tokenizer.json\n", stderr); d != "" {
		t.Error(d)
	}
	card, err := os.ReadFile(filepath.Join("model", "README.md"))
	if err != nil || !strings.Contains(string(card), "base_model: org/base") {
		t.Errorf("%v: %s", err, card)
	}

	code, out, _ = transcript(t, nil, store, "pull", "my-run", "model")
	if code != exitOK || !strings.Contains(out, "model was there already, and is whole") {
		t.Errorf("exit code %d: %s", code, out)
	}
	code, _, stderr = transcript(t, nil, store, "pull", string(sft), "model")
	if code != exitBadInput || !strings.Contains(stderr, "the folder is there and isn't this model: model.safetensors. Name a folder that isn't there yet.") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	code, _, stderr = transcript(t, nil, store, "pull", "other-run", "other")
	if code != exitError || stderr != "starter: find model other-run: there is no such run, or it has no model yet. Name a run as RUN, RUN/base, RUN/sft or RUN/rl, or a model by its digest.\n" {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	code, out, _ = transcript(t, nil, store, "pull", "my-run/sft", "sft", "--json")
	if code != exitOK || !strings.Contains(out, `"reasoning_parser": "olmo3"`) || !strings.Contains(out, `"folder": "sft"`) {
		t.Errorf("exit code %d: %s", code, out)
	}
}
