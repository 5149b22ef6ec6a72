package judge

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"precept/internal/llm"
	"precept/internal/policy"
	"precept/internal/policy/policytest"
	"precept/schemas"
)

func summaries(t testing.TB) policy.Summaries {
	t.Helper()
	p, err := policy.Load(policytest.Files())
	if err != nil {
		t.Fatal(err)
	}
	return p.Summaries()
}

func told(category, second, intent string) string {
	return fmt.Sprintf(`{"category":%q,"second":%q,"intent":%q,"reason":"It asks."}`, category, second, intent)
}

func TestClassifyGolden(t *testing.T) {
	s := &script{replies: []any{"violence", told("violence", "none", "benign")}}
	if _, err := NewClassifier(s, summaries(t), Options{}).Classify(t.Context(), item(t).Prompt); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, r := range s.asked {
		schema, err := schemas.CanonicalJSON(r.JSONSchema.Schema)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "######## temperature %v, sample %d, %s %s\n", r.Temperature, r.Sample, r.JSONSchema.Name, schema)
		b.WriteString(policytest.Render(r.Messages))
	}
	policytest.Golden(t, "testdata/classify.golden", ClassifyVersion(), b.String())
}

func TestClassify(t *testing.T) {
	v, s, none := told("violence", "none", "harmful"), told("self-harm", "violence", "benign"), told("none", "none", "benign")
	both := told("violence", "self-harm", "harmful")
	refused := llm.Answer{Content: "No.", Refusal: true}
	for _, test := range []struct {
		name             string
		votes            int
		replies          []any
		category, second string
		intent           string
		lost             int
	}{
		{"all agree: two are enough", 3, []any{v, v}, "violence", "", "harmful", 0},
		{"two of three", 3, []any{v, s, v}, "violence", "", "harmful", 0},
		{"of none", 3, []any{none, none}, "none", "", "benign", 0},
		{"of none, and the intent is open", 3, []any{none, told("none", "none", "harmful"), none}, "none", "", "benign", 0},
		{"none and another", 3, []any{none, v, none}, "none", "", "benign", 0},
		{"all differ", 3, []any{v, s, none}, "", "", "benign", 0},
		{"a second category", 3, []any{both, both}, "violence", "self-harm", "harmful", 0},
		{"a second one that one sees", 3, []any{both, v, v}, "violence", "", "harmful", 0},
		{"a second one that may be yet", 3, []any{both, v, both}, "violence", "self-harm", "harmful", 0},
		{"the intent is open", 3, []any{v, told("violence", "none", "benign"), told("violence", "none", "borderline")}, "violence", "", "", 0},
		{"half is no majority", 2, []any{v, s}, "", "", "", 0},
		{"one vote", 0, []any{s}, "self-harm", "violence", "benign", 0},
		{"repaired", 1, []any{"violence", v}, "violence", "", "harmful", 0},
		{"a lost vote agrees with nobody", 3, []any{v, refused, v}, "violence", "", "harmful", 1},
		{"too many are lost", 3, []any{refused, "?", "?"}, "", "", "", 2},
		{"two and two of five", 5, []any{v, s, none, v, s}, "", "", "benign", 0},
		{"no such category", 1, []any{told("weather", "none", "benign"), told("weather", "none", "benign")}, "", "", "", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			script := &script{replies: test.replies}
			got, err := NewClassifier(script, summaries(t), Options{Votes: test.votes}).Classify(t.Context(), item(t).Prompt)
			if err != nil {
				t.Fatal(err)
			}
			want := []string{test.category, test.second, test.intent}
			if d := cmp.Diff(want, []string{string(got.Category), string(got.Second), string(got.Intent)}); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if got.Lost != test.lost || len(script.asked) != len(test.replies) || got.Usage.Paid != int64(len(test.replies)) {
				t.Errorf("lost %d, asked %d, usage %+v", got.Lost, len(script.asked), got.Usage)
			}
		})
	}
}

// TestVotingEndsWithoutHarm: to stop early changes nothing that all votes would say.
func TestVotingEndsWithoutHarm(t *testing.T) {
	words := []schemas.Category{"a", "b", schemas.NoCategory}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "n")
		var all []*schemas.LabelVote // nil: lost
		for range n {
			v := &schemas.LabelVote{
				Category: rapid.SampledFrom(words).Draw(t, "category"), Intent: rapid.SampledFrom(schemas.Intents).Draw(t, "intent"),
				Second: rapid.SampledFrom([]schemas.Category{"", "a", "b"}).Draw(t, "second"),
			}
			if rapid.IntRange(0, 4).Draw(t, "lost") == 0 {
				v = nil
			}
			all = append(all, v)
		}
		var early, full Classified
		settled := false
		for _, v := range all {
			for _, r := range []*Classified{&early, &full} {
				switch {
				case r == &early && settled:
				case v == nil:
					r.Lost++
				default:
					r.Votes = append(r.Votes, *v)
				}
			}
			full.fold(n)
			settled = settled || early.fold(n)
		}
		if !settled {
			t.Fatal("all votes settle nothing")
		}
		if asked := len(early.Votes) + early.Lost; asked < FewestLabels(n) {
			t.Fatalf("settled by %d of %d votes, %d are the fewest", asked, n, FewestLabels(n))
		}
		// The intent counts where there is no category, too: a file may have told that, or a
		// check compare each for itself.
		if early.Category != full.Category || early.Intent != full.Intent || early.Second != full.Second {
			t.Fatalf("early %+v, all %+v", early, full)
		}
	})
}

// The fewest votes do where all agree.
func TestFewestLabels(t *testing.T) {
	for n := 1; n <= 9; n += 2 {
		agreeing := make([]any, n)
		for i := range agreeing {
			agreeing[i] = told("violence", "none", "harmful")
		}
		s := &script{replies: agreeing}
		if _, err := NewClassifier(s, summaries(t), Options{Votes: n}).Classify(t.Context(), item(t).Prompt); err != nil || len(s.asked) != FewestLabels(n) {
			t.Errorf("%d of %d votes were asked for, %d are the fewest: %v", len(s.asked), n, FewestLabels(n), err)
		}
	}
}

// TestAClassifierSeesNoLabel: neither category nor intent, however a prompt came by them.
func TestAClassifierSeesNoLabel(t *testing.T) {
	ask := func(p schemas.Prompt) []schemas.Message {
		s := &script{replies: []any{told("violence", "none", "benign")}}
		if _, err := NewClassifier(s, summaries(t), Options{}).Classify(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		return s.asked[0].Messages
	}
	p := item(t).Prompt
	with := ask(p)
	p.Category, p.Intent, p.Second, p.Expected, p.Family, p.Source = "self-harm", schemas.IntentHarmful, "violence", "refuse", "f", "s"
	if d := cmp.Diff(with, ask(p)); d != "" {
		t.Error(d)
	}
	if n := strings.Count(with[1].Content, "<"); n != 2 {
		t.Errorf("%d tags: %s", n, with[1].Content)
	}
}

func TestErrorEndsTheClassification(t *testing.T) {
	down := schemas.E("ask", "judge", schemas.Unavailable, nil)
	s := &script{replies: []any{told("violence", "none", "benign"), down}}
	got, err := NewClassifier(s, summaries(t), Options{Votes: 3}).Classify(t.Context(), item(t).Prompt)
	if !errors.Is(err, down) || len(got.Votes) != 1 || got.Usage.Paid != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
}
