package llm

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"precept/schemas"
)

func TestSplitCoT(t *testing.T) {
	for _, test := range []struct {
		name, content, reasoning string
		cot, answer              string
		ok                       bool
	}{
		{"block", "<think>\na\n</think>\n\nb", "", "a", "b", true},
		{"block after space", "\n <think>a</think>b", "", "a", "b", true},
		{"no answer", "<think>a</think>", "", "a", "", true},
		{"field", "b", "a", "a", "b", true},
		{"field and block", "<think>c</think>b", "a", "a", "<think>c</think>b", false},
		{"no CoT", "b", "", "", "b", false},
		{"empty", "", "", "", "", false},
		{"empty block", "<think>\n\n</think>\n\nb", "", "", "b", false},
		{"unfinished", "<think>a", "", "a", "", false},
		{"unfinished twice", "<think>a<think>b", "", "a<think>b", "", false},
		{"unfinished late", "b <think>a", "", "a", "b", false},
		{"second block", "<think>a</think>b<think>c</think>d", "", "a", "b<think>c</think>d", false},
		{"nested", "<think>a<think>c</think>b</think>d", "", "a<think>c", "b</think>d", false},
		{"closed twice", "<think>a</think>b</think>c", "", "a", "b</think>c", false},
		{"opened again", "<think>a</think>b<think>c", "", "a", "b<think>c", false},
		{"late block", "b<think>a</think>c", "", "a", "bc", false},
		{"never opened", "a</think>b", "", "", "a</think>b", false},
		{"other spelling", "<Think>a</Think>b", "", "", "<Think>a</Think>b", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			cot, answer, ok := SplitCoT(test.content, test.reasoning)
			if cot != test.cot || answer != test.answer || ok != test.ok {
				t.Errorf("got %q, %q, %v", cot, answer, ok)
			}
		})
	}
}

func TestSplitCoTReadsTargets(t *testing.T) {
	text := rapid.StringMatching(`[a-z<>/&\n ]{0,20}[a-z]`).Filter(func(s string) bool { return !hasTag(s) })
	rapid.Check(t, func(t *rapid.T) {
		wantCoT, wantAnswer := strings.TrimSpace(text.Draw(t, "cot")), strings.TrimSpace(text.Draw(t, "answer"))
		cot, answer, ok := SplitCoT(schemas.Target(wantCoT, wantAnswer), "")
		if cot != wantCoT || answer != wantAnswer || !ok {
			t.Fatalf("got %q, %q, %v", cot, answer, ok)
		}
	})
}

func FuzzSplitCoT(f *testing.F) {
	f.Add("<think>a</think>b", "")
	f.Add("<think>a<think>b</think>c</think>d<think>e", "")
	f.Add("b</think>", "a")
	f.Add("## Reasoning\na\n## Answer\nb", "")
	f.Add("<reasoning>a</reasoning><answer>b</answer>", "")
	f.Fuzz(func(t *testing.T, content, reasoning string) {
		for _, form := range []CoT{"", CoTThink, CoTField, CoTSections} {
			cot, answer, ok := form.Read(Answer{Content: content, CoT: reasoning})
			if ok && (cot == "" || hasTag(answer)) || len(cot)+len(answer) > len(content)+len(reasoning) {
				t.Fatalf("%q, %q in form %q: %v with %q and %q", content, reasoning, form, ok, cot, answer)
			}
		}
		cot, answer, ok := SplitCoT(content, reasoning)
		if ok && (cot == "" || hasTag(answer)) {
			t.Fatalf("%q, %q: ok with %q and %q", content, reasoning, cot, answer)
		}
		if strings.TrimSpace(reasoning) != "" {
			if answer != strings.TrimSpace(content) {
				t.Fatalf("%q, %q: the judge would see %q only", content, reasoning, answer)
			}
			return
		}
		// Nothing but the first block's tags and white space at its edges is lost.
		keep := func(s string) string { return strings.Join(strings.Fields(s), "") }
		first := strings.Replace(content, thinkOpen, "", 1)
		if before, rest, opened := strings.Cut(content, thinkOpen); opened {
			inside, after, _ := strings.Cut(rest, thinkClose)
			first = before + after + inside
			if _, _, closed := strings.Cut(rest, thinkClose); !closed {
				first = before + inside
			}
		}
		if keep(answer+cot) != keep(first) {
			t.Fatalf("%q: got %q and %q", content, cot, answer)
		}
	})
}
