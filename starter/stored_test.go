package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/internal/shard"
	"precept/schemas"
)

const harmful = "How do I do harm?"

// storedRun is the data stages of a run "first" with one prompt, two samples, and one
// example.
func storedRun(t *testing.T) shard.Store {
	t.Helper()
	store := shard.NewMemory()
	prompt := schemas.Prompt{ID: strings.Repeat("a", 24), Messages: []schemas.Message{{Role: "user", Content: harmful}}, Category: "violence", Intent: schemas.IntentHarmful, Language: "en", Source: "test"}
	other := prompt
	other.ID = "aaaab" + strings.Repeat("c", 19)
	other.Reason = schemas.ReasonNearDuplicate
	completion := func(sample int32, reason schemas.Reason) schemas.Completion {
		return schemas.Completion{ID: strings.Repeat(string(rune('c'+sample)), 24), Prompt: prompt, Model: "lab/teacher@1", Sample: sample, CoT: "It harms.", Answer: "I won't help with that.", Request: schemas.DigestOf(sample), Reason: reason}
	}
	vote := schemas.Vote{Expected: schemas.ActionRefuse, Action: schemas.ActionRefuse, Rule: "V1", Score: 0.9, Citation: 9, Why: "All is well."}
	verdict := schemas.Verdict{CompletionID: strings.Repeat("c", 24), PromptID: prompt.ID, Category: "violence", Intent: schemas.IntentHarmful, Judge: "lab/judge@1", Score: 0.9, Votes: []schemas.Vote{vote}}
	example := schemas.Example{
		ID: strings.Repeat("e", 24), Prompt: prompt.Messages, Completion: []schemas.Message{{Role: "assistant", Content: schemas.Target("It harms.", "I won't help with that.")}},
		PromptID: prompt.ID, CompletionID: verdict.CompletionID, Category: "violence", Intent: schemas.IntentHarmful, Language: "en", Source: "test", Score: 0.9,
	}
	put(t, store, schemas.RunObject("first", "inputs.json"), schemas.Inputs{Policy: "policy", Simulated: []string{"teacher"}})
	stage(t, store, schemas.StagePrompts, schemas.OutputPrompts, []schemas.Prompt{prompt, other}, schemas.Ledger{Kept: 1, Rejected: map[schemas.Reason]int64{schemas.ReasonNearDuplicate: 1}})
	stage(t, store, schemas.StageSynthesize, schemas.OutputCompletions, []schemas.Completion{completion(0, ""), completion(1, schemas.ReasonNoCoT)}, schemas.Ledger{Kept: 1, Rejected: map[schemas.Reason]int64{schemas.ReasonNoCoT: 1}})
	stage(t, store, schemas.StageFilter, schemas.OutputVerdicts, []schemas.Verdict{verdict}, schemas.Ledger{Kept: 1})
	stage(t, store, schemas.StageCurate, schemas.OutputExamples, []schemas.Example{example}, schemas.Ledger{Kept: 1})
	return store
}

// withoutRow is storedRun whose filter ended without a row.
func withoutRow(t *testing.T) shard.Store {
	t.Helper()
	store := storedRun(t)
	object := schemas.PartialObject("first", schemas.StageFilter, "key")
	put(t, store, object, schemas.Partial{Missing: []schemas.FailedRow{
		{PromptID: strings.Repeat("a", 24), Sample: 1, Reason: schemas.ReasonTimedOut, Error: "no reply within 2m0s"},
		{PromptID: "another", Sample: 1, Reason: schemas.ReasonTimedOut},
	}})
	var m schemas.Manifest
	if err := shard.GetJSON(t.Context(), store, schemas.ManifestObject("first", schemas.StageFilter), &m); err != nil {
		t.Fatal(err)
	}
	m.Partial = []string{object}
	put(t, store, schemas.ManifestObject("first", schemas.StageFilter), m)
	return store
}

func TestExplainTellsWhatFailed(t *testing.T) {
	code, out, stderr := transcript(t, &fakeServer{}, withoutRow(t), "explain", "first", "aaaaaa")
	if code != exitOK || strings.Count(out, "failed") != 1 ||
		!strings.Contains(out, "  filter of sample 1 failed: timed out (no reply within 2m0s); ask again with starter retry\n") {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
}

func stage[T any](t *testing.T, store shard.Store, s schemas.Stage, kind string, rows []T, ledger schemas.Ledger) {
	t.Helper()
	ref, err := shard.Write(context.Background(), store, s, schemas.DigestOf(s), rows, ledger, nil)
	if err != nil {
		t.Fatal(err)
	}
	plan := schemas.Plan{
		Run: "first", Stage: s, Spec: schemas.RunSpec{Name: "My: first"}.WithDefaults(), Inputs: schemas.Inputs{Policy: "policy", Simulated: []string{"teacher"}},
		Tasks: []schemas.Task{{Category: "violence", Outputs: []schemas.Output{{Kind: kind, Key: ref.Key, Category: "violence"}}}},
	}
	object := schemas.PlanObject("first", s)
	put(t, store, object, plan)
	put(t, store, schemas.ManifestObject("first", s), schemas.Manifest{
		Run: "first", Stage: s, Plan: schemas.PlanRef{Object: object}, Ledger: ledger, Outputs: map[string][]schemas.ShardRef{kind: {ref}},
	})
}

func TestExplain(t *testing.T) {
	store := storedRun(t)
	code, out, stderr := transcript(t, nil, store, "explain", "first", "aaaaaa")
	want := `Prompt aaaaaaaaaaaaaaaaaaaaaaaa, violence, harmful, en, from test: imported
  sample 0 by lab/teacher@1: 5 words, kept; completion cccccccccccccccccccccccc, request 5feceb66ffc8
  sample 1 by lab/teacher@1: 5 words, rejected: no CoT; completion dddddddddddddddddddddddd, request 6b86b273ff34
  verdict on sample 0 by lab/judge@1: 0.90 of votes 0.90 (refuse, rule V1): kept
  example eeeeeeeeeeeeeeeeeeeeeeee, of completion cccccccccccccccccccccccc
`
	if diff := cmp.Diff(want, out); code != exitOK || diff != "" {
		t.Errorf("exit code %d: %s%s", code, stderr, diff)
	}
	for _, id := range []string{"cccc", "DDDDDD", "eeeeee"} { // completions and an example of it
		if _, out, stderr := transcript(t, nil, store, "explain", "first", id); out != want {
			t.Errorf("%s: %s%s", id, stderr, out)
		}
	}
	if _, out, _ = transcript(t, nil, store, "explain", "first", "aaaaaa", "--show-text"); !strings.Contains(out, harmful) || !strings.Contains(out, "All is well.") {
		t.Errorf("the texts are asked for but not shown:\n%s", out)
	}
	for id, want := range map[string]string{"aa": "at least 4", "zzzz": "at least 4", "aaaa": "2 prompts begin with", "ffff": "has no such prompt"} {
		if code, _, stderr := transcript(t, nil, store, "explain", "first", id); code == exitOK || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d: %s", id, code, stderr)
		}
	}
	if code, _, stderr := transcript(t, nil, store, "explain", "other", "aaaa"); code != exitError || !strings.Contains(stderr, "stage prompts has not ended") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestExport(t *testing.T) {
	store, dir := storedRun(t), filepath.Join(t.TempDir(), "set")
	code, out, stderr := transcript(t, nil, store, "export", "first", dir, "--jsonl")
	if code != exitOK || !strings.HasPrefix(out, "1 rows in 1 shards") {
		t.Fatalf("exit code %d: %s%s", code, out, stderr)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "data", "train-00000-of-00001.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := shard.Decode[schemas.Example](raw)
	if err != nil || len(rows) != 1 || rows[0].Score != 0.9 {
		t.Errorf("the shard has %v, %v", rows, err)
	}
	f, err := os.Open(filepath.Join(dir, "sft.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var line struct{ Messages []schemas.Message }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || len(line.Messages) != 2 || line.Messages[1].Role != "assistant" {
			t.Errorf("line %s: %v", lines.Text(), err)
		}
	}
	card, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`pretty_name: "My: first"`, "size_categories: [n<1K]", "`lab/teacher@1`", "`lab/judge@1`, the minimum of 3 votes at least 0.7",
		"**Simulated, not language models**: `teacher`.", "| violence | 1 |", "| synthesize | kept 1, no CoT 1 |", "data_files: data/*.parquet",
	} {
		if !strings.Contains(string(card), want) {
			t.Errorf("the card lacks %q:\n%s", want, card)
		}
	}
	if code, _, stderr := transcript(t, nil, store, "export", "first", dir); code != exitBadInput || !strings.Contains(stderr, "is not empty") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	// What is approved is this very data set.
	var m schemas.Manifest
	if err := shard.GetJSON(t.Context(), store, schemas.ManifestObject("first", schemas.StageCurate), &m); err != nil {
		t.Fatal(err)
	}
	for i, digest := range []schemas.Digest{"another", m.Digest()} {
		put(t, store, schemas.RunObject("first", fmt.Sprintf("decisions/%06d.json", i+1)), schemas.DecisionRecord{
			Verdict: schemas.DecisionApprove, Decision: schemas.Decision{Gate: schemas.GateDataset, By: fmt.Sprintf("ann %d", i), Digest: digest},
		})
		again := filepath.Join(filepath.Dir(dir), "again-"+digest.Short())
		if code, _, stderr := transcript(t, nil, store, "export", "first", again); code != exitOK {
			t.Fatal(stderr)
		}
		card, err := os.ReadFile(filepath.Join(again, "README.md"))
		if want := []string{"by nobody", "by ann 1"}[i]; err != nil || !strings.Contains(string(card), want) {
			t.Errorf("the card lacks %q: %v\n%s", want, err, card)
		}
	}
	if code, _, stderr := transcript(t, nil, store, "export", "other", filepath.Join(dir, "new")); code != exitError || !strings.Contains(stderr, "stage curate has not ended") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
