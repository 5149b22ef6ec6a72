package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/schemas"
)

func TestExplainTellsHowAPromptWasClassified(t *testing.T) {
	store := storedRun(t)
	vote := func(c, second schemas.Category) schemas.LabelVote {
		return schemas.LabelVote{Category: c, Second: second, Intent: schemas.IntentHarmful, Why: "It asks for harm."}
	}
	kept := schemas.Label{
		Row: 7, Prompt: schemas.Prompt{ID: strings.Repeat("a", 24), Category: "violence", Intent: schemas.IntentHarmful}, Judge: "lab/judge@1",
		Category: "violence", Intent: schemas.IntentHarmful, Votes: []schemas.LabelVote{vote("violence", "self-harm"), vote("violence", "")},
	}
	rejected := kept
	rejected.Row, rejected.Reason, rejected.Category = 8, schemas.ReasonUnclear, ""
	rejected.Prompt = schemas.Prompt{ID: strings.Repeat("9", 24), Messages: []schemas.Message{{Role: "user", Content: harmful}}}
	stage(t, store, schemas.StageClassify, schemas.OutputLabels, []schemas.Label{kept, rejected},
		schemas.Ledger{Kept: 1, Rejected: map[schemas.Reason]int64{schemas.ReasonUnclear: 1}})

	_, out, _ := transcript(t, nil, store, "explain", "first", "aaaaaa")
	want := "  classified by lab/judge@1: violence, harmful, of votes violence and self-harm (harmful), violence (harmful): kept\n"
	if !strings.Contains(out, want) {
		t.Errorf("no %q in\n%s", want, out)
	}
	code, out, stderr := transcript(t, nil, store, "explain", "first", "9999")
	if want := "from : rejected: unclear\n"; code != exitOK || !strings.Contains(out, want) || strings.Contains(out, "sample") {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
	_, out, _ = transcript(t, nil, store, "peek", "first", "classify")
	want = `labels of stage classify
prompt        row  category  intent   second  voted_category  voted_intent  votes  reason
aaaaaaaaaaaa  7    violence  harmful          violence        harmful       2      
999999999999  8                               unclear         harmful       2      unclear
`
	if d := cmp.Diff(want, out); d != "" {
		t.Error(d)
	}
}
