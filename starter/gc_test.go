package main

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"precept/internal/garbage"
	"precept/internal/shard"
	"precept/internal/shard/shardtest"
	"precept/schemas"
)

// littered is a store with a run, a shard and half a model that nobody refers to, and
// something that is not Precept's.
func littered(t *testing.T) *shardtest.Aging {
	t.Helper()
	store := shardtest.NewAging()
	write := func(key string) string {
		t.Helper()
		if _, err := store.Put(context.Background(), key, []byte(strings.Repeat("x", 1500)), shard.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		return key
	}
	key := schemas.DigestOf("prompts")
	inputs := schemas.Inputs{Policy: schemas.DigestOf("policy")}
	write(schemas.PolicyPrefix(inputs.Policy) + "/style.md")
	put(t, store, schemas.RunObject("first", "inputs.json"), inputs)
	ref := schemas.ShardRef{Stage: schemas.StagePrompts, Key: key, Object: write(shard.Object(schemas.StagePrompts, key))}
	plan := schemas.Plan{Run: "first", Stage: schemas.StagePrompts, Spec: schemas.RunSpec{Name: "first"}, Inputs: inputs}
	put(t, store, schemas.PlanObject("first", schemas.StagePrompts), plan)
	put(t, store, schemas.ManifestObject("first", schemas.StagePrompts), schemas.Manifest{
		Run: "first", Stage: schemas.StagePrompts, Plan: schemas.PlanRef{Object: schemas.PlanObject("first", schemas.StagePrompts)},
		Outputs: map[string][]schemas.ShardRef{schemas.OutputPrompts: {ref}},
	})
	write(loneShard)
	write(loneModel)
	write("notes.txt")
	store.Age("", 30*24*time.Hour)
	write(shard.Object(schemas.StageGrade, schemas.DigestOf("young")))
	return store
}

var (
	loneShard = shard.Object(schemas.StagePrompts, schemas.DigestOf("lone"))
	loneModel = schemas.ModelPrefix(schemas.DigestOf("lone")) + "/model.safetensors"
)

func there(t *testing.T, s shard.Store, key string) bool {
	t.Helper()
	_, err := s.Head(context.Background(), key)
	if err != nil && schemas.KindOf(err) != schemas.NotFound {
		t.Fatal(err)
	}
	return err == nil
}

// stored is what lies under prefixes, in bytes for people.
func stored(s shard.Store, prefixes ...string) string {
	var bytes int64
	for _, prefix := range prefixes {
		for info := range s.List(context.Background(), prefix) {
			bytes += info.Size
		}
	}
	return sized(bytes)
}

var spaces = regexp.MustCompile(` +`) // between columns

func TestGC(t *testing.T) {
	store := littered(t)
	f := &fakeServer{runs: []garbage.Run{{ID: "first"}}}
	kept := stored(store, "shards/prompts/"+string(schemas.DigestOf("prompts")), "shards/grade/", "policies/", "plans/", "runs/")
	want := func(last string) string {
		return fmt.Sprintf(`objects kept bytes garbage bytes
shards prompts 1 1.5 kB 1 1.5 kB
shards grade 1 1.5 kB 0 0 B
models 0 0 B 1 1.5 kB
policies 1 1.5 kB 0 0 B
plans 1 %s 0 0 B
runs 2 %s 0 0 B
all 6 %s 2 3.0 kB
Under way, so that all they have planned is kept: first.
Kept only because it is younger than 7 days: 1 object, 1.5 kB.
Not Precept's, and left alone: 1 object, 1.5 kB (notes.txt).
%s
`, stored(store, "plans/"), stored(store, "runs/"), kept, last)
	}
	check := func(want string, code int, out, stderr string) {
		t.Helper()
		if diff := cmp.Diff(want, spaces.ReplaceAllString(out, " ")); code != exitOK || stderr != "" || diff != "" {
			t.Errorf("exit code %d: %s%s", code, stderr, diff)
		}
	}
	removed := want("Removed 2 objects, 3.0 kB.")
	code, out, stderr := transcript(t, f, store, "gc")
	check(want("Nothing was removed. To remove them: starter gc --delete"), code, out, stderr)
	if !f.closed {
		t.Error("the connection is left open")
	}
	if !there(t, store, loneShard) || there(t, store, "leases/gc.json") {
		t.Error("it changes the store though nobody asked it to")
	}

	_, out, _ = transcript(t, f, store, "gc", "--list", "--grace", "48h", "--journal-older-than=9000h")
	if !strings.HasPrefix(out, loneModel+"\n"+loneShard+"\nobjects ") ||
		!strings.HasSuffix(out, "To remove them: starter gc --delete --grace 48h0m0s --journal-older-than 9000h0m0s\n") {
		t.Error(out)
	}

	code, out, stderr = transcript(t, f, store, "gc", "--delete")
	check(removed, code, out, stderr)
	if there(t, store, loneShard) || there(t, store, loneModel) || !there(t, store, "notes.txt") {
		t.Error("not just the garbage is gone")
	}
	if _, out, _ = transcript(t, f, store, "gc"); !strings.HasSuffix(out, "There is no garbage.\n") {
		t.Error(out)
	}
}

func TestGCForget(t *testing.T) {
	store := littered(t)
	f := &fakeServer{runs: []garbage.Run{{ID: "first"}}}
	code, out, stderr := transcript(t, f, store, "gc", "--delete", "--forget", "first")
	if code != exitError || out != "" || stderr != "starter: collect garbage: run first is under way, and can't be forgotten. End it first: temporal workflow terminate --workflow-id first\n" {
		t.Errorf("exit code %d: %s%s", code, out, stderr)
	}
	f.runs = nil
	_, out, _ = transcript(t, f, store, "gc", "--forget", "first")
	if !strings.HasSuffix(out, "To remove them: starter gc --delete --forget first\n") {
		t.Error(out)
	}
	all := stored(store, "shards/prompts/", "models/", "policies/", "plans/", "runs/")
	code, out, stderr = transcript(t, f, store, "gc", "--delete", "--forget", "first")
	if code != exitOK || !strings.HasSuffix(out, "Removed 7 objects, "+all+".\n") {
		t.Errorf("exit code %d: %s%s", code, out, stderr)
	}
	if there(t, store, schemas.PlanObject("first", schemas.StagePrompts)) || there(t, store, schemas.RunObject("first", "inputs.json")) {
		t.Error("the run is not forgotten")
	}
}

// TestGCAway: where Temporal doesn't answer, nothing is guessed.
func TestGCAway(t *testing.T) {
	store := littered(t)
	put(t, store, schemas.PlanObject("ended", schemas.StagePrompts), schemas.Plan{
		Run: "ended", Stage: schemas.StagePrompts, Spec: schemas.RunSpec{Name: "ended"}, Inputs: schemas.Inputs{Policy: schemas.DigestOf("policy")},
		Tasks: []schemas.Task{{Outputs: []schemas.Output{{Kind: schemas.OutputPrompts, Key: schemas.DigestOf("lone")}}}},
	})
	store.Age("plans/", 30*24*time.Hour)
	f := &fakeServer{listErr: schemas.Errorf("list runs", "", schemas.Unavailable, "the server does not answer").WithHint("Start it")}
	code, out, stderr := transcript(t, f, store, "gc", "--delete")
	if code != exitError || out != "" ||
		stderr != "starter: list runs: the server does not answer. Start it. Without it, starter gc --offline keeps what any plan leads to\n" {
		t.Errorf("exit code %d: %s%s", code, out, stderr)
	}
	if !there(t, store, loneModel) {
		t.Error("something was removed")
	}
	code, out, stderr = transcript(t, f, store, "gc", "--offline")
	if code != exitOK || !strings.HasSuffix(out, "To remove them: starter gc --delete --offline\n") {
		t.Errorf("exit code %d: %s%s", code, out, stderr)
	}
	code, out, stderr = transcript(t, f, store, "gc", "--offline", "--delete", "--json")
	var got struct {
		Kinds   []garbage.Row    `json:"kinds"`
		Removed *garbage.Removed `json:"removed"`
	}
	if err := json.Unmarshal([]byte(out), &got); code != exitOK || err != nil {
		t.Fatalf("exit code %d: %v: %s%s", code, err, out, stderr)
	}
	if got.Removed == nil || got.Removed.Objects != 1 || len(got.Kinds) != 6 || !there(t, store, loneShard) || there(t, store, loneModel) {
		t.Error(out)
	}
	code, _, stderr = transcript(t, f, store, "gc", "--offline", "--forget", "first")
	if code != exitBadInput || !strings.Contains(stderr, "only Temporal knows whether a run has ended") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestGCJSON(t *testing.T) {
	code, out, stderr := transcript(t, &fakeServer{}, littered(t), "gc", "--json", "--list")
	var got struct {
		Young   garbage.Sum
		Foreign garbage.Sum
		Open    []schemas.RunID
		Garbage []string
		Removed *garbage.Removed
	}
	if err := json.Unmarshal([]byte(out), &got); code != exitOK || err != nil {
		t.Fatalf("exit code %d: %v: %s%s", code, err, out, stderr)
	}
	one := garbage.Sum{Objects: 1, Bytes: 1500}
	if diff := cmp.Diff([]string{loneModel, loneShard}, got.Garbage); diff != "" || got.Young != one || got.Foreign != one || got.Removed != nil {
		t.Errorf("%s%s", diff, out)
	}
}

func TestGCUnreadable(t *testing.T) {
	store := littered(t)
	key := schemas.ManifestObject("first", schemas.StageFilter)
	if _, err := store.Put(context.Background(), key, []byte(`{"run":"first","stage":"filter","parts":[]}`), shard.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	code, out, stderr := transcript(t, &fakeServer{}, store, "gc", "--delete")
	want := `starter: collect garbage: ` + key + ` can't be read, so that nobody knows what it refers to: json: unknown field "parts". ` +
		"Restore it, or use the starter of the version that wrote it, or forget the run: starter gc --forget first\n"
	if code != exitBadInput || out != "" || stderr != want {
		t.Errorf("exit code %d: %s%s", code, out, stderr)
	}
	if !there(t, store, loneShard) {
		t.Error("something was removed")
	}
}

func TestSized(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 1549: "1.5 kB", 25_000: "25 kB", 3_200_000: "3.2 MB", 4_000_000_000: "4.0 GB", 5_000_000_000_000_000: "5000 TB",
	} {
		if got := sized(n); got != want {
			t.Errorf("sized(%d) = %q, want %q", n, got, want)
		}
	}
}
