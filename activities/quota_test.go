package activities

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"precept/schemas"
)

// likedAndNot writes n prompts a category and intent; the words of some displease the judge.
func likedAndNot(t *testing.T, n int) string {
	var all []prompt
	for _, c := range []schemas.Category{"violence", "self-harm"} {
		for _, intent := range []schemas.Intent{schemas.IntentHarmful, schemas.IntentBenign} {
			for i := range n {
				liked := "liked"
				if i%3 == 0 {
					liked = "disliked"
				}
				all = append(all, prompt{Category: c, Intent: intent, Text: fmt.Sprintf("%s question of kind %s about thing %d-%d, %d", liked, intent, i*7919, i*104_729, i)})
			}
		}
	}
	return filepath.Join(write(t, map[string]string{"p.jsonl": jsonl(t, all...)}), "p.jsonl")
}

// rounds runs a quota's rounds as the workflow does, and returns their draws.
func (w *world) rounds() (draws []schemas.Draw) {
	w.t.Helper()
	if w.sums == nil {
		w.imports()
	}
	w.stage(schemas.StagePrompts)
	before := w.sums
	for {
		r, err := call[DrawResult](w, w.Draw, DrawRequest{Run: w.run, Spec: w.spec, Sums: w.sums, First: w.draws == nil, Draws: w.draws})
		if err != nil {
			w.t.Fatal(err)
		}
		w.draws = r.Draws
		if r.Done {
			return r.Draws
		}
		w.sums = slices.Clip(before)
		w.stage(schemas.StageSynthesize)
		w.stage(schemas.StageFilter)
	}
}

func TestAQuotaIsMetExactly(t *testing.T) {
	t.Parallel()
	for _, byIntent := range []bool{false, true} {
		t.Run(fmt.Sprintf("by intent %v", byIntent), func(t *testing.T) {
			t.Parallel()
			spec := imported(t)
			spec.Prompts.Imports[0].Path, spec.Prompts.RowsPerShard = likedAndNot(t, 60), 20
			spec.Synthesize.Samples, spec.Filter.Votes = 1, 1
			spec.Quota = schemas.QuotaSpec{Accepted: 20, ByIntent: byIntent}
			models := newModels(t)
			models.says(func(q question) *reply {
				if q.Model == "judge" && strings.Contains(q.Messages[1].Content, "disliked") {
					return vote(1, schemas.ActionComply)
				}
				return nil
			})
			w := newWorld(t, spec, options{models: models})
			draws := w.rounds()
			if len(draws[0].Taken) < 2 {
				t.Errorf("one round was enough: %+v", draws)
			}
			calls := models.calls()
			var taken int64
			for _, d := range draws {
				taken += d.Last()
				if d.Last() == d.Pool {
					t.Errorf("all prompts were used: %+v", d)
				}
			}
			if int64(calls["teacher"]) != taken {
				t.Errorf("%d calls for %d prompts", calls["teacher"], taken)
			}
			w.stage(schemas.StageCurate)
			kept := map[string]int{}
			for _, e := range rows[schemas.Example](w, schemas.StageCurate, schemas.OutputExamples) {
				kept[string(e.Category)+" "+string(group(e.Intent, byIntent))]++
			}
			want := 2
			if byIntent {
				want = 4
			}
			if len(kept) != want {
				t.Errorf("kept %v", kept)
			}
			for g, n := range kept {
				if n != 20 {
					t.Errorf("%s has %d examples, want 20", g, n)
				}
			}
			// Another run of it, from the store alone, comes to the same.
			w.flush()
			again := newWorld(t, spec, options{models: models, store: w.store, run: "again"})
			again.rounds()
			again.stage(schemas.StageCurate)
			if again.sums[3].Digest != w.sums[3].Digest || len(models.take()) != 0 {
				t.Error("the rounds came out differently")
			}
		})
	}
}

func TestAQuotaFallsShort(t *testing.T) {
	t.Parallel()
	spec := imported(t, fivePrompts()...)
	spec.Quota = schemas.QuotaSpec{Accepted: 3}
	w := newWorld(t, spec, options{})
	draws := w.rounds()
	if len(draws) != 2 || draws[0].Category != "self-harm" || draws[0].Accepted != 2 || draws[1].Accepted != 3 {
		t.Errorf("got %+v", draws)
	}
	// It has ended because no prompt is left, not because of the rounds.
	if len(draws[0].Taken) != 1 {
		t.Errorf("got %+v", draws)
	}
}

// A group of which nothing is left falls short too.
func TestAQuotaOfNothing(t *testing.T) {
	t.Parallel()
	spec := imported(t, fivePrompts()[0])
	spec.Quota = schemas.QuotaSpec{Accepted: 1, ByIntent: true}
	dir := write(t, map[string]string{"held.jsonl": jsonl(t, fivePrompts()[0])})
	spec.Evaluate = schemas.EvaluateSpec{Grader: schemas.RoleOf("grader"), Suites: []schemas.Import{{Path: filepath.Join(dir, "held.jsonl")}}}
	w := newWorld(t, spec, options{})
	w.imports().stage(schemas.StagePrompts)
	r, err := call[DrawResult](w, w.Draw, DrawRequest{Run: w.run, Spec: w.spec, Sums: w.sums, First: true})
	if err != nil || len(r.Draws) != 1 || r.Draws[0].Pool != 0 || r.Draws[0].Last() != 0 {
		t.Errorf("%v: %+v", err, r)
	}
	w.draws = r.Draws
	w.stage(schemas.StageSynthesize)
	w.stage(schemas.StageFilter)
	if r, err = call[DrawResult](w, w.Draw, DrawRequest{Run: w.run, Spec: w.spec, Sums: w.sums, Draws: w.draws}); err != nil || !r.Done {
		t.Errorf("%v: %+v", err, r)
	}
}

// Whatever the rounds and shards: every prompt is drawn once, rounds come one after the
// other, and a later round changes nothing in the ones before it.
func TestSharesPartThePrompts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		counts := make([]map[schemas.Intent]int64, rapid.IntRange(1, 6).Draw(t, "shards"))
		var pool int64
		for i := range counts {
			n := rapid.Int64Range(0, 9).Draw(t, "prompts")
			counts[i] = map[schemas.Intent]int64{"": n}
			pool += n
		}
		taken := rapid.SliceOfN(rapid.Int64Range(0, pool), 1, 5).Draw(t, "taken")
		slices.Sort(taken)
		d := schemas.Draw{Category: "c", Pool: pool, Taken: taken}
		rounds := shares([]schemas.Draw{{Category: "other", Taken: []int64{3}}, d}, "c", counts)
		var n int64
		seen := map[[2]int64]bool{}
		for round, perShard := range rounds {
			for i, draw := range perShard {
				for _, s := range draw {
					for k := s.From; k < s.To; k++ {
						if seen[[2]int64{int64(i), k}] || k >= counts[i][""] {
							t.Fatalf("prompt %d of shard %d is drawn twice, or not there", k, i)
						}
						seen[[2]int64{int64(i), k}] = true
						n++
					}
				}
			}
			if n != taken[round] {
				t.Fatalf("after round %d %d prompts are drawn, want %d", round, n, taken[round])
			}
		}
		fewer := shares([]schemas.Draw{{Category: "c", Taken: taken[:len(taken)-1]}}, "c", counts)
		if fmt.Sprint(fewer) != fmt.Sprint(rounds[:len(fewer)]) {
			t.Fatalf("the last round changed those before it")
		}
	})
}
