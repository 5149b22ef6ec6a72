//go:build bench

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/enums/v1"

	"precept/schemas"
)

// mocked starts a stack whose teacher and judge are the bench's mock, which gets the flags.
func mocked(t *testing.T, latency time.Duration, inFlight int, flags ...string) (s *stack, url string) {
	t.Helper()
	s = newStack(t)
	port := freePort(t)
	url = fmt.Sprintf("http://127.0.0.1:%d", port)
	s.start("mock", s.built("bench/mock"), append([]string{"--listen", fmt.Sprintf("127.0.0.1:%d", port), "--latency", latency.String()}, flags...)...)
	s.await("the mock", time.Minute, func() bool { return up(url + "/requests") })
	endpoint := func(model string) map[string]any {
		return map[string]any{"base_url": url + "/v1", "model": model, "provider": "bench", "revision": "1", "simulated": true, "max_in_flight": inFlight}
	}
	s.config["endpoints"] = map[string]any{"teacher": endpoint("mock-teacher"), "judge": endpoint("mock-judge")}
	return s, url
}

// built builds a program of this checkout from its folder.
func (s *stack) built(folder string) string {
	s.Helper()
	path := filepath.Join(s.dir, filepath.Base(folder)+".bin")
	cmd := exec.Command("go", "build", "-o", path, "./"+folder)
	cmd.Dir = s.root
	if out, err := cmd.CombinedOutput(); err != nil {
		s.Fatalf("build %s: %v\n%s", folder, err, out)
	}
	return path
}

// cpu is the time that a process has used.
func (p *process) cpu(t *testing.T) time.Duration {
	t.Helper()
	used, ok := cpuOf(p.cmd.Process.Pid)
	if !ok {
		t.Fatalf("process %d has no times", p.cmd.Process.Pid)
	}
	return used
}

// cpuOf is the time that a process has used, where it still runs.
func cpuOf(pid int) (time.Duration, bool) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// User and system time, in hundredths of a second.
	_, rest, _ := strings.Cut(string(raw[strings.LastIndexByte(string(raw), ')')+1:]), " ")
	var ticks time.Duration
	for _, f := range strings.Fields(rest)[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0, false
		}
		ticks += time.Duration(n)
	}
	return ticks * 10 * time.Millisecond, true
}

// status is a line of a process's status, in MiB.
func (p *process) status(t *testing.T, name string) float64 {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib / 1024
		}
	}
	t.Fatalf("no %s in the process's status", name)
	return 0
}

// TestRate measures synthesize against the bare loop, on the same mock in one run.
func TestRate(t *testing.T) {
	for _, inFlight := range []int{256, 1024} {
		t.Run(fmt.Sprint(inFlight), func(t *testing.T) {
			n := number("BENCH_REQUESTS", 80*inFlight)
			s, url := mocked(t, 250*time.Millisecond, inFlight)
			bare := s.built("bench/bare")
			w := s.worker("worker", "factory,llm")
			for round := range number("BENCH_ROUNDS", 3) {
				cmd := exec.Command(bare, "--url", url+"/v1", "--requests", fmt.Sprint(n), "--in-flight", fmt.Sprint(inFlight))
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				var b struct {
					PerSecond float64 `json:"per_second"`
					CPU       float64 `json:"cpu_us_per_request"`
				}
				if err := json.Unmarshal(out, &b); err != nil {
					t.Fatal(err)
				}
				spec := s.many(n)
				spec.Synthesize.Temperature = new(float64(round+1) / 10) // new answers in every round
				id := fmt.Sprintf("rate-%d", round)
				run := s.startRun(id, spec)
				var begun, ended time.Duration
				s.await("synthesize", 10*time.Minute, func() bool {
					p, ok := s.progress(id)
					if !ok {
						return false
					}
					switch p.Stage {
					case schemas.StagePrompts:
						begun = w.cpu(t)
					case schemas.StageSynthesize:
					default:
						ended = w.cpu(t)
						return true
					}
					return false
				})
				stage := s.report(run, 10*time.Minute).Stages[1]
				if stage.Usage.Paid != int64(n) {
					t.Errorf("%d requests, want %d", stage.Usage.Paid, n)
				}
				rate := float64(n) / stage.Seconds
				cpu := float64((ended - begun).Microseconds()) / float64(n)
				t.Logf("%d in flight, %d requests: bare %.0f/s, %.0f us CPU; precept %.0f/s, %.0f us CPU; ratios %.3f, %.2f",
					inFlight, n, b.PerSecond, b.CPU, rate, cpu, rate/b.PerSecond, cpu/b.CPU)
			}
		})
	}
}

// TestRows measures the data stages over many rows with an instant mock.
func TestRows(t *testing.T) {
	s, url := mocked(t, 0, 64)
	for i, n := range []int{50_000, number("BENCH_ROWS", 1_000_000)} {
		w := s.worker(fmt.Sprintf("worker-%d", i), "factory,llm")
		id := fmt.Sprintf("rows-%d", n)
		begun := time.Now()
		run := s.startRun(id, s.many(n))
		// Rows a second within synthesize, by tenths.
		var marks []string
		var last schemas.StageProgress
		at := time.Now()
		s.await("the run's end", 2*time.Hour, func() bool {
			p, ok := s.progress(id)
			if ok && p.Stage == schemas.StageSynthesize && len(p.Stages) == 2 {
				now := p.Stages[1]
				if now.Ledger.Outcomes()-last.Ledger.Outcomes() >= int64(n/10) {
					marks = append(marks, fmt.Sprintf("%.0f", float64(now.Ledger.Outcomes()-last.Ledger.Outcomes())/time.Since(at).Seconds()))
					last, at = now, time.Now()
				}
			}
			d, err := s.client.DescribeWorkflowExecution(t.Context(), id, "")
			return err == nil && d.WorkflowExecutionInfo.Status == enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
		})
		report := s.report(run, time.Minute)
		t.Logf("%d rows: %s in all, peak memory %.0f MiB, %.1f CPU seconds, %s requests so far, %.1f events a 1,000 rows; synthesize rows/s by tenths: %v",
			n, time.Since(begun).Round(time.Second), w.status(t, "VmHWM"), w.cpu(t).Seconds(), requests(t, url),
			float64(s.events(id))/float64(n)*1000, marks)
		for _, stage := range report.Stages {
			t.Logf("  %-10s %6.1f s, %d tasks, %s", stage.Stage, stage.Seconds, stage.Tasks, stage.Ledger)
		}
		w.kill()
	}
}

// events counts the history events of all links of a run's chain.
func (s *stack) events(id string) (n int64) {
	s.Helper()
	run := ""
	for {
		d, err := s.client.DescribeWorkflowExecution(s.Context(), id, run)
		if err != nil {
			s.Fatal(err)
		}
		n += d.WorkflowExecutionInfo.HistoryLength
		first := s.client.GetWorkflowHistory(s.Context(), id, d.WorkflowExecutionInfo.Execution.RunId, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		event, err := first.Next()
		if err != nil {
			s.Fatal(err)
		}
		if run = event.GetWorkflowExecutionStartedEventAttributes().GetContinuedExecutionRunId(); run == "" {
			return n
		}
	}
}

// TestRebuild deletes all shards of a run and has another one make them again from
// the journal alone.
func TestRebuild(t *testing.T) {
	s, url := mocked(t, 0, 64)
	n := number("BENCH_REBUILD", 100_000)
	spec := s.many(n)
	spec.Filter.Votes = 3
	w := s.worker("worker-1", "factory,llm")
	first := s.report(s.startRun("first", spec), time.Hour)
	asked := requests(t, url)
	w.kill()
	deleted := 0
	for info, err := range s.store.List(t.Context(), "shards/") {
		if err != nil {
			t.Fatal(err)
		}
		if err := s.store.Delete(t.Context(), info.Key); err != nil {
			t.Fatal(err)
		}
		deleted++
	}
	w = s.worker("worker-2", "factory,llm")
	gateway, temporal := s.parts["s3"].cpu(t), s.parts["temporal"].cpu(t)
	second := s.report(s.startRun("second", spec), time.Hour)
	if again := requests(t, url); again != asked {
		t.Errorf("%s requests, then %s", asked, again)
	}
	var seconds float64
	for i, stage := range second.Stages {
		seconds += stage.Seconds
		if stage.Digest != first.Stages[i].Digest {
			t.Errorf("stage %s has another digest", stage.Stage)
		}
	}
	t.Logf("%d rows with 3 votes: %d shards made again in %.1f s (prompts %.1f, synthesize %.1f, filter %.1f, curate %.1f), peak memory %.0f MiB, %s requests in all",
		n, deleted, seconds, second.Stages[0].Seconds, second.Stages[1].Seconds, second.Stages[2].Seconds, second.Stages[3].Seconds, w.status(t, "VmHWM"), asked)
	t.Logf("CPU seconds: worker %.1f, S3 gateway %.1f, Temporal %.1f", w.cpu(t).Seconds(),
		(s.parts["s3"].cpu(t) - gateway).Seconds(), (s.parts["temporal"].cpu(t) - temporal).Seconds())
}

// requests is how many requests the mock has answered.
func requests(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url + "/requests")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}
