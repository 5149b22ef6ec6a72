package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"precept/schemas"
)

// views shows sights to an observer, each some seconds after the start.
func views(seen map[int]sight, order ...int) (out []view) {
	var now time.Time
	o := observer{now: func() time.Time { return now }}
	for _, s := range order {
		now = at(s)
		out = append(out, o.view(seen[s]))
	}
	return out
}

func TestLines(t *testing.T) {
	planning := synthesizing(0)
	planning.Stages[1].Tasks = 0
	open := func(done, total int64) openTask {
		return openTask{ID: "1", Activity: "Synthesize", Taken: true, Attempt: 1,
			Progress: &schemas.TaskProgress{Done: done, Total: total, Unit: "completions"}}
	}
	silent := synthesizing(1)
	silent.Outages = []schemas.Outage{{Endpoint: "teacher", Says: "connection\nrefused", Since: began, Instead: "spare"}}
	retried := open(2, 50)
	retried.Attempt, retried.Failure = 3, "call sim-teacher: rate limited"
	seen := map[int]sight{
		1:  {Progress: &schemas.Progress{Name: "first", State: schemas.StateRunning, Stage: schemas.StagePrompts, Started: began}},
		3:  {Progress: planning, Tasks: []openTask{{ID: "2", Activity: "Plan", Taken: true, Attempt: 1}}},
		4:  {Progress: synthesizing(0), Tasks: []openTask{open(10, 50), open(30, 50)}},
		5:  {Progress: synthesizing(0), Tasks: []openTask{open(12, 50), open(33, 50)}},
		6:  {Progress: synthesizing(1), Tasks: []openTask{open(20, 50), retried}},
		7:  {Progress: silent},
		8:  {Progress: silent},
		20: {Progress: training(), Tasks: []openTask{{ID: "9", Activity: "SFT", Attempt: 1}}},
		30: {Progress: training(), Tasks: []openTask{trainingTask(10)}},
		40: {Progress: training(), Tasks: []openTask{trainingTask(20)}},
		95: {Progress: gated()},
	}
	var b bytes.Buffer
	l := &lines{out: &b}
	for _, v := range views(seen, 1, 3, 4, 5, 6, 7, 8, 20, 30, 40, 95) {
		l.show(v)
	}
	want := `   1.0s  taking in policy and prompts
Simulated, not real models: sim-teacher, sim-judge
   3.0s  prompts     done: 3 tasks, kept 182, duplicate 4, 2.1s
   3.0s  synthesize  planning, calls 0 paid, 3 cached, 0.0s; Plan
   4.0s  synthesize  0/8 tasks, kept 0, rejected 0, calls 0 paid, 3 cached, 1.0s; 2 tasks open, 40/100 completions
   6.0s  synthesize  1/8 tasks, kept 40, rejected 1, calls 41 paid, 3 cached, 3.0s; 2 tasks open, 22/100 completions, Synthesize tried again (attempt 3) after: call sim-teacher: rate limited
Outage: endpoint teacher answers nobody since 2026-03-01 12:00:00 UTC: connection refused; spare is asked in its place
    20s  synthesize  done: 8 tasks, kept 320, refused 8, calls 328 paid, 3 cached, 1m12s
    20s  sft         0/1 tasks, kept 0, rejected 0, 0.0s; waiting for a worker to take SFT
    30s  sft         0/1 tasks, kept 0, rejected 0, 10s; 10/60 steps, loss 1.934, 72 tokens/s
    40s  sft         0/1 tasks, kept 0, rejected 0, 20s; 20/60 steps, loss 1.934, 72 tokens/s, 40s to go
  1m35s  waiting for a person at gate dataset (opening dataset-1-0123456789ab) for 15s
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestDrawing(t *testing.T) {
	seen := map[int]sight{
		10: {Progress: training(), Tasks: []openTask{trainingTask(15)}},
		20: {Progress: training(), Tasks: []openTask{trainingTask(30)}},
	}
	got := drawing(views(seen, 10, 20)[1])
	want := []string{
		"first  running  20s  Simulated, not real models: sim-teacher, sim-judge",
		"  prompts     [====================]   3/3    kept 182, rejected 4  2.1s",
		"  synthesize  [====================]   8/8    kept 320, rejected 8  calls 328 paid, 3 cached  1m12s",
		"  sft         [==========>         ]   0/1    kept 0, rejected 0  over 10s",
		"  30/60 steps, loss 1.934, 72 tokens/s, 20s to go",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestRewardIsShownByCategory(t *testing.T) {
	seen := map[int]sight{10: {Progress: training(), Tasks: []openTask{rewardingTask(15)}}}
	got := drawing(views(seen, 10)[0])
	const want = "  15/60 steps, loss 0.010, reward 0.613 ± 0.200 (self-harm 0.72, violence 0.50), 72 tokens/s"
	if last := got[len(got)-1]; last != want {
		t.Errorf("got %q, want %q", last, want)
	}
}

// TestBarsRedraw checks that a drawing replaces the one before it, fits the
// screen, and leaves what was said.
func TestBarsRedraw(t *testing.T) {
	var b bytes.Buffer
	width, height := 40, 24
	s := &bars{out: &b, size: func() (int, int) { return width, height }}
	v := views(map[int]sight{10: {Progress: synthesizing(2)}}, 10)[0]
	s.show(v)
	if strings.Contains(b.String(), "\x1b") {
		t.Errorf("the first drawing replaces what was there: %q", b.String())
	}
	for line := range strings.Lines(b.String()) {
		if n := len([]rune(line)); n > width {
			t.Errorf("%d characters in %q", n, line)
		}
	}
	b.Reset()
	s.show(v)
	if !strings.HasPrefix(b.String(), "\x1b[3A\x1b[J") {
		t.Errorf("the second drawing doesn't replace the first: %q", b.String())
	}
	b.Reset()
	s.say("a gate\n")
	s.show(v)
	if strings.Contains(b.String(), "\x1b") {
		t.Errorf("what was said is replaced: %q", b.String())
	}
	height = 3
	b.Reset()
	s.leave()
	s.show(v)
	if n := strings.Count(b.String(), "\n"); n != 2 {
		t.Errorf("%d lines on a screen of 3", n)
	}
}

func TestJSONScreen(t *testing.T) {
	var b bytes.Buffer
	s := &jsonScreen{out: &b}
	seen := map[int]sight{1: {Progress: synthesizing(1)}, 2: {Progress: synthesizing(1)}, 3: {Progress: synthesizing(2)}}
	for _, v := range views(seen, 1, 2, 3) {
		s.show(v)
	}
	var got []int
	for line := range strings.Lines(b.String()) {
		var sight sight
		if err := json.Unmarshal([]byte(line), &sight); err != nil {
			t.Fatal(err)
		}
		got = append(got, sight.Progress.Stages[1].Done)
	}
	if diff := cmp.Diff([]int{1, 2}, got); diff != "" {
		t.Error(diff)
	}
}

func TestClock(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0.0s", 4200 * time.Millisecond: "4.2s", 59 * time.Second: "59s",
		185 * time.Second: "3m05s", 62 * time.Minute: "1h02m",
	} {
		if got := clock(d); got != want {
			t.Errorf("clock(%s) = %s, want %s", d, got, want)
		}
	}
}
