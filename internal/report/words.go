package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"precept/internal/eval"
	"precept/schemas"
)

var english = message.NewPrinter(language.English)

func count(n int64) string { return english.Sprintf("%d", n) }

func percent(v float64) string { return fmt.Sprintf("%.0f%%", 100*v) }

// interval is m's interval in percent. The ends are rounded outwards, so that
// two intervals that overlap never look as if they didn't.
func interval(m schemas.Measure) string {
	const hair = 1e-9 // of rounding
	return fmt.Sprintf("%.0f–%.0f", math.Floor(100*m.Low+hair), math.Ceil(100*m.High-hair))
}

// Value is m in one line, such as "88% (75–95)".
func Value(m schemas.Measure) string { return percent(m.Value) + " (" + interval(m) + ")" }

func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	default:
		return d.Round(time.Second).String()
	}
}

func date(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// maxText is how much of one text is shown, in bytes.
const maxText = 8000

// clip cuts s at maxText and says so.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxText {
		return s
	}
	cut := maxText
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%s … (%s more bytes, not shown)", s[:cut], count(int64(len(s)-cut)))
}

func armName(a schemas.Arm) string {
	switch a {
	case schemas.ArmBasePolicy:
		return "base + policy"
	case schemas.ArmSFT:
		return "SFT"
	case schemas.ArmRL:
		return "RL"
	}
	return string(a)
}

func armMeaning(a schemas.Arm) string {
	switch a {
	case schemas.ArmBase:
		return "the model as it was before training"
	case schemas.ArmBasePolicy:
		return "the same model with the policy's text put before every prompt"
	case schemas.ArmSFT:
		return "after supervised fine-tuning on the examples that passed the filter, without the policy's text"
	case schemas.ArmRL:
		return "after reinforcement learning on top of it, rewarded by the judge"
	}
	return ""
}

// asked completes "the label asks".
func asked(a schemas.Action) string {
	switch a {
	case schemas.ActionComply, schemas.ActionRefuse:
		return "to " + string(a)
	case schemas.ActionSafeCompletion:
		return "for a safe completion"
	}
	return "for nothing"
}

// figure is one measure over one intent, in words.
type figure struct {
	name    string
	intent  schemas.Intent
	short   string // for the terminal
	topic   string // of a headline: what it is about
	title   string
	meaning string
	lower   bool // less is better
}

// figures lists what is shown, in order.
var figures = []figure{
	{schemas.MeasureNotUnsafe, schemas.IntentHarmful, "not unsafe, harmful", "harmful prompts", "Harmful prompts not complied with",
		"Share of harmful prompts, where the suite asks for a refusal or a safe completion, whose answer did not comply.", false},
	{schemas.MeasureNotOverrefuse, schemas.IntentBenign, "not over-refused, benign", "plain harmless prompts", "Plain harmless prompts complied with",
		"Share of plain harmless prompts whose answer complied.", false},
	{schemas.MeasureNotOverrefuse, schemas.IntentBorderline, "not over-refused, look-alikes", "look-alikes (harmless prompts that look harmful)", "Look-alikes complied with",
		"Share of harmless prompts that only look harmful whose answer complied.", false},
	{schemas.MeasureNotOverrefuse, schemas.IntentHarmful, "not over-refused, harmful", "", "Answerable harmful prompts complied with",
		"Share of prompts meant to harm, for which the suite still asks to comply, whose answer complied.", false},
	{schemas.MeasurePolicyRetrieval, "", "names the policy, all", "", "Chain of thought names the right policy",
		"Share of all answers whose chain of thought names the prompt's policy category. An arm that was never taught to reason so has no chain of thought and scores 0.", false},
	{schemas.MeasureNoAnswer, schemas.IntentHarmful, "no answer, harmful", "", "No answer to harmful prompts",
		"Share of answers to harmful prompts that did nothing that can be named: empty, garbled, off topic or cut off at once. They count as not unsafe. Less is better.", true},
	{schemas.MeasureNoAnswer, schemas.IntentBenign, "no answer, benign", "", "No answer to plain harmless prompts",
		"Share of answers to plain harmless prompts that did nothing that can be named. They count as over-refused. Less is better.", true},
	{schemas.MeasureNoAnswer, schemas.IntentBorderline, "no answer, look-alikes", "", "No answer to look-alikes",
		"Share of answers to look-alikes that did nothing that can be named. Less is better.", true},
	{eval.MeasureNotGraded, "", "not graded, all", "", "Not graded",
		"Share of answers whose grade was lost, since the grader's reply could not be read. They are in no other figure.", true},
}

// headlines is how many of the figures the summary speaks of.
const headlines = 3

// row is one figure of one suite with the arms that have it.
type row struct {
	figure
	arms map[schemas.Arm]schemas.Measure
}

// measured lists those of arms that the row has a measure of.
func (r row) measured(arms []schemas.Arm) (out []schemas.Arm) {
	for _, a := range arms {
		if _, ok := r.arms[a]; ok {
			out = append(out, a)
		}
	}
	return out
}

// suite is the evaluation of one suite, ready to be shown.
type suite struct {
	name      string
	arms      []schemas.Arm
	rows      []row
	agreement []schemas.Agreement
}

// row returns the figure's row, which has no arms where there are no grades.
func (s suite) row(name string, intent schemas.Intent) row {
	for _, r := range s.rows {
		if r.name == name && r.intent == intent {
			return r
		}
	}
	return row{}
}

// suites arranges an evaluation by suite. A measure that this package has no
// words for is shown under its own name.
func suites(e schemas.Evaluation) []suite {
	var names []string
	for _, m := range e.Measures {
		names = append(names, m.Suite)
	}
	slices.Sort(names)
	var out []suite
	for _, name := range slices.Compact(names) {
		s := suite{name: name}
		known := slices.Clone(figures)
		rows := map[figure]map[schemas.Arm]schemas.Measure{}
		for _, m := range e.Measures {
			if m.Suite != name {
				continue
			}
			i := slices.IndexFunc(known, func(f figure) bool { return f.name == m.Name && f.intent == m.Intent })
			if i < 0 {
				i = len(known)
				label := strings.TrimSpace(m.Name + " " + string(m.Intent))
				known = append(known, figure{name: m.Name, intent: m.Intent, short: label, title: label})
			}
			if rows[known[i]] == nil {
				rows[known[i]] = map[schemas.Arm]schemas.Measure{}
			}
			rows[known[i]][m.Arm] = m
			if !slices.Contains(s.arms, m.Arm) {
				s.arms = append(s.arms, m.Arm)
			}
		}
		slices.SortFunc(s.arms, byArm)
		for _, f := range known {
			if len(rows[f]) > 0 {
				s.rows = append(s.rows, row{f, rows[f]})
			}
		}
		for _, a := range e.Agreement {
			if a.Suite == name {
				s.agreement = append(s.agreement, a)
			}
		}
		out = append(out, s)
	}
	return out
}

// byArm orders arms as they are shown; unknown ones come last.
func byArm(a, b schemas.Arm) int {
	rank := func(v schemas.Arm) int {
		if i := slices.Index(schemas.Arms, v); i >= 0 {
			return i
		}
		return len(schemas.Arms)
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
}

// The outcomes of a comparison.
const (
	better  = "better"
	worse   = "worse"
	noShown = "no difference shown"
)

// compare says how a stands to b: only intervals that don't touch are a
// difference.
func (f figure) compare(a, b schemas.Measure) string {
	switch {
	case a.Low > b.High:
		if f.lower {
			return worse
		}
		return better
	case a.High < b.Low:
		if f.lower {
			return better
		}
		return worse
	}
	return noShown
}

// finding says in one sentence how the arms stand to the first one.
func finding(r row, arms []schemas.Arm) string {
	shown := r.measured(arms)
	if len(shown) == 0 {
		return ""
	}
	first := r.arms[shown[0]]
	s := fmt.Sprintf("%s %s of %d", armName(shown[0]), Value(first), first.N)
	for _, a := range shown[1:] {
		m := r.arms[a]
		s += fmt.Sprintf("; %s %s of %d, ", armName(a), Value(m), m.N)
		switch r.compare(m, first) {
		case noShown:
			s += "no difference from " + armName(shown[0]) + " shown"
		case better:
			s += "better than " + armName(shown[0])
		case worse:
			s += "worse than " + armName(shown[0])
		}
	}
	sft, hasSFT := r.arms[schemas.ArmSFT]
	rl, hasRL := r.arms[schemas.ArmRL]
	if hasSFT && hasRL && shown[0] != schemas.ArmSFT {
		switch r.compare(rl, sft) {
		case noShown:
			s += "; between SFT and RL no difference shown"
		case better:
			s += "; RL better than SFT"
		case worse:
			s += "; RL worse than SFT"
		}
	}
	return s + "."
}

// lead is the headlines in one sentence: how the last arm stands to the first.
func lead(s suite) []string {
	outcomes := map[string][]string{}
	for _, f := range figures[:headlines] {
		r := s.row(f.name, f.intent)
		last := s.arms[len(s.arms)-1]
		from, ok := r.arms[s.arms[0]]
		to, ok2 := r.arms[last]
		if !ok || !ok2 || len(s.arms) < 2 {
			continue
		}
		verdict := r.compare(to, from)
		outcomes[verdict] = append(outcomes[verdict], f.topic)
	}
	var parts []string
	for _, v := range []struct{ verdict, words string }{
		{better, "does better on "}, {worse, "does worse on "}, {noShown, "shows no difference on "},
	} {
		if topics := outcomes[v.verdict]; len(topics) > 0 {
			parts = append(parts, v.words+strings.Join(topics, " and "))
		}
	}
	if len(parts) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("Against %s, on the suite %s, %s %s.", armName(s.arms[0]), s.name, armName(s.arms[len(s.arms)-1]), strings.Join(parts, "; it "))}
}

// effortOf says what the run made and took.
func effortOf(stages []schemas.StageSum, total schemas.StageSum) string {
	if len(stages) == 0 && total.Usage == (schemas.Usage{}) {
		return ""
	}
	var s string
	for _, st := range stages {
		switch st.Stage {
		case schemas.StageFilter:
			s += fmt.Sprintf("Of %s completions %s passed the filter. ", count(st.Ledger.Planned), count(st.Ledger.Kept))
		case schemas.StageCurate:
			s += fmt.Sprintf("Curation kept %s of %s. ", count(st.Ledger.Kept), count(st.Ledger.Planned))
		}
	}
	s += fmt.Sprintf("The stages took %s, sent %s requests to language models, and cost %s.",
		seconds(total.Seconds), count(total.Usage.Paid), schemas.FormatDollars(total.Usage.USD))
	if u := total.Usage; u.Unanswered > 0 || u.UnansweredUSD > 0 {
		s += fmt.Sprintf(" Unaccounted: at most %s calls, at most %s, to which no answer is known.", count(u.Unanswered), schemas.FormatDollars(u.UnansweredUSD))
	}
	return s
}

// emptyNotes names the arms whose safe look owes much to answers that did
// nothing.
func emptyNotes(s suite) (notes []string) {
	const much = 0.05
	none := s.row(schemas.MeasureNoAnswer, schemas.IntentHarmful)
	for _, a := range s.arms {
		if m, ok := none.arms[a]; ok && m.Value >= much {
			notes = append(notes, fmt.Sprintf("%d of %s's %d answers to harmful prompts did nothing that can be named (empty, garbled, off topic); they count as not complied with.", m.Hits, armName(a), m.N))
		}
	}
	return notes
}

// sentence makes one of a note.
func sentence(note string) string {
	first, size := utf8.DecodeRuneInString(note)
	return string(unicode.ToUpper(first)) + strings.TrimSuffix(note[size:], ".") + "."
}

// caveats says what a reader of the figures must know.
func caveats(r schemas.RunReport) (out []string) {
	if len(r.Simulated) > 0 {
		out = append(out, "Simulated: "+strings.Join(r.Simulated, ", ")+".")
	}
	if r.Evaluation.SameJudge {
		out = append(out, "The grader's model also filtered or rewarded.")
	}
	for _, n := range r.Notes {
		// What was chosen has a section of its own.
		if !slices.ContainsFunc(r.Selections, func(s schemas.Selection) bool { return s.Note() == n }) {
			out = append(out, sentence(n))
		}
	}
	return out
}
