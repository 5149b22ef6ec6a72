//go:build e2e

package e2e

import (
	"bytes"
	"hash/fnv"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"precept/schemas"
)

// picky stands before the simulated endpoints and, until it is mended, can't read one
// request in eight.
type picky struct {
	url    string
	mended atomic.Bool
}

func (s *stack) picky(t *testing.T) *picky {
	target, err := url.Parse(s.simllm)
	if err != nil {
		t.Fatal(err)
	}
	behind := httputil.NewSingleHostReverseProxy(target)
	p := &picky{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		sum := fnv.New32a()
		sum.Write(body)
		if sum.Sum32()%8 == 0 && !p.mended.Load() {
			http.Error(w, `{"error":{"message":"what?"}}`, http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		behind.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

// TestRetry: a run goes on without rows that failed, ends, and is started again to ask
// for them alone.
func TestRetry(t *testing.T) {
	s := newStack(t)
	endpoint := s.picky(t)
	for _, e := range s.config["endpoints"].(map[string]any) {
		e.(map[string]any)["base_url"] = endpoint.url + "/v1"
	}
	s.worker("worker", "factory,llm")
	spec := s.spec()
	spec.Until, spec.Gates, spec.MaxFailed = schemas.StageCurate, schemas.GatesSpec{}, 0.5
	first := s.report(s.startRun("retried", spec), 2*time.Minute)
	missing := first.Stages[1].Ledger.Missing() + first.Stages[2].Ledger.Missing()
	if first.State != schemas.StateCompleted || missing == 0 {
		t.Fatalf("the run ended as %s, %d rows failed", first.State, missing)
	}
	paid := s.paid()
	starter := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(s.bin("starter"), append(args, "--config", s.write("worker.json", s.config))...)
		cmd.Env = s.env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("starter %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	// Without a retry the run stays as it is.
	again := s.report(s.startRun("retried", spec), time.Minute)
	if got := again.Stages[3].Digest; got != first.Stages[3].Digest || s.paid() != paid {
		t.Errorf("started again, the run came to something else")
	}
	endpoint.mended.Store(true)
	if out := starter("retry", "retried", "--by", "e2e"); !strings.Contains(out, "started again") {
		t.Errorf("starter retry says: %s", out)
	}
	mended := s.report(s.client.GetWorkflow(t.Context(), "retried", ""), time.Minute)
	for _, stage := range mended.Stages {
		if stage.Ledger.Missing() != 0 {
			t.Errorf("stage %s: %s", stage.Stage, stage.Ledger)
		}
	}
	if got, want := mended.Stages[1].Ledger.Planned-first.Stages[1].Ledger.Missing(), first.Stages[1].Ledger.Outcomes()-first.Stages[1].Ledger.Missing(); got != want {
		t.Errorf("rows were moved wrongly: %s, then %s", first.Stages[1].Ledger, mended.Stages[1].Ledger)
	}
	if repeated := s.paid().Repeated; repeated != 0 {
		t.Errorf("%d requests were paid twice", repeated)
	}
	if out := starter("progress", "retried"); strings.Contains(out, "failed") {
		t.Errorf("progress:\n%s", out)
	}
	// What another threshold would take is known before it is started.
	preview := starter("start", "--from", "retried", "--set", "filter.threshold=0.9", "--run", "strict", "--preview")
	if !strings.Contains(preview, "params.threshold") || strings.Contains(preview, "about") {
		t.Errorf("the preview says:\n%s", preview)
	}
	before := s.paid()
	t.Logf("%s", starter("start", "--from", "retried", "--set", "filter.threshold=0.9", "--run", "strict", "--yes"))
	s.report(s.client.GetWorkflow(t.Context(), "strict", ""), time.Minute)
	if s.paid() != before {
		t.Error("another threshold was paid for, and the preview said that nothing is asked")
	}
	if diff := starter("diff", "retried", "strict"); !strings.Contains(diff, "filter.threshold") {
		t.Errorf("starter diff says:\n%s", diff)
	} else {
		t.Logf("%s", diff)
	}
	calm := s.report(s.startRun("calm", spec), time.Minute)
	if calm.Stages[3].Digest != mended.Stages[3].Digest {
		t.Error("the data set is not what an undisturbed run makes")
	}
}
