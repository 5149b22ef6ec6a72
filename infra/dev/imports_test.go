package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The import rule must find what it is there for, in a module of the same shape.
func TestImportRule(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	depguard := filepath.Join(root, binDir, "depguard")
	if !exists(depguard) {
		t.Skip("depguard is not built; make lint builds it")
	}
	rule, err := os.ReadFile(filepath.Join(root, ".depguard.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		from, to string
		allowed  bool
	}{
		{"starter", "workflows", true},
		{"worker", "activities", true},
		{"worker", "internal/llm", true},
		{"workflows", "activities", true},
		{"workflows", "schemas", true},
		{"activities", "internal/llm", true},
		{"internal/judge", "internal/llm", true},
		{"internal/judge", "schemas", true},
		{"infra/simllm", "internal/policy", true},
		{"schemas", "internal/llm", false},
		{"internal/llm", "activities", false},
		{"internal/llm", "workflows", false},
		{"activities", "workflows", false},
		{"workflows", "worker", false},
		{"workflows", "internal/llm", false},
		{"internal/llm", "infra/simllm", false},
	} {
		t.Run(test.from+" imports "+test.to, func(t *testing.T) {
			dir := t.TempDir()
			write := func(path, text string) {
				path = filepath.Join(dir, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			write("go.mod", "module precept\n\ngo 1.26\n")
			write(".depguard.yaml", string(rule))
			write(filepath.Join(test.to, "to.go"), "package to\n")
			write(filepath.Join(test.from, "from.go"), "package from\n\nimport _ \"precept/"+test.to+"\"\n")
			cmd := exec.Command(depguard, "./"+test.from)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			switch {
			case test.allowed && err != nil:
				t.Errorf("refused: %s", out)
			case !test.allowed && (err == nil || !strings.Contains(string(out), "not allowed")):
				t.Errorf("allowed: %v %s", err, out)
			}
		})
	}
}
