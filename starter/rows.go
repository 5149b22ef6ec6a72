package main

import (
	"context"
	"fmt"
	"strings"

	"precept/internal/shard"
	"precept/schemas"
)

// record is one row as a line of a table. Its texts are what is hidden by default.
type record struct {
	cells    []string
	category schemas.Category
	reason   schemas.Reason
	texts    []text
	row      any
}

type text struct{ name, text string }

// table says how rows of one kind are shown.
type table struct {
	head []string
	read func(ctx context.Context, s shard.Store, ref schemas.ShardRef) ([]record, error)
}

func tableOf[T any](head string, show func(T) record) table {
	return table{strings.Fields(head), func(ctx context.Context, s shard.Store, ref schemas.ShardRef) ([]record, error) {
		rows, err := shard.Read[T](ctx, s, ref)
		if err != nil {
			return nil, err
		}
		records := make([]record, len(rows))
		for i, row := range rows {
			records[i] = show(row)
			records[i].row = row
		}
		return records, nil
	}}
}

// tables holds a table for each kind of output that has rows.
var tables = map[string]table{
	schemas.OutputGenerated: generatedTable,
	schemas.OutputLabels:    labelTable,
	schemas.OutputMatches:   labelTable,
	schemas.OutputChecks:    labelTable,
	schemas.OutputPrompts: tableOf("id category intent language source reason", func(p schemas.Prompt) record {
		return record{
			cells:    cells(short(p.ID), p.Category, p.Intent, p.Language, p.Source, p.Reason),
			category: p.Category, reason: p.Reason, texts: turns(p.Messages),
		}
	}),
	schemas.OutputCompletions: tableOf("id prompt category intent sample model cot answer finish reason", func(c schemas.Completion) record {
		return record{
			cells: cells(short(c.ID), short(c.Prompt.ID), c.Prompt.Category, c.Prompt.Intent, c.Sample, c.Model,
				words(c.CoT), words(c.Answer), c.FinishReason, c.Reason),
			category: c.Prompt.Category, reason: c.Reason,
			texts: append(turns(c.Prompt.Messages), text{"CoT", c.CoT}, text{"answer", c.Answer}),
		}
	}),
	schemas.OutputVerdicts: tableOf("completion prompt category intent sample judge score votes early reason", func(v schemas.Verdict) record {
		r := record{
			cells: cells(short(v.CompletionID), short(v.PromptID), v.Category, v.Intent, v.Sample, v.Judge, fmt.Sprintf("%.2f", v.Score),
				len(v.Votes), v.Early, v.Reason),
			category: v.Category, reason: v.Reason,
		}
		r.texts = votes(v.Votes)
		return r
	}),
	schemas.OutputExamples: tableOf("id prompt category intent language source score words", func(e schemas.Example) record {
		n := 0
		for _, m := range e.Completion {
			n += len(strings.Fields(m.Content))
		}
		return record{
			cells:    cells(short(e.ID), short(e.PromptID), e.Category, e.Intent, e.Language, e.Source, fmt.Sprintf("%.2f", e.Score), n),
			category: e.Category, texts: append(turns(e.Prompt), turns(e.Completion)...),
		}
	}),
	schemas.OutputRLPrompts: tableOf("prompt category intent", func(p schemas.RLPrompt) record {
		return record{
			cells: cells(short(p.PromptID), p.Category, p.Intent), category: p.Category, texts: turns(p.Prompt),
		}
	}),
	schemas.OutputRollouts: tableOf("step index prompt category intent reward cot answer", func(r schemas.Rollout) record {
		reward := "none"
		if r.Reward != nil {
			reward = fmt.Sprintf("%.2f", *r.Reward)
		}
		return record{
			cells:    cells(r.Step, r.Index, short(r.PromptID), r.Category, r.Intent, reward, words(r.CoT), words(r.Answer)),
			category: r.Category, texts: append([]text{{"CoT", r.CoT}, {"answer", r.Answer}}, votes(r.Votes)...),
		}
	}),
	schemas.OutputGrades: tableOf("completion suite arm category intent expected action judge_expects cited reason", func(g schemas.Grade) record {
		return record{
			cells: cells(short(g.CompletionID), g.Suite, g.Arm, g.Category, g.Intent, g.Expected, g.Action, g.JudgeExpects,
				g.Cited, g.Reason),
			category: g.Category, reason: g.Reason, texts: votes(g.Votes),
		}
	}),
}

func cells(values ...any) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = clip(oneLine(fmt.Sprint(v)), 40)
	}
	return out
}

func short(id string) string { return schemas.Digest(id).Short() }

func words(s string) string { return fmt.Sprintf("%d words", len(strings.Fields(s))) }

func turns(messages []schemas.Message) (out []text) {
	for _, m := range messages {
		out = append(out, text{m.Role, m.Content})
	}
	return out
}

func votes(vs []schemas.Vote) (out []text) {
	for i, v := range vs {
		out = append(out, text{fmt.Sprintf("vote %d (%s, %.2f)", i+1, v.Action, v.Score), v.Why})
	}
	return out
}
