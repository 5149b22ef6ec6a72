package judge

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"precept/internal/llm"
	"precept/schemas"
)

// table is a judge's model whose every vote is known beforehand; nil is a lost one.
type table struct {
	votes []*[4]int
	asked int
}

func (m *table) Ask(_ context.Context, r llm.Request) (llm.Answer, llm.Meta, error) {
	reply := llm.Answer{Content: "No.", Refusal: true}
	if v := m.votes[r.Sample]; v != nil {
		reply = llm.Answer{Content: vote(v[0], v[1], v[2], v[3])}
	}
	m.asked++
	return reply, llm.Meta{}, nil
}

// decide has a role vote by a table.
func decide(t testing.TB, role Role, threshold float64, all bool, votes []*[4]int) (Result, int) {
	m := &table{votes: votes}
	r, err := New(m, role, Options{Votes: len(votes), Threshold: threshold, All: all}).Verdict(context.Background(), Item{})
	if err != nil {
		t.Fatal(err)
	}
	return r, m.asked
}

// TestEarlyDecidesAsAllVotesDo: what a role is asked for is the same, whatever the votes
// are, and never a vote more is asked for than settles it.
func TestEarlyDecidesAsAllVotesDo(t *testing.T) {
	score := rapid.IntRange(0, maxScore)
	drawn := rapid.Custom(func(t *rapid.T) *[4]int {
		if rapid.IntRange(0, 5).Draw(t, "lost") == 0 {
			return nil
		}
		return &[4]int{score.Draw(t, "compliance"), score.Draw(t, "helpfulness"), score.Draw(t, "style"), score.Draw(t, "citation")}
	})
	rapid.Check(t, func(rt *rapid.T) {
		votes := rapid.SliceOfN(drawn, 1, 7).Draw(rt, "votes")
		threshold := float64(rapid.IntRange(0, maxScore).Draw(rt, "threshold")) / maxScore
		role := rapid.SampledFrom(Roles).Draw(rt, "role")
		all, asked := decide(t, role, threshold, true, votes)
		if asked != len(votes) || all.Early {
			rt.Fatalf("%d of all %d votes were asked for", asked, len(votes))
		}
		early, asked := decide(t, role, threshold, false, votes)
		if early.Reason != all.Reason {
			rt.Fatalf("%q of %d votes, %q of all", early.Reason, asked, all.Reason)
		}
		if early.Early != (asked < len(votes)) || len(early.Votes)+early.Lost != asked {
			rt.Fatalf("%d votes of %d: %+v", asked, len(votes), early)
		}
		switch {
		case role != RoleFilter:
			if early.Score != all.Score || (len(early.Votes) == 0) != (len(all.Votes) == 0) {
				rt.Fatalf("%s: %v of %d votes, %v of all", role, early.Score, asked, all.Score)
			}
		case early.Reason == "":
			if asked != len(votes) || early.Score != all.Score {
				rt.Fatalf("kept by %d of %d votes, with %v and not %v", asked, len(votes), early.Score, all.Score)
			}
		}
		// Up to the last vote that was asked for, nothing was settled.
		if asked > 1 {
			before, _ := decide(t, role, threshold, true, votes[:asked-1])
			if role == RoleFilter && before.Reason != "" || role != RoleFilter && len(before.Votes) > 0 && before.Score == 0 {
				rt.Fatalf("%s: settled before vote %d: %+v", role, asked, before)
			}
		}
	})
}

// TestSaving measures what early stopping saves on a set of which half is rejected, with
// a judge whose votes on one completion spread by a point and a half of ten.
func TestSaving(t *testing.T) {
	const items, threshold = 4000, 0.7
	for _, k := range []int{3, 5} {
		t.Run(fmt.Sprintf("%d votes", k), func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, uint64(k)))
			var asked, rejected, split int
			for i := range items {
				quality := 9.6 + 0.4*r.NormFloat64() // what the votes on a good one are about
				if i%2 == 0 {
					quality = 4 + 1.5*r.NormFloat64()
				}
				spread := 1.5
				if i%2 == 1 {
					spread = 0.5 // a ceiling holds the votes on good ones together
				}
				votes := make([]*[4]int, k)
				low := 0
				for v := range votes {
					n := max(0, min(maxScore, int(math.Round(quality+spread*r.NormFloat64()))))
					votes[v] = &[4]int{n, 10, 10, 10}
					if float64(n) < threshold*maxScore {
						low++
					}
				}
				all, _ := decide(t, RoleFilter, threshold, true, votes)
				early, n := decide(t, RoleFilter, threshold, false, votes)
				if early.Reason != all.Reason {
					t.Fatalf("%q early, %q of all votes", early.Reason, all.Reason)
				}
				asked += n
				if all.Reason == schemas.ReasonBelowThreshold {
					rejected++
				}
				if low > 0 && low < k {
					split++
				}
			}
			saved := 1 - float64(asked)/float64(items*k)
			possible := float64(rejected) / items * float64(k-1) / float64(k)
			t.Logf("%.1f%% rejected, votes disagree on %.1f%%: %.1f%% of the calls saved of %.1f%% possible (%.1f%%)",
				100*float64(rejected)/items, 100*float64(split)/items, 100*saved, 100*possible, 100*saved/possible)
			if share := float64(rejected) / items; math.Abs(share-0.5) > 0.03 {
				t.Errorf("%.2f of the set is rejected, and not half", share)
			}
			if split == 0 {
				t.Error("the judge never disagrees with itself")
			}
			if saved < 0.9*possible {
				t.Errorf("saved %.3f, which is less than 90%% of %.3f", saved, possible)
			}
		})
	}
}
