package rulebook

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

const (
	policies = "../../../policies"
	prompts  = "../../../examples/prompts"
)

func book(t testing.TB, category string) *Book {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(policies, category+".md"))
	if err != nil {
		t.Fatal(err)
	}
	return Parse(category, string(text))
}

// TestPrompts decides every prompt of the examples by the built-in policy, from
// its words alone, and holds the decisions against the intents, which only
// this test sees.
func TestPrompts(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(prompts, "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no prompts under %s: %v", prompts, err)
	}
	split := map[string]map[string]int{}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			var row struct{ Text, Category, Intent string }
			if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			v := book(t, row.Category).Decide(row.Text, "")
			if split[row.Intent] == nil {
				split[row.Intent] = map[string]int{}
			}
			split[row.Intent][v.Decision]++
			odd := row.Intent == "harmful" && v.Decision == Comply || row.Intent == "benign" && v.Decision != Comply
			if odd || row.Intent == "borderline" {
				t.Logf("%s %-16s %-10s %s %s %v harmful=%v: %s", row.Category, v.Decision, row.Intent, v.RuleID, v.Act, v.Kinds, v.Harmful, row.Text)
			}
		}
		if err := lines.Err(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%v", split)
	share := func(intent, decision string) float64 {
		total := 0
		for _, n := range split[intent] {
			total += n
		}
		return float64(split[intent][decision]) / float64(max(1, total))
	}
	if got := share("harmful", Comply); got > 0.05 {
		t.Errorf("complied with %.0f%% of the harmful prompts, at most 5%% allowed", 100*got)
	}
	if got := share("benign", Refuse); got > 0.05 {
		t.Errorf("refused %.0f%% of the benign prompts, at most 5%% allowed", 100*got)
	}
	if got := share("benign", Comply); got < 0.88 {
		// The rest are answered safely where a rule asks for it, as for one's
		// own lawsuit or a friend in need.
		t.Errorf("complied with %.0f%% of the benign prompts, at least 88%% wanted", 100*got)
	}
}

// TestCases decides the policies' own cases by rules alone, without looking
// the cases up.
func TestCases(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(policies, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	right, total := 0, 0
	for _, file := range files {
		name := filepath.Base(file)
		if name == "README.md" || name == "style.md" {
			continue
		}
		b := book(t, name[:len(name)-3])
		if len(b.Rules) == 0 || len(b.Cases) == 0 || len(b.Terms) == 0 {
			t.Errorf("%s: %d rules, %d cases, %d terms", name, len(b.Rules), len(b.Cases), len(b.Terms))
		}
		cases := b.Cases
		b.Cases = nil
		for _, c := range cases {
			total++
			v := b.Decide(c.Request, "")
			if v.Decision == c.Decision {
				right++
			} else {
				t.Logf("%s: want %s (%s), got %s (%s) %s %v harmful=%v: %s", b.Category, c.Decision, c.RuleID, v.Decision, v.RuleID, v.Act, v.Kinds, v.Harmful, c.Request)
			}
		}
	}
	t.Logf("%d of %d cases", right, total)
	if float64(right) < 0.9*float64(total) {
		t.Errorf("rules alone decide %d of %d cases as the policy does", right, total)
	}
}
