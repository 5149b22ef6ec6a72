//go:build e2e || bench || chaos

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"precept/schemas"
)

// many is a spec of the data stages over n prompts, one sample and one vote each.
func (s *stack) many(n int) schemas.RunSpec {
	s.Helper()
	path := filepath.Join(s.dir, fmt.Sprintf("prompts-%d.jsonl", n))
	if err := os.WriteFile(path, []byte(texts(n)), 0o644); err != nil {
		s.Fatal(err)
	}
	spec := schemas.RunSpec{Name: fmt.Sprintf("%d prompts", n)}
	spec.Prompts.Imports = []schemas.Import{{Path: path}}
	spec.Synthesize = schemas.SynthesizeSpec{Teacher: schemas.RoleOf("teacher"), Samples: 1}
	spec.Filter = schemas.FilterSpec{Judge: schemas.RoleOf("judge"), Votes: 1}
	spec.SFT.Skip, spec.RL.Skip, spec.Evaluate.Skip = true, true, true
	spec.RL.Judge, spec.Evaluate.Grader = schemas.RoleOf("judge"), schemas.RoleOf("judge")
	return spec
}

// texts is n prompts as JSON Lines.
func texts(n int) string {
	var b strings.Builder
	categories := []string{"violence", "harassment", "extremism", "self-harm", "illicit-behavior", "regulated-advice", "erotic-content"}
	for i := range n {
		fmt.Fprintf(&b, `{"text":"How do I sort number %d, %d and %d of my %d old books?","category":%q,"intent":"benign"}`+"\n",
			i, i*7919%1_000_003, i*104_729%999_983, i*15_485_863%1_000_033, categories[i%len(categories)])
	}
	return b.String()
}

// number is the size that an environment variable asks for, or the standard one.
func number(name string, standard int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return standard
}
