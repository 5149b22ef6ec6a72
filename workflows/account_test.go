package workflows

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/temporal"

	"precept/activities"
	"precept/schemas"
)

// refusing has an endpoint refuse all tasks of the filter until it is mended, and gives
// the times at which it was probed.
type refusing struct {
	*world
	mended bool
	tried  int // tasks of the filter
	probed []time.Duration
	// flaps has the endpoint answer probes alone.
	flaps bool
	out   bool     // it is an outage, not the account
	or    []string // the others of its route
}

func newRefusing(t *testing.T) *refusing {
	r := &refusing{world: newWorld(t)}
	r.failing = func(req activities.TaskRequest) error {
		if req.Stage != schemas.StageFilter || r.mended {
			return nil
		}
		r.tried++
		if r.out {
			return temporal.NewNonRetryableApplicationError("ask endpoint judge: waiting to send: out since 10:00:00",
				string(schemas.Unavailable), nil, schemas.TaskFailure{Endpoint: "judge"})
		}
		return temporal.NewNonRetryableApplicationError("ask endpoint judge: HTTP 429: You exceeded your current quota. Top up the account, then resume.",
			string(schemas.BudgetExceeded), nil, schemas.TaskFailure{Account: true, Endpoint: "judge", Or: r.or})
	}
	begun := r.Now()
	r.OnActivity(act.Probe, mock.Anything, mock.Anything).Return(func(_ context.Context, req activities.ProbeRequest) (schemas.Usage, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if req.Endpoint != "judge" || !slices.Equal(req.Or, r.or) {
			t.Errorf("probed %q or %q", req.Endpoint, req.Or)
		}
		r.probed = append(r.probed, r.Now().Sub(begun).Round(time.Second))
		if !r.mended && !r.flaps {
			return schemas.Usage{}, temporal.NewApplicationError("HTTP 429", string(schemas.Unavailable))
		}
		return schemas.Usage{Paid: 1}, nil
	})
	return r
}

// mend lets the endpoint answer some time after the start.
func (r *refusing) mend(d time.Duration) {
	r.RegisterDelayedCallback(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.mended = true
	}, d)
}

// TestAProbeResumes: a refused account stops the stage at once, and the run goes on by
// itself when the endpoint answers again.
func TestAProbeResumes(t *testing.T) {
	r := newRefusing(t)
	r.mend(40 * time.Minute)
	r.RegisterDelayedCallback(func() {
		o := r.waiting(t)
		if o == nil || o.Gate != schemas.GateFailure || !slices.Equal(o.Takes, []string{"resume", "abort"}) ||
			!strings.Contains(o.Question, "You exceeded your current quota") || !strings.Contains(o.Question, "Endpoint judge is asked for a word") ||
			!strings.Contains(o.Command, "--name resume") {
			t.Errorf("waits for %+v", o)
		}
	}, 30*time.Minute)
	s := spec()
	s.Window = 2
	report := r.run(t, s)
	if report.State != schemas.StateCompleted {
		t.Errorf("ended as %q", report.State)
	}
	if r.tried != 2 {
		t.Errorf("%d of three tasks were refused, want those of the first window alone", r.tried)
	}
	minutes := func(n ...int) (d []time.Duration) {
		for _, m := range n {
			d = append(d, time.Duration(m)*time.Minute)
		}
		return d
	}
	if want := minutes(1, 3, 7, 15, 30, 45); !slices.Equal(r.probed, want) {
		t.Errorf("probed after %v, want %v", r.probed, want)
	}
	if len(r.records) != 1 || r.records[0].Stale || r.records[0].Verdict != schemas.DecisionResume ||
		r.records[0].Decision.By != "probe" || r.records[0].Decision.Note != "endpoint judge answers" {
		t.Errorf("decided %+v", r.records)
	}
	filter := report.Stages[slices.IndexFunc(report.Stages, func(s schemas.StageSum) bool { return s.Stage == schemas.StageFilter })]
	if filter.Usage.Paid != 3 || report.Probed.Paid != 1 {
		t.Errorf("three tasks took %d calls, and a probe %d", filter.Usage.Paid, report.Probed.Paid)
	}
}

// TestAnOutageEnds: what is out for longer than tasks try is looked after, too.
func TestAnOutageEnds(t *testing.T) {
	r := newRefusing(t)
	r.out = true
	r.mend(10 * time.Minute)
	if report := r.run(t, spec()); report.State != schemas.StateCompleted || len(r.records) != 1 || r.records[0].Decision.By != prober {
		t.Errorf("ended as %q, decided %+v", report.State, r.records)
	}
}

// TestAPersonIsFasterThanTheProbe: who resumes, or aborts, ends the probing.
func TestAPersonIsFasterThanTheProbe(t *testing.T) {
	for _, verdict := range []string{schemas.DecisionResume, schemas.DecisionAbort} {
		t.Run(verdict, func(t *testing.T) {
			r := newRefusing(t)
			r.mend(4 * time.Minute)
			r.at(5*time.Minute, verdict, schemas.Decision{By: "ann"})
			r.run(t, spec())
			if len(r.records) != 1 || r.records[0].Decision.By != "ann" {
				t.Errorf("decided %+v", r.records)
			}
			if len(r.probed) != 2 {
				t.Errorf("probed after %v", r.probed)
			}
		})
	}
}

// TestAnEndpointThatAnswersProbesAlone: the run is resumed less and less often.
func TestAnEndpointThatAnswersProbesAlone(t *testing.T) {
	r := newRefusing(t)
	r.flaps = true
	r.at(time.Hour, "abort", schemas.Decision{By: "ann"})
	r.run(t, spec())
	var minutes []int
	for _, d := range r.probed {
		minutes = append(minutes, int(d.Minutes()))
	}
	if want := []int{1, 3, 7, 15, 31}; !slices.Equal(minutes, want) {
		t.Errorf("probed after %v minutes, want %v", minutes, want)
	}
}

// TestARefusalIsNoMatterOfRows: whatever the spec lets rows do, nothing ends without those
// that an account was refused for.
func TestARefusalIsNoMatterOfRows(t *testing.T) {
	r := newRefusing(t)
	r.mend(10 * time.Minute)
	r.at(5*time.Minute, "approve", schemas.Decision{By: "ann"})
	s := spec()
	s.MaxFailed = 1
	report := r.run(t, s)
	if report.State != schemas.StateCompleted || len(r.records) != 2 || !r.records[0].Stale || r.records[1].Decision.By != "probe" {
		t.Errorf("ended as %q, decided %+v", report.State, r.records)
	}
}

// TestARefusalBeforeAnythingWaits: while what the run reads is looked at, an account that
// is refused is no bad input.
func TestARefusalBeforeAnythingWaits(t *testing.T) {
	w := newWorld(t)
	w.inputs.Hosted = []string{"teacher"}
	refused := true
	w.OnActivity(act.Served, mock.Anything, mock.Anything).Return(func(context.Context, activities.ServedRequest) (schemas.Served, error) {
		if refused {
			return schemas.Served{}, temporal.NewNonRetryableApplicationError("HTTP 401", string(schemas.InvalidInput), nil,
				schemas.TaskFailure{Account: true, Endpoint: "teacher"})
		}
		return schemas.Served{}, nil
	})
	w.OnActivity(act.Probe, mock.Anything, mock.Anything).Return(func(context.Context, activities.ProbeRequest) (schemas.Usage, error) {
		refused = false
		return schemas.Usage{Paid: 1}, nil
	})
	if report := w.run(t, spec()); report.State != schemas.StateCompleted || len(w.records) != 1 {
		t.Errorf("ended as %q, decided %+v", report.State, w.records)
	}
}

// TestUnfitEndpoints: people are asked before anything is spent, and what looking took is
// counted with the first stage.
func TestUnfitEndpoints(t *testing.T) {
	const why = "endpoint teacher as synthesize.teacher hides its chain of thought"
	digest := schemas.DigestOf([]string{why})
	for _, tt := range []struct {
		name   string
		stored []schemas.DecisionRecord
		send   func(w *world)
		state  string
		looks  int64
	}{
		{"mended", nil, func(w *world) {
			w.at(time.Hour, "resume", schemas.Decision{By: "ann"})
			w.at(2*time.Hour, "resume", schemas.Decision{By: "ann"})
		}, schemas.StateCompleted, 3},
		{"all the same", nil, func(w *world) { w.at(time.Hour, "approve", schemas.Decision{By: "ann"}) }, schemas.StateCompleted, 1},
		{"aborted", nil, func(w *world) { w.at(time.Hour, "abort", schemas.Decision{By: "ann"}) }, schemas.StateAborted, 1},
		{"agreed to before", []schemas.DecisionRecord{
			{Number: 1, Verdict: "approve", Decision: schemas.Decision{Gate: schemas.GateFailure, By: "ann", Digest: digest}},
		}, func(*world) {}, schemas.StateCompleted, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.inputs.Hosted = []string{"teacher"}
			w.stored = tt.stored
			looks := int64(0)
			w.OnActivity(act.Served, mock.Anything, mock.Anything).Return(func(_ context.Context, r activities.ServedRequest) (schemas.Served, error) {
				s := schemas.Served{Usage: schemas.Usage{Paid: 10}}
				if r.Policy != "policy" {
					t.Errorf("looked with policy %q", r.Policy)
				}
				if looks++; looks < 3 {
					s.Unfit = []string{why}
				}
				return s, nil
			})
			w.RegisterDelayedCallback(func() {
				o := w.waiting(t)
				if len(tt.stored) > 0 {
					return
				}
				if o == nil || o.Digest != digest || !strings.HasPrefix(o.Question, why) || !slices.Equal(o.Takes, []string{"resume", "approve", "abort"}) {
					t.Errorf("waits for %+v", o)
				}
			}, time.Minute)
			tt.send(w)
			report := w.run(t, spec())
			if report.State != tt.state || looks != tt.looks {
				t.Errorf("ended as %q after %d looks", report.State, looks)
			}
			if tt.state == schemas.StateCompleted && (report.Stages[0].Usage.Paid != 3 || report.Probed.Paid != 10*tt.looks) {
				t.Errorf("the first stage took %d calls, probes %d", report.Stages[0].Usage.Paid, report.Probed.Paid)
			}
		})
	}
}

// TestAProbeBeforeAnyStageIsCounted: as all that is asked before a stage.
func TestAProbeBeforeAnyStageIsCounted(t *testing.T) {
	r := newRefusing(t)
	r.mended = true
	looks := 0
	r.OnActivity(act.CheckBatches, mock.Anything, mock.Anything).Return(func(context.Context, schemas.RunSpec) error {
		if looks++; looks > 1 {
			return nil
		}
		return temporal.NewNonRetryableApplicationError("ask endpoint judge: HTTP 401", string(schemas.InvalidInput), nil, schemas.TaskFailure{Account: true, Endpoint: "judge"})
	})
	s := spec()
	s.Mode = schemas.ModeBatch
	report := r.run(t, s)
	if report.State != schemas.StateCompleted || looks != 2 || report.Probed.Paid != 1 {
		t.Errorf("ended as %q after %d looks; probes took %d calls, want one", report.State, looks, report.Probed.Paid)
	}
}

func TestProbePause(t *testing.T) {
	at := func(minutes int) time.Time { return time.Unix(0, 0).Add(time.Duration(minutes) * time.Minute) }
	tests := []struct {
		name   string
		probes []int // when a probe went on with the run
		now    int
		want   time.Duration
	}{
		{"the first", nil, 0, time.Minute},
		{"refused again at once", []int{10}, 11, 2 * time.Minute},
		{"and again", []int{10, 13, 18}, 19, 8 * time.Minute},
		{"work went on meanwhile", []int{10}, 40, time.Minute},
		{"an outage of hours in between", []int{10, 300}, 301, 2 * time.Minute},
		{"in vain for days", []int{1, 4, 9, 18, 35, 68, 133, 262, 519, 1032, 1753, 2474}, 2475, 12 * time.Hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &factory{}
			for _, m := range tt.probes {
				f.carried.Decisions = append(f.carried.Decisions, schemas.DecisionRecord{Decision: schemas.Decision{By: prober}, At: at(m)})
			}
			if got := f.probePause(at(tt.now)); got != tt.want {
				t.Errorf("it waits %s, not %s", got, tt.want)
			}
		})
	}
}
