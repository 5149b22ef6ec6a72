package examples

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"precept/internal/calibrate"
	"precept/internal/config"
	"precept/internal/policy"
	"precept/internal/prompts"
	"precept/policies"
	"precept/schemas"
)

func TestSpecsAreValid(t *testing.T) {
	files, err := filepath.Glob("*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no example specs: %v", err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var spec schemas.RunSpec
		if err := json.Unmarshal(raw, &spec); err != nil {
			t.Errorf("%s: %v", file, err)
		} else if err := spec.WithDefaults().Validate(); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestWorkerConfigurationsAreValid(t *testing.T) {
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no example configurations: %v", err)
	}
	for _, file := range files {
		c, err := config.Load(file)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		for _, role := range []string{"teacher", "judge", "grader"} {
			if _, ok := c.Endpoints[role]; !ok {
				t.Errorf("%s: no endpoint %q, which examples/openai.json names", file, role)
			}
		}
	}
}

// TestLabelsAreOfThePolicy: the labelled answers can be calibrated on as they are.
func TestLabelsAreOfThePolicy(t *testing.T) {
	const name = "labels/answers.jsonl"
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	pol, err := policy.Load(policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	good, bad := map[schemas.Category]int{}, map[schemas.Category]int{}
	for row, err := range prompts.ScanLabelled(name, f, info.Size(), schemas.Import{}, []string{"label"}) {
		if err != nil {
			t.Fatal(err)
		}
		if row.CoT == "" || len(row.Labels) != 1 {
			t.Errorf("%q lacks chain of thought or label", row.Text())
			continue
		}
		if row.Labels[0].Score >= calibrate.GoodLabel {
			good[row.Category]++
		} else {
			bad[row.Category]++
		}
	}
	for _, c := range pol.Categories() {
		if good[c] < 2 || bad[c] < 2 {
			t.Errorf("%s: %d good and %d bad answers", c, good[c], bad[c])
		}
	}
	if len(good) != len(pol.Categories()) {
		t.Errorf("answers of %d categories, the policy has %d", len(good), len(pol.Categories()))
	}
}
