//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"precept/schemas"
)

// hostedKey is the key of the hosted endpoint.
const hostedKey = "sk-hosted-9f27c1d0a4"

// TestHosted runs examples/openai.json with examples/worker.openai.yaml, where the
// simulation poses as the hosted endpoint: it wants a key, tells its limits and is paid.
func TestHosted(t *testing.T) {
	const rpm, tpm = 12_000, 60_000_000
	s := newStack(t)
	port := freePort(t)
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	s.start("hosted", s.bin("simllm"), "--listen", fmt.Sprintf("127.0.0.1:%d", port), "--api-key", hostedKey,
		"--serve-as", "gpt-4.1", "--serve-as", "gpt-4o", "--rpm", fmt.Sprint(rpm), "--tpm", fmt.Sprint(tpm))
	s.await("the hosted endpoint", time.Minute, func() bool { return up(url + "/health") })

	var config map[string]any
	s.example("worker.openai.yaml", &config)
	config["store"], config["trainer"] = s.config["store"], s.config["trainer"]
	endpoints := config["endpoints"].(map[string]any)
	for name, e := range endpoints {
		e := e.(map[string]any)
		if !strings.HasPrefix(e["base_url"].(string), "https://") {
			t.Errorf("%s is not hosted: %v", name, e["base_url"])
		}
		e["base_url"], e["rpm"] = url+"/v1", rpm // the example's are a small account's
	}
	s.config = config
	s.env = append(s.env, "OPENAI_API_KEY="+hostedKey)
	s.worker("worker", "factory,llm")

	var spec schemas.RunSpec
	s.example("openai.json", &spec)
	spec.Prompts.Imports = []schemas.Import{{Path: filepath.Join(s.root, "examples/prompts/*.jsonl")}}
	spec.Prompts.Limit, spec.Until, spec.Gates = 8, schemas.StageCurate, schemas.GatesSpec{}
	report := s.report(s.startRun("hosted", spec), 5*time.Minute)
	if report.State != schemas.StateCompleted {
		t.Fatalf("the run ended as %q: %s", report.State, report.Note)
	}
	if len(report.Simulated) > 0 {
		t.Errorf("simulated: %v", report.Simulated)
	}

	for _, stage := range report.Stages {
		t.Logf("%s: %s, %d calls, $%.4f", stage.Stage, stage.Ledger, stage.Usage.Paid, stage.Usage.USD)
		if err := stage.Ledger.Check(stage.Ledger.Planned); err != nil || stage.Ledger.Missing() > 0 {
			t.Errorf("stage %s: %s: %v", stage.Stage, stage.Ledger, err)
		}
	}
	billed := billOf(t, url, endpoints)
	if got := accounted(report); bare(got) != billed {
		t.Errorf("the run counts %+v, the endpoint %+v", got, billed)
	}
	if share := float64(billed.CachedTokens) / float64(billed.PromptTokens); share < 0.5 {
		t.Errorf("%.0f%% of the tokens read were cached", 100*share)
	}
	s.noKey(t, "hosted")
}

// noKey looks for the key in all that a run leaves: objects, logs and history.
func (s *stack) noKey(t *testing.T, run string) {
	t.Helper()
	history := s.temporal("workflow", "show", "-w", run, "--output", "json")
	if strings.Contains(history, hostedKey) {
		t.Error("the key stands in the history")
	}
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err == nil && bytes.Contains(raw, []byte(hostedKey)) {
			t.Errorf("the key stands in %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// example reads a file of examples, as it is.
func (s *stack) example(name string, into any) {
	s.Helper()
	raw, err := os.ReadFile(filepath.Join(s.root, "examples", name))
	if err != nil {
		s.Fatal(err)
	}
	if err := yaml.Unmarshal(bytes.ReplaceAll(raw, []byte("${PRECEPT_S3_PORT:-7070}"), []byte("0")), into); err != nil {
		s.Fatal(err)
	}
}
