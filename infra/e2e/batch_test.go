//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"precept/internal/shard"
	"precept/schemas"
)

// providerBatch is a batch as the simulated provider tells of it.
type providerBatch struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Counts struct {
		Total     int64 `json:"total"`
		Completed int64 `json:"completed"`
	} `json:"request_counts"`
}

func (s *stack) batches(from string) []providerBatch {
	s.Helper()
	var page struct {
		Data []providerBatch `json:"data"`
		More bool            `json:"has_more"`
	}
	s.getJSON(from+"/v1/batches?limit=100", &page)
	if page.More {
		s.Fatal("there are more batches than are listed")
	}
	return page.Data
}

// billed is what the simulated provider counted.
type billed struct {
	Requests     int64 `json:"requests"`
	Unique       int64 `json:"unique"`
	Paid         int64 `json:"paid"`
	PaidRepeated int64 `json:"paid_repeated"`
	Batched      int64 `json:"batched"`
}

func (s *stack) billed() (b billed) {
	s.Helper()
	s.getJSON(s.simllm+"/ledger", &b)
	return b
}

func (s *stack) getJSON(url string, v any) {
	s.Helper()
	resp, err := http.Get(url)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		s.Fatal(err)
	}
}

// batchStack is a stack whose endpoints take batches, at half price.
func batchStack(t *testing.T, flags ...string) *stack {
	s := newStack(t, flags...)
	for _, e := range s.config["endpoints"].(map[string]any) {
		e := e.(map[string]any)
		e["batch_poll"], e["batch_discount"], e["input_usd"], e["output_usd"] = "200ms", 0.5, 1, 2
		delete(e, "cached_usd") // what was in a cache is chance
	}
	return s
}

// under has the workers keep everything under a prefix of the store.
func (s *stack) under(prefix string) { s.config["store"].(map[string]any)["prefix"] = prefix }

// shards are the bytes of all shards under a prefix.
func (s *stack) shards(prefix string) map[string]string {
	s.Helper()
	found := map[string]string{}
	for info, err := range s.store.List(s.Context(), prefix+"/shards/") {
		if err != nil {
			s.Fatal(err)
		}
		raw, _, err := s.store.Get(s.Context(), info.Key)
		if err != nil {
			s.Fatal(err)
		}
		found[strings.TrimPrefix(info.Key, prefix)] = string(schemas.DigestOf(string(raw)))
	}
	return found
}

// batchSpec is the data stages over prompts of seven categories.
func (s *stack) batchSpec(mode string) schemas.RunSpec {
	spec := s.many(56)
	spec.Synthesize.Teacher, spec.Filter.Judge = schemas.RoleOf("sim-teacher"), schemas.RoleOf("sim-judge")
	spec.RL.Judge, spec.Evaluate.Grader = spec.Filter.Judge, spec.Filter.Judge
	spec.Filter.Votes, spec.Mode = 2, mode
	return spec
}

// deadly stands before the simulated provider: it passes on the first batch that is
// submitted, and kills who did so before it is told.
type deadly struct {
	url  string
	once sync.Once
	kill func()
}

func (s *stack) deadly(t *testing.T) *deadly {
	target, err := url.Parse(s.simllm)
	if err != nil {
		t.Fatal(err)
	}
	behind := httputil.NewSingleHostReverseProxy(target)
	d := &deadly{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		first := false
		if r.Method == http.MethodPost && r.URL.Path == "/v1/batches" {
			d.once.Do(func() { first = true })
		}
		if !first {
			behind.ServeHTTP(w, r)
			return
		}
		behind.ServeHTTP(httptest.NewRecorder(), r.WithContext(context.WithoutCancel(r.Context())))
		d.kill()
	}))
	t.Cleanup(server.Close)
	d.url = server.URL
	return d
}

// TestBatch: a run by batch makes the bytes that one online makes, for half the money,
// although requests expire; a worker that is killed between submitting a batch and
// recording it has no request asked twice; a run that is cancelled has its batches cancelled.
func TestBatch(t *testing.T) {
	t.Parallel()
	// The worker's death is noticed after its heartbeat and its lease: the rest goes on
	// meanwhile.
	killed := batchStack(t, "--batch-delay", "500ms")
	proxy := killed.deadly(t)
	for _, e := range killed.config["endpoints"].(map[string]any) {
		e.(map[string]any)["base_url"] = proxy.url + "/v1"
	}
	killed.under("killed")
	died := make(chan struct{})
	victim := killed.worker("victim", "factory,llm")
	proxy.kill = func() { victim.kill(); close(died) }
	victimRun := killed.startRun("killed", killed.batchSpec(schemas.ModeBatch))

	s := batchStack(t, "--batch-delay", "300ms", "--batch-expire", "0.2")
	<-died
	killed.worker("heir", "factory,llm")

	s.under("online")
	worker := s.worker("online", "factory,llm")
	online := s.report(s.startRun("online", s.batchSpec(schemas.ModeOnline)), time.Minute)
	worker.kill()
	bill := s.billed()
	if bill.Batched != 0 || bill.Paid == 0 || online.State != schemas.StateCompleted {
		t.Fatalf("online: %+v, %s", bill, online.State)
	}

	s.under("batch")
	s.worker("batch", "factory,llm")
	begun := time.Now()
	batch := s.report(s.startRun("batch", s.batchSpec(schemas.ModeBatch)), time.Minute)
	took := time.Since(begun)
	want := s.shards("online")
	if d := cmp.Diff(want, s.shards("batch")); d != "" || len(want) < 21 {
		t.Errorf("%d shards (- online, + batch):\n%s", len(want), d)
	}
	if online.Stages[3].Digest != batch.Stages[3].Digest {
		t.Error("the SFT sets differ")
	}
	for i, stage := range batch.Stages[1:3] {
		before := online.Stages[1+i]
		if got, want := stage.Usage.USD, before.Usage.USD/2; math.Abs(got-want) > 1e-9 || stage.Usage.Paid != before.Usage.Paid || want == 0 {
			t.Errorf("%s: %d requests for $%f by batch, %d for $%f online", stage.Stage, stage.Usage.Paid, got, before.Usage.Paid, before.Usage.USD)
		}
	}
	var submitted, completed int64
	expired := 0
	for _, b := range s.batches(s.simllm) {
		submitted, completed = submitted+b.Counts.Total, completed+b.Counts.Completed
		if b.Status == "expired" {
			expired++
		}
	}
	now := s.billed()
	if now.Batched != bill.Paid || now.Paid != 2*bill.Paid || completed != now.Batched || expired == 0 || submitted == completed {
		t.Errorf("billed %+v, then %+v; %d requests were submitted, %d answered, %d batches expired", bill, now, submitted, completed, expired)
	}
	t.Logf("%d requests in %d batches, %d of which expired in part: %d submissions, in %s", completed, len(s.batches(s.simllm)), expired, submitted, took.Round(time.Millisecond))

	s.cancelled(t)

	report := killed.report(victimRun, 2*time.Minute)
	if report.State != schemas.StateCompleted || report.Stages[3].Digest != online.Stages[3].Digest {
		t.Errorf("the killed run ended as %s; its SFT set is %s, want %s", report.State, report.Stages[3].Digest, online.Stages[3].Digest)
	}
	submitted = 0
	for _, b := range killed.batches(killed.simllm) {
		submitted += b.Counts.Total
	}
	if bill := killed.billed(); submitted != bill.Unique || bill.Requests != bill.Unique || bill.Batched != now.Batched {
		t.Errorf("%d requests were submitted, %+v", submitted, bill)
	}
}

// cancelled cancels a run while its batches are under way.
func (s *stack) cancelled(t *testing.T) {
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	slow := "http://" + address
	s.start("slow", s.bin("simllm"), "--listen", address, "--batch-delay", "1h")
	s.await("the slow provider", time.Minute, func() bool { return up(slow + "/health") })
	teacher := s.endpoint("sim-teacher")
	teacher["base_url"], teacher["revision"] = slow+"/v1", "2"
	s.config["endpoints"].(map[string]any)["slow"] = teacher
	s.parts["batch"].kill()
	s.worker("patient", "factory,llm")
	spec := s.batchSpec(schemas.ModeBatch)
	spec.Synthesize.Teacher = schemas.RoleOf("slow")
	run := s.startRun("cancelled", spec)
	s.await("batches under way", time.Minute, func() bool {
		p, ok := s.progress("cancelled")
		return ok && len(p.Stages) == 2 && p.Stages[1].Waiting == p.Stages[1].Tasks && p.Stages[1].Tasks > 0
	})
	s.temporal("workflow", "cancel", "--workflow-id", "cancelled")
	if err := run.Get(s.Context(), nil); err == nil {
		t.Error("a cancelled run ended well")
	}
	batches := s.batches(slow)
	for _, b := range batches {
		if b.Status != "cancelled" {
			t.Errorf("batch %s is %s", b.ID, b.Status)
		}
	}
	var record struct {
		Open []struct {
			Cancelled bool `json:"cancelled"`
		} `json:"open"`
	}
	records := 0
	for info, err := range s.store.List(s.Context(), "batch/batches/") {
		if err != nil {
			t.Fatal(err)
		}
		records++
		if err := shard.GetJSON(s.Context(), s.store, info.Key, &record); err != nil || len(record.Open) != 1 || !record.Open[0].Cancelled {
			t.Errorf("record %s: %+v, %v", info.Key, record, err)
		}
	}
	if len(batches) != 7 || records != 7 {
		t.Errorf("%d batches, %d records", len(batches), records)
	}
}
