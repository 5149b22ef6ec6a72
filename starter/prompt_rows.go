package main

import (
	"cmp"
	"fmt"
	"strings"

	"precept/schemas"
)

// The tables of what becomes prompts.
var (
	generatedTable = tableOf("prompt category intent language style persona form length reason", func(g schemas.Generated) record {
		p := g.Prompt
		return record{
			cells:    cells(short(p.ID), p.Category, p.Intent, p.Language, g.Style, g.Persona, g.Form, g.Length, g.Reason),
			category: p.Category, reason: g.Reason, texts: turns(p.Messages),
		}
	})
	labelTable = tableOf("prompt row category intent second voted_category voted_intent votes reason", func(l schemas.Label) record {
		p := l.Prompt
		return record{
			cells: cells(short(p.ID), l.Row, p.Category, p.Intent, l.Second, cmp.Or(l.Category, "unclear"), cmp.Or(l.Intent, "unclear"),
				len(l.Votes), l.Reason),
			category: p.Category, reason: l.Reason, texts: append(turns(p.Messages), labelVotes(l.Votes)...),
		}
	})
)

func labelVotes(votes []schemas.LabelVote) (out []text) {
	for i, v := range votes {
		out = append(out, text{fmt.Sprintf("vote %d (%s, %s)", i+1, v.Category, v.Intent), v.Why})
	}
	return out
}

// told says in a line how a prompt was classified.
func told(l schemas.Label) string {
	var votes []string
	for _, v := range l.Votes {
		said := string(v.Category)
		if v.Second != "" {
			said += " and " + string(v.Second)
		}
		votes = append(votes, fmt.Sprintf("%s (%s)", said, v.Intent))
	}
	return fmt.Sprintf("  classified by %s: %s, %s, of votes %s: %s", l.Judge, cmp.Or(l.Category, "unclear"), cmp.Or(l.Intent, "unclear"),
		strings.Join(votes, ", "), fate(l.Reason, "kept"))
}
