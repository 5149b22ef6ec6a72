package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"precept/internal/shard"
	"precept/schemas"
)

// ending is what becomes of a prompt in a run that a test stores.
type ending string

// An ending that is none of these is an example with that text.
const (
	absent    ending = ""
	duplicate ending = "prompts: duplicate"
	noCoT     ending = "synthesize: no CoT"
	below     ending = "filter: below threshold"
	timedOut  ending = "filter: failed: timed out"
	overQuota ending = "curate: over quota"
)

var endings = []ending{absent, duplicate, noCoT, below, timedOut, overQuota, "one answer", "another answer"}

// answer is what the teacher wrote. That it is the same where only later stages differ
// lets runs share shards.
func (e ending) answer() string {
	if e.isExample() {
		return string(e)
	}
	return "one answer"
}

func (e ending) isExample() bool { return e != absent && !strings.Contains(string(e), ": ") }

// pastRun is a run as a test puts it into a store: its prompts by number with their
// endings. Prompts are in the categories violence and self-harm by turns, in two buckets
// each.
type pastRun struct {
	id      schemas.RunID
	spec    schemas.RunSpec
	inputs  schemas.Inputs
	endings map[int]ending
	last    schemas.Stage // the last stage that has ended; all of the data by default
	// unplanned has shards lie under other keys than the planned ones, as partial ones do.
	unplanned bool
}

func promptID(i int) string { return fmt.Sprintf("%024x", 0xabc0+i) }

func categoryOf(i int) schemas.Category { return []schemas.Category{"violence", "self-harm"}[i%2] }

type tester interface {
	Helper()
	Fatal(...any)
}

// must stops a test that can't store what it needs.
func must(t tester, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// put stores the run's inputs, plans, manifests and shards.
func (r pastRun) put(t tester, store shard.Store) {
	t.Helper()
	ctx := context.Background()
	must(t, shard.PutJSON(ctx, store, schemas.RunObject(r.id, "inputs.json"), r.inputs, shard.PutOptions{}))
	stages := []*pastStage{
		r.stage(schemas.StagePrompts), r.stage(schemas.StageSynthesize), r.stage(schemas.StageFilter), r.stage(schemas.StageCurate),
	}
	for bucket := range 4 {
		r.bucket(t, store, bucket, stages)
	}
	for _, s := range stages {
		if r.last == "" || !r.last.Before(s.plan.Stage) {
			s.put(t, store)
		}
	}
}

// pastStage is a stage in the making.
type pastStage struct {
	plan     schemas.Plan
	manifest schemas.Manifest
}

func (r pastRun) stage(stage schemas.Stage) *pastStage {
	return &pastStage{
		schemas.Plan{Run: r.id, Stage: stage, Spec: r.spec.WithDefaults(), Inputs: r.inputs},
		schemas.Manifest{
			Run: r.id, Stage: stage, Outputs: map[string][]schemas.ShardRef{},
			Usage: schemas.Usage{Paid: int64(len(r.endings)), Cached: 2, USD: 0.25},
		},
	}
}

func (s *pastStage) put(t tester, store shard.Store) {
	t.Helper()
	ctx := context.Background()
	object := schemas.PlanObject(s.plan.Run, s.plan.Stage)
	must(t, shard.PutJSON(ctx, store, object, s.plan, shard.PutOptions{}))
	s.manifest.Spec = schemas.DigestOf(s.plan.Spec)
	s.manifest.Plan = schemas.PlanRef{Object: object, Digest: schemas.DigestOf(s.plan)}
	must(t, shard.PutJSON(ctx, store, schemas.ManifestObject(s.plan.Run, s.plan.Stage), s.manifest, shard.PutOptions{}))
}

// write writes a shard of the stage.
func write[T any](t tester, store shard.Store, s *pastStage, unplanned bool, category schemas.Category, kind string, rows []T, ledger schemas.Ledger) {
	t.Helper()
	ref, err := shard.Write(context.Background(), store, s.plan.Stage, schemas.DigestOf([]any{s.plan.Stage, rows, ledger}), rows, ledger, nil)
	must(t, err)
	key := ref.Key
	if unplanned {
		key = schemas.DigestOf([]any{"planned", key})
	}
	s.manifest.Outputs[kind] = append(s.manifest.Outputs[kind], ref)
	s.manifest.Ledger.Add(ledger)
	s.plan.Tasks = append(s.plan.Tasks, schemas.Task{Category: category, Outputs: []schemas.Output{{Kind: kind, Key: key}}})
}

// bucket writes the shards of one bucket through all stages.
func (r pastRun) bucket(t tester, store shard.Store, bucket int, stages []*pastStage) {
	t.Helper()
	var (
		prompts     []schemas.Prompt
		completions []schemas.Completion
		verdicts    []schemas.Verdict
		examples    []schemas.Example
		ledgers     [4]schemas.Ledger
		missing     []schemas.FailedRow
	)
	category := categoryOf(bucket)
	for i := bucket; i < 100; i += 4 {
		e := r.endings[i]
		if e == absent {
			continue
		}
		p := schemas.Prompt{ID: promptID(i), Messages: []schemas.Message{{Role: "user", Content: harmful}}, Category: category}
		if e == duplicate {
			p.Reason = schemas.ReasonDuplicate
		}
		prompts = append(prompts, p)
		ledgers[0].Count(p.Reason)
		if p.Reason != "" {
			continue
		}
		// Two samples, of which the first is worth nothing.
		for sample := range int32(2) {
			c := schemas.Completion{ID: fmt.Sprintf("%s%d", p.ID, sample), Prompt: p, Sample: sample, Answer: harmful + e.answer()}
			if sample == 0 || e == noCoT {
				c.Reason = schemas.ReasonNoCoT
			}
			completions = append(completions, c)
			ledgers[1].Count(c.Reason)
			if c.Reason != "" {
				continue
			}
			if e == timedOut {
				missing = append(missing, schemas.FailedRow{PromptID: p.ID, CompletionID: c.ID, Sample: sample, Reason: schemas.ReasonTimedOut})
				ledgers[2].Fail(schemas.ReasonTimedOut)
				continue
			}
			v := schemas.Verdict{CompletionID: c.ID, PromptID: p.ID, Category: category, Sample: sample}
			if e == below {
				v.Reason = schemas.ReasonBelowThreshold
			}
			verdicts = append(verdicts, v)
			ledgers[2].Count(v.Reason)
			switch {
			case v.Reason != "":
			case e == overQuota:
				ledgers[3].Count(schemas.ReasonOverQuota)
			default:
				ledgers[3].Count("")
				examples = append(examples, schemas.Example{
					ID: string(schemas.DigestOf([]any{p.ID, e.answer()})[:24]), PromptID: p.ID, Prompt: p.Messages, Category: category,
				})
			}
		}
	}
	if len(prompts) == 0 {
		return
	}
	write(t, store, stages[0], r.unplanned, category, schemas.OutputPrompts, prompts, ledgers[0])
	write(t, store, stages[1], r.unplanned, category, schemas.OutputCompletions, completions, ledgers[1])
	write(t, store, stages[2], r.unplanned, category, schemas.OutputVerdicts, verdicts, ledgers[2])
	write(t, store, stages[3], r.unplanned, category, schemas.OutputExamples, examples, ledgers[3])
	if len(missing) > 0 {
		object := schemas.PartialObject(r.id, schemas.StageFilter, schemas.DigestOf(bucket))
		must(t, shard.PutJSON(context.Background(), store, object, schemas.Partial{Missing: missing}, shard.PutOptions{}))
		stages[2].manifest.Partial = append(stages[2].manifest.Partial, object)
	}
}

func threshold(v float64) schemas.RunSpec {
	return schemas.RunSpec{Name: "A run", Filter: schemas.FilterSpec{Threshold: &v}}
}

// twoRuns is a store with two runs, of which the second has a higher threshold, another
// policy and another file. Prompt 1's bucket is the same in both.
func twoRuns(t *testing.T) (store *shard.Memory, first, second pastRun) {
	t.Helper()
	store = shard.NewMemory()
	file := func(name, content string, rows int64) schemas.Input {
		return schemas.Input{Name: name, Digest: schemas.DigestOf(content), Rows: rows}
	}
	suite := file("heldout", "heldout", 40)
	first = pastRun{
		id: "first", spec: threshold(0.7),
		inputs: schemas.Inputs{
			Policy: schemas.DigestOf("policy"), Prompts: []schemas.Input{file("a.jsonl", "a", 4), file("b.jsonl", "b", 4)},
			Suites: []schemas.Input{suite}, Simulated: []string{"sim-judge"},
		},
		endings: map[int]ending{0: "one answer", 1: "one answer", 2: "one answer", 3: duplicate, 4: "one answer", 6: "one answer", 7: timedOut, 8: "one answer", 12: overQuota},
	}
	second = pastRun{
		id: "second", spec: threshold(0.8),
		inputs: schemas.Inputs{
			Policy: schemas.DigestOf("another policy"), Prompts: []schemas.Input{file("moved/a.jsonl", "a", 4), file("b.jsonl", "b2", 5), file("c.jsonl", "c", 1)},
			Suites: []schemas.Input{suite},
		},
		endings: map[int]ending{0: "one answer", 1: "one answer", 2: "another answer", 3: "one answer", 4: below, 6: noCoT, 7: "one answer", 12: "one answer"},
	}
	first.put(t, store)
	second.put(t, store)
	return store, first, second
}

func measure(name string, intent schemas.Intent, arm schemas.Arm, value, low, high float64) schemas.Measure {
	return schemas.Measure{Name: name, Suite: "heldout", Intent: intent, Arm: arm, Value: value, Low: low, High: high}
}

func putReport(t *testing.T, store shard.Store, r pastRun, e schemas.Evaluation) {
	t.Helper()
	put(t, store, schemas.RunObject(r.id, "report/report.json"), schemas.RunReport{
		Run: r.id, Spec: schemas.DigestOf(r.spec.WithDefaults()), Simulated: r.inputs.Simulated, Evaluation: e,
	})
}

func TestDiff(t *testing.T) {
	store, first, second := twoRuns(t)
	putReport(t, store, first, schemas.Evaluation{Grader: "lab/judge@1", SameJudge: true, Measures: []schemas.Measure{
		measure(schemas.MeasureNotUnsafe, schemas.IntentHarmful, schemas.ArmBase, 0.5, 0.4, 0.6),
		measure(schemas.MeasureNotUnsafe, schemas.IntentHarmful, schemas.ArmSFT, 0.6, 0.5, 0.7),
		measure(schemas.MeasurePolicyRetrieval, "", schemas.ArmSFT, 0.1, 0, 0.25),
	}})
	putReport(t, store, second, schemas.Evaluation{Grader: "lab/grader@2", Measures: []schemas.Measure{
		measure(schemas.MeasureNotUnsafe, schemas.IntentHarmful, schemas.ArmBase, 0.52, 0.42, 0.62),
		measure(schemas.MeasureNotUnsafe, schemas.IntentHarmful, schemas.ArmSFT, 0.9, 0.8, 0.95),
		measure(schemas.MeasureNotUnsafe, schemas.IntentHarmful, schemas.ArmRL, 1, 0.9, 1),
	}})
	code, out, stderr := transcript(t, nil, store, "diff", "first", "second", "--rows", "2")
	want := `A  first   A run
B  second  A run

Spec
filter.threshold  0.7 -> 0.8
policy            17ad92e63c96 -> 44103b38d401
prompts b.jsonl   c100f95c1913 -> b43ec1b3a3bc
prompts c.jsonl   - -> 879923da020d

Stages
stage       kept A  kept B  diff  shards shared  paid/cached A  paid/cached B  USD A  USD B
prompts     8       8       +0    2 of 4         9/2            8/2            $0.25  $0.25
synthesize  8       7       -1    1 of 4         9/2            8/2            $0.25  $0.25
filter      7       6       -1    1 of 4         9/2            8/2            $0.25  $0.25
curate      6       6       +0    1 of 4         9/2            8/2            $0.25  $0.25
all                                              36/8           32/8           $1.00  $1.00

What became of the rest, where it differs
stage       outcome                    A  B  diff
prompts     rejected: duplicate        1  0  -1
synthesize  rejected: no CoT           8  9  +1
filter      rejected: below threshold  0  1  +1
filter      failed: timed out          1  0  -1
curate      rejected: over quota       1  0  -1

Rows of the SFT set, by prompt
category   in both, equal  in both, another completion  only in A  only in B
self-harm  1               0                            0          2
violence   1               1                            3          1
all        2               1                            3          3

Only in A: what became of them in B
filter: below threshold  1
not imported             1
synthesize: no CoT       1

Only in B: what became of them in A
curate: over quota         1
filter: failed: timed out  1
prompts: duplicate         1

In both, another completion, 1 of 1 (their stories: starter explain RUN ID)
00000000000000000000abc2

Only in A, 2 of 3 (their stories: starter explain RUN ID)
00000000000000000000abc4  filter: below threshold
00000000000000000000abc6  synthesize: no CoT

Only in B, 2 of 3 (their stories: starter explain RUN ID)
00000000000000000000abc3  prompts: duplicate
00000000000000000000abc7  filter: failed: timed out

Measures, with their 95% intervals
measure           suite    intent   arm   A            B              diff
not_unsafe        heldout  harmful  base  50% (40–60)  52% (42–62)    +2.0
not_unsafe        heldout  harmful  sft   60% (50–70)  90% (80–95)    +30.0 *
policy_retrieval  heldout  all      sft   10% (0–25)   -              -
not_unsafe        heldout  harmful  rl    -            100% (90–100)  -
* the intervals don't overlap: a conservative sign of a difference, nothing more
! in A the grader's model (lab/judge@1) also filtered or rewarded
! the graders differ (lab/judge@1, lab/grader@2): the figures are not comparable
! the policies differ, and each run's answers were graded by its own
! simulated in A, not real models: sim-judge
`
	if diff := cmp.Diff(want, out); code != exitOK || stderr != "" || diff != "" {
		t.Errorf("exit code %d: %s%s", code, stderr, diff)
	}
	for line := range strings.SplitSeq(out, "\n") {
		if utf8.RuneCountInString(line) > 100 {
			t.Errorf("a line of more than 100 characters: %s", line)
		}
	}

	code, out, stderr = transcript(t, nil, store, "diff", "second", "second", "--rows", "2")
	want = `A  second  A run
B  second  A run

Spec
the specs are equal

Stages
stage       kept A  kept B  diff  shards shared  paid/cached A  paid/cached B  USD A  USD B
prompts     8       8       +0    4 of 4         8/2            8/2            $0.25  $0.25
synthesize  7       7       +0    4 of 4         8/2            8/2            $0.25  $0.25
filter      6       6       +0    4 of 4         8/2            8/2            $0.25  $0.25
curate      6       6       +0    4 of 4         8/2            8/2            $0.25  $0.25
all                                              32/8           32/8           $1.00  $1.00

Rows of the SFT set, by prompt
category   in both, equal  in both, another completion  only in A  only in B
self-harm  3               0                            0          0
violence   3               0                            0          0
all        6               0                            0          0

Measures, with their 95% intervals
measure     suite    intent   arm   A              B              diff
not_unsafe  heldout  harmful  base  52% (42–62)    52% (42–62)    +0.0
not_unsafe  heldout  harmful  sft   90% (80–95)    90% (80–95)    +0.0
not_unsafe  heldout  harmful  rl    100% (90–100)  100% (90–100)  +0.0
* the intervals don't overlap: a conservative sign of a difference, nothing more
`
	if diff := cmp.Diff(want, out); code != exitOK || stderr != "" || diff != "" {
		t.Errorf("exit code %d: %s%s", code, stderr, diff)
	}

	code, out, stderr = transcript(t, nil, store, "diff", "first", "second", "--rows", "9", "--json")
	if code != exitOK || stderr != "" || strings.Contains(out, harmful) {
		t.Errorf("exit code %d, or texts are shown: %s%s", code, stderr, out)
	}
	var got struct {
		Spec []change
		Rows struct {
			Same, Other int64
			OnlyAIDs    []listed         `json:"only_a_ids"`
			WhyOnlyB    map[string]int64 `json:"why_only_b"`
		}
		Measures []struct{ Apart bool }
	}
	must(t, json.Unmarshal([]byte(out), &got))
	if diff := cmp.Diff([]change{{"filter.threshold", 0.7, 0.8}}, got.Spec); diff != "" {
		t.Error(diff)
	}
	if got.Rows.Same != 2 || got.Rows.Other != 1 || len(got.Rows.OnlyAIDs) != 3 || got.Rows.WhyOnlyB[string(overQuota)] != 1 || !got.Measures[1].Apart {
		t.Errorf("%+v", got)
	}
}

// TestDiffOfOpenRuns compares runs that have not come far.
func TestDiffOfOpenRuns(t *testing.T) {
	store, first, second := twoRuns(t)
	begun := pastRun{id: "begun", inputs: first.inputs}
	put(t, store, schemas.RunObject("begun", "inputs.json"), begun.inputs)
	second.id, second.last, second.spec.Until = "filtered", schemas.StageFilter, schemas.StageFilter
	second.put(t, store)
	open := first
	open.id, open.last = "open", schemas.StagePrompts
	open.put(t, store)
	put(t, store, schemas.PlanObject("open", schemas.StageSynthesize), open.stage(schemas.StageSynthesize).plan)

	for _, test := range []struct {
		a, b string
		want []string
	}{
		{"first", "begun", []string{
			"! B has planned nothing yet: its spec is not known", "filter      7       not yet  -     -              9/2            -",
			"not compared: stage curate has not ended in B\n", "! A has no report yet", "! B has no report yet",
		}},
		{"begun", "begun", []string{"neither run has come to a stage", "not compared: stage curate has not ended in A and B\n"}},
		{"open", "filtered", []string{
			"synthesize  open     7       -", "filter      not yet  6       -", "has not ended in A and B\n", "until             - -> filter\n",
		}},
		{"filtered", "first", []string{"curate      left out  6       -"}},
	} {
		code, out, stderr := transcript(t, nil, store, "diff", test.a, test.b)
		if code != exitOK {
			t.Errorf("exit code %d: %s", code, stderr)
		}
		for _, want := range test.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s and %s: no %q in\n%s", test.a, test.b, want, out)
			}
		}
	}
	for _, args := range [][]string{{"first", "third"}, {"third", "first"}} {
		code, out, stderr := transcript(t, nil, store, "diff", args[0], args[1])
		if code != exitError || out != "" || stderr != "starter: compare run third: the store has no such run. Check its ID, and that --config names its store; a run is there once its inputs are copied\n" {
			t.Errorf("exit code %d: %s%s", code, out, stderr)
		}
	}
}

// TestDiffOfRestartedRuns tells what of a run is of an earlier start.
func TestDiffOfRestartedRuns(t *testing.T) {
	store, first, _ := twoRuns(t)
	again := first
	again.spec, again.last = threshold(0.9), schemas.StagePrompts
	again.inputs.Policy = "yet another"
	again.put(t, store)
	put(t, store, schemas.PlanObject("first", schemas.StageSynthesize), again.stage(schemas.StageSynthesize).plan)
	var m schemas.Manifest
	must(t, shard.GetJSON(t.Context(), store, schemas.ManifestObject("second", schemas.StagePrompts), &m))
	m.From = "parent"
	put(t, store, schemas.ManifestObject("second", schemas.StagePrompts), m)

	code, out, stderr := transcript(t, nil, store, "diff", "first", "second")
	for _, want := range []string{
		"filter.threshold  0.9 -> 0.8\n",
		"! A was started again: of an earlier spec, with another filter.threshold, are synthesize, filter, curate\n",
		"! A was started again: of earlier inputs are filter, curate\n",
		"! A goes on: planned anew since they ended, and shown as they were, are synthesize\n",
		"! B has taken over from run parent: prompts\n",
	} {
		if code != exitOK || !strings.Contains(out, want) {
			t.Errorf("no %q in exit code %d\n%s%s", want, code, out, stderr)
		}
	}
}

// TestDiffLeavesSharedShardsUnread removes the rows that both runs have.
func TestDiffLeavesSharedShardsUnread(t *testing.T) {
	store, _, _ := twoRuns(t)
	for _, stage := range []schemas.Stage{schemas.StageSynthesize, schemas.StageFilter, schemas.StageCurate} {
		var m schemas.Manifest
		must(t, shard.GetJSON(t.Context(), store, schemas.ManifestObject("second", stage), &m))
		theirs := digests(&m)
		must(t, shard.GetJSON(t.Context(), store, schemas.ManifestObject("first", stage), &m))
		for _, refs := range m.Outputs {
			for _, ref := range refs {
				if theirs[ref.Digest] > 0 {
					must(t, store.Delete(t.Context(), ref.Object))
				}
			}
		}
	}
	if code, out, stderr := transcript(t, nil, store, "diff", "first", "second"); code != exitOK || !strings.Contains(out, "all        2 ") {
		t.Errorf("exit code %d: %s%s", code, stderr, out)
	}
}

// TestDiffOfOwnDataSets has a prompt stand in a shard of both runs and in another one of
// the first.
func TestDiffOfOwnDataSets(t *testing.T) {
	store := shard.NewMemory()
	row := func(answer string) schemas.Example {
		return schemas.Example{ID: answer, PromptID: promptID(1), Category: "violence"}
	}
	for id, shards := range map[schemas.RunID][][]schemas.Example{"first": {{row("x")}, {row("y")}}, "second": {{row("x")}}} {
		r := pastRun{id: id, spec: schemas.RunSpec{Name: "own", From: schemas.FromSpec{Stage: schemas.StageSFT, Dataset: []schemas.Import{{Path: "chats.jsonl"}}}}}
		put(t, store, schemas.RunObject(id, "inputs.json"), r.inputs)
		curated := r.stage(schemas.StageCurate)
		for _, rows := range shards {
			write(t, store, curated, false, "violence", schemas.OutputExamples, rows, schemas.Ledger{Kept: 1})
		}
		curated.put(t, store)
	}
	c, err := compare(t.Context(), store, "first", "second", 0)
	must(t, err)
	if diff := cmp.Diff(rowCounts{Other: 1}, c.Rows.rowCounts); diff != "" {
		t.Error(diff)
	}
}

func TestSpecChanges(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want []string
	}{
		{`{"name": "x"}`, `{"$schema": "s.json", "name": "x", "window": 16, "policy": {"source": "builtin"}}`, nil},
		{`{"name": "x"}`, `{"name": "y", "sft": {"skip": true}, "prompts": {"limit": 5}}`,
			[]string{"evaluate.arms [base base+policy sft rl] [base base+policy rl]", "name x y", "prompts.limit 0 5", "sft.skip false true"}},
		{`{"name": "x", "filter": {"threshold": 0}, "gates": {"timeout": "1h", "on_timeout": "approve"}}`, `{"name": "x"}`,
			[]string{"filter.threshold 0 0.7", "gates.on_timeout approve <nil>", "gates.timeout 1h0m0s <nil>"}},
		{`{"name": "x", "prompts": {"imports": [{"path": "a.csv"}]}}`,
			`{"name": "x", "prompts": {"imports": [{"path": "a.csv", "columns": {"text": "q"}}, {"path": "b.csv"}]}}`,
			[]string{"prompts.imports[0].columns.text <nil> q", "prompts.imports[1].path <nil> b.csv"}},
	} {
		var a, b schemas.RunSpec
		must(t, json.Unmarshal([]byte(test.a), &a))
		must(t, json.Unmarshal([]byte(test.b), &b))
		changes, err := specChanges(a, b)
		must(t, err)
		var got []string
		for _, c := range changes {
			got = append(got, fmt.Sprint(c.Field, " ", c.A, " ", c.B))
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s and %s: %s", test.a, test.b, diff)
		}
	}
}

// drawRun draws a run with some prompts.
func drawRun(t *rapid.T, id schemas.RunID) pastRun {
	label := string(id)
	r := pastRun{id: id, endings: map[int]ending{}, unplanned: rapid.Bool().Draw(t, label+"'s shards are partial")}
	r.spec = threshold(rapid.SampledFrom([]float64{0.5, 0.7}).Draw(t, label+"'s threshold"))
	for i := range rapid.IntRange(0, 12).Draw(t, label+"'s prompts") {
		r.endings[i] = rapid.SampledFrom(endings).Draw(t, "ending")
	}
	return r
}

// TestDiffProperties: a run doesn't differ from itself; two runs differ as their prompts'
// endings do; the other way round they differ the other way round.
func TestDiffProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store := shard.NewMemory()
		first, second := drawRun(t, "first"), drawRun(t, "second")
		first.put(t, store)
		second.put(t, store)
		same, err := compare(context.Background(), store, "first", "first", 3)
		must(t, err)
		if len(same.Spec) > 0 || len(same.Inputs) > 0 || same.Rows.Other+same.Rows.OnlyA+same.Rows.OnlyB > 0 {
			t.Fatalf("a run differs from itself: %+v", same)
		}
		for _, s := range same.Stages {
			if s.Shared != s.A.Shards || len(s.Reasons) > 0 {
				t.Fatalf("a stage differs from itself: %+v", s)
			}
		}

		there, err := compare(context.Background(), store, "first", "second", 100)
		must(t, err)
		if diff := cmp.Diff(endingsDiff(first.endings, second.endings), *there.Rows, cmp.AllowUnexported(rowDiff{})); diff != "" {
			t.Fatal(diff)
		}
		back, err := compare(context.Background(), store, "second", "first", 100)
		must(t, err)
		if diff := cmp.Diff(endingsDiff(second.endings, first.endings), *back.Rows, cmp.AllowUnexported(rowDiff{})); diff != "" {
			t.Fatal(diff)
		}
		for i, s := range there.Stages {
			if back.Stages[i].Shared != s.Shared || !cmp.Equal(back.Stages[i].A, s.B) {
				t.Fatalf("%+v is not the mirror of %+v", back.Stages[i], s)
			}
		}
	})
}

// endingsDiff is what a comparison should say of runs with these endings.
func endingsDiff(a, b map[int]ending) rowDiff {
	d := rowDiff{ByCategory: map[schemas.Category]rowCounts{}, WhyOnlyA: map[string]int64{}, WhyOnlyB: map[string]int64{}}
	for i := range 100 {
		var n rowCounts
		why := func(e ending) string {
			if e == absent {
				return "not imported"
			}
			return string(e)
		}
		switch id := promptID(i); {
		case !a[i].isExample() && !b[i].isExample():
			continue
		case a[i] == b[i]:
			n.Same = 1
		case !b[i].isExample():
			n.OnlyA = 1
			d.WhyOnlyA[why(b[i])]++
			d.OnlyAIDs = append(d.OnlyAIDs, listed{id, why(b[i])})
		case !a[i].isExample():
			n.OnlyB = 1
			d.WhyOnlyB[why(a[i])]++
			d.OnlyBIDs = append(d.OnlyBIDs, listed{id, why(a[i])})
		default:
			n.Other = 1
			d.OtherIDs = append(d.OtherIDs, listed{ID: id})
		}
		d.add(n)
		of := d.ByCategory[categoryOf(i)]
		of.add(n)
		d.ByCategory[categoryOf(i)] = of
	}
	return d
}
