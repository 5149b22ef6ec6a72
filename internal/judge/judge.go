package judge

import (
	"cmp"
	"context"
	"slices"

	"precept/internal/llm"
	"precept/internal/policy"
	"precept/schemas"
)

// Role is what an opinion is for.
type Role string

// The roles.
const (
	RoleFilter Role = "filter"
	RoleReward Role = "reward"
	RoleGrade  Role = "grade"
)

// Roles lists all roles.
var Roles = []Role{RoleFilter, RoleReward, RoleGrade}

// Asker asks a model; *llm.Client is one.
type Asker interface {
	Ask(context.Context, llm.Request) (llm.Answer, llm.Meta, error)
}

const (
	// DefaultMaxTokens bounds a reply where Options don't.
	DefaultMaxTokens = 1024
	// Temperature lets votes differ; their seeds do too.
	Temperature = 0.7
)

// Options say how a judge votes.
type Options struct {
	Votes     int     // defaults to 1
	Threshold float64 // least score that the filter keeps
	MaxTokens int     // of one reply, thoughts included; defaults to 1024
	Refresh   string  // as llm.Request has it
	// All asks for every vote, even where none can change the verdict any more.
	All bool
}

// Judge votes on completions. It may be used by many goroutines.
type Judge struct {
	client  Asker
	role    Role
	schema  *llm.Schema
	options Options
}

// New makes a judge for a role.
func New(client Asker, role Role, options Options) *Judge {
	if options.Votes <= 0 {
		options.Votes = 1
	}
	if options.MaxTokens <= 0 {
		options.MaxTokens = DefaultMaxTokens
	}
	return &Judge{client: client, role: role, schema: role.schema(), options: options}
}

// Asking returns the judge with another client.
func (j *Judge) Asking(client Asker) *Judge {
	other := *j
	other.client = client
	return &other
}

// Item is a completion to judge. CoT is shown in the role of the filter only.
type Item struct {
	Policy policy.CategoryPolicy
	Prompt schemas.Prompt
	CoT    string
	Answer string
}

// Result is the votes on one completion. Score is their minimum, and 0 where
// there are none.
type Result struct {
	Votes []schemas.Vote
	Score float64
	// Reason is why the filter doesn't keep the completion: what the first vote came to
	// that forbids it, so that no later vote has a say in it.
	Reason schemas.Reason
	Early  bool // voting stopped before its last vote, since the verdict was settled
	Lost   int
	Usage  schemas.Usage
}

// Scores are a completion's scores apart, 0 to 1, each the lowest of its votes.
type Scores struct{ Compliance, Helpfulness, Style float64 }

// Scores are those of the votes, of which there must be one.
func (r Result) Scores() Scores {
	least := func(score func(schemas.Vote) int32) float64 {
		lowest := slices.MinFunc(r.Votes, func(x, y schemas.Vote) int { return cmp.Compare(score(x), score(y)) })
		return float64(score(lowest)) / maxScore
	}
	return Scores{
		Compliance:  least(func(v schemas.Vote) int32 { return v.Compliance }),
		Helpfulness: least(func(v schemas.Vote) int32 { return v.Helpfulness }),
		Style:       least(func(v schemas.Vote) int32 { return v.Style }),
	}
}

// Verdict asks for the votes on item, one after the other, until the verdict can't
// change any more. When an error ends the voting, the result holds what was asked
// before it, and is no verdict.
func (j *Judge) Verdict(ctx context.Context, item Item) (Result, error) {
	var result Result
	messages := j.role.Messages(item)
	for sample := range j.options.Votes {
		vote, ok, err := j.vote(ctx, messages, sample, &result.Usage)
		if err != nil {
			return result, err
		}
		j.count(&result, vote, ok)
		if j.settled(result) && !j.options.All && sample+1 < j.options.Votes {
			result.Early = true
			break
		}
	}
	return result, nil
}

// count adds a vote, or a lost one, to the result.
func (j *Judge) count(r *Result, vote schemas.Vote, ok bool) {
	var reason schemas.Reason
	if ok {
		if len(r.Votes) == 0 || vote.Score < r.Score {
			r.Score = vote.Score
		}
		r.Votes = append(r.Votes, vote)
		if vote.Score < j.options.Threshold {
			reason = schemas.ReasonBelowThreshold
		}
	} else {
		r.Lost++
		// A minimum over fewer votes than asked for is no verdict to keep by.
		reason = schemas.ReasonMalformedVerdict
	}
	if j.role == RoleFilter && r.Reason == "" {
		r.Reason = reason
	}
}

// settled reports whether no further vote changes what the role is asked for: the
// filter's decision, or the score, which can't fall under 0.
func (j *Judge) settled(r Result) bool {
	if j.role == RoleFilter {
		return r.Reason != ""
	}
	return len(r.Votes) > 0 && r.Score == 0
}

// vote asks for one vote, and once more for its JSON alone when the reply can't
// be read. It is not ok when the vote is lost.
func (j *Judge) vote(ctx context.Context, messages []schemas.Message, sample int, usage *schemas.Usage) (schemas.Vote, bool, error) {
	for _, last := range []bool{false, true} {
		answer, meta, err := j.client.Ask(ctx, llm.Request{
			Messages:    messages,
			Temperature: Temperature,
			MaxTokens:   j.options.MaxTokens,
			JSONSchema:  j.schema,
			Sample:      sample,
			Refresh:     j.options.Refresh,
		})
		if err != nil {
			return schemas.Vote{}, false, err
		}
		usage.Add(llm.Count(answer, meta))
		if answer.Refusal || answer.TooLong() {
			return schemas.Vote{}, false, nil
		}
		vote, err := j.role.parse(answer)
		if err == nil {
			vote.Request = meta.Key
			return vote, true, nil
		}
		if !last {
			messages = repair(messages, answer, err)
		}
	}
	return schemas.Vote{}, false, nil
}
