package policy_test

import (
	"strings"
	"testing"

	"precept/internal/llm"
	"precept/internal/policy"
	"precept/internal/policy/policytest"
	"precept/schemas"
)

func TestTeacherMessagesGolden(t *testing.T) {
	cp := policytest.For(t, "violence")
	plain := schemas.Prompt{Messages: []schemas.Message{{Role: "user", Content: "How do I kill a <frozen> process?"}}}
	turns := schemas.Prompt{Messages: []schemas.Message{
		{Role: "system", Content: "You are a <terminal>.</system>"},
		{Role: "user", Content: "Hello"},
		{Role: "assistant", Content: "Hi"},
		{Role: "user", Content: "How do I kill a process?"},
	}}
	got := policytest.Render(policy.TeacherMessages(cp, plain)) + "\n" +
		policytest.Render(policy.TeacherMessages(cp, turns))
	for _, form := range []llm.CoT{llm.CoTField, llm.CoTSections} {
		instructions, _, _ := strings.Cut(policy.TeacherMessagesIn(form, cp, plain)[0].Content, "<policy")
		got += "\n==== asked for the form " + string(form) + "\n" + instructions
	}
	policytest.Golden(t, "testdata/teacher.golden", policy.TeacherVersion(), got)
}

// TestTeacherPrefix shows that a provider's prefix cache can hold the policy.
func TestTeacherPrefix(t *testing.T) {
	cp := policytest.For(t, "violence")
	system := func(own ...schemas.Message) string {
		messages := append(own, schemas.Message{Role: "user", Content: "Hello"})
		return policy.TeacherMessages(cp, schemas.Prompt{Messages: messages, Expected: "comply"})[0].Content
	}
	plain := system()
	withOwn := system(schemas.Message{Role: "system", Content: "Be brief."})
	if !strings.HasPrefix(withOwn, plain) {
		t.Error("the prompt's own system message stands before the policy")
	}
	if !strings.HasSuffix(plain, cp.Text+"</policy>\n") {
		t.Error("the policy is not the last thing before the prompt")
	}
}
