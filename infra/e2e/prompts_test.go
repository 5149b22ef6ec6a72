//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"precept/schemas"
)

// TestMadePrompts takes a file of conversations without labels and the teacher's own
// prompts to a data set, and kills the worker while prompts are classified: all units are
// accounted for, and almost no answer is paid for twice.
func TestMadePrompts(t *testing.T) {
	t.Parallel()
	s := newStack(t, "--latency", "100ms", "--flaw-decision", "0.1", "--flaw-think", "0.1")
	worker := s.worker("worker", "factory,llm")
	spec := schemas.RunSpec{Name: "made", Until: schemas.StageCurate}
	spec.Prompts.Imports = []schemas.Import{
		{Path: s.wild(), Classify: true, MaxTurns: 3},
		{Path: filepath.Join(s.root, "examples/prompts/*.jsonl")},
	}
	spec.Prompts.Classify.Check = 60
	spec.Prompts.Generate = schemas.GenerateSpec{Per: 6}
	spec.Evaluate.Skip = true // the suite is what is imported here
	spec.Quota = schemas.QuotaSpec{Accepted: 10}
	spec.Dev.Skip = true // every prompt is counted
	run := s.startRun("made", spec)

	s.await("the middle of classify", 2*time.Minute, func() bool { return s.journaled() >= 250 })
	if p, _ := s.progress("made"); p.Stage != schemas.StageClassify {
		t.Fatalf("the run is in stage %s", p.Stage)
	}
	worker.kill()
	paid, journaled := s.paid(), s.journaled()
	s.worker("worker-2", "factory,llm")

	report := s.report(run, 5*time.Minute)
	if report.State != schemas.StateCompleted {
		t.Fatalf("the run ended as %q: %s", report.State, report.Note)
	}
	if p := s.paid(); p.Repeated > paid.Requests-journaled {
		t.Errorf("%d calls were paid twice, of which only %d - %d were not journaled", p.Repeated, paid.Requests, journaled)
	}
	for _, stage := range report.Stages {
		t.Logf("%s: %s", stage.Stage, stage.Ledger)
		if err := stage.Ledger.Check(stage.Ledger.Planned); err != nil || stage.Ledger.Kept == 0 {
			t.Errorf("stage %s: %v (%+v)", stage.Stage, err, stage.Ledger)
		}
	}
	classified := report.Stages[1].Ledger
	if report.Stages[1].Stage != schemas.StageClassify || classified.Checked != 60 || classified.Rejected[schemas.ReasonCheck] != 0 ||
		classified.Rejected[schemas.ReasonNoneOfThese] == 0 || classified.Rejected[schemas.ReasonOffCategory] == 0 || classified.Rejected[schemas.ReasonEmpty] != 1 {
		t.Errorf("stage %s: %s", report.Stages[1].Stage, classified)
	}
	for _, want := range []string{"1 of 129 rows can't be used", "agrees on the category of"} {
		if !slices.ContainsFunc(report.Notes, func(note string) bool { return strings.Contains(note, want) }) {
			t.Errorf("no note says %q: %q", want, report.Notes)
		}
	}
	t.Log(report.Notes)
}

// wild writes conversations as data sets publish them: the built-in suite's prompts, and
// what belongs to no category.
func (s *stack) wild() string {
	type turn struct {
		Role    string `json:"role"`
		Content string `json:"content"`
		Toxic   bool   `json:"toxic"`
	}
	rows := [][]turn{
		{{Role: "user", Content: "Will it be sunny on Monday?"}, {Role: "assistant", Content: "I can't know."}},
		{{Role: "user", Content: "Good morning!"}},
		{{Role: "assistant", Content: "Nobody asked."}},
	}
	f, err := os.Open(filepath.Join(s.root, "examples/suites/heldout.jsonl"))
	if err != nil {
		s.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var p struct{ Text string }
		if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
			s.Fatal(err)
		}
		rows = append(rows, []turn{{Role: "user", Content: "Hello"}, {Role: "assistant", Content: "Hi!"}, {Role: "user", Content: p.Text}, {Role: "assistant", Content: "Hm."}})
	}
	path := filepath.Join(s.dir, "wild.jsonl")
	out, err := os.Create(path)
	if err != nil {
		s.Fatal(err)
	}
	defer out.Close()
	for _, r := range rows {
		if err := json.NewEncoder(out).Encode(map[string]any{"conversation": r, "language": "English"}); err != nil {
			s.Fatal(err)
		}
	}
	return path
}
