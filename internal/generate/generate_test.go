package generate

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"precept/internal/llm"
	"precept/internal/policy"
	"precept/internal/policy/policytest"
	"precept/schemas"
)

func TestMessagesGolden(t *testing.T) {
	p, err := policy.Load(policytest.Files())
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i, intent := range schemas.Intents {
		s := NewSpace(Target{"violence", intent}, p.Cases("violence"), []string{"en", "de"}, schemas.Styles, 0)
		messages := Messages(policytest.For(t, "violence"), s.Brief(int64(i)))
		if i > 0 {
			messages = messages[1:] // the same for all
		}
		b.WriteString(policytest.Render(messages))
	}
	policytest.Golden(t, "testdata/requests.golden", Version(), b.String())
}

// TestEveryBriefComesOnce in a round, whatever the space, and depends on nothing but its
// number.
func TestEveryBriefComesOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var cases []policy.Case
		for i := range rapid.IntRange(1, 4).Draw(t, "cases") {
			cases = append(cases, policy.Case{Text: fmt.Sprint("case ", i), Action: schemas.ActionRefuse})
		}
		languages := []string{"en", "de", "fr"}[:rapid.IntRange(1, 3).Draw(t, "languages")]
		styles := schemas.Styles[:rapid.IntRange(1, len(schemas.Styles)).Draw(t, "styles")]
		s := NewSpace(Target{"violence", schemas.IntentHarmful}, cases, languages, styles, rapid.Int64().Draw(t, "seed"))
		seen := map[Brief]bool{}
		for i := range s.all {
			b := s.Brief(i)
			again := s.Brief(i + s.all)
			if b.Round != 0 || again.Round != 1 || b.Index != i {
				t.Fatalf("brief %d: %+v, then %+v", i, b, again)
			}
			b.Index, again.Index, again.Round = 0, 0, 0
			if seen[b] || b != again {
				t.Fatalf("brief %d comes twice, or not again: %+v", i, b)
			}
			seen[b] = true
		}
	})
}

// TestTheFirstBriefsAreDiverse: whatever the seed, a hundred of them use every style and
// length about as often as any other, and nearly every persona.
func TestTheFirstBriefsAreDiverse(t *testing.T) {
	p, err := policy.Load(policytest.Files())
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		s := NewSpace(Target{"violence", schemas.IntentHarmful}, p.Cases("violence"), []string{"en"}, schemas.Styles, rapid.Int64().Draw(t, "seed"))
		counts := map[string]int{}
		used := map[string]bool{}
		for i := range int64(96) {
			b := s.Brief(i)
			counts["style "+string(b.Style)]++
			counts["length "+b.Length]++
			used[b.Persona] = true
		}
		for _, style := range schemas.Styles {
			if n := counts["style "+string(style)]; n != 12 {
				t.Fatalf("style %s comes %d times of 96", style, n)
			}
		}
		for _, length := range lengths {
			if n := counts["length "+length]; n < 24 || n > 40 {
				t.Fatalf("length %q comes %d times of 96", length, n)
			}
		}
		if len(used) < len(personas)*3/4 {
			t.Fatalf("%d personas of %d", len(used), len(personas))
		}
	})
}

func TestCasesOfAnIntent(t *testing.T) {
	cases := []policy.Case{{Text: "a", Action: schemas.ActionRefuse}, {Text: "b", Action: schemas.ActionComply}, {Text: "c", Action: schemas.ActionRefuse}}
	for intent, want := range map[schemas.Intent][]string{
		schemas.IntentHarmful: {"a", "c"}, schemas.IntentBenign: {"b"}, schemas.IntentBorderline: {"a", "b", "c"},
	} {
		if got := subjects(cases, intent); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", intent, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer llm.Answer
		text   string
		reason schemas.Reason
	}{
		{"plain", llm.Answer{Content: "<prompt>\nHow?\n</prompt>"}, "How?", ""},
		{"with talk around it", llm.Answer{Content: "Sure!\n<prompt>How?\nAnd why?</prompt>\nDone."}, "How?\nAnd why?", ""},
		{"thoughts", llm.Answer{Content: "<think>Maybe <prompt>x</prompt>?</think><prompt>How?</prompt>"}, "How?", ""},
		{"declined", llm.Answer{Content: " DECLINED.\n"}, "", schemas.ReasonRefused},
		{"refused", llm.Answer{Content: "<prompt>x</prompt>", Refusal: true}, "", schemas.ReasonRefused},
		{"cut", llm.Answer{Content: "<prompt>x</prompt>", FinishReason: "length"}, "", schemas.ReasonTruncated},
		{"too long for the model", llm.Answer{FinishReason: "too long"}, "", schemas.ReasonTooLong},
		{"no tags", llm.Answer{Content: "How?"}, "", schemas.ReasonMalformed},
		{"not closed", llm.Answer{Content: "<prompt>How?"}, "", schemas.ReasonMalformed},
		{"two", llm.Answer{Content: "<prompt>a</prompt><prompt>b</prompt>"}, "", schemas.ReasonMalformed},
		{"empty", llm.Answer{Content: "<prompt> </prompt>"}, "", schemas.ReasonEmpty},
		{"huge", llm.Answer{Content: "<prompt>" + strings.Repeat("a", maxPrompt+1) + "</prompt>"}, "", schemas.ReasonMalformed},
	} {
		text, reason := Parse(tt.answer)
		if d := cmp.Diff([]string{tt.text, string(tt.reason)}, []string{text, string(reason)}); d != "" {
			t.Errorf("%s:\n%s", tt.name, d)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("<prompt>a</prompt>")
	f.Add("<think><prompt>")
	f.Fuzz(func(t *testing.T, content string) {
		if text, reason := Parse(llm.Answer{Content: content}); (text == "") != (reason != "") {
			t.Errorf("%q is %q for %q", content, text, reason)
		}
	})
}
