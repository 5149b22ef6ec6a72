package activities

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/internal/shard"
	"precept/internal/trainer"
	"precept/schemas"
)

// curve is the steps of a job's curve.
func curve(m schemas.Manifest) (steps []int) {
	for _, p := range m.Curve {
		steps = append(steps, p.Step)
	}
	return steps
}

// dies trains to step 3 with checkpoints at 1 and 2 and is killed; from a
// checkpoint it trains to its end at step 4.
const dies = `
from=$(field resume_from)
echo '{"event":"start","total_steps":4,"rows":5}'
if [ -z "$from" ]; then
	step 1; save 1; step 2; save 2; step 3
	kill -9 $$
fi
cp "$from/model" "$here/resumed"
step 3; step 4; save 4
finish`

func TestSFTSurvivesTheDeathOfItsTrainer(t *testing.T) {
	t.Parallel()
	c := python(t, dies)
	w := newWorld(t, imported(t, fivePrompts()...), options{trainer: c}).stages(dataStages...)
	plan := w.plans(schemas.StageSFT)
	_, err := w.does(schemas.StageSFT, plan, 0)
	if f := failure(t, err); f.Type() != string(schemas.Unavailable) || f.NonRetryable() {
		t.Fatalf("the killed attempt ended with %v", err)
	}
	left := objects(t, w.store, "checkpoints/")
	var steps []string
	for key := range left {
		if name, ok := strings.CutSuffix(key, "/index.json"); ok {
			steps = append(steps, filepath.Base(name))
		}
	}
	if d := cmp.Diff([]string{"00000002"}, steps); d != "" {
		t.Errorf("stored checkpoints (- want, + got):\n%s", d)
	}

	// The next attempt runs on another machine.
	other := newWorld(t, w.spec, options{trainer: elsewhere(t, c), store: w.store, holder: "other"})
	other.inputs, other.sums = w.inputs, w.sums
	results := other.stage(schemas.StageSFT)
	if r := results[0]; r.Found || r.Ledger.Kept != 5 {
		t.Errorf("the second attempt came to %+v", r)
	}
	if got := beside(t, c, "resumed"); got != "weights 2\n" {
		t.Errorf("it resumed from %q", got)
	}
	var first, second trainer.SFT
	for name, job := range map[string]*trainer.SFT{"job-1.json": &first, "job-2.json": &second} {
		if err := json.Unmarshal([]byte(beside(t, c, name)), job); err != nil {
			t.Fatal(err)
		}
	}
	if first.ResumeFrom != "" || filepath.Base(second.ResumeFrom) != "checkpoint-2" || !strings.HasPrefix(second.ResumeFrom, other.config.Trainer.WorkDir) {
		t.Errorf("resume_from is %q, then %q", first.ResumeFrom, second.ResumeFrom)
	}
	if len(second.Data) != 2 {
		t.Errorf("the job has data %v, want the shards of two categories", second.Data)
	}
	m := other.closed(schemas.StageSFT)
	if d := cmp.Diff([]int{1, 2, 3, 4}, curve(m)); d != "" {
		t.Errorf("the curve (- want, + got):\n%s", d)
	}
	if m.Model == nil || m.Model.Base != "tiny" || m.Model.Metrics["loss"] != 0.25 {
		t.Errorf("the model is %+v", m.Model)
	} else if got := objects(t, w.store, m.Model.Prefix+"/")[m.Model.Prefix+"/model.safetensors"]; got != "trained\n" {
		t.Errorf("the stored model is %q", got)
	}
	if left := objects(t, w.store, "checkpoints/"); len(left) != 0 {
		t.Errorf("%d objects of checkpoints are left", len(left))
	}
	if _, err := os.Stat(filepath.Dir(second.Output)); !os.IsNotExist(err) {
		t.Errorf("the job's folder is left: %v", err)
	}

	// Another run wants the same job.
	again := newWorld(t, w.spec, options{trainer: c, store: w.store, run: "again"}).stages(dataStages...)
	if r := again.stage(schemas.StageSFT)[0]; !r.Found || r.Ledger.Kept != 5 {
		t.Errorf("the same job was done again: %+v", r)
	}
	if n := attempts(t, c); n != 2 {
		t.Errorf("the trainer was started %d times, want 2", n)
	}
	if again.sums[4].Digest != other.sums[4].Digest {
		t.Error("the same job has another digest in another run")
	}
}

func TestAWorkerThatStopsKeepsTheCheckpointItAskedFor(t *testing.T) {
	t.Parallel()
	c := python(t, `
echo '{"event":"start","total_steps":4}'
trap 'step 2; save 2; echo "{\"event\":\"interrupted\",\"step\":2}"; exit 3' TERM
step 1
echo ready > "$here/ready"
while :; do sleep 0.02; done`)
	w := newWorld(t, imported(t, fivePrompts()...), options{trainer: c}).stages(dataStages...)
	ready := filepath.Join(filepath.Dir(c.Python), "ready")
	if err := syscall.Mkfifo(ready, 0o600); err != nil {
		t.Fatal(err)
	}
	plan := w.plans(schemas.StageSFT)
	stop := make(chan struct{})
	w.env.SetWorkerStopChannel(stop)
	go func() {
		defer close(stop)
		_, _ = os.ReadFile(ready) // returns once the trainer has written it
	}()
	_, err := w.does(schemas.StageSFT, plan, 0)
	if f := failure(t, err); f.Type() != string(schemas.Unavailable) || f.NonRetryable() || !strings.Contains(f.Message(), "the worker stops") {
		t.Errorf("the stopped attempt ended with %v", err)
	}
	var stored []string
	for key := range objects(t, w.store, "checkpoints/") {
		stored = append(stored, filepath.Base(key))
	}
	if !slices.Contains(stored, "index.json") {
		t.Errorf("the checkpoint that the trainer left on request is not stored: %v", stored)
	}
}

func TestWhatATrainerSaysIsWrong(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, script string
		kind         schemas.Kind
		never        bool // retried
		want         string
	}{
		{"bad input", `echo '{"event":"error","kind":"InvalidInput","message":"3 rows are longer than max_length"}'; exit 2`, schemas.InvalidInput, true, "3 rows are longer"},
		{"no memory", `echo '{"event":"error","kind":"Unavailable","message":"no memory left"}'; exit 2`, schemas.Unavailable, false, "no memory left"},
		{"done without a word of what it trained on", `echo '{"event":"done","path":"/nonexistent/model"}'`, schemas.Internal, false, "never said what it trains on"},
		{"done without a model", `echo '{"event":"start","rows":5}'; echo '{"event":"done","path":"/nonexistent/model"}'`, schemas.InvalidInput, true, "/nonexistent/model"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, imported(t, fivePrompts()...), options{trainer: python(t, tt.script)}).stages(dataStages...)
			_, err := w.does(schemas.StageSFT, w.plans(schemas.StageSFT), 0)
			f := failure(t, err)
			if f.Type() != string(tt.kind) || f.NonRetryable() != tt.never || !strings.Contains(f.Message(), tt.want) {
				t.Errorf("got type %s, non-retryable %v: %v", f.Type(), f.NonRetryable(), err)
			}
			if jobs := objects(t, w.store, "jobs/"); len(jobs) != 0 {
				t.Errorf("a failed job has a result: %v", jobs)
			}
		})
	}
}

func TestSFTWithoutExamples(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	models.says(byJudge(vote(0, schemas.ActionComply)))
	w := newWorld(t, imported(t, fivePrompts()...), options{models: models}).stages(dataStages...)
	_, err := w.does(schemas.StageSFT, w.plans(schemas.StageSFT), 0)
	if f := failure(t, err); !f.NonRetryable() || !strings.Contains(f.Message(), "no rows to train on") {
		t.Errorf("got %v", err)
	}
}

func TestABaseModelThatIsNowhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, imported(t, fivePrompts()...), options{}).stages(dataStages...)
	w.config.Models["tiny"] = "/nonexistent/model"
	_, err := call[schemas.PlanRef](w, w.Plan, PlanRequest{Run: w.run, Stage: schemas.StageSFT, Spec: w.spec, Inputs: w.inputs, Sums: w.sums})
	if f := failure(t, err); f.Type() != string(schemas.NotFound) || !strings.Contains(f.Message(), "/nonexistent/model") {
		t.Errorf("got %v", err)
	}
}

// rewarding is a trainer that asks for rewards of two completions a step. It is
// killed in its second step, and resumes there.
func rewarding(t *testing.T) trainer.Config {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return python(t, fmt.Sprintf(`
ask() {
	echo "{\"step\":$1,\"items\":[$(item "<think>Private $1.</think> Answer $1a."),$(item "$2")]}" |
		%s=$(field url) %q || exit 1
}
item() { echo "{\"prompt_id\":\"p\",\"category\":\"violence\",\"intent\":\"benign\",\"prompt\":[{\"role\":\"user\",\"content\":\"Ask.\"}],\"completion\":\"$1\"}"; }
echo '{"event":"start","total_steps":3}'
if [ -z "$(field resume_from)" ]; then
	ask 0 "No thought." >> "$here/rewards"
	step 1
	# What it says is read later than what it asks.
	ask 1 "<think>Private 1.</think> Died with it." >> "$here/lost"
	save 1
	kill -9 $$
fi
ask 1 "<think>Private 1.</think> Asked twice." > /dev/null
ask 1 "<think>Private 1.</think> Nobody can judge this." >> "$here/rewards"
step 2
ask 2 "<think>Private 2.</think> Lukewarm." >> "$here/rewards"
step 3
finish`, postEnv, self))
}

func TestRL(t *testing.T) {
	t.Parallel()
	c := rewarding(t)
	models := newModels(t)
	spec := imported(t, fivePrompts()...)
	spec.SFT.Skip = true
	spec.RL = schemas.RLSpec{Judge: schemas.RoleOf("judge"), Steps: 3, PromptsPerStep: 1, Generations: 2}
	w := newWorld(t, spec, options{models: models, trainer: c, tries: 1}).stages(dataStages...)
	models.take()
	models.says(func(q question) *reply {
		switch {
		case q.has("Nobody can judge"):
			return &reply{status: 503, text: "overloaded"}
		case q.has("Lukewarm"):
			return vote(5, schemas.ActionComply)
		}
		return nil
	})
	plan := w.plans(schemas.StageRL)
	if _, err := w.does(schemas.StageRL, plan, 0); err == nil {
		t.Fatal("the killed attempt succeeded")
	}
	w.stage(schemas.StageRL)

	type rollout struct {
		Step, Index int32
		Reward      string
		Answer      string
	}
	var got []rollout
	for _, r := range rows[schemas.Rollout](w, schemas.StageRL, schemas.OutputRollouts) {
		x := rollout{r.Step, r.Index, "null", r.Answer}
		if r.Reward != nil {
			x.Reward = fmt.Sprint(*r.Reward)
		}
		got = append(got, x)
		if r.Reward != nil && *r.Reward > 0 && len(r.Votes) != 1 {
			t.Errorf("step %d: %d votes are stored", r.Step, len(r.Votes))
		}
	}
	want := []rollout{
		{0, 0, "1", "Answer 0a."}, {0, 1, "0", "No thought."},
		{1, 0, "1", "Answer 1a."}, {1, 1, "null", "Nobody can judge this."},
		{2, 0, "1", "Answer 2a."}, {2, 1, "0.5", "Lukewarm."},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("rollouts (- want, + got):\n%s", d)
	}
	wantLedger := schemas.Ledger{Planned: 6, Kept: 5, Failed: map[schemas.Reason]int64{schemas.ReasonJudgeUnavailable: 1}}
	if d := cmp.Diff(wantLedger, w.sums[4].Ledger); d != "" {
		t.Errorf("ledger (- want, + got):\n%s", d)
	}
	if got := beside(t, c, "rewards"); !strings.Contains(got, "[1,null]") || !strings.Contains(got, "[1,0.5]") {
		t.Errorf("the trainer was told %q", got)
	}
	for _, q := range models.take() {
		if q.has("Private") {
			t.Errorf("the judge saw a chain of thought: %s", q.last())
		}
	}
	if d := cmp.Diff([]int{1, 2, 3}, curve(w.closed(schemas.StageRL))); d != "" {
		t.Errorf("the curve (- want, + got):\n%s", d)
	}
}

// stepping is a trainer that asks for rewards of some completions a step and, as the real
// one does, ends with a checkpoint when it is told to.
func stepping(t *testing.T, steps int, completions ...string) trainer.Config {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	items := make([]string, len(completions))
	for i, c := range completions {
		items[i] = fmt.Sprintf(`$(item "%s $1.")`, c)
	}
	return python(t, fmt.Sprintf(`
trap "" TERM
item() { echo "{\"prompt_id\":\"p\",\"category\":\"violence\",\"intent\":\"benign\",\"prompt\":[{\"role\":\"user\",\"content\":\"Ask.\"}],\"completion\":\"<think>a</think> $1\"}"; }
ask() { echo "{\"step\":$1,\"items\":[%s]}" | %s=$(field url) %q >> "$here/rewards" 2>&1; }
echo '{"event":"start","total_steps":%d}'
from=$(field resume_from)
at=0
[ -z "$from" ] || at=${from##*-}
while [ $at -lt %[4]d ]; do
	if ! ask $at; then
		[ $at -eq 0 ] || save $at
		echo "{\"event\":\"interrupted\",\"step\":$at}"
		exit 3
	fi
	at=$((at+1))
	step $at
done
finish`, strings.Join(items, ","), postEnv, self, steps))
}

// TestRLWaitsWhenTooManyRewardsAreMissing: the job leaves a checkpoint of its last finished
// step and, when it goes on, asks for nothing that was answered before.
func TestRLWaitsWhenTooManyRewardsAreMissing(t *testing.T) {
	t.Parallel()
	c := stepping(t, 3, "One", "Two", "Three")
	models := newModels(t)
	spec := imported(t, fivePrompts()...)
	spec.SFT.Skip = true
	spec.RL = schemas.RLSpec{Judge: schemas.RoleOf("judge"), Steps: 3, PromptsPerStep: 1, Generations: 3, Votes: 2}
	w := newWorld(t, spec, options{models: models, trainer: c, tries: 1}).stages(dataStages...)
	away := "Three 0." // one of three may be missing
	models.says(func(q question) *reply {
		if q.has(away) || q.has("Two 1.") || q.has("Three 1.") {
			return &reply{status: 503, text: "overloaded"}
		}
		return nil
	})
	models.take()
	plan := w.plans(schemas.StageRL)
	_, err := w.does(schemas.StageRL, plan, 0)
	f := failure(t, err)
	var told schemas.TaskFailure
	if err := f.Details(&told); err != nil || told.Account || told.Endpoint != "judge" {
		t.Errorf("the failure tells %+v, %v", told, err)
	}
	if !f.NonRetryable() || f.Type() != string(schemas.Unavailable) || !strings.Contains(f.Message(), "2 of the 3 rewards of step 2 are missing, more than max_missing 50%") || !strings.Contains(f.Message(), "overloaded") {
		t.Errorf("got %v", err)
	}
	if got := beside(t, c, "rewards"); !strings.Contains(got, "[1,1,null]") || !strings.Contains(got, "HTTP 410") {
		t.Errorf("the trainer was told %q", got)
	}
	answered := 0
	for _, q := range models.take() {
		if q.has("One 1.") {
			answered++
		}
	}

	models.says(nil)
	other := newWorld(t, w.spec, options{trainer: elsewhere(t, c), models: models, store: w.store, holder: "other"})
	w.flush()
	other.inputs, other.sums = w.inputs, w.sums
	other.stage(schemas.StageRL)
	asked := map[string]int{}
	for _, q := range models.take() {
		for _, answer := range []string{"One 0.", "Two 0.", "Three 0.", "One 1.", "Two 1.", "Three 1.", "One 2.", "Two 2.", "Three 2."} {
			if q.has(answer) {
				asked[answer]++
			}
		}
	}
	// Whether One was asked before the others failed is a matter of time.
	want := map[string]int{"One 1.": 2 - answered, "Two 1.": 2, "Three 1.": 2, "One 2.": 2, "Two 2.": 2, "Three 2.": 2}
	if answered == 2 {
		delete(want, "One 1.")
	}
	if d := cmp.Diff(want, asked); d != "" {
		t.Errorf("asked after the resumption, of two votes each (- want, + got):\n%s", d)
	}
	wantLedger := schemas.Ledger{Planned: 9, Kept: 8, Failed: map[schemas.Reason]int64{schemas.ReasonJudgeUnavailable: 1}}
	if d := cmp.Diff(wantLedger, other.sums[4].Ledger); d != "" {
		t.Errorf("ledger (- want, + got):\n%s", d)
	}
	for _, r := range rows[schemas.Rollout](other, schemas.StageRL, schemas.OutputRollouts) {
		switch {
		case r.Answer == "Three 0.":
			if r.Reward != nil || r.Terms.Compliance != nil || r.Terms.Format == nil || len(r.Votes) != 0 {
				t.Errorf("a rollout that was not judged: %+v", r)
			}
		case r.Reward == nil || *r.Terms.Compliance != 1 || *r.Terms.Helpfulness != 1 || *r.Terms.Style != 1 || *r.Terms.Format != 1 || len(r.Votes) != 2:
			t.Errorf("step %d, %q: %+v", r.Step, r.Answer, r)
		}
	}
}

// TestRLStopsWhereNothingIsToBeLearned: as at any tripwire, who has seen it lets it go on.
func TestRLStopsWhereNothingIsToBeLearned(t *testing.T) {
	t.Parallel()
	c := stepping(t, flatSteps+2, "One", "Two")
	models := newModels(t)
	spec := imported(t, fivePrompts()...)
	spec.SFT.Skip = true
	spec.RL = schemas.RLSpec{Judge: schemas.RoleOf("judge"), Steps: flatSteps + 2, PromptsPerStep: 1, Generations: 2}
	w := newWorld(t, spec, options{models: models, trainer: c}).stages(dataStages...)
	plan := w.plans(schemas.StageRL)
	_, err := w.does(schemas.StageRL, plan, 0)
	f := failure(t, err)
	var told schemas.TaskFailure
	if err := f.Details(&told); err != nil || !told.Tripwire || told.Endpoint != "" {
		t.Errorf("the failure tells %+v, %v", told, err)
	}
	if !f.NonRetryable() || !strings.Contains(f.Message(), "in the 10 steps up to step 10") {
		t.Errorf("got %v", err)
	}
	var shown []schemas.Rollout
	if err := shard.GetJSON(t.Context(), w.store, schemas.RunObject(w.run, "tripwire/rl.json"), &shown); err != nil || len(shown) != 2 || shown[0].Answer != "One 9." {
		t.Errorf("shown are %+v, %v", shown, err)
	}
	r, err := call[schemas.TaskResult](w, w.RL, TaskRequest{Run: w.run, Stage: schemas.StageRL, Plan: plan, Unchecked: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "in any of the 12 steps") {
		t.Errorf("its notes are %q", r.Notes)
	}
	if got := attempts(t, c); got != 2 {
		t.Errorf("%d attempts", got)
	}
}

// TestRLWaitsWhileTheJudgesAccountIsRefused: the refusal gives no reward, the job leaves a
// checkpoint of its last finished step, and goes on from there.
func TestRLWaitsWhileTheJudgesAccountIsRefused(t *testing.T) {
	t.Parallel()
	c := stepping(t, 2, "One", "Two", "Three")
	models := newModels(t)
	spec := imported(t, fivePrompts()...)
	spec.SFT.Skip = true
	spec.RL = schemas.RLSpec{Judge: schemas.RoleOf("judge"), Steps: 2, PromptsPerStep: 1, Generations: 3}
	w := newWorld(t, spec, options{models: models, trainer: c}).stages(dataStages...)
	models.take()
	models.says(func(q question) *reply {
		if q.has("Two 1.") {
			return &reply{status: 429, code: "insufficient_quota", text: "You exceeded your current quota"}
		}
		return nil
	})
	plan := w.plans(schemas.StageRL)
	_, err := w.does(schemas.StageRL, plan, 0)
	f := failure(t, err)
	var told schemas.TaskFailure
	if err := f.Details(&told); err != nil || !told.Account || told.Endpoint != "judge" || told.Rows != 0 {
		t.Errorf("the failure tells %+v, %v", told, err)
	}
	if !f.NonRetryable() || !strings.Contains(f.Message(), "You exceeded your current quota") {
		t.Errorf("got %v, want the refusal, never retried", err)
	}
	if got := beside(t, c, "rewards"); !strings.Contains(got, "[1,1,1]") || strings.Contains(got, "null") || !strings.Contains(got, "HTTP 410") {
		t.Errorf("the trainer was told %q", got)
	}
	models.says(nil)
	models.take()
	w.stage(schemas.StageRL)
	if got := attempts(t, c); got != 2 {
		t.Errorf("%d attempts", got)
	}
	wantLedger := schemas.Ledger{Planned: 6, Kept: 6}
	if d := cmp.Diff(wantLedger, w.sums[4].Ledger); d != "" {
		t.Errorf("ledger (- want, + got):\n%s", d)
	}
	for _, q := range models.take() {
		if q.has("0.") {
			t.Errorf("a finished step was rewarded again: %s", q.last())
		}
	}
}

func TestRLStopsWhenTheJudgesAccountIsRefused(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// As the trainer does, it asks again after a failure.
	c := python(t, fmt.Sprintf(`
trap 'echo "{\"event\":\"interrupted\",\"step\":0}"; exit 3' TERM
echo '{"event":"start","total_steps":3}'
while :; do
	echo '{"step":1,"items":[{"category":"violence","completion":"<think>a</think> b"}]}' | %s=$(field url) %q > /dev/null 2>&1
	sleep 0.05
done`, postEnv, self))
	models := newModels(t)
	spec := imported(t, fivePrompts()...)
	spec.SFT.Skip = true
	w := newWorld(t, spec, options{models: models, trainer: c}).stages(dataStages...)
	models.take()
	models.says(byJudge(&reply{status: 401, text: "no"}))
	_, err = w.does(schemas.StageRL, w.plans(schemas.StageRL), 0)
	if f := failure(t, err); !f.NonRetryable() || !strings.Contains(f.Message(), "judge") {
		t.Errorf("got %v, want the refusal, never retried", err)
	}
	if n := len(models.take()); n > 2 {
		t.Errorf("%d calls to an account that is refused", n)
	}
}
