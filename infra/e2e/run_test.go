//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"precept/internal/shard"
	"precept/schemas"
	"precept/workflows"
)

func (s *stack) spec() schemas.RunSpec {
	spec := schemas.RunSpec{Name: "e2e", Base: s.base}
	spec.Prompts.Imports = []schemas.Import{{Path: filepath.Join(s.root, "examples/prompts/*.jsonl")}}
	spec.Prompts.Limit = 8
	spec.SFT = schemas.SFTSpec{Epochs: 6, BatchSize: 4, SaveSteps: 5, TrainableLayers: -1, LearningRate: 1e-3}
	spec.RL = schemas.RLSpec{Steps: 2, PromptsPerStep: 1, Generations: 2, MaxTokens: 16, SaveSteps: 1, TrainableLayers: -1}
	spec.Evaluate.Suites = []schemas.Import{{Path: filepath.Join(s.root, "infra/e2e/testdata/suite.jsonl")}}
	spec.Evaluate.MaxTokens = 12
	spec.Evaluate.PolicyArmPrompts = 1
	spec.Gates = schemas.GatesSpec{Dataset: true, Release: true}
	return spec
}

// TestKilledRunEnds kills the workers in the middle of synthesize and of sft; the
// run ends all the same, its ledger adds up, and almost no answer is paid twice.
func TestKilledRunEnds(t *testing.T) {
	s := newStack(t, "--latency", "300ms")
	s.trainer("tiny", map[string]any{
		"kind": "tiny", "tokenizer_from": filepath.Join(s.root, ".precept/models/SmolLM2-135M-Instruct"), "output": s.base,
	})
	llm, gpu := s.worker("worker-llm", "factory,llm"), s.worker("worker-gpu", "gpu")
	const id = "e2e/killed run"
	run := s.startRun(id, s.spec())

	s.await("the middle of synthesize", time.Minute, func() bool { return s.journaled() >= 20 })
	llm.kill()
	paid, journaled := s.paid(), s.journaled()
	s.worker("worker-llm-2", "factory,llm")

	opening := s.awaitGate(id, schemas.GateDataset, 3*time.Minute)
	if p := s.paid(); p.Repeated > paid.Requests-journaled {
		t.Errorf("%d calls were paid twice, of which only %d - %d were not journaled", p.Repeated, paid.Requests, journaled)
	}
	details := s.temporal("workflow", "metadata", "-w", id)
	if !strings.Contains(details, opening.ID) {
		t.Errorf("the UI's details don't say what the run waits for:\n%s", details)
	}
	s.temporal("workflow", "signal", "-w", id, "--name", "approve", "--input", `{"gate":"dataset","by":"e2e"}`)

	s.await("a checkpoint of sft", 5*time.Minute, func() bool {
		found := false
		for info, err := range s.store.List(t.Context(), "checkpoints/") {
			if err != nil {
				t.Fatal(err)
			}
			found = found || strings.HasSuffix(info.Key, "/index.json")
		}
		return found
	})
	gpu.killAlone() // the kernel must take the trainer along
	for info, err := range s.store.List(t.Context(), "jobs/") {
		t.Fatalf("sft was not killed in its middle: %s is there (%v)", info.Key, err)
	}
	s.worker("worker-gpu-2", "gpu")

	s.awaitGate(id, schemas.GateRelease, 10*time.Minute)
	s.temporal("workflow", "update", "execute", "-w", id, "--name", "approve", "--input", `{"gate":"release","by":"e2e"}`)
	report := s.report(run, time.Minute)
	if report.State != schemas.StateCompleted {
		t.Fatalf("the run ended as %q: %s", report.State, report.Note)
	}
	passed := schemas.Stages[slices.Index(schemas.Stages, schemas.StagePrompts) : len(schemas.Stages)-1]
	if len(report.Stages) != len(passed) {
		t.Errorf("the run has %d stages, want %v", len(report.Stages), passed)
	}
	for _, stage := range report.Stages {
		if err := stage.Ledger.Check(stage.Ledger.Planned); err != nil || stage.Ledger.Planned == 0 {
			t.Errorf("stage %s: %v (%+v)", stage.Stage, err, stage.Ledger)
		}
	}
	if len(report.Evaluation.Measures) == 0 {
		t.Error("nothing was measured")
	}
	if len(report.Simulated) == 0 {
		t.Error("the report doesn't say that teacher and judge are simulated")
	}
	t.Run("readers", func(t *testing.T) { s.read(t, id) })
	t.Run("resumed training lost no step", func(t *testing.T) { s.curveIsWhole(t, id) })
	t.Run("models", func(t *testing.T) { s.models(t, id, report) })
	t.Run("the best milestone went on", func(t *testing.T) { s.choice(t, id) })
	t.Run("garbage", func(t *testing.T) { s.garbage(t) })
	t.Run("again", func(t *testing.T) { s.again(t, id, report) })
}

// read opens what lies in S3 with the tools that people have.
func (s *stack) read(t *testing.T, id schemas.RunID) {
	var files []string
	for _, stage := range schemas.Stages {
		var m schemas.Manifest
		if err := shard.GetJSON(t.Context(), s.store, schemas.ManifestObject(id, stage), &m); schemas.KindOf(err) == schemas.NotFound {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		for kind, refs := range m.Outputs {
			for _, ref := range refs {
				if ref.Rows > 0 {
					files = append(files, kind+"="+filepath.Join(s.dir, "s3", "precept", ref.Object)+"="+fmt.Sprint(ref.Rows))
				}
			}
		}
	}
	if len(files) < 8 {
		t.Fatalf("only %d shards to read", len(files))
	}
	cmd := exec.Command(s.python(), append([]string{filepath.Join(s.root, "infra/e2e/testdata/read.py"), s.base, t.TempDir()}, files...)...)
	cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// models fetches what the run trained, and talks to it beside its base.
func (s *stack) models(t *testing.T, id schemas.RunID, report schemas.RunReport) {
	starter := func(in string, args ...string) string {
		t.Helper()
		cmd := exec.Command(s.bin("starter"), append(args, "--config", s.write("worker.json", s.config))...)
		cmd.Env, cmd.Dir, cmd.Stdin = s.env, s.root, strings.NewReader(in)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("starter %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	dir := filepath.Join(t.TempDir(), "model")
	t.Log(starter("", "pull", string(id), dir))
	raw, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	card := string(raw)
	if stored, _, err := s.store.Get(t.Context(), schemas.RunObject(id, "report/card-rl.md")); err != nil || string(stored) != card {
		t.Errorf("the stored card is another one: %v\n%s", err, stored)
	}
	for _, m := range report.Models {
		if m.Arm == schemas.ArmRL && !strings.Contains(card, "| weights | `"+string(m.Model.Digest)+"` |") {
			t.Errorf("it isn't the model that was evaluated as %s", m.Model.Digest)
		}
	}
	for _, part := range []string{"Simulated, not language models", "--reasoning-parser olmo3", "| rl |", "| teacher | `simllm/sim-teacher@1` |"} {
		if !strings.Contains(card, part) {
			t.Errorf("the card lacks %q:\n%s", part, card)
		}
	}
	said := starter("How are you?\n", "chat", string(id)+"/base", string(id), "--max-tokens", "4")
	for _, part := range []string{"> How are you?\n", "── " + string(id) + "/base\n", "── " + string(id) + "/rl\n"} {
		if !strings.Contains(said, part) {
			t.Errorf("the chat lacks %q:\n%s", part, said)
		}
	}
}

func (s *stack) curveIsWhole(t *testing.T, id schemas.RunID) {
	var m schemas.Manifest
	if err := shard.GetJSON(t.Context(), s.store, schemas.ManifestObject(id, schemas.StageSFT), &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Curve) < 10 {
		t.Fatalf("the curve has %d points", len(m.Curve))
	}
	for i, p := range m.Curve {
		if p.Step != i+1 {
			t.Fatalf("point %d of the curve is step %d", i+1, p.Step)
		}
	}
}

// choice holds RL's beginning against what was chosen of SFT's milestones, which outlived
// the killed trainer.
func (s *stack) choice(t *testing.T, id schemas.RunID) {
	var sft, graded, rl schemas.Manifest
	for stage, m := range map[schemas.Stage]*schemas.Manifest{schemas.StageSFT: &sft, schemas.StageSFTGrade: &graded, schemas.StageRL: &rl} {
		if err := shard.GetJSON(t.Context(), s.store, schemas.ManifestObject(id, stage), m); err != nil {
			t.Fatal(err)
		}
	}
	var plan schemas.Plan
	if err := shard.GetJSON(t.Context(), s.store, rl.Plan.Object, &plan); err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(sft.Milestones, func(m schemas.Milestone) bool { return m.Step == graded.Selection.Step })
	if len(sft.Milestones) != 3 || at < 0 || sft.Milestones[at].Model.Digest != graded.Model.Digest || plan.Tasks[0].Model.Digest != graded.Model.Digest {
		t.Errorf("of %+v %+v was chosen, and rl began with %+v", sft.Milestones, graded.Model, plan.Tasks[0].Model)
	}
}

// garbage removes what nobody needs a month after the run, which are leases. That
// nothing else went, the run shows when it is started again.
func (s *stack) garbage(t *testing.T) {
	month := time.Now().Add(-30 * 24 * time.Hour)
	err := filepath.WalkDir(filepath.Join(s.dir, "s3", "precept"), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		return os.Chtimes(path, month, month)
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(s.bin("starter"), "gc", "--delete", "--list", "--config", s.write("worker.json", s.config))
	cmd.Env = s.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	keys, _, _ := strings.Cut(string(out), "objects ")
	for _, key := range strings.Fields(keys) {
		if !strings.HasPrefix(key, "leases/") {
			t.Errorf("%s is garbage", key)
		}
	}
	t.Logf("%s", strings.TrimPrefix(string(out), keys))
}

// again starts the finished run once more: all is found, nothing is paid.
func (s *stack) again(t *testing.T, id string, first schemas.RunReport) {
	before, start := s.paid(), time.Now()
	second := s.report(s.startRun(id, s.spec()), time.Minute)
	if after := s.paid(); after.Requests != before.Requests {
		t.Errorf("%d calls were made anew", after.Requests-before.Requests)
	}
	for i, stage := range second.Stages {
		if stage.Digest != first.Stages[i].Digest {
			t.Errorf("stage %s came out differently", stage.Stage)
		}
	}
	t.Logf("the finished run took %s the second time", time.Since(start).Round(time.Millisecond))
}

// TestBadInputSpendsNothing: one clear error, before any model is called.
func TestBadInputSpendsNothing(t *testing.T) {
	s := newStack(t)
	s.worker("worker", "factory,llm")
	broken := filepath.Join(s.dir, "broken.parquet")
	if err := os.WriteFile(broken, []byte("PAR1 broken PAR1"), 0o644); err != nil {
		t.Fatal(err)
	}
	with := func(change func(*schemas.RunSpec)) schemas.RunSpec {
		spec := s.spec()
		change(&spec)
		return spec
	}
	tests := []struct {
		name string
		spec any
		want string
	}{
		{"typo", map[string]any{"name": "x", "synthesise": map[string]any{}}, `unknown field "synthesise"`},
		{"negative number", map[string]any{"name": "x", "filter": map[string]any{"votes": -2}}, "filter.votes is -2"},
		{"unknown endpoint", with(func(r *schemas.RunSpec) { r.Synthesize.Teacher = schemas.RoleOf("gpt") }), "synthesize.teacher"},
		{"missing file", with(func(r *schemas.RunSpec) { r.Prompts.Imports[0].Path = "nowhere.jsonl" }), "nowhere.jsonl"},
		{"broken Parquet", with(func(r *schemas.RunSpec) {
			r.Prompts.Imports[0] = schemas.Import{Path: broken, Category: "violence", Intent: "harmful"}
		}), "broken Parquet file"},
		{"missing policy", with(func(r *schemas.RunSpec) { r.Policy.Source = "no/such/folder" }), "no/such/folder"},
		{"unknown category", with(func(r *schemas.RunSpec) {
			r.Prompts.Imports[0].Columns = map[string]string{"category": "family"}
		}), "the policy's are"},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			run, err := s.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
				ID: fmt.Sprintf("bad-%d", i), TaskQueue: schemas.QueueFactory,
			}, workflows.FactoryName, tt.spec)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := run.Get(ctx, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
	if p := s.paid(); p.Requests != 0 {
		t.Errorf("%d calls were made", p.Requests)
	}
}
