//go:build e2e

package e2e

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"precept/schemas"
)

// account stands before the simulated endpoints, and has money for so many requests.
type account struct {
	url     string
	money   atomic.Int64
	refused atomic.Int64
}

func (s *stack) account(t *testing.T, money int64) *account {
	target, err := url.Parse(s.simllm)
	if err != nil {
		t.Fatal(err)
	}
	behind := httputil.NewSingleHostReverseProxy(target)
	a := &account{}
	a.money.Store(money)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.money.Add(-1) < 0 {
			a.refused.Add(1)
			http.Error(w, `{"error":{"code":"insufficient_quota","message":"You exceeded your current quota."}}`, http.StatusTooManyRequests)
			return
		}
		behind.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	a.url = server.URL
	return a
}

// TestSpentAccount: an account whose money runs out fails no row. Calling stops, the run
// waits, and goes on by itself when there is money again.
func TestSpentAccount(t *testing.T) {
	t.Parallel()
	s := newStack(t, "--latency", "50ms")
	a := s.account(t, 60)
	s.config["endpoints"].(map[string]any)["sim-teacher"].(map[string]any)["base_url"] = a.url + "/v1"
	s.worker("worker", "factory,llm")
	spec := s.spec()
	spec.Until, spec.Gates = schemas.StageCurate, schemas.GatesSpec{}
	run := s.startRun("spent", spec)

	opening := s.awaitGate("spent", schemas.GateFailure, time.Minute)
	for _, words := range []string{"You exceeded your current quota.", "sim-teacher", "Top up the account"} {
		if !strings.Contains(opening.Question, words) {
			t.Errorf("the run doesn't say %q: %s", words, opening.Question)
		}
	}
	// What was in flight at the first refusal is refused, too; the second attempt of a task
	// may try once.
	if got := a.refused.Load(); got > 2*inFlight {
		t.Errorf("%d requests were sent to an account that is refused", got)
	}
	a.money.Store(1 << 40)
	report := s.report(run, 4*time.Minute)
	if report.State != schemas.StateCompleted {
		t.Fatalf("the run ended as %q: %s", report.State, report.Note)
	}
	for _, stage := range report.Stages {
		if stage.Ledger.Missing() > 0 {
			t.Errorf("stage %s: %s", stage.Stage, stage.Ledger)
		}
	}
	if !slices.ContainsFunc(report.Decisions, func(d schemas.DecisionRecord) bool {
		return d.Verdict == schemas.DecisionResume && d.Decision.By == "probe"
	}) {
		t.Errorf("no probe went on with the run: %+v", report.Decisions)
	}
	if p := s.paid(); p.Repeated != 0 {
		t.Errorf("%d answers were paid twice", p.Repeated)
	}
}
