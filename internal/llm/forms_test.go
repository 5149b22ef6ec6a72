package llm

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"precept/schemas"
)

func TestRead(t *testing.T) {
	for _, test := range []struct {
		name, content, field string
		form                 CoT
		cot, answer          string
		ok                   bool
	}{
		{"block", "<think>a</think>b", "", "", "a", "b", true},
		{"field", "b", "a", "", "a", "b", true},
		{"block and thoughts of its own", "<think>a</think>b", "hm", "", "a", "b", true},
		{"no CoT", "b", "", "", "", "b", false},
		{"opened by the template", "a\n</think>\n\nb", "", "", "a", "b", true},
		{"opened by the template, closed twice", "a</think>b</think>c", "", "", "", "a</think>b</think>c", false},
		{"nothing before the end", "</think>b", "", "", "", "</think>b", false},
		{"second block", "<think>a</think>b<think>c</think>d", "", "", "a", "b<think>c</think>d", false},
		{"field and an open block", "<think>c", "a", "", "a", "<think>c", false},
		{"tags", "<reasoning>\na\n</reasoning>\nb", "", "", "a", "b", true},
		{"tags in capitals", "<Thinking>a</Thinking>b", "", "", "a", "b", true},
		{"both tags", "<reasoning>a</reasoning><answer>\nb\n</answer>", "", "", "a", "b", true},
		{"block and answer tags", "<think>a</think><answer>b</answer>", "", "", "a", "b", true},
		{"answer tags twice", "<think>a</think><answer>b</answer><answer>c</answer>", "", "", "a", "<answer>b</answer><answer>c</answer>", true},
		{"tags twice", "<reasoning>a</reasoning><reasoning>b</reasoning>", "", "", "", "<reasoning>a</reasoning><reasoning>b</reasoning>", false},
		{"tags that don't match", "<reasoning>a</thought>b", "", "", "", "<reasoning>a</thought>b", false},
		{"tags late", "b <reasoning>a</reasoning>", "", "", "", "b <reasoning>a</reasoning>", false},
		{"headings", "## Reasoning\na\n\n## Answer\nb", "", "", "a", "b", true},
		{"headings with a colon", "Reasoning: a\nAnswer: b", "", "", "a", "b", true},
		{"headings in bold", "**Reasoning**\na\n\n**Final Answer:** b\nc", "", "", "a", "b\nc", true},
		{"headings in both", "### **Chain of thought**\na\n### Final answer\nb", "", "", "a", "b", true},
		{"two answers", "Reasoning: a\nAnswer: b\nAnswer: c", "", "", "", "Reasoning: a\nAnswer: b\nAnswer: c", false},
		{"answer first", "Answer: b\nReasoning: a", "", "", "", "Answer: b\nReasoning: a", false},
		{"a heading in the middle", "Well.\nReasoning: a\nAnswer: b", "", "", "", "Well.\nReasoning: a\nAnswer: b", false},
		{"bare words are no headings", "Reasoning\na\nAnswer\nb", "", "", "", "Reasoning\na\nAnswer\nb", false},
		{"headings with a block", "## Reasoning\n<think>a\n## Answer\nb", "", "", "a\n## Answer\nb", "## Reasoning", false},
		{"headings in a field's answer", "## Reasoning\na\n## Answer\nb", "r", "", "r", "## Reasoning\na\n## Answer\nb", true},

		{"block asked for, headings given", "## Reasoning\na\n## Answer\nb", "", CoTThink, "", "## Reasoning\na\n## Answer\nb", false},
		{"block asked for, field given", "b", "a", CoTThink, "", "b", false},
		{"field asked for", "b", "a", CoTField, "a", "b", true},
		{"field asked for, block given", "<think>a</think>b", "", CoTField, "", "<think>a</think>b", false},
		{"sections asked for", "## Reasoning\na\n## Answer\nb", "hm", CoTSections, "a", "b", true},
		{"sections asked for, block given", "<think>a</think>b", "", CoTSections, "a", "b", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			cot, answer, ok := test.form.Read(Answer{Content: test.content, CoT: test.field})
			if cot != test.cot || answer != test.answer || ok != test.ok {
				t.Errorf("got %q, %q, %v", cot, answer, ok)
			}
			// A trained model's text counts in the strict form alone.
			if strict, _, isStrict := SplitCoT(test.content, ""); isStrict && !strings.HasPrefix(test.content, thinkOpen) {
				t.Errorf("the strict form is read of it: %q", strict)
			}
		})
	}
}

// TestReadLosesNothing: what is read as chain of thought and answer is the whole reply
// but for its marks.
func TestReadLosesNothing(t *testing.T) {
	mark := rapid.SampledFrom([]string{"<think>", "</think>", "<reasoning>", "</reasoning>", "<answer>", "</answer>", "\n## Reasoning\n", "\n## Answer\n", "\nReasoning: ", "\nAnswer: ", "**Answer:**", "x", "y z", "\n"})
	marks := strings.NewReplacer("<think>", "", "</think>", "", "<reasoning>", "", "</reasoning>", "", "<answer>", "", "</answer>", "",
		"## Reasoning", "", "## Answer", "", "Reasoning:", "", "Answer:", "", "**", "", " ", "", "\n", "")
	rapid.Check(t, func(t *rapid.T) {
		content := strings.Join(rapid.SliceOfN(mark, 0, 8).Draw(t, "content"), "")
		for _, form := range []CoT{"", CoTThink, CoTSections} {
			cot, answer, ok := form.Read(Answer{Content: content})
			if got, want := marks.Replace(cot+answer), marks.Replace(content); ok && got != want {
				t.Fatalf("%q in form %q: read as %q and %q", content, form, cot, answer)
			}
			if ok && (cot == "" || hasTag(cot+answer)) {
				t.Fatalf("%q in form %q: %q and %q pass", content, form, cot, answer)
			}
		}
	})
}

func TestReadReadsTargets(t *testing.T) {
	text := rapid.StringMatching(`[a-z<>/&\n ]{0,20}[a-z]`).Filter(func(s string) bool { return !hasTag(s) })
	rapid.Check(t, func(t *rapid.T) {
		wantCoT, wantAnswer := strings.TrimSpace(text.Draw(t, "cot")), strings.TrimSpace(text.Draw(t, "answer"))
		cot, answer, ok := CoT("").Read(Answer{Content: schemas.Target(wantCoT, wantAnswer)})
		if cot != wantCoT || answer != wantAnswer || !ok {
			t.Fatalf("got %q, %q, %v", cot, answer, ok)
		}
	})
}
