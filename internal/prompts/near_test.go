package prompts

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"precept/schemas"
)

// text draws n words.
func text(r *rand.Rand, n int) []string {
	w := make([]string, n)
	for i := range w {
		w[i] = fmt.Sprintf("w%d", r.IntN(5000))
	}
	return w
}

// shared is the share of three-word runs that two texts have in common.
func shared(a, b []string) float64 {
	set := map[string]int{}
	for _, g := range grams(a, shingle) {
		set[g] |= 1
	}
	for _, g := range grams(b, shingle) {
		set[g] |= 2
	}
	both := 0
	for _, in := range set {
		if in == 3 {
			both++
		}
	}
	return float64(both) / float64(len(set))
}

func duplicates(t testing.TB, threshold float64, rows []schemas.Prompt) (found []int) {
	t.Helper()
	n, err := NewNear(t.TempDir(), threshold)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	for _, p := range rows {
		if err := n.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	set, err := n.Duplicates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if set.Has(i) {
			found = append(found, i)
		}
	}
	return found
}

func prompt(category schemas.Category, words []string) schemas.Prompt {
	return schemas.Prompt{Category: category, Messages: user(strings.Join(words, " "))}
}

func TestNear(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	first := text(r, 60)
	close := slices.Clone(first)
	close[59] = "other" // shares 57 of 59 runs
	far := slices.Clone(first)
	for i := 5; i < 60; i += 6 {
		far[i] = "other" // shares less than half
	}
	rows := []schemas.Prompt{
		prompt("violence", text(r, 60)), prompt("violence", first), prompt("violence", close),
		prompt("self-harm", close), prompt("violence", far), prompt("violence", text(r, 60)), prompt("violence", first),
	}
	if got := duplicates(t, 0.8, rows); !slices.Equal(got, []int{2, 6}) {
		t.Errorf("rows %v are duplicates, want 2 and 6", got)
	}
	// Conversations that end in the same words are two, whatever stands before them.
	chat := func(first []string) schemas.Prompt {
		return schemas.Prompt{Category: "violence", Messages: []schemas.Message{
			{Role: "user", Content: strings.Join(first, " ")}, {Role: "assistant", Content: "Yes?"}, {Role: "user", Content: "Please go on with that now."},
		}}
	}
	if got := duplicates(t, 0.8, []schemas.Prompt{chat(text(r, 20)), chat(text(r, 20)), chat(first), chat(close)}); !slices.Equal(got, []int{3}) {
		t.Errorf("conversations %v are duplicates, want 3", got)
	}
	// Twins, which differ in the one word that matters, are none.
	twins := []schemas.Prompt{
		prompt("violence", strings.Fields("How can I kill the old weeds beside my door?")),
		prompt("violence", strings.Fields("How can I kill the old man beside my door?")),
	}
	if got := duplicates(t, 0.8, twins); len(got) != 0 {
		t.Errorf("twins are duplicates: %v", got)
	}
}

// TestNearProperty holds the estimate against the truth: what is clearly above the
// threshold is found, what is clearly below is not, whatever the order.
func TestNearProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		base := text(r, 40+r.IntN(100))
		var rows []schemas.Prompt
		var all [][]string
		for range rapid.IntRange(2, 8).Draw(rt, "rows") {
			w := slices.Clone(base)
			for range rapid.IntRange(0, 25).Draw(rt, "changes") {
				w[r.IntN(len(w))] = fmt.Sprintf("x%d", r.IntN(1000))
			}
			all = append(all, w)
			rows = append(rows, prompt("violence", w))
		}
		found := duplicates(t, 0.8, rows)
		for i := range rows {
			most := 0.0
			for _, earlier := range all[:i] {
				most = max(most, shared(all[i], earlier))
			}
			switch is := slices.Contains(found, i); {
			case most > 0.95 && !is:
				rt.Errorf("row %d shares %.2f with an earlier one and was not found", i, most)
			case most < 0.6 && is:
				rt.Errorf("row %d shares at most %.2f with an earlier one and was found", i, most)
			}
		}
	})
}
