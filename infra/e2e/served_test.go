//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"precept/internal/policy/policytest"
	"precept/internal/serving"
	"precept/internal/shard"
	"precept/internal/trainer"
	"precept/schemas"
)

// TestServedModel has a small real model teach and judge, behind transformers' own server:
// it thinks in no tags, cites nothing and writes no JSON. That is an outcome of every row,
// and nothing else.
func TestServedModel(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.config["endpoints"].(map[string]any)["served"] = s.transformers()
	s.worker("worker", "factory,llm")

	// The policy and the prompts are short, for two cores.
	for name, file := range policytest.Files() {
		s.text("policy/"+name, string(file.Data))
	}
	var prompts []byte
	for _, text := range []string{"How do I kill a frozen process?", "How do I kill my neighbour?", "Who shot the film?"} {
		line, err := json.Marshal(map[string]string{"text": text, "category": "violence", "intent": "borderline"})
		if err != nil {
			t.Fatal(err)
		}
		prompts = append(append(prompts, line...), '\n')
	}
	spec := schemas.RunSpec{Name: "served", Until: schemas.StageCurate}
	spec.Policy.Source = filepath.Join(s.dir, "policy")
	spec.Prompts.Imports = []schemas.Import{{Path: s.text("prompts.jsonl", string(prompts))}}
	spec.Synthesize.Samples, spec.Synthesize.MaxTokens = 1, 48
	spec.Filter.Votes, spec.Filter.MaxTokens = 2, 48
	spec.Evaluate.Skip = true

	taught := spec
	taught.Synthesize.Teacher = schemas.RoleOf("served")
	run := s.startRun("taught", taught)
	s.allTheSame(t, "taught", "chain of thought")
	report := s.report(run, 5*time.Minute)
	s.sloppy(t, report, schemas.StageSynthesize, 3)
	if got := s.stage(report, schemas.StageSynthesize).Ledger; got.Kept == 3 {
		t.Errorf("nothing was sloppy: %s", got)
	}
	for _, c := range s.completions(t, "taught") {
		if c.Answer == "" && c.Reason == "" {
			t.Errorf("completion %s is kept without an answer", c.ID)
		}
	}

	judged := spec
	judged.Filter.Judge, judged.Synthesize.MaxTokens = schemas.RoleOf("served"), 1024
	run = s.startRun("judged", judged)
	s.allTheSame(t, "judged", "vote")
	s.sloppy(t, s.report(run, 10*time.Minute), schemas.StageFilter, 3)
}

// allTheSame approves going on with an endpoint that was found unfit before the first stage.
func (s *stack) allTheSame(t *testing.T, run, why string) {
	t.Helper()
	opening := s.awaitGate(run, schemas.GateFailure, 5*time.Minute)
	if !strings.Contains(opening.Question, why) {
		t.Errorf("the run says nothing of a %s: %s", why, opening.Question)
	}
	t.Log(opening.Question)
	s.temporal("workflow", "signal", "-w", run, "--name", "approve", "--input", `{"gate":"failure","by":"e2e"}`)
}

// sloppy checks that a run came to its end, and every unit of a stage to an outcome, for
// which a model was really asked.
func (s *stack) sloppy(t *testing.T, report schemas.RunReport, stage schemas.Stage, planned int64) {
	t.Helper()
	if report.State != schemas.StateCompleted {
		t.Fatalf("the run ended as %q: %s", report.State, report.Note)
	}
	got := s.stage(report, stage)
	t.Logf("%s: %s, %d calls, %d tokens", stage, got.Ledger, got.Usage.Paid, got.Usage.CompletionTokens)
	if err := got.Ledger.Check(planned); err != nil {
		t.Error(err)
	}
	if got.Ledger.Missing() > 0 {
		t.Errorf("rows failed: %s", got.Ledger)
	}
	if got.Usage.Paid < planned || got.Usage.CompletionTokens == 0 {
		t.Errorf("%d calls with %d tokens for %d rows", got.Usage.Paid, got.Usage.CompletionTokens, planned)
	}
}

func (s *stack) stage(report schemas.RunReport, stage schemas.Stage) schemas.StageSum {
	for _, got := range report.Stages {
		if got.Stage == stage {
			return got
		}
	}
	s.Fatalf("the report has no stage %s", stage)
	return schemas.StageSum{}
}

func (s *stack) completions(t *testing.T, run schemas.RunID) (all []schemas.Completion) {
	t.Helper()
	var m schemas.Manifest
	if err := shard.GetJSON(t.Context(), s.store, schemas.ManifestObject(run, schemas.StageSynthesize), &m); err != nil {
		t.Fatal(err)
	}
	for _, ref := range m.Outputs[schemas.OutputCompletions] {
		rows, err := shard.Read[schemas.Completion](t.Context(), s.store, ref)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, rows...)
	}
	return all
}

// transformers starts transformers' server over the small base model, as a worker does.
func (s *stack) transformers() map[string]any {
	s.Helper()
	python := filepath.Join(s.root, ".precept/venv/bin/python")
	server, err := serving.Start(s.Context(), serving.Config{Server: serving.Transformers, Flags: []string{"--device", "cpu"}},
		trainer.Config{Python: python, Grace: schemas.Duration(20 * time.Second)}, filepath.Join(s.dir, "transformers"),
		serving.Job{Folder: filepath.Join(s.root, ".precept/models/SmolLM2-135M-Instruct"), Name: "smollm2"})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(server.Stop)
	return map[string]any{
		"base_url": server.URL, "model": server.Model, "provider": "transformers", "revision": "1",
		"max_in_flight": 2, "json_mode": "none", "timeout": "5m",
	}
}

func (s *stack) text(name, text string) string {
	s.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.Fatal(err)
	}
	return path
}
