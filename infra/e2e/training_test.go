//go:build bench

package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"precept/internal/shard"
	"precept/schemas"
)

// smol is the small real model that the quickstart trains.
func (s *stack) smol() string { return filepath.Join(s.root, ".precept/models/SmolLM2-135M-Instruct") }

// trains is a short run of the quickstart's kind, until rl.
func (s *stack) trains() schemas.RunSpec {
	spec := schemas.RunSpec{Name: "trains", Base: s.smol(), Until: schemas.StageRL}
	spec.Prompts.Imports = []schemas.Import{{Path: filepath.Join(s.root, "examples/prompts/*.jsonl")}}
	spec.Prompts.Limit = number("BENCH_PROMPTS", 24)
	spec.Synthesize.Samples, spec.Filter.Votes = 1, 1
	spec.SFT = schemas.SFTSpec{Epochs: 1, SaveSteps: 2}
	spec.RL = schemas.RLSpec{Steps: 6, SaveSteps: 2}
	spec.Evaluate.Skip = true
	return spec
}

func (s *stack) curve(run schemas.RunID, stage schemas.Stage) []schemas.CurvePoint {
	s.Helper()
	var m schemas.Manifest
	if err := shard.GetJSON(s.Context(), s.store, schemas.ManifestObject(run, stage), &m); err != nil {
		s.Fatal(err)
	}
	return m.Curve
}

// checkpoint is the last stored checkpoint's step, of the job that is under way.
func (s *stack) checkpoint() (last int) {
	s.Helper()
	for info, err := range s.store.List(s.Context(), "checkpoints/") {
		if err != nil {
			s.Fatal(err)
		}
		if folder, ok := strings.CutSuffix(info.Key, "/index.json"); ok {
			step, err := strconv.Atoi(filepath.Base(folder))
			if err != nil {
				s.Fatal(err)
			}
			last = max(last, step)
		}
	}
	return last
}

// trainerOf is the process that a worker trains in.
func (s *stack) trainerOf(w *process) *os.Process {
	s.Helper()
	out, err := exec.Command("pgrep", "-P", fmt.Sprint(w.cmd.Process.Pid)).Output()
	if err != nil {
		s.Fatalf("the worker has no trainer: %v", err)
	}
	pid, err := strconv.Atoi(strings.Fields(string(out))[0])
	if err != nil {
		s.Fatal(err)
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		s.Fatal(err)
	}
	return p
}

// TestTrainingSurvives trains SmolLM2 twice, by SFT and then RL: once in peace, and once
// killed three times: the trainer in the middle of SFT, later its machine with all that lay
// on it, and the worker in the middle of RL. Both have taken the same steps over the same
// rows, and come to the same curves.
func TestTrainingSurvives(t *testing.T) {
	s := newStack(t)
	s.worker("worker-llm", "factory,llm")
	gpu := s.worker("worker-gpu", "gpu")
	whole := s.report(s.startRun("whole", s.trains()), 40*time.Minute)
	if whole.State != schemas.StateCompleted {
		t.Fatalf("the run in peace ended as %s: %s", whole.State, whole.Note)
	}
	steps := len(s.curve("whole", schemas.StageSFT))

	spec := s.trains()
	spec.Refresh = map[schemas.Stage]string{schemas.StageSFT: "again", schemas.StageRL: "again"}
	run := s.startRun("killed", spec)
	s.await("a third of sft", 30*time.Minute, func() bool { return s.checkpoint() >= steps/3 })
	if err := s.trainerOf(gpu).Kill(); err != nil {
		t.Fatal(err)
	}
	s.await("two thirds of sft", 30*time.Minute, func() bool { return s.checkpoint() >= 2*steps/3 })
	gpu.kill()
	if err := os.RemoveAll(filepath.Join(s.dir, "work")); err != nil {
		t.Fatal(err)
	}
	gpu = s.worker("worker-gpu-2", "gpu")
	s.await("rl", 30*time.Minute, func() bool {
		p, ok := s.progress("killed")
		return ok && p.Stage == schemas.StageRL && s.checkpoint() >= 2 && s.checkpoint() < 6
	})
	gpu.kill()
	s.worker("worker-gpu-3", "gpu")
	if report := s.report(run, 40*time.Minute); report.State != schemas.StateCompleted {
		t.Fatalf("the killed run ended as %s: %s", report.State, report.Note)
	}
	for stage, metrics := range map[schemas.Stage][]string{schemas.StageSFT: {"loss"}, schemas.StageRL: {"loss", "reward"}} {
		want, got := s.curve("whole", stage), s.curve("killed", stage)
		if len(want) != len(got) {
			t.Fatalf("%s: %d steps, and %d when killed", stage, len(want), len(got))
		}
		for _, metric := range metrics {
			var line []string
			largest := 0.0
			for i := range want {
				x, y := want[i].Metrics[metric], got[i].Metrics[metric]
				largest = max(largest, math.Abs(x-y)/max(1e-3, math.Abs(x)))
				line = append(line, fmt.Sprintf("%d:%.4f/%.4f", want[i].Step, x, y))
			}
			t.Logf("%s, %s, in peace/killed: %s; the largest relative difference is %.2g", stage, metric, strings.Join(line, " "), largest)
			if largest > 1e-3 {
				t.Errorf("%s: the curves of %s differ by %.2g", stage, metric, largest)
			}
		}
	}
}

// TestTrainingTime measures SFT through Precept against the same TRL script run bare, from
// the first step's end to the last one's.
func TestTrainingTime(t *testing.T) {
	s := newStack(t)
	s.worker("worker", "factory,llm")
	gpu := s.worker("worker-gpu", "gpu")
	spec := s.trains()
	spec.Until = schemas.StageSFT
	for round := range number("BENCH_ROUNDS", 3) {
		spec.Refresh = map[schemas.Stage]string{schemas.StageSFT: fmt.Sprint(round)}
		id := schemas.RunID(fmt.Sprintf("timed-%d", round))
		if report := s.report(s.startRun(string(id), spec), 40*time.Minute); report.State != schemas.StateCompleted {
			t.Fatalf("the run ended as %s: %s", report.State, report.Note)
		}
		// Every step tells its tokens and their rate; the first one holds the start-up.
		var seconds, before float64
		curve := s.curve(id, schemas.StageSFT)
		for i, p := range curve {
			if i > 0 {
				seconds += (p.Metrics["num_tokens"] - before) / p.Metrics["tokens_per_second"]
			}
			before = p.Metrics["num_tokens"]
		}
		var m schemas.Manifest
		if err := shard.GetJSON(t.Context(), s.store, schemas.ManifestObject(id, schemas.StageCurate), &m); err != nil {
			t.Fatal(err)
		}
		var line []string
		for _, flags := range [][]string{{"--labelled-only"}, nil} {
			bare := s.bare(m.Outputs[schemas.OutputExamples], flags...)
			if bare.Steps != len(curve) {
				t.Fatalf("the bare script took %d steps, Precept %d", bare.Steps, len(curve))
			}
			line = append(line, fmt.Sprintf("bare %v %.1f s, ratio %.3f", flags, bare.Seconds, seconds/bare.Seconds))
		}
		peak := gpu.status(t, "VmHWM")
		if peak > 200 {
			t.Errorf("the worker took %.0f MiB, want at most 200 whatever the model's size", peak)
		}
		t.Logf("%d steps: precept %.1f s; %s; the worker's peak %.0f MiB", len(curve), seconds, strings.Join(line, "; "), peak)
	}
}

type bareTraining struct {
	Steps   int     `json:"steps"`
	Seconds float64 `json:"seconds"`
}

// bare trains on the shards with bench/trl.
func (s *stack) bare(refs []schemas.ShardRef, flags ...string) (b bareTraining) {
	s.Helper()
	data := s.TempDir()
	for i, ref := range refs {
		if ref.Rows == 0 {
			continue
		}
		if err := shard.Fetch(s.Context(), s.store, ref, filepath.Join(data, fmt.Sprintf("%04d.parquet", i))); err != nil {
			s.Fatal(err)
		}
	}
	cmd := exec.Command(s.python(), append([]string{
		filepath.Join(s.root, "bench/trl/bare.py"), "--model", s.smol(), "--data", filepath.Join(data, "*.parquet"), "--output", s.TempDir(), "--save-steps", "2",
	}, flags...)...)
	cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1", "OMP_WAIT_POLICY=PASSIVE", "TOKENIZERS_PARALLELISM=false")
	out, err := cmd.Output()
	if err != nil {
		s.Fatalf("%v\n%s", err, out)
	}
	if err := json.Unmarshal(out[strings.LastIndex(strings.TrimSpace(string(out)), "\n")+1:], &b); err != nil {
		s.Fatalf("%v\n%s", err, out)
	}
	return b
}
