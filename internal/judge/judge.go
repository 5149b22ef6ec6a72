package judge

import (
	"context"

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

// Asker asks a model; *llm.Client is one.
type Asker interface {
	Ask(context.Context, llm.Request) (llm.Answer, llm.Meta, error)
}

const (
	// DefaultMaxTokens is how long a reply may be where nothing else is said.
	DefaultMaxTokens = 1024
	// Temperature lets votes differ; their seeds do too.
	Temperature = 0.7
)

// Options say how a judge votes.
type Options struct {
	Votes int // defaults to 1
	// Threshold ends the voting at a vote whose score is under it. 0 never does.
	Threshold float64
	MaxTokens int    // of one reply, thoughts included; defaults to 1024
	Refresh   string // as llm.Request has it
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

// Item is a completion to judge. CoT is shown in the role of the filter only.
type Item struct {
	Policy policy.CategoryPolicy
	Prompt schemas.Prompt
	CoT    string
	Answer string
}

// Result is the votes on one completion. Score is their minimum, and 0 where
// there are none. Early is true when a vote under the threshold ended the
// voting.
type Result struct {
	Votes []schemas.Vote
	Score float64
	Early bool
	Lost  int
	Usage schemas.Usage
}

// Verdict asks for the votes on item, one after the other. When an error ends
// the voting, the result holds what was asked before it.
func (j *Judge) Verdict(ctx context.Context, item Item) (Result, error) {
	var result Result
	messages := j.role.messages(item)
	for sample := range j.options.Votes {
		vote, ok, err := j.vote(ctx, messages, sample, &result.Usage)
		if err != nil {
			return result, err
		}
		if !ok {
			result.Lost++
			continue
		}
		if len(result.Votes) == 0 || vote.Score < result.Score {
			result.Score = vote.Score
		}
		result.Votes = append(result.Votes, vote)
		if vote.Score < j.options.Threshold && sample+1 < j.options.Votes {
			result.Early = true
			break
		}
	}
	return result, nil
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
