//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"precept/schemas"
)

// TestOddReplies: a run whose endpoints give every second reply in another server's form,
// or none, ends with all its rows but those whose request was called bad; the key that
// some of the replies echo stands nowhere.
func TestOddReplies(t *testing.T) {
	const prompts = 240
	s := newStack(t, "--rate-odd", "0.5", "--api-key", hostedKey)
	s.env = append(s.env, "PRECEPT_TEST_KEY="+hostedKey)
	for name, e := range s.config["endpoints"].(map[string]any) {
		e := e.(map[string]any)
		e["api_key_env"], e["timeout"], e["stream"] = "PRECEPT_TEST_KEY", "5s", name == "sim-teacher"
	}
	s.worker("worker", "factory,llm")
	spec := s.many(prompts)
	spec.Synthesize.Teacher, spec.Filter.Judge = schemas.RoleOf("sim-teacher"), schemas.RoleOf("sim-judge")
	spec.RL.Judge, spec.Evaluate.Grader = spec.Filter.Judge, spec.Filter.Judge
	spec.Tripwires.Off, spec.MaxFailed, spec.Until = true, 0.2, schemas.StageCurate
	report := s.report(s.startRun("odd", spec), 2*time.Minute)
	if report.State != schemas.StateCompleted {
		t.Fatalf("the run ended as %q: %s", report.State, report.Note)
	}
	for _, stage := range report.Stages {
		t.Logf("%s: %s", stage.Stage, stage.Ledger)
		if err := stage.Ledger.Check(stage.Ledger.Planned); err != nil || stage.Ledger.Missing() > stage.Ledger.Failed[schemas.ReasonBadRequest] {
			t.Errorf("stage %s: %s: %v", stage.Stage, stage.Ledger, err)
		}
	}
	wrote := report.Stages[1].Ledger
	for _, reason := range []schemas.Reason{schemas.ReasonRefused, schemas.ReasonNoCoT, schemas.ReasonMalformed} {
		if wrote.Planned != prompts || wrote.Rejected[reason] == 0 {
			t.Errorf("no row is %q: %s", reason, wrote)
		}
	}
	hidden := 0
	for _, c := range s.completions(t, "odd") {
		if !utf8.ValidString(c.CoT+c.Answer) || strings.Contains(c.CoT+c.Answer, hostedKey) {
			t.Errorf("completion %s holds the key or no text: %.300q", c.ID, c.Answer)
		}
		hidden += strings.Count(c.Answer, "[key]")
	}
	if hidden == 0 {
		t.Error("the key was never echoed")
	}
	s.noKey(t, "odd")
}
