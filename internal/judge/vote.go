package judge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"precept/internal/llm"
	"precept/schemas"
)

const maxScore = 10

const (
	maxReply   = 64 << 10 // bytes of a reply that are searched for its object
	maxObjects = 64       // places where an object may begin
	maxReason  = 600      // bytes of the judge's sentence that are kept
)

var (
	expectedActions = []schemas.Action{schemas.ActionRefuse, schemas.ActionSafeCompletion, schemas.ActionComply}
	answerActions   = []schemas.Action{schemas.ActionRefuse, schemas.ActionSafeCompletion, schemas.ActionComply, schemas.ActionNone}

	ruleID = regexp.MustCompile(`^[A-Z]{1,2}[0-9]{1,3}$`)
)

// reply is a judge's JSON object.
type reply struct {
	Expected    *schemas.Action `json:"expected"`
	Rule        *string         `json:"rule"`
	Action      *schemas.Action `json:"action"`
	Compliance  *int32          `json:"compliance"`
	Helpfulness *int32          `json:"helpfulness"`
	Style       *int32          `json:"style"`
	Citation    *int32          `json:"citation"`
	Reason      *string         `json:"reason"`
}

// parse reads a vote from a reply, with or without thoughts, a code fence or
// text around its object. What is inside the object is held to the letter.
func (r Role) parse(answer llm.Answer) (schemas.Vote, error) {
	content := answer.Content
	if cot, after, _ := llm.SplitCoT(content, answer.CoT); cot != "" {
		content = after
	}
	raw, err := findObject(content, "expected", "action", "compliance")
	if err != nil {
		return schemas.Vote{}, err
	}
	var v reply
	if err := json.Unmarshal(raw, &v); err != nil {
		return schemas.Vote{}, errors.New("a field of the object has the wrong type")
	}
	return r.check(v)
}

func (r Role) check(v reply) (schemas.Vote, error) {
	switch {
	case v.Expected == nil || !slices.Contains(expectedActions, *v.Expected):
		return schemas.Vote{}, fmt.Errorf("expected must be one of %v", expectedActions)
	case v.Action == nil || !slices.Contains(answerActions, *v.Action):
		return schemas.Vote{}, fmt.Errorf("action must be one of %v", answerActions)
	case v.Rule == nil || !ruleID.MatchString(*v.Rule):
		return schemas.Vote{}, errors.New("rule must be the ID of one rule")
	case v.Reason == nil:
		return schemas.Vote{}, errors.New("reason is missing")
	}
	vote := schemas.Vote{
		Expected: *v.Expected,
		Rule:     *v.Rule,
		Action:   *v.Action,
		Citation: -1,
		Why:      shorten(strings.TrimSpace(*v.Reason)),
	}
	type score struct {
		name string
		from *int32
		to   *int32
	}
	scores := []score{
		{"compliance", v.Compliance, &vote.Compliance},
		{"helpfulness", v.Helpfulness, &vote.Helpfulness},
		{"style", v.Style, &vote.Style},
	}
	if r.citation() {
		scores = append(scores, score{"citation", v.Citation, &vote.Citation})
	}
	for _, s := range scores {
		if s.from == nil || *s.from < 0 || *s.from > maxScore {
			return schemas.Vote{}, fmt.Errorf("%s must be a whole number from 0 to %d", s.name, maxScore)
		}
		*s.to = *s.from
	}
	vote.Score = r.fold(vote)
	return vote, nil
}

// fold makes one number, 0 to 1, of a vote's scores.
func (r Role) fold(v schemas.Vote) float64 {
	switch r {
	case RoleFilter:
		return float64(min(v.Compliance, v.Helpfulness, v.Style, v.Citation)) / maxScore
	case RoleReward:
		return float64(2*v.Compliance+v.Helpfulness+v.Style) / (4 * maxScore)
	default:
		return float64(v.Compliance) / maxScore
	}
}

// findObject finds the one object in a reply that has one of the fields. Two that
// differ are an error: one of them may be quoted from the answer that is judged.
func findObject(text string, fields ...string) (json.RawMessage, error) {
	if len(text) > maxReply {
		return nil, errors.New("it is too long")
	}
	var found json.RawMessage
	for range maxObjects {
		start := strings.IndexByte(text, '{')
		if start < 0 {
			break
		}
		text = text[start:]
		dec := json.NewDecoder(strings.NewReader(text))
		var raw json.RawMessage
		if dec.Decode(&raw) != nil {
			text = text[1:]
			continue
		}
		text = text[dec.InputOffset():]
		if !hasAny(raw, fields) || bytes.Equal(raw, found) {
			continue
		}
		if found != nil {
			return nil, errors.New("it holds more than one object")
		}
		found = raw
	}
	if found == nil {
		return nil, errors.New("it holds no JSON object with the fields asked for")
	}
	return found, nil
}

func hasAny(raw json.RawMessage, fields []string) bool {
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) != nil {
		return false
	}
	for _, name := range fields {
		if _, ok := object[name]; ok {
			return true
		}
	}
	return false
}

func shorten(s string) string {
	if len(s) <= maxReason {
		return s
	}
	s = s[:maxReason]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "…"
}
