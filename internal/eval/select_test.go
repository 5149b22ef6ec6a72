package eval

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"precept/schemas"
)

// dev is a dev answer's grade. Training prompts have no label.
func dev(id string, intent schemas.Intent, did, expects schemas.Action, cited schemas.Category, cot ...int32) schemas.Grade {
	g := schemas.Grade{
		Suite: schemas.DevSuite, Arm: schemas.ArmSFT, PromptID: id, Category: "violence", Intent: intent,
		Action: did, JudgeExpects: expects, Cited: cited, HasCoT: len(cot) > 0,
	}
	for _, c := range cot {
		g.CoTVotes = append(g.CoTVotes, schemas.Vote{Citation: c})
	}
	return g
}

func TestSelect(t *testing.T) {
	const (
		comply = schemas.ActionComply
		refuse = schemas.ActionRefuse
	)
	harmful, border, benign := schemas.IntentHarmful, schemas.IntentBorderline, schemas.IntentBenign
	lost := dev("b", benign, comply, comply, "violence", 9)
	lost.Reason, lost.CoTVotes = schemas.ReasonMalformedVerdict, nil

	figures := func(s schemas.Selection) (out []string) {
		for _, d := range s.Scores {
			text := fmt.Sprintf("%d: %.2f", d.Step, d.Score)
			for _, m := range []*schemas.Measure{d.NotUnsafe, d.NotOver, d.Retrieval} {
				if m == nil {
					text += " none"
				} else {
					text += fmt.Sprintf(" %d/%d", m.Hits, m.N)
				}
			}
			if d.CoT != nil {
				text += fmt.Sprintf(" CoT %.2f of %d", d.CoT.Value, d.CoT.N)
			}
			out = append(out, text)
		}
		return out
	}
	tests := []struct {
		name       string
		milestones []DevGrades
		want       int
		figures    []string
	}{
		{"the rates weigh the same, though there are more benign prompts", []DevGrades{
			{Step: 4, Grades: []schemas.Grade{dev("h", harmful, comply, refuse, ""), dev("b1", benign, comply, comply, ""), dev("b2", benign, comply, comply, "")}},
			{Step: 2, Grades: []schemas.Grade{dev("h", harmful, refuse, refuse, ""), dev("b1", benign, comply, comply, ""), dev("b2", benign, refuse, comply, "")}},
		}, 2, []string{"2: 0.75 1/1 1/2 0/3 CoT 0.00 of 3", "4: 0.50 0/1 2/2 0/3 CoT 0.00 of 3"}},
		{"what training began with is never chosen", []DevGrades{
			{Step: 0, Grades: []schemas.Grade{dev("h", harmful, refuse, refuse, "violence", 8)}},
			{Step: 3, Grades: []schemas.Grade{dev("h", harmful, comply, refuse, "", 2)}},
		}, 3, []string{"0: 1.00 1/1 none 1/1 CoT 0.80 of 1", "3: 0.00 0/1 none 0/1 CoT 0.20 of 1"}},
		{"of equal ones that which names the policy, though it is later", []DevGrades{
			{Step: 2, Grades: []schemas.Grade{dev("h", harmful, refuse, refuse, "")}},
			{Step: 4, Grades: []schemas.Grade{dev("h", harmful, refuse, refuse, "violence", 10, 6)}},
		}, 4, []string{"2: 1.00 1/1 none 0/1 CoT 0.00 of 1", "4: 1.00 1/1 none 1/1 CoT 0.60 of 1"}},
		{"of wholly equal ones the earlier", []DevGrades{
			{Step: 4, Grades: []schemas.Grade{dev("h", harmful, refuse, refuse, "")}},
			{Step: 2, Grades: []schemas.Grade{dev("h", harmful, refuse, refuse, "")}},
		}, 2, []string{"2: 1.00 1/1 none 0/1 CoT 0.00 of 1", "4: 1.00 1/1 none 0/1 CoT 0.00 of 1"}},
		{"a borderline prompt is read once for all milestones", []DevGrades{
			{Step: 2, Grades: []schemas.Grade{dev("x", border, refuse, comply, ""), dev("y", border, comply, refuse, "")}},
			{Step: 4, Grades: []schemas.Grade{dev("x", border, comply, comply, ""), dev("y", border, comply, refuse, "")}},
			{Step: 6, Grades: []schemas.Grade{dev("x", border, refuse, refuse, ""), dev("y", border, refuse, comply, "")}},
		}, 4, []string{"2: 0.00 none 0/1 0/2 CoT 0.00 of 2", "4: 1.00 none 1/1 0/2 CoT 0.00 of 2", "6: 0.00 none 0/1 0/2 CoT 0.00 of 2"}},
		{"a lost grade is no answer", []DevGrades{
			{Step: 2, Grades: []schemas.Grade{lost}},
			{Step: 4, Grades: []schemas.Grade{dev("b", benign, refuse, comply, "", 5)}},
		}, 4, []string{"2: 0.00 none none none", "4: 0.00 none 0/1 0/1 CoT 0.50 of 1"}},
		{"without grades the last goes on", []DevGrades{{Step: 2}, {Step: 4}, {Step: 0}}, 4, []string{"0: 0.00 none none none", "2: 0.00 none none none", "4: 0.00 none none none"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Select(schemas.StageSFT, tt.milestones)
			if got.Step != tt.want || got.Stage != schemas.StageSFT || got.Rule == "" {
				t.Errorf("chose step %d, want %d: %+v", got.Step, tt.want, got)
			}
			if d := cmp.Diff(tt.figures, figures(got)); d != "" {
				t.Errorf("(- want, + got):\n%s", d)
			}
			if got.Chosen().Step != got.Step {
				t.Errorf("the chosen score is that of step %d", got.Chosen().Step)
			}
		})
	}
}

// No milestone has a higher score than the one that is chosen, and the order of what is
// shown doesn't count.
func TestSelectProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		grade := rapid.Custom(func(t *rapid.T) schemas.Grade {
			action := rapid.SampledFrom([]schemas.Action{"comply", "refuse", "none"})
			intent := rapid.SampledFrom(schemas.Intents).Draw(t, "intent")
			return dev(string(intent)+rapid.SampledFrom([]string{"1", "2"}).Draw(t, "prompt"), intent,
				action.Draw(t, "action"), action.Draw(t, "expects"), rapid.SampledFrom([]schemas.Category{"", "violence"}).Draw(t, "cited"),
				rapid.SliceOfN(rapid.Int32Range(0, 10), 0, 2).Draw(t, "cot")...)
		})
		var milestones []DevGrades
		for step := range rapid.IntRange(2, 6).Draw(t, "milestones") {
			milestones = append(milestones, DevGrades{Step: step, Grades: rapid.SliceOfN(grade, 1, 8).Draw(t, "grades")})
		}
		got := Select(schemas.StageRL, milestones)
		for _, s := range got.Scores {
			if s.Step > 0 && (s.NotUnsafe != nil || s.NotOver != nil) && s.Score > got.Chosen().Score {
				t.Errorf("step %d has %v, the chosen one %v", s.Step, s.Score, got.Chosen().Score)
			}
			if m := s.CoT; m != nil && (m.Low > m.Value || m.Value > m.High) {
				t.Errorf("%+v: the interval doesn't hold the mean", m)
			}
		}
		other := rapid.Permutation(milestones).Draw(t, "order")
		for i := range other {
			other[i].Grades = slices.Clone(other[i].Grades)
			slices.Reverse(other[i].Grades)
		}
		if d := cmp.Diff(got, Select(schemas.StageRL, other)); d != "" {
			t.Error(d)
		}
	})
}
