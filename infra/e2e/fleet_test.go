//go:build bench

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"precept/schemas"
)

// TestFleet has workers share an endpoint's limit: three begin, a fourth joins, one of the
// first is killed, another one frozen. The endpoint refuses what is over the limit, and counts
// all by the second.
func TestFleet(t *testing.T) {
	const (
		rpm       = 1200
		perSecond = rpm / 60.
		settled   = 15 * time.Second
		measured  = 30 * time.Second
		// What one of two members, the fewest here, may send between two renewals of its lease.
		slack = perSecond * 2 / 2
	)
	s := newStack(t, "--rpm", fmt.Sprint(rpm), "--latency", "200ms")
	for _, e := range s.config["endpoints"].(map[string]any) {
		e.(map[string]any)["rpm"] = rpm
	}
	spec := s.many(14_000) // more tasks than workers ever have at a time
	judge := schemas.RoleOf("sim-judge")
	spec.Synthesize.Teacher, spec.Filter.Judge, spec.RL.Judge, spec.Evaluate.Grader = schemas.RoleOf("sim-teacher"), judge, judge, judge
	ready := func(name string) {
		s.await(name, time.Minute, func() bool {
			log, err := os.ReadFile(filepath.Join(s.dir, name+".log"))
			return err == nil && strings.Contains(string(log), "worker is ready")
		})
	}
	for i, queues := range []string{"factory,llm", "llm", "llm"} {
		name := fmt.Sprintf("worker-%d", i+1)
		s.worker(name, queues, "--tasks", "2")
		ready(name)
	}
	s.startRun("fleet", spec)
	leases := func(want int) {
		t.Helper()
		s.await(fmt.Sprintf("%d leases", want), time.Minute, func() bool {
			n := 0
			for _, err := range s.store.List(t.Context(), schemas.LimitPrefix("sim-teacher")) {
				if err != nil {
					t.Fatal(err)
				}
				n++
			}
			return n == want
		})
	}
	pass := func(d time.Duration) (from, to time.Time) {
		from = time.Now()
		s.await("the time", 2*d, func() bool { return time.Since(from) >= d })
		return from, time.Now()
	}
	// Whole seconds within: the first and the last one are not whole.
	rate := func(from, to time.Time) (accepted, refused float64) {
		n := 0.
		for at := from.Unix() + 1; at < to.Unix(); at++ {
			n++
			for _, c := range s.seconds() {
				if c.At == at {
					accepted, refused = accepted+float64(c.Came-c.Limited), refused+float64(c.Limited)
				}
			}
		}
		return accepted / n, refused / n
	}
	check := func(what string, unsettled time.Time) {
		t.Helper()
		within, _ := rate(unsettled, unsettled.Add(settled))
		accepted, refused := rate(pass(measured))
		t.Logf("%s: %.2f a second in the first %s, %.2f afterwards (%.1f%% of %.0f), %.2f refused", what, within, settled, accepted, 100*accepted/perSecond, perSecond, refused)
		if accepted < 0.95*perSecond {
			t.Errorf("%s: %.2f a second, want %.0f", what, accepted, perSecond)
		}
	}

	leases(3)
	begun, _ := pass(settled)
	check("three workers", begun)
	s.worker("worker-4", "llm", "--tasks", "2")
	joined, _ := pass(settled)
	leases(4)
	check("a fourth has joined", joined)
	s.parts["worker-2"].kill()
	killed, _ := pass(settled)
	leases(3)
	check("one was killed", killed)
	frozen := s.parts["worker-3"]
	frozen.signal(syscall.SIGSTOP)
	stopped, _ := pass(settled)
	leases(2)
	check("one is frozen", stopped)
	frozen.signal(syscall.SIGCONT)
	woke, _ := pass(settled)
	leases(3)
	check("it has woken", woke)

	var came, limited, most, most10 int64
	all := s.seconds()
	for i, first := range all {
		came, limited = came+first.Came, limited+first.Limited
		var minute, ten int64
		for _, c := range all[i:] {
			if c.At < first.At+60 {
				minute += c.Came
			}
			if c.At < first.At+10 {
				ten += c.Came
			}
		}
		most, most10 = max(most, minute), max(most10, ten)
	}
	t.Logf("%d requests in all, %d of them refused; at most %d in a minute (the limit is %d), %d in ten seconds", came, limited, most, rpm, most10)
	if float64(most) > rpm+slack {
		t.Errorf("%d requests in a minute, want at most %.0f", most, rpm+slack)
	}
}

// second is what came to the simulated endpoints in a second.
type second struct{ At, Came, Limited int64 }

func (s *stack) seconds() []second {
	s.Helper()
	resp, err := http.Get(s.simllm + "/ledger/seconds")
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	var all struct{ Seconds []second }
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		s.Fatal(err)
	}
	return all.Seconds
}
