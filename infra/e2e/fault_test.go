//go:build e2e || chaos

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"precept/internal/shard"
	"precept/schemas"
)

// fault is something that goes wrong while a run is under way.
//
// What may be asked again follows from two rules of the code. The journal: a request
// whose answer is in it is never sent again, and nothing is sent while the oldest
// answer that isn't yet is older than two seconds. The client: a request that got no
// answer is. So a fault that leaves workers and endpoint alone repeats nothing,
// whatever it does to S3: answers wait in the worker's memory.
type fault struct {
	name string
	// prepare changes the stack before a worker runs on it, or starts another one. It
	// may be nil.
	prepare func(*trial)
	// inject lets the fault happen to the run, and ends it. It returns how many
	// requests may be asked again for it.
	inject func(*trial) (repeats int64)
}

// trial is a run of the data stages on a stack of its own.
type trial struct {
	*stack
	proxy   *proxy // before S3, where a fault has put one
	watch   *proxy // before the models, for the first workers
	rows    int
	latency time.Duration
	run     client.WorkflowRun
	begun   time.Time
	earlier int64 // requests to an endpoint that was killed since
	looked  int64 // requests when lost was last called
	resumed int
}

// outcome is what a trial came to.
type outcome struct {
	shards []schemas.Digest // of the examples
	asked  int64            // requests at the endpoint
	usage  schemas.Usage    // as the run tells
	took   time.Duration
}

func begin(t *testing.T, rows int, latency time.Duration, prepare func(*trial)) *trial {
	t.Helper()
	s := &trial{stack: newStack(t, "--latency", latency.String()), rows: rows, latency: latency}
	if prepare != nil {
		prepare(s)
	}
	if s.parts["worker"] == nil {
		s.worker("worker", "factory,llm")
	}
	spec := s.many(rows)
	judge := schemas.RoleOf("sim-judge")
	spec.Synthesize.Teacher, spec.Filter.Judge, spec.Evaluate.Grader, spec.RL.Judge = schemas.RoleOf("sim-teacher"), judge, judge, judge
	spec.Filter.Votes = 2
	s.begun = time.Now()
	s.run = s.startRun("run", spec)
	return s
}

// peace is the outcome of a run that nothing happens to.
func peace(t *testing.T, rows int, latency time.Duration) outcome {
	t.Helper()
	s := begin(t, rows, latency, nil)
	o := s.end()
	s.isPeaceful(o)
	return o
}

func (s *trial) isPeaceful(o outcome) {
	s.Helper()
	if p := s.paid(); p.Requests != p.Unique || s.resumed > 0 || len(o.shards) == 0 {
		s.Fatalf("in peace: %d requests, %d of them different, %d shards, %d times resumed", p.Requests, p.Unique, len(o.shards), s.resumed)
	}
	s.isExact(o.usage)
	s.Logf("in peace: %d requests in %s", o.asked, o.took)
}

// try lets f happen to a run, and compares what comes of it with calm.
func (f fault) try(t *testing.T, rows int, latency time.Duration, calm outcome) {
	t.Helper()
	s := begin(t, rows, latency, f.prepare)
	repeats := f.inject(s)
	s.compare(s.end(), calm, repeats)
}

// compare holds that a run's data set is that of a calm one, and that it asked for
// no more than so many requests again. Both ask for the same.
func (s *trial) compare(got, calm outcome, repeats int64) {
	s.Helper()
	if !slices.Equal(got.shards, calm.shards) {
		s.Errorf("the data sets differ: %d shards in peace, %d here", len(calm.shards), len(got.shards))
	}
	repeated := got.asked - calm.asked
	if repeated < 0 || repeated > repeats {
		s.Errorf("%d requests, %d of them repeated, at most %d allowed", got.asked, repeated, repeats)
	}
	if s.earlier == 0 { // else the ledger began anew
		s.isBounded(got.usage)
	}
	s.Logf("%d requests, %d of them repeated (%d allowed), in %s; %d times resumed", got.asked, repeated, repeats, got.took, s.resumed)
}

// end waits for the end of the run, which it resumes where it waits, and looks at
// what is there.
func (s *trial) end() (o outcome) {
	s.Helper()
	s.await("the run's end", 20*time.Minute, func() bool {
		s.resume()
		return s.over()
	})
	d, err := s.client.DescribeWorkflowExecution(s.Context(), "run", "")
	if err != nil {
		s.Fatal(err)
	}
	o.took = d.WorkflowExecutionInfo.CloseTime.AsTime().Sub(s.begun).Round(time.Second)
	o.asked = s.earlier + s.paid().Requests
	report := s.report(s.run, time.Minute)
	if report.State != schemas.StateCompleted {
		s.Fatalf("the run ended as %q: %s", report.State, report.Note)
	}
	o.usage = accounted(report)
	for _, stage := range report.Stages {
		if err := stage.Ledger.Check(stage.Ledger.Planned); err != nil || stage.Ledger.Planned == 0 {
			s.Errorf("stage %s: %v (%+v)", stage.Stage, err, stage.Ledger)
		}
	}
	var m schemas.Manifest
	if err := shard.GetJSON(s.Context(), s.store, schemas.ManifestObject("run", schemas.StageCurate), &m); err != nil {
		s.Fatal(err)
	}
	for _, ref := range m.Outputs[schemas.OutputExamples] {
		if _, err := shard.Read[schemas.Example](s.Context(), s.store, ref); err != nil {
			s.Fatal(err)
		}
		o.shards = append(o.shards, ref.Digest)
	}
	return o
}

// over reports whether the run has ended.
func (s *trial) over() bool {
	d, err := s.client.DescribeWorkflowExecution(s.Context(), "run", "")
	if err != nil {
		return false // Temporal is on its way back
	}
	switch d.WorkflowExecutionInfo.Status {
	case enums.WORKFLOW_EXECUTION_STATUS_RUNNING, enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW:
		return false
	}
	return true
}

// resume moves a run on that waits at its failure gate, as a person would.
func (s *trial) resume() {
	s.Helper()
	p, ok := s.progress("run")
	if !ok || p.Waiting == nil {
		return
	}
	if p.Waiting.Gate != schemas.GateFailure || p.Waiting.Question == "" || p.Waiting.Command == "" {
		s.Fatalf("the run waits for %+v", p.Waiting)
	}
	s.Logf("resuming: %s", p.Waiting.Question)
	if s.client.SignalWorkflow(s.Context(), "run", "", schemas.SignalResume, schemas.Decision{Gate: schemas.GateFailure, By: "chaos", Opening: p.Waiting.ID}) == nil {
		s.resumed++
	}
}

// middle waits until a share of the prompts have been asked for.
func (s *trial) middle(share float64) {
	s.Helper()
	s.await("the middle of synthesize", 2*time.Minute, func() bool { return s.paid().Requests >= int64(share*float64(s.rows)) })
}

// last waits for a time, or until the run has ended.
func (s *trial) last(d time.Duration) {
	s.Helper()
	begun := time.Now()
	s.await("the end of the fault", d+time.Minute, func() bool { return time.Since(begun) > d || s.over() })
}

// lost is how many requests so many workers asked since the last call whose answers
// aren't in the journal, when all are dead or frozen: what the next worker asks again.
func (s *trial) lost(workers int64) int64 {
	s.Helper()
	s.await("the endpoint's last answer", time.Minute, func() bool { return s.paid().InFlight == 0 })
	p := s.paid()
	lost := min(p.Unique-s.journaled(), p.Requests-s.looked)
	s.looked = p.Requests
	// What two seconds bring at most, and what is in flight then.
	if most := workers * (inFlight*int64(2*time.Second/s.latency) + inFlight); lost > most {
		s.Errorf("%d answers were not journaled, want at most %d", lost, most)
	}
	return lost
}

// behindProxy has the workers reach S3 through a proxy.
func behindProxy(s *trial) {
	s.proxy = newProxy(s.T, s.s3)
	s.config["store"].(map[string]any)["endpoint"] = s.proxy.url
}

// watched has the first workers reach the models through a proxy that counts.
func watched(s *trial) {
	s.watch = newProxy(s.T, s.simllm)
	s.endpoints(s.watch)
}

// endpoints has the workers that start from now on reach the models through a proxy.
func (s *trial) endpoints(p *proxy) {
	for _, e := range s.config["endpoints"].(map[string]any) {
		e.(map[string]any)["base_url"] = p.url + "/v1"
	}
}

// disturbed disturbs what workers ask of S3 for a time. It has no part in what they ask
// of models: nothing may be repeated.
func disturbed(d disturbance, share float64, length time.Duration) func(*trial) int64 {
	return func(s *trial) int64 {
		s.middle(share)
		s.proxy.disturb(d)
		s.last(length)
		s.proxy.disturb(disturbance{})
		p, _ := s.progress("run")
		_, hits := s.proxy.count()
		s.Logf("%d requests to S3 were disturbed, up to stage %s", hits, p.Stage)
		if hits < 10 {
			s.Error("that is hardly a fault")
		}
		return 0
	}
}

// onDisk puts the gateway's folder on a small file system of its own.
func onDisk(s *trial) {
	image, folder := filepath.Join(s.dir, "disk"), filepath.Join(s.dir, "s3")
	if err := os.WriteFile(image, nil, 0o644); err != nil {
		s.Fatal(err)
	}
	if err := os.Truncate(image, 64<<20); err != nil {
		s.Fatal(err)
	}
	s.parts["s3"].kill()
	for _, command := range [][]string{{"mkfs.ext4", "-q", "-m", "0", image}, {"mount", "-o", "loop", image, folder}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			s.Skipf("no file system can be mounted here: %s: %v %s", command[0], err, out)
		}
	}
	s.Cleanup(func() {
		if out, err := exec.Command("umount", folder).CombinedOutput(); err != nil {
			s.Errorf("umount %s: %v %s", folder, err, out)
		}
	})
	s.restart("s3", s.s3+"/health")
	if err := s.store.CreateBucket(s.Context()); err != nil {
		s.Fatal(err)
	}
}

// fillDisk leaves no block free for a time. Nothing may be repeated.
func fillDisk(s *trial) int64 {
	s.middle(0.25)
	hold := filepath.Join(s.dir, "s3", "hold")
	f, err := os.Create(hold)
	if err != nil {
		s.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	s.last(20 * time.Second)
	if err := os.Remove(hold); err != nil {
		s.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(s.dir, "s3.log"))
	if err != nil {
		s.Fatal(err)
	}
	refused := map[string]int{}
	for line := range strings.Lines(string(log)) {
		for _, status := range []string{"507", "500", "409"} {
			if strings.Contains(line, "| "+status+" |") && strings.Contains(line, "| PUT | /precept/") {
				refused[status]++
			}
		}
	}
	s.Logf("writes that the gateway refused: %v", refused)
	if refused["507"] == 0 {
		s.Error("the gateway refused no write with 507: what fullDisk emulates is no longer so")
	}
	return 0
}

// restart starts a killed part again, and waits until it answers.
func (s *trial) restart(name, health string) {
	s.Helper()
	s.revive(name)
	s.await(name, time.Minute, func() bool { return up(health) })
}

// endpointDown kills the endpoint. What it had not answered is asked again.
func endpointDown(s *trial) int64 {
	s.middle(0.25)
	// Nothing may be sent between the look at the ledger and its end.
	s.parts["worker"].signal(syscall.SIGSTOP)
	ledger := s.paid()
	s.parts["simllm"].kill()
	s.parts["worker"].signal(syscall.SIGCONT)
	s.earlier = ledger.Requests
	s.last(time.Minute)
	s.restart("simllm", s.simllm+"/health")
	return ledger.InFlight
}

// frozen freezes a worker for longer than its heartbeats and its leases last, while
// another takes its tasks over. What it had not journaled is asked again, and so may be
// what takeOver costs.
func frozen(s *trial) int64 {
	s.middle(0.25)
	worker := s.parts["worker"]
	worker.signal(syscall.SIGSTOP)
	return s.lost(1) + s.takeOver(worker)
}

// takeOver starts another worker in the place of one that has just been frozen, which
// wakes when all its tasks are the other's: when their heartbeats (20 s) and leases
// (15 s) are over. From Temporal, which is frozen then, it can't learn that; only its
// leases tell. It must send nothing for those tasks but what it was about to when it
// froze. Temporal's silence may cost what the other has in flight, see killTemporal.
func (s *trial) takeOver(worker *process) (repeats int64) {
	s.Helper()
	if s.leases(worker) == 0 {
		s.Fatal("the frozen worker had no task")
	}
	woken := make(chan struct{})
	held := newProxy(s.T, s.simllm) // so that there are as many rows left when it wakes
	held.disturb(disturbance{share: 1, do: func(pass http.Handler, w http.ResponseWriter, r *http.Request) {
		select {
		case <-woken:
			pass.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}})
	s.endpoints(held)
	s.worker("successor", "factory,llm")
	s.await("the other worker", 3*time.Minute, func() bool { return s.leases(worker) == 0 })

	p, tempting := s.paid(), int64(s.rows)/5
	if open := int64(s.rows) - p.Unique; open < tempting {
		s.Fatalf("only %d rows are left for the frozen worker to be tempted by", open)
	}
	temporal := s.parts["temporal"]
	temporal.signal(syscall.SIGSTOP)
	before, _ := s.watch.count()
	worker.signal(syscall.SIGCONT)
	begun := time.Now()
	close(woken)
	// For as long as the other needs for much more than is in flight; within a second,
	// since workers give up tasks whose heartbeats aren't answered.
	s.await("the other worker's requests", time.Minute, func() bool {
		return s.paid().Requests >= p.Requests+4*inFlight || time.Since(begun) > time.Second
	})
	after, _ := s.watch.count()
	temporal.signal(syscall.SIGCONT)
	if sent := after - before; sent > inFlight {
		s.Errorf("the woken worker sent %d requests for tasks that it had lost", sent)
	}
	return inFlight + inFlight
}

// leases counts the leases that a worker has.
func (s *trial) leases(worker *process) (n int) {
	s.Helper()
	for info, err := range s.store.List(s.Context(), "leases/") {
		if err != nil {
			s.Fatal(err)
		}
		var lease struct {
			Holder   string `json:"holder"`
			Released bool   `json:"released"`
		}
		if err := shard.GetJSON(s.Context(), s.store, info.Key, &lease); err != nil {
			s.Fatal(err)
		}
		if !lease.Released && strings.HasSuffix(lease.Holder, fmt.Sprintf("-%d", worker.cmd.Process.Pid)) {
			n++
		}
	}
	return n
}

func killWorker(s *trial) int64 {
	s.parts["worker"].kill()
	lost := s.lost(1)
	s.revive("worker")
	return lost
}

// killGateway loses no answer: they wait in the worker's memory.
func killGateway(s *trial) int64 {
	s.parts["s3"].kill()
	s.revive("s3")
	return 0
}

// killTemporal costs what is in flight: a worker that gets no answer to a heartbeat for
// three seconds cancels the task.
func killTemporal(s *trial) int64 {
	s.parts["temporal"].kill()
	s.revive("temporal")
	return inFlight
}
