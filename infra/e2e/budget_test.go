//go:build e2e

package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"precept/schemas"
)

// TestABudgetPausesTheRun: the run waits before more is spent than it may, goes on with
// more, and tells to the last digit what the endpoints' ledger has, aborted in the middle of a
// stage as well.
func TestABudgetPausesTheRun(t *testing.T) {
	s := newStack(t, "--latency", "20ms")
	s.worker("worker", "factory,llm")
	spec := s.many(300)
	teacher, judge := schemas.RoleOf("sim-teacher"), schemas.RoleOf("sim-judge")
	spec.Synthesize.Teacher, spec.Filter.Judge, spec.Evaluate.Grader, spec.RL.Judge = teacher, judge, judge, judge
	spec.Filter.Votes, spec.Budget.USD = 2, 0.05
	starter := func(args ...string) string {
		cmd := exec.Command(s.bin("starter"), args...)
		cmd.Env = s.env
		out, err := cmd.CombinedOutput()
		return fmt.Sprintf("%s%v", out, err)
	}
	run := s.startRun("budget", spec)
	opening := s.awaitGate("budget", schemas.GateBudget, 2*time.Minute)
	if spent := s.bill(); spent.USD > 0.05 || spent.USD < 0.04 {
		t.Errorf("$%v of 0.05 are spent: %s", spent.USD, opening.Question)
	}
	t.Log(opening.Question, opening.Command)

	starter("abort", "budget", "--by", "e2e")
	aborted := s.report(run, time.Minute)
	if aborted.State != schemas.StateAborted || aborted.Open == nil || aborted.Open.Usage.USD == 0 || len(aborted.Open.Costs) == 0 {
		t.Errorf("aborted in mid-stage, it is %q with %+v", aborted.State, aborted.Open)
	}
	s.isExact(accounted(aborted))
	if out, want := starter("progress", "budget"), schemas.FormatDollars(accounted(aborted).USD-aborted.Probed.USD); !strings.Contains(out, want) {
		t.Errorf("no %s in %s", want, out)
	}

	run = s.startRun("budget", spec)
	opening = s.awaitGate("budget", schemas.GateBudget, 2*time.Minute)
	if out := starter("set-budget", "budget", "--usd", "0.01", "--by", "e2e"); !strings.Contains(out, "a budget of $0.01 is less than what is spent: $0.0") {
		t.Errorf("less than what is spent: %s", out)
	}
	if out := starter("set-budget", "budget", "--usd", "10", "--by", "e2e", "--opening", opening.ID); !strings.Contains(out, "recorded: set-budget to $10.00 at gate budget") {
		t.Fatal(out)
	}
	report := s.report(run, 2*time.Minute)
	if report.State != schemas.StateCompleted {
		t.Fatalf("the run ended as %q: %s", report.State, report.Note)
	}
	spent := accounted(report)
	spent.Add(aborted.Probed) // what looking who answers took is each run's own
	s.isExact(spent)
}
