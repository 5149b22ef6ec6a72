package activities

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/internal/shard"
	"precept/internal/trainer"
	"precept/schemas"
)

// fetches is a stand-in for the trainer that fetches a base model, at a commit. It shows its
// environment.
const fetches = `
env > "$here/env-$3"
mkdir -p "$(field output)"
echo "weights of $(field source)@$(field revision)" > "$(field output)/model.safetensors"
echo "{\"event\":\"done\",\"path\":\"$(field output)\",\"commit\":\"c0ffee\"}"`

func TestABaseOfTheHub(t *testing.T) {
	t.Setenv("HF_TOKEN", "hush")
	t.Setenv("HF_ENDPOINT", "http://hub.test")
	t.Setenv("MY_TOKEN", "psst")
	c := python(t, fetches)
	w := newWorld(t, schemas.RunSpec{}, options{trainer: c})
	for range 2 {
		ref, err := w.base(t.Context(), "org/name@v1")
		if err != nil {
			t.Fatal(err)
		}
		if ref.Base != "org/name@v1" || ref.Commit != "c0ffee" {
			t.Errorf("got %+v", ref)
		}
		if got := objects(t, w.store, ref.Prefix+"/")[ref.Prefix+"/model.safetensors"]; got != "weights of org/name@v1\n" {
			t.Errorf("the stored model is %q", got)
		}
	}
	if n := attempts(t, c); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
	var job trainer.Base
	if err := json.Unmarshal([]byte(beside(t, c, "job-1.json")), &job); err != nil {
		t.Fatal(err)
	}
	if job.Source != "org/name" || job.Revision != "v1" {
		t.Errorf("the job is %+v", job)
	}
	env := beside(t, c, "env-base")
	if !strings.Contains(env, "\nHF_TOKEN=hush\n") || !strings.Contains(env, "HF_ENDPOINT=http://hub.test") || strings.Contains(env, "psst") {
		t.Errorf("the environment of the process that fetches is\n%s", env)
	}

	// Another variable may hold the token.
	w.config.Trainer.HubTokenEnv = "MY_TOKEN"
	if _, err := w.base(t.Context(), "org/name@v2"); err != nil {
		t.Fatal(err)
	}
	if env := beside(t, c, "env-base"); !strings.Contains(env, "\nHF_TOKEN=psst\n") || strings.Contains(env, "hush") {
		t.Errorf("the environment of the process that fetches is\n%s", env)
	}
	for _, name := range []string{"org/name@", "/nowhere/on/this/machine", "a/b/c", "org/../name"} {
		if _, err := w.base(t.Context(), name); schemas.KindOf(err) != schemas.InvalidInput || !strings.Contains(err.Error(), "OWNER/NAME@REVISION") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestNoTrainerSeesTheHubsToken(t *testing.T) {
	t.Setenv("HF_TOKEN", "hush")
	c := python(t, `env > "$here/env-$3"; echo '{"event":"start","total_steps":1,"rows":5}'; milestone 1; last=1; finish`)
	newWorld(t, imported(t, fivePrompts()...), options{trainer: c}).stages(append(dataStages, schemas.StageSFT)...)
	if env := beside(t, c, "env-sft"); strings.Contains(env, "hush") {
		t.Errorf("the trainer's environment is\n%s", env)
	}
}

func TestABaseOfPicklesIsRefused(t *testing.T) {
	w := newWorld(t, schemas.RunSpec{}, options{})
	_, err := w.base(t.Context(), write(t, map[string]string{"config.json": "{}", "pytorch_model.bin": "\x80\x04"}))
	if schemas.KindOf(err) != schemas.InvalidInput || !strings.Contains(err.Error(), "pytorch_model.bin. Convert it to safetensors first") {
		t.Errorf("got %v", err)
	}
	if left := objects(t, w.store, "models/"); len(left) != 0 {
		t.Errorf("it was stored: %v", left)
	}
}

func TestMirror(t *testing.T) {
	s := shard.NewMemory()
	put := func(name, text string) {
		t.Helper()
		if _, err := s.Put(t.Context(), "mirror/org/name/main/"+name, []byte(text), shard.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(t.TempDir(), "base")
	fetch := func() error {
		return mirror(t.Context(), s, "mirror/org/name/main/", "s3://b/mirror/org/name/main", dir)
	}
	if err := fetch(); schemas.KindOf(err) != schemas.InvalidInput || !strings.Contains(err.Error(), "nothing lies there") {
		t.Errorf("an empty mirror: got %v", err)
	}
	for name, text := range map[string]string{"config.json": "{}", "model.safetensors": "one", "sub/gone.txt": "x", "index.json": "another's"} {
		put(name, text)
	}
	check := func(want map[string]string) {
		t.Helper()
		got := map[string]string{}
		err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			raw, err := os.ReadFile(path)
			name, _ := filepath.Rel(dir, path)
			got[name] = string(raw)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("the folder (- want, + got):\n%s", d)
		}
	}
	if err := fetch(); err != nil {
		t.Fatal(err)
	}
	check(map[string]string{"config.json": "{}", "model.safetensors": "one", "sub/gone.txt": "x"})

	// Only what has changed is fetched again, and what is gone or was cut off goes.
	put("model.safetensors", "two")
	if err := s.Delete(t.Context(), "mirror/org/name/main/sub/gone.txt"); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{".part-1": "half", "config.json": "{ }"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := fetch(); err != nil {
		t.Fatal(err)
	}
	check(map[string]string{"config.json": "{ }", "model.safetensors": "two"}) // as it stayed the same at the source
}
