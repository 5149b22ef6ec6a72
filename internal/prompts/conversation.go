package prompts

import (
	"cmp"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"precept/schemas"
)

// Conversations are taken as data sets publish them: a list of {role, content}, or
// of {from, value}. A prompt is one up to the user's last turn. Out in the wild some can't
// be used, as some texts; they are rejected with a reason, where bad labels are errors.

// unusableError is a text or a conversation that can't be used.
type unusableError struct {
	reason schemas.Reason
	text   string
}

func (e *unusableError) Error() string { return e.text }

// talkColumns are the columns in which a row's conversation is looked for.
func talkColumns(in schemas.Import) []string {
	if mapped, ok := in.Columns["messages"]; ok {
		return []string{mapped}
	}
	return []string{"messages", "conversation", "conversations"}
}

// conversation is a row's list of turns. It is ok where there is one, even an empty one.
func conversation(r record, in schemas.Import) (said any, ok bool) {
	for _, column := range talkColumns(in) {
		if said := r[column]; said != nil {
			return said, true
		}
	}
	return nil, false
}

// roles are the roles of turns by the names that data sets give them.
var roles = map[string]string{
	"system": "system", "user": "user", "assistant": "assistant",
	"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
}

// turnsOf reads a list of turns, or the text of one.
func turnsOf(role string, v any) ([]schemas.Message, error) {
	if text, ok := v.(string); ok {
		return []schemas.Message{{Role: role, Content: text}}, nil
	}
	return turns(v)
}

// turns reads a list of turns.
func turns(v any) (out []schemas.Message, err error) {
	if v == nil {
		return nil, nil
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("messages: %w", err)
	}
	var list []struct {
		Role, From, Content, Value string
	}
	if json.Unmarshal(raw, &list) != nil {
		return nil, &unusableError{schemas.ReasonMalformed, "has turns that are no list of {role, content} or {from, value}"}
	}
	for i, t := range list {
		name := cmp.Or(t.Role, t.From)
		m := schemas.Message{Role: roles[name], Content: cmp.Or(t.Content, t.Value)}
		if m.Role == "" || m.Role == "system" && i > 0 {
			return out, &unusableError{schemas.ReasonMalformed,
				fmt.Sprintf("turn %d has role %q; use an optional system turn, then user and assistant", i+1, name)}
		}
		out = append(out, m)
	}
	return out, nil
}

// cut ends a conversation with the user's last turn, and leaves out the earliest turns as
// far as the import asks for it. A system turn stays.
func cut(messages []schemas.Message, in schemas.Import) ([]schemas.Message, error) {
	last := len(messages) - 1
	for last >= 0 && messages[last].Role != "user" {
		last--
	}
	if last < 0 || messages[last].Content == "" {
		return messages, &unusableError{schemas.ReasonEmpty, "has no last turn of the user's, or an empty one"}
	}
	messages = messages[:last+1]
	first := 0
	if messages[0].Role == "system" {
		first = 1
	}
	// It fits from a user's turn on: the latest one always stands last.
	for from := first; from <= last; from++ {
		if messages[from].Role != "user" && from > first {
			continue
		}
		kept := messages
		if from > first {
			kept = append(messages[:first:first], messages[from:]...)
		}
		if (in.MaxTurns == 0 || last+1-from <= in.MaxTurns) && (in.MaxChars == 0 || chars(kept) <= in.MaxChars) {
			return kept, nil
		}
	}
	return messages, &unusableError{schemas.ReasonTooLong, fmt.Sprintf("has more than %d characters in its last turn", in.MaxChars)}
}

func chars(messages []schemas.Message) (n int) {
	for _, m := range messages {
		n += utf8.RuneCountInString(m.Content)
	}
	return n
}
