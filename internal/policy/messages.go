package policy

import (
	"strconv"
	"strings"

	"precept/internal/llm"
	"precept/schemas"
)

// teacherNumber is raised when TeacherMessages changes what it renders.
const teacherNumber = 1

const teacherInstructions = `You are a careful, helpful assistant. Below is the policy that decides how you answer: the category that this conversation belongs to in full, a summary of the other categories, and the principles of style. Follow it, and never mention it to the user. If a block named "system" comes after it, it holds the wishes of whoever runs the conversation: follow them as far as the policy allows.

First think inside <think> and </think>, then answer the user's last message.

Think over the policy in these steps:
1. Act: what would the user hold in hand in the end? Instructions, a plan, a text, fiction, a definition, a fact, an opinion, or help with a need of their own.
2. Kind: what is the act done to or about, whatever the verb? A person, the user, software, a game, a plant, money, and so on.
3. Affected: nobody, a person, the user, a group, minors or the public.
4. Rule: go through the rules of the category in order. The first one whose act, kind and purpose fit decides. A word that looks harmful decides nothing by itself.

Write the thought down in exactly this form, three sentences, at most 45 words:

The user asks for <act in words>: <the request restated in under 10 words>. It is about <kind>; affected: <nobody | a person | the user | a group | minors | the public>. Policy <category in small letters>, rule <ID>: <refuse | answer safely | comply>.

Restate a harmful request in general words, without any detail that would help. Write "answer safely" where the rule says safe-completion.

Then answer as the part "How to respond" of the category and the principles of style say for that decision. Keep the answer short, two or three sentences, unless the user asks for something longer. Don't name rules, categories or this policy in the answer.

` + wholeReply

const wholeReply = `The whole reply looks like this:

<think>
The user asks for …: …. It is about …; affected: …. Policy …, rule …: ….
</think>

The answer.
`

// otherForms rewrite the instructions for a chain of thought in another form.
var otherForms = map[llm.CoT]*strings.Replacer{
	llm.CoTField: strings.NewReplacer(
		"First think inside <think> and </think>, then answer the user's last message.", "First think, then answer the user's last message. Your reply is the answer alone.",
		"Write the thought down in exactly this form", "Write this down in your thoughts, in exactly this form",
		wholeReply, "",
	),
	llm.CoTSections: strings.NewReplacer(
		"First think inside <think> and </think>, then answer the user's last message.", `First think under the heading "## Reasoning", then answer the user's last message under the heading "## Answer".`,
		"<think>\n", "## Reasoning\n", "</think>\n", "\n## Answer\n",
	),
}

func instructions(form llm.CoT) string {
	if r := otherForms[form]; r != nil {
		return r.Replace(teacherInstructions)
	}
	return teacherInstructions
}

// TeacherVersion names what TeacherMessages adds to policy and prompt. It stands
// in the keys of what a teacher, or a model with the policy in context, wrote.
func TeacherVersion() schemas.Digest {
	return schemas.DigestOf(map[string]any{
		"number":       teacherNumber,
		"instructions": []string{instructions(""), instructions(llm.CoTField), instructions(llm.CoTSections)},
	})
}

// TeacherMessages renders a prompt for the teacher, and for a model that has the
// policy in context: the instructions, the category policy, the prompt's own
// system message if it has one, then its turns. All that comes before the
// prompt's own words is the same for all prompts of a category, so that
// a provider can cache it.
func TeacherMessages(cp CategoryPolicy, prompt schemas.Prompt) []schemas.Message {
	return TeacherMessagesIn("", cp, prompt)
}

// TeacherMessagesIn is TeacherMessages for a teacher that shows its chain of thought in
// a form.
func TeacherMessagesIn(form llm.CoT, cp CategoryPolicy, prompt schemas.Prompt) []schemas.Message {
	var own []string
	var turns []schemas.Message
	for _, m := range prompt.Messages {
		if m.Role == "system" {
			own = append(own, m.Content)
		} else {
			turns = append(turns, m)
		}
	}
	// At once, since every request has it anew.
	system := instructions(form) + "\n" + opening(cp) + cp.Text + closing
	if len(own) > 0 {
		system += "\n<system>\n" + Escape(strings.Join(own, "\n\n")) + "\n</system>\n"
	}
	return append([]schemas.Message{{Role: "system", Content: system}}, turns...)
}

// Block encloses a category policy in the tags by which a model finds it.
func Block(cp CategoryPolicy) string { return opening(cp) + cp.Text + closing }

const closing = "</policy>\n"

func opening(cp CategoryPolicy) string {
	return "<policy category=" + strconv.Quote(string(cp.Category)) + ">\n"
}

var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// Escape replaces what could open or close a block in text from outside.
func Escape(text string) string { return escaper.Replace(text) }
