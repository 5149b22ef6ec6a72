//go:build e2e

package e2e

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"precept/schemas"
)

// TestABudgetPausesTheRun: the run waits before more is spent than it may, goes on with
// more, and tells to the last digit what the endpoints' ledger has.
func TestABudgetPausesTheRun(t *testing.T) {
	s := newStack(t, "--latency", "20ms")
	s.worker("worker", "factory,llm")
	spec := s.many(300)
	teacher, judge := schemas.RoleOf("sim-teacher"), schemas.RoleOf("sim-judge")
	spec.Synthesize.Teacher, spec.Filter.Judge, spec.Evaluate.Grader, spec.RL.Judge = teacher, judge, judge, judge
	spec.Filter.Votes, spec.Budget.USD = 2, 0.05
	run := s.startRun("budget", spec)
	opening := s.awaitGate("budget", schemas.GateBudget, 2*time.Minute)
	if spent := s.bill(); spent.USD > 0.05 || spent.USD < 0.04 {
		t.Errorf("$%v of 0.05 are spent: %s", spent.USD, opening.Question)
	}
	t.Log(opening.Question)
	cmd := exec.Command(s.bin("starter"), "set-budget", "budget", "--usd", "10", "--by", "e2e", "--opening", opening.ID)
	cmd.Env = s.env
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "recorded: set-budget $10.00 at gate budget") {
		t.Fatalf("%v: %s", err, out)
	}
	report := s.report(run, 2*time.Minute)
	if report.State != schemas.StateCompleted {
		t.Fatalf("the run ended as %q: %s", report.State, report.Note)
	}
	s.isExact(accounted(report))
}
