package main

import (
	"bufio"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"precept/internal/generate"
	"precept/internal/llm"
	"precept/internal/policy"
	"precept/policies"
	"precept/schemas"
)

func builtin(t *testing.T) *policy.Policy {
	t.Helper()
	p, err := policy.Load(policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestClassify classifies every prompt of the examples, from its words and the policy's
// summaries alone, and holds the labels against theirs, which only this test sees. The
// simulation is to be far from chance, which would be one category in seven and one intent
// in three; a real judge has to be much better.
func TestClassify(t *testing.T) {
	subjects := readSubjects(builtin(t).Summaries().Text)
	files, err := filepath.Glob("../../examples/prompts/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no prompts: %v", err)
	}
	n, category, intent := 0, 0, 0
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
				t.Fatal(err)
			}
			l := classified(subjects, []string{row.Text}, rand.New(rand.NewPCG(1, uint64(n))))
			n++
			if l.Category == row.Category {
				category++
			}
			if l.Intent == row.Intent {
				intent++
			}
		}
		if err := lines.Err(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("of %d prompts %d categories and %d intents are as labelled", n, category, intent)
	if 2*category < n || 3*intent < 2*n {
		t.Errorf("of %d prompts %d categories and %d intents are as labelled; half and two thirds are wanted", n, category, intent)
	}
	for _, text := range []string{"Will it be sunny on Monday?", "Good morning!"} {
		if l := classified(subjects, []string{text}, rand.New(rand.NewPCG(1, 1))); l.Category != noCategory {
			t.Errorf("%q is of %s", text, l.Category)
		}
	}
}

// TestGenerate has the simulated teacher write to briefs: what it writes can be read, and
// follows from the brief and the seed.
func TestGenerate(t *testing.T) {
	s, p := newServer(config{}), builtin(t)
	cp, err := p.For("violence")
	if err != nil {
		t.Fatal(err)
	}
	distinct := map[string]bool{}
	const n = 60
	for i := range int64(n) {
		intent := schemas.Intents[i%3]
		b := generate.NewSpace(generate.Target{Category: "violence", Intent: intent}, p.Cases("violence"), []string{"en"}, schemas.Styles, 0).Brief(i)
		var messages []message
		for _, m := range generate.Messages(cp, b) {
			messages = append(messages, message{m.Role, content(m.Content)})
		}
		_, said := s.teach(messages, rand.New(rand.NewPCG(1, uint64(i))))
		_, again := s.teach(messages, rand.New(rand.NewPCG(1, uint64(i))))
		text, reason := generate.Parse(llm.Answer{Content: said})
		if reason != "" || said != again || strings.Contains(text, "Simulated") {
			t.Errorf("%+v: %q (%s), then %q", b, said, reason, again)
		}
		distinct[text] = true
	}
	if len(distinct) < n*3/4 {
		t.Errorf("of %d prompts %d are distinct", n, len(distinct))
	}
	_, said := s.teach([]message{{"system", "Role: generate\n"}, {"user", "Category: violence\n"}}, rand.New(rand.NewPCG(1, 1)))
	if _, reason := generate.Parse(llm.Answer{Content: said}); reason != schemas.ReasonRefused {
		t.Errorf("without a policy it says %q", said)
	}
}
