//go:build chaos

package e2e

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"go.temporal.io/api/enums/v1"

	"precept/internal/shard"
	"precept/schemas"
)

// TestChaos runs the same spec twice, once in peace and once while everything is
// killed over and over. Both make the same data set, byte for byte.
func TestChaos(t *testing.T) {
	rows, kills := number("CHAOS_ROWS", 5_000), number("CHAOS_KILLS", 20)
	const latency = 100 * time.Millisecond
	calm := chaotic(t, rows, latency, 0)
	wild := chaotic(t, rows, latency, kills)
	if !slices.Equal(calm.shards, wild.shards) || len(calm.shards) == 0 {
		t.Errorf("the data sets differ: %d shards in peace, %d in chaos", len(calm.shards), len(wild.shards))
	}
	t.Logf("in peace:  %d requests in %s", calm.paid.Requests, calm.took)
	t.Logf("in chaos: %d requests, %d of them repeated, in %s; %d times resumed at the failure gate", wild.paid.Requests, wild.paid.Repeated, wild.took, wild.resumed)
	// What was not journaled when a worker was killed, and what was then in flight.
	bound := wild.lost + int64(kills)*inFlight
	if wild.paid.Repeated > bound || calm.paid.Repeated != 0 {
		t.Errorf("%d requests were repeated in peace and %d in chaos, at most %d + %d allowed", calm.paid.Repeated, wild.paid.Repeated, wild.lost, int64(kills)*inFlight)
	}
}

// inFlight is what the endpoint of the stack bears, for teacher and judge each.
const inFlight = 2 * 16

type outcome struct {
	shards  []schemas.Digest // of the examples
	paid    paid
	lost    int64 // answers that were not journaled when the last worker was killed
	took    time.Duration
	resumed int
}

func chaotic(t *testing.T, rows int, latency time.Duration, kills int) (o outcome) {
	t.Helper()
	s := newStack(t, "--latency", latency.String())
	s.worker("worker", "factory,llm")
	spec := s.many(rows)
	spec.Synthesize.Teacher, spec.Filter.Judge, spec.Evaluate.Grader, spec.RL.Judge = "sim-teacher", "sim-judge", "sim-judge", "sim-judge"
	spec.Filter.Votes = 2
	begun := time.Now()
	run := s.startRun("run", spec)
	// Always the same order; the moments are drawn.
	draw := rand.New(rand.NewPCG(1, 2))
	next := time.Now().Add(3 * time.Second)
	killed := 0
	s.await("the run's end", time.Hour, func() bool {
		if killed < kills && time.Now().After(next) {
			name := "worker"
			switch killed % 7 {
			case 3:
				name = "temporal"
			case 5:
				name = "s3"
			}
			s.parts[name].kill()
			if name == "worker" {
				o.lost = s.paid().Requests - s.journaled()
			}
			s.revive(name)
			killed++
			next = time.Now().Add(time.Second + time.Duration(draw.Int64N(int64(9*time.Second))))
		}
		d, err := s.client.DescribeWorkflowExecution(t.Context(), "run", "")
		if err != nil {
			return false // Temporal is on its way back
		}
		switch d.WorkflowExecutionInfo.Status {
		case enums.WORKFLOW_EXECUTION_STATUS_RUNNING, enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW:
		default:
			return true
		}
		if p, ok := s.progress("run"); ok && p.Waiting != nil {
			if p.Waiting.Gate != schemas.GateFailure || p.Waiting.Question == "" || p.Waiting.Command == "" {
				t.Fatalf("the run waits for %+v", p.Waiting)
			}
			t.Logf("resuming: %s", p.Waiting.Question)
			if s.client.SignalWorkflow(t.Context(), "run", "", schemas.SignalResume, schemas.Decision{Gate: schemas.GateFailure, By: "chaos", Opening: p.Waiting.ID}) == nil {
				o.resumed++
			}
		}
		return false
	})
	if killed < kills {
		t.Errorf("the run ended after %d of %d kills: give it more rows", killed, kills)
	}
	o.took = time.Since(begun).Round(time.Second)
	report := s.report(run, time.Minute)
	for _, stage := range report.Stages {
		if err := stage.Ledger.Check(stage.Ledger.Planned); err != nil || stage.Ledger.Planned == 0 {
			t.Errorf("stage %s: %v (%+v)", stage.Stage, err, stage.Ledger)
		}
	}
	var m schemas.Manifest
	if err := shard.GetJSON(t.Context(), s.store, schemas.ManifestObject("run", schemas.StageCurate), &m); err != nil {
		t.Fatal(err)
	}
	for _, ref := range m.Outputs[schemas.OutputExamples] {
		if _, err := shard.Read[schemas.Example](t.Context(), s.store, ref); err != nil {
			t.Fatal(err)
		}
		o.shards = append(o.shards, ref.Digest)
	}
	o.paid = s.paid()
	return o
}
