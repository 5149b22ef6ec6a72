package workflows

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"

	"precept/activities"
	"precept/schemas"
)

// drawing has rounds of 3 and 5 prompts, of which some are accepted.
func drawing(w *world, accepted int64) {
	w.OnActivity(act.Draw, mock.Anything, mock.Anything).Return(func(_ context.Context, r activities.DrawRequest) (activities.DrawResult, error) {
		d := schemas.Draw{Category: "violence", Pool: 11}
		if r.Draws != nil {
			d = r.Draws[0]
		}
		switch len(d.Taken) {
		case 0:
			d.Taken = []int64{3}
		case 1:
			w.mu.Lock()
			delete(w.sums, schemas.StageSynthesize) // another round has another size
			delete(w.sums, schemas.StageFilter)
			w.mu.Unlock()
			d.Taken = []int64{3, 5}
		default:
			d.Accepted = accepted
			return activities.DrawResult{Draws: []schemas.Draw{d}, Done: true}, nil
		}
		return activities.DrawResult{Draws: []schemas.Draw{d}}, nil
	})
	w.planned = func(s schemas.Stage, n int64) int64 {
		if s != schemas.StageSynthesize {
			return n
		}
		if _, again := w.sums[schemas.StageFilter]; !again && len(w.done[schemas.StageSynthesize]) == 3 {
			return 5 * 2
		}
		return 3 * 2
	}
}

func TestAQuotaGoesRound(t *testing.T) {
	w := newWorld(t)
	drawing(w, 4)
	s := spec()
	s.Quota.Accepted, s.Until = 4, schemas.StageCurate
	report := w.run(t, s)
	if report.State != schemas.StateCompleted || report.Stages[1].Ledger.Planned != 10 {
		t.Errorf("ended as %q, synthesize with %+v", report.State, report.Stages[1].Ledger)
	}
	if n := len(w.done[schemas.StageFilter]); n != 6 {
		t.Errorf("the filter did %d tasks in two rounds", n)
	}
	if n := len(w.done[schemas.StageCurate]); n != 3 {
		t.Errorf("curate did %d tasks", n)
	}
}

func TestAQuotaThatFallsShortAsks(t *testing.T) {
	w := newWorld(t)
	drawing(w, 2)
	s := spec()
	s.Quota.Accepted, s.Until = 4, schemas.StageCurate
	w.RegisterDelayedCallback(func() {
		o := w.waiting(t)
		if o == nil || o.Gate != schemas.GateQuota || !strings.Contains(o.Question, "violence has 2 (5 of 11 prompts used)") {
			t.Errorf("waits for %+v", o)
		}
		w.SignalWorkflow("approve", schemas.Decision{By: "ann"})
	}, time.Hour)
	if report := w.run(t, s); report.State != schemas.StateCompleted {
		t.Errorf("ended as %q", report.State)
	}
}
