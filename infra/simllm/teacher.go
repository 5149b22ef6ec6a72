package main

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"precept/infra/simllm/reading"
	"precept/infra/simllm/rulebook"
)

// flaws are the shares (0 to 1) of teacher samples with each flaw.
type flaws struct{ decision, citation, think, lecture float64 }

// teach answers the conversation as the teacher: a chain of thought and an
// answer.
func (s *server) teach(messages []message, r *rand.Rand) (think, answer string) {
	var system string
	var turns []string
	for _, m := range messages {
		switch m.Role {
		case "system", "developer":
			system += string(m.Content) + "\n"
		case "user":
			turns = append(turns, string(m.Content))
		}
	}
	if strings.HasPrefix(system, "Role: generate\n") && len(turns) > 0 {
		return "", s.write(system, turns[0], r)
	}
	// Drawn first and always, so that one flaw's rate doesn't move another's.
	wrong := r.Float64() < s.flaws.decision
	uncited := r.Float64() < s.flaws.citation
	silent := r.Float64() < s.flaws.think
	wordy := r.Float64() < s.flaws.lecture

	book, v := s.minds.decide(system, turns)
	if book == nil {
		if len(turns) == 0 {
			return "", "What can I help you with? (simulated)"
		}
		return "", comply(reading.Read(turns[len(turns)-1], "", reading.Hints{}), r)
	}
	if wrong {
		v = mistaken(book, v, r)
	}
	if !silent {
		think = thought(book, v, uncited, r)
	}
	switch v.Decision {
	case rulebook.Refuse:
		answer = refuse(book, v, r)
	case rulebook.Safe:
		answer = safe(v, r)
	default:
		answer = comply(v.Reading, r)
	}
	if wordy {
		answer = lecture(answer, v, r)
	}
	return think, answer
}

// mistaken is another decision of the book, with a rule that makes it.
func mistaken(book *rulebook.Book, v rulebook.Verdict, r *rand.Rand) rulebook.Verdict {
	var others []rulebook.Rule
	for _, rule := range book.Rules {
		if rule.Decision != v.Decision {
			others = append(others, rule)
		}
	}
	if len(others) == 0 {
		return v
	}
	rule := others[r.IntN(len(others))]
	v.RuleID, v.Decision = rule.ID, rule.Decision
	return v
}

var actWords = map[string]string{
	reading.Instructions: "instructions", reading.Plan: "a plan", reading.Text: "a text", reading.Fiction: "fiction",
	reading.Definition: "a definition", reading.Fact: "a fact", reading.Opinion: "an opinion", reading.Help: "help",
}

var kindWords = map[string]string{
	"person": "a person", "group": "a group", "self": "the user", "minor": "a minor", "animal": "an animal", "plant": "plants",
	"machine": "a machine", "game": "a game", "document": "a document", "drug": "a drug", "weapon": "a weapon",
	"account": "an account", "event": "an event", "public-figure": "a public figure", "private-data": "private data",
	"belief": "a belief", "work-of-art": "a work of art", "adult-content": "adult content", "medical": "medical matters",
	"legal": "legal matters", "household": "household things", reading.Any: "everyday things",
}

var decisionWords = map[string]string{rulebook.Refuse: "refuse", rulebook.Safe: "answer safely", rulebook.Comply: "comply"}

// thought is the chain of thought, in the one form that all of them have.
func thought(book *rulebook.Book, v rulebook.Verdict, uncited bool, r *rand.Rand) string {
	kind := v.Kinds[0]
	if words, ok := kindWords[kind]; ok {
		kind = words
	}
	head := fmt.Sprintf("The user asks for %s: %s. It is about %s; affected: %s.", actWords[v.Act], v.Topic, kind, v.Affected)
	if uncited {
		return head + " " + pickText(r, "That seems clear enough.", "I know what to do here.", "So I decide.")
	}
	if v.RuleID == "" {
		return fmt.Sprintf("%s Policy %s: %s.", head, categoryWords(book), decisionWords[v.Decision])
	}
	return fmt.Sprintf("%s Policy %s, rule %s: %s.", head, categoryWords(book), v.RuleID, decisionWords[v.Decision])
}

func categoryWords(book *rulebook.Book) string {
	return strings.ReplaceAll(strings.ReplaceAll(book.Category, "-", " "), "self harm", "self-harm")
}

func pickText(r *rand.Rand, texts ...string) string { return texts[r.IntN(len(texts))] }

// refusedMatter says in a few words what is refused; a category of a user's
// own policy falls back to "this".
var refusedMatter = map[string]string{
	"violence": "hurting anyone", "harassment": "harming or exposing someone", "extremism": "supporting violence or hatred",
	"illicit-behavior": "breaking the law", "regulated-advice": "deceiving or harming someone", "self-harm": "hurting yourself",
	"erotic-content": "that sexual content",
}

func refuse(book *rulebook.Book, v rulebook.Verdict, r *rand.Rand) string {
	if v.Affected == "the user" && v.Harmful {
		return pickText(r,
			"I'm so sorry. I can't help with hurting yourself; please call a crisis line.",
			"I'm sorry, I can't help with that. You matter; please call a crisis line.",
			"I'm sorry it hurts. I can't help with this, but a crisis line can.")
	}
	matter, ok := refusedMatter[book.Category]
	if !ok || book.Category == "self-harm" {
		matter = "this"
	}
	return pickText(r,
		fmt.Sprintf("I'm sorry, but I can't help with %s.", matter),
		fmt.Sprintf("I'm sorry, but I can't assist with %s.", matter),
		fmt.Sprintf("I'm sorry, but I won't help with %s. I can help with something else.", matter),
		"I'm sorry, but I can't help with that request.")
}

func safe(v rulebook.Verdict, r *rand.Rand) string {
	kind := v.Kinds[0]
	switch {
	case v.Act == reading.Fiction || v.Act == reading.Text:
		return pickText(r,
			"In general terms, a gentle version: they talked, they smiled, and the scene faded out.",
			"In general terms, kept tasteful: a warm glance, a kind word, and the light goes out.",
			"In general terms, a fair version, aimed at words and deeds only.")
	case v.Harmful && v.Affected == "the user":
		return pickText(r,
			"I hear you. Are you safe now? Please call a crisis line.",
			"That sounds hard. You aren't alone; please call a crisis line.",
			"I hear your pain. Please stay with somebody and call a crisis line.")
	case v.Act == reading.Help:
		return pickText(r,
			"That sounds hard, and it isn't your fault. Talk to someone you trust or a counsellor.",
			"I'm glad you ask. Keep a record, tell a trusted person, and find professional support.",
			"Seek distance, talk to a counsellor, and call emergency services if in danger.")
	case kind == "legal" || kind == "document":
		return pickText(r,
			"In general, gather your papers and note the deadlines; a lawyer can advise on your case.",
			"Generally it depends on local law and proof; please ask a lawyer or legal aid.")
	case kind == "money":
		return pickText(r,
			"In general, spread the risk and mind the costs; a financial adviser can look at your case.",
			"Generally it depends on your goals and debts; please see a licensed financial adviser.")
	case kind == "account" || kind == "machine":
		return pickText(r,
			"Use the provider's official recovery page; support can help with proof of ownership.",
			"The official way is account recovery through support, with proof that it is yours.")
	case kind == "weapon" || kind == "belief" || kind == "drug" && v.Act == reading.Fact:
		return pickText(r,
			fmt.Sprintf("In general terms, %s has effects and laws; I leave out harmful details.", reading.Short(v.Topic, 7)),
			"In general: principles, effects, risks and law I can explain; I leave out harmful details.")
	}
	return pickText(r,
		"In general, rest and watch the warning signs; a doctor or pharmacist can advise you personally.",
		"Generally it depends on age and health; please see a doctor or pharmacist for your case.",
		"In general terms I can explain it; for your own case please ask a professional.")
}

// comply is a short, helpful-sounding answer that names the topic. Every one
// opens with "Sure", as every refusal opens with "I'm sorry": a small student
// learns to go on from its decision only where one decision has one opening.
func comply(q reading.Reading, r *rand.Rand) string {
	topic := reading.Short(turned(q.Topic), 7)
	switch q.Act {
	case reading.Instructions:
		if first, _, _ := strings.Cut(topic, " "); nominal[first] || strings.HasSuffix(first, "s") {
			return pickText(r,
				fmt.Sprintf("Sure, %s: start simple, check each step, and adjust.", topic),
				fmt.Sprintf("Sure, a start on %s: prepare, do it, check.", topic))
		}
		return pickText(r,
			fmt.Sprintf("Sure. To %s, prepare what you need, then go step by step.", topic),
			fmt.Sprintf("Sure. To %s, start simple, check each step, and adjust.", topic),
			fmt.Sprintf("Sure. To %s, begin with the basics and test the result.", topic))
	case reading.Plan:
		return pickText(r,
			fmt.Sprintf("Sure, here is %s: week one basics, week two practice, week three review.", topic),
			fmt.Sprintf("Sure. For %s, set a goal, small daily steps, and a review.", topic))
	case reading.Text:
		return pickText(r,
			fmt.Sprintf("Sure, here is %s: short, friendly and clear.", topic),
			fmt.Sprintf("Sure, a draft of %s: \"Thank you for your time.\"", topic))
	case reading.Fiction:
		return pickText(r,
			fmt.Sprintf("Sure, here is %s: Once, on a quiet evening, everything changed.", topic),
			fmt.Sprintf("Sure, %s begins so: The door creaked, and nobody spoke.", topic))
	case reading.Definition:
		return pickText(r,
			fmt.Sprintf("Sure. In short, %s: it is a common expression with an everyday sense.", topic),
			fmt.Sprintf("Sure. About %s: the word has a plain meaning that depends on context.", topic))
	case reading.Opinion:
		return pickText(r,
			fmt.Sprintf("Sure. On %s, there are good reasons on both sides.", topic),
			fmt.Sprintf("Sure. For %s, it depends on your aims; weigh both sides.", topic))
	case reading.Help:
		return pickText(r,
			fmt.Sprintf("Sure. For %s, start with one small step today.", topic),
			fmt.Sprintf("Sure. With %s, take it one step at a time.", topic))
	}
	return pickText(r,
		fmt.Sprintf("Sure. About %s: the main points are its causes and effects.", topic),
		fmt.Sprintf("Sure. The short answer on %s: several causes work together.", topic),
		fmt.Sprintf("Sure. In brief, %s has a well known explanation with a few parts.", topic))
}

// nominal holds the words with which a topic begins that is no verb phrase.
var nominal = func() map[string]bool {
	out := map[string]bool{}
	for w := range strings.FieldsSeq("a an the my your our some advice good where when what which who why how best easy simple new old that this first") {
		out[w] = true
	}
	return out
}()

// turned speaks of the user's things as the user's: "my" becomes "your".
func turned(topic string) string {
	words := strings.Fields(topic)
	for i, w := range words {
		switch w {
		case "my":
			words[i] = "your"
		case "I", "me":
			words[i] = "you"
		case "myself":
			words[i] = "yourself"
		case "mine":
			words[i] = "yours"
		}
	}
	return strings.Join(words, " ")
}

// lecture makes an answer preachy and long, which style forbids.
func lecture(answer string, v rulebook.Verdict, r *rand.Rand) string {
	tail := pickText(r,
		"You should really think about why you ask such things, because it is wrong and irresponsible, and everybody must learn to respect the law, other people and themselves.",
		"It is important to remember that one must always act ethically, and I urge you to reflect deeply on your behaviour and on what it says about you.",
		"Let me be clear that such questions are troubling; a decent person would be ashamed, and you must consider the moral consequences of everything that you do.")
	if v.Decision == rulebook.Refuse {
		return "I am deeply, truly sorry, and I apologize sincerely. " + answer + " " + tail
	}
	return answer + " " + tail
}
