//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"net/http"
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

	var got schemas.Usage
	for _, stage := range report.Stages {
		t.Logf("%s: %s, %d calls, $%.4f", stage.Stage, stage.Ledger, stage.Usage.Paid, stage.Usage.USD)
		if err := stage.Ledger.Check(stage.Ledger.Planned); err != nil || stage.Ledger.Missing() > 0 {
			t.Errorf("stage %s: %s: %v", stage.Stage, stage.Ledger, err)
		}
		got.Add(stage.Usage)
	}
	billed := bill(t, url, endpoints)
	if got.Paid != billed.Paid || got.PromptTokens != billed.PromptTokens || got.CachedTokens != billed.CachedTokens ||
		got.CompletionTokens != billed.CompletionTokens || math.Abs(got.USD-billed.USD) > 1e-9 {
		t.Errorf("the run counts %+v, the endpoint %+v", got, billed)
	}
	if share := float64(billed.CachedTokens) / float64(billed.PromptTokens); share < 0.5 {
		t.Errorf("%.0f%% of the tokens read were cached", 100*share)
	}
	s.noKey(t, "hosted")
}

// bill is what an endpoint has counted, at the configured prices.
func bill(t *testing.T, url string, endpoints map[string]any) (u schemas.Usage) {
	t.Helper()
	resp, err := http.Get(url + "/ledger")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var ledger struct {
		ByModel map[string]struct {
			Paid             int64 `json:"paid"`
			PromptTokens     int64 `json:"prompt_tokens"`
			CachedTokens     int64 `json:"cached_tokens"`
			CompletionTokens int64 `json:"completion_tokens"`
		} `json:"by_model"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&ledger); err != nil {
		t.Fatal(err)
	}
	prices := map[string]map[string]any{}
	for _, e := range endpoints {
		e := e.(map[string]any)
		prices[e["model"].(string)] = e
	}
	for model, l := range ledger.ByModel {
		price := func(name string) float64 { return prices[model][name].(float64) / 1e6 }
		u.Add(schemas.Usage{
			Paid: l.Paid, PromptTokens: l.PromptTokens, CachedTokens: l.CachedTokens, CompletionTokens: l.CompletionTokens,
			USD: float64(l.PromptTokens-l.CachedTokens)*price("input_usd") + float64(l.CachedTokens)*price("cached_usd") + float64(l.CompletionTokens)*price("output_usd"),
		})
	}
	return u
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
