package examples

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"precept/internal/config"
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
