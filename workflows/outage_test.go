package workflows

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.temporal.io/sdk/temporal"

	"precept/activities"
	"precept/schemas"
)

// TestOutagesAreShown: what open activities tell of endpoints is shown, one outage an
// endpoint, until they are over.
func TestOutagesAreShown(t *testing.T) {
	w := newWorld(t)
	failed := map[int]int{}
	w.failing = func(r activities.TaskRequest) error {
		if r.Stage != schemas.StageSynthesize || failed[r.Index] == 2 {
			return nil
		}
		failed[r.Index]++ // tasks are tried again after one second, and after two
		return temporal.NewApplicationError("connection refused", string(schemas.Unavailable))
	}
	since := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	out := func(endpoint string, s int) schemas.Outage {
		return schemas.Outage{Endpoint: endpoint, Says: "connection refused", Since: since.Add(time.Duration(s) * time.Second)}
	}
	tell := func(at time.Duration, by schemas.Teller, outages ...schemas.Outage) {
		w.RegisterDelayedCallback(func() {
			w.SignalWorkflow(schemas.SignalOutages, schemas.OutagesTold{By: by, Outages: outages})
		}, at)
	}
	shows := func(at time.Duration, want ...schemas.Outage) {
		w.RegisterDelayedCallback(func() {
			p := w.progress(t)
			if d := cmp.Diff(want, p.Outages); d != "" {
				t.Errorf("after %s: %s", at, d)
			}
			if text := details(p); strings.Contains(text, "answers nobody") != (len(want) > 0) {
				t.Errorf("after %s its page says:\n%s", at, text)
			}
		}, at)
	}
	first, second := schemas.TaskTeller(schemas.StageSynthesize, 0), schemas.TaskTeller(schemas.StageSynthesize, 1)
	shows(100 * time.Millisecond)
	tell(200*time.Millisecond, first, out("teacher", 5), out("spare", 1))
	tell(200*time.Millisecond, second, out("teacher", 3))
	tell(200*time.Millisecond, schemas.TaskTeller(schemas.StageFilter, 0), out("judge", 1)) // not open
	tell(200*time.Millisecond, schemas.TellerPoll, out("judge", 1))
	w.RegisterDelayedCallback(func() { w.SignalWorkflow(schemas.SignalOutages, "not what workers send") }, 200*time.Millisecond)
	shows(300*time.Millisecond, out("spare", 1), out("teacher", 3))
	tell(400*time.Millisecond, second)
	shows(500*time.Millisecond, out("spare", 1), out("teacher", 5))
	shows(time.Minute) // all tasks have ended
	w.at(2*time.Minute, schemas.SignalApprove, schemas.Decision{By: "ann"})
	s := gated()
	s.Gates.Release = false
	if report := w.run(t, s); report.State != schemas.StateCompleted || len(failed) != 3 {
		t.Errorf("ended as %q", report.State)
	}
}

// TestAnUnusableRouteIsLookedAfter: where any endpoint of a route would do, the gate names
// all, and each is asked for a word.
func TestAnUnusableRouteIsLookedAfter(t *testing.T) {
	r := newRefusing(t)
	r.or = []string{"spare", "other"}
	r.mend(10 * time.Minute)
	r.RegisterDelayedCallback(func() {
		if o := r.waiting(t); o == nil || !strings.Contains(o.Question, "Endpoint judge or spare or other is asked for a word") {
			t.Errorf("waits for %+v", o)
		}
	}, 5*time.Minute)
	if report := r.run(t, spec()); report.State != schemas.StateCompleted || len(r.records) != 1 || r.records[0].Decision.Note != "endpoint judge or spare or other answers" {
		t.Errorf("ended as %q, decided %+v", report.State, r.records)
	}
}
