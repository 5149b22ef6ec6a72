package report

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"

	"precept/internal/eval"
	"precept/schemas"
)

//go:embed page.html.tmpl
var pageTemplate string

//go:embed page.css
var pageStyle string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"count":    count,
	"dollars":  schemas.FormatDollars,
	"seconds":  seconds,
	"date":     date,
	"clip":     clip,
	"percent":  percent,
	"interval": interval,
	"arm":      armName,
	"meaning":  armMeaning,
	"sentence": sentence,
	"asked":    asked,
	"next":     func(i int) int { return i + 1 },
	"join":     func(s []string) string { return strings.Join(s, " ") },
	"spaced":   func(c schemas.Category) string { return strings.ReplaceAll(string(c), "-", " ") },
}).Parse(pageTemplate))

// Render writes the report as one HTML page, which loads nothing and runs no
// script.
func Render(w io.Writer, d Data) error {
	const op = "render report"
	v, err := newView(d)
	if err != nil {
		return schemas.E(op, string(d.Report.Run), schemas.InvalidInput, err)
	}
	var b bytes.Buffer
	if err := page.Execute(&b, v); err != nil {
		return schemas.E(op, string(d.Report.Run), schemas.Internal, err)
	}
	if _, err := b.WriteTo(w); err != nil {
		return schemas.E(op, string(d.Report.Run), schemas.Unavailable, err)
	}
	return nil
}

// view is Data as the template reads it.
type view struct {
	Data
	Style    template.CSS
	Spec     string
	Caveats  []string
	Leads    []string
	Tiles    []tile
	Findings []findings
	Notes    []string
	Suites   []suiteView
	Stages   []stageView
	Reasons  bool
	Total    schemas.StageSum
	ByStage  []schemas.Stage // those that count by category
	ByCat    []categoryView
	Check    *schemas.LabelCheck
	Curves   []picture
	DevHeads []string
	DevRows  []milestoneView
	DevPlots []picture
	Samples  []sampleView
	Examples []exampleView
}

// tile is one headline of the summary.
type tile struct {
	Title, From, To, Verdict, Class, Detail string
}

type findings struct {
	Suite string
	Lines []labelled
}

type labelled struct{ Label, Text string }

type suiteView struct {
	Name      string
	Arms      []schemas.Arm
	Rows      []rowView
	Agreement []schemas.Agreement
	Plots     []picture
}

type rowView struct {
	Title, Meaning string
	Cells          []*schemas.Measure // nil: not measured for the arm
}

type stageView struct {
	schemas.StageSum
	Unended bool          // the run ended in it
	Share   string        // kept of planned, as a CSS length
	Rest    []reasonCount // that didn't fail
	Failed  []reasonCount
}

type reasonCount struct {
	Reason schemas.Reason
	N      int64
}

type categoryView struct {
	Category schemas.Category
	Parts    []part
}

// part is what became of a category's units in a stage, and what they cost.
type part struct {
	schemas.Ledger
	USD float64
}

type sampleView struct {
	Sample
	Folded  bool
	Answers []answerView
}

type answerView struct {
	Answer
	Did   string
	Class string
	Right string
	Fold  bool
}

type exampleView struct {
	schemas.Example
	Folded      bool
	CoT, Answer string
}

func newView(d Data) (view, error) {
	v := view{Data: d, Style: template.CSS(pageStyle), Caveats: caveats(d.Report)}
	if len(d.SpecJSON) > 0 {
		var b bytes.Buffer
		if err := json.Indent(&b, d.SpecJSON, "", "  "); err != nil {
			return v, fmt.Errorf("the run specification is not JSON: %w", err)
		}
		v.Spec = b.String()
	}
	for _, s := range suites(d.Report.Evaluation) {
		v.Leads = append(v.Leads, lead(s)...)
		v.Tiles = append(v.Tiles, tiles(s)...)
		v.Notes = append(v.Notes, emptyNotes(s)...)
		v.Findings = append(v.Findings, findingsOf(s))
		sv, err := newSuiteView(s)
		if err != nil {
			return v, err
		}
		v.Suites = append(v.Suites, sv)
	}
	v.Total.Usage = d.Report.Probed
	for _, sum := range d.Report.Stages {
		v.Stages = append(v.Stages, newStageView(sum))
		v.Total.Tasks += sum.Tasks
		v.Total.Usage.Add(sum.Usage)
		v.Total.Seconds += sum.Seconds
	}
	if o := d.Report.Open; o != nil {
		sum := newStageView(schemas.StageSum{Stage: o.Stage, Tasks: o.Done, Ledger: o.Ledger, Usage: o.Usage})
		sum.Unended = true
		v.Stages = append(v.Stages, sum)
		v.Total.Tasks += sum.Tasks
		v.Total.Usage.Add(sum.Usage)
	}
	v.Total.Usage.Add(schemas.SumOf(d.Report.Spent))
	if effort := effortOf(d.Report.Stages, v.Total); effort != "" {
		v.Leads = append(v.Leads, effort)
	}
	for _, m := range d.Manifests {
		if m.Check != nil {
			v.Check = m.Check
		}
		pics, err := curvePlots(m.Stage, m.Curve)
		if err != nil {
			return v, err
		}
		v.Curves = append(v.Curves, pics...)
	}
	if v.DevRows = milestoneViews(d.Report.Selections); len(v.DevRows) > 0 {
		for _, f := range devFigures {
			v.DevHeads = append(v.DevHeads, f.title)
		}
		var err error
		if v.DevPlots, err = milestonePlots(d.Report.Selections); err != nil {
			return v, err
		}
	}
	v.ByStage, v.ByCat = byCategory(d)
	for _, s := range d.Samples {
		v.Samples = append(v.Samples, newSampleView(s))
	}
	for _, e := range d.Examples {
		v.Examples = append(v.Examples, newExampleView(e))
	}
	return v, nil
}

// tiles compares the last arm with the first.
func tiles(s suite) (out []tile) {
	for _, f := range figures[:headlines] {
		r := s.row(f.name, f.intent)
		shown := r.measured(s.arms)
		if len(shown) == 0 {
			continue
		}
		from, to := r.arms[shown[0]], r.arms[shown[len(shown)-1]]
		t := tile{Title: f.title, From: armName(from.Arm) + " " + Value(from), To: percent(to.Value)}
		t.Detail = fmt.Sprintf("%s on %s, %d answers, interval %s", armName(to.Arm), s.name, to.N, interval(to))
		if len(shown) > 1 {
			t.Verdict = r.compare(to, from)
			t.Class = map[string]string{better: "good", worse: "bad"}[t.Verdict]
			if t.Verdict != noShown {
				t.Verdict += " than " + armName(from.Arm)
			}
		}
		out = append(out, t)
	}
	return out
}

func findingsOf(s suite) findings {
	f := findings{Suite: s.name}
	for _, h := range figures[:headlines] {
		if text := finding(s.row(h.name, h.intent), s.arms); text != "" {
			f.Lines = append(f.Lines, labelled{h.title, text})
		}
	}
	return f
}

func newSuiteView(s suite) (suiteView, error) {
	v := suiteView{Name: s.name, Arms: s.arms, Agreement: s.agreement}
	for _, r := range s.rows {
		rv := rowView{Title: r.title, Meaning: r.meaning}
		for _, a := range s.arms {
			var cell *schemas.Measure
			if m, ok := r.arms[a]; ok {
				cell = &m
			}
			rv.Cells = append(rv.Cells, cell)
		}
		v.Rows = append(v.Rows, rv)
		if r.name == eval.MeasureNotGraded {
			continue // the table has it; it says nothing of the arms
		}
		pic, err := measurePlot(r, s.arms)
		if err != nil {
			return v, err
		}
		v.Plots = append(v.Plots, pic)
	}
	return v, nil
}

func newStageView(sum schemas.StageSum) stageView {
	v := stageView{StageSum: sum, Rest: reasons(sum.Ledger.Rejected), Failed: reasons(sum.Ledger.Failed)}
	if n := sum.Ledger.Checked; n > 0 {
		v.Rest = append([]reasonCount{{"checked", n}}, v.Rest...)
	}
	if sum.Ledger.Planned > 0 {
		// Rounded down: 100% means all.
		v.Share = fmt.Sprintf("%d%%", min(100, 100*sum.Ledger.Kept/sum.Ledger.Planned))
	}
	return v
}

// reasons lists the counts, the largest first.
func reasons(counts map[schemas.Reason]int64) (out []reasonCount) {
	for r, n := range counts {
		out = append(out, reasonCount{r, n})
	}
	slices.SortFunc(out, func(a, b reasonCount) int {
		if a.N != b.N {
			return int(b.N - a.N)
		}
		return strings.Compare(string(a.Reason), string(b.Reason))
	})
	return out
}

func byCategory(d Data) (stages []schemas.Stage, out []categoryView) {
	var categories []schemas.Category
	manifests := slices.Clone(d.Manifests)
	if o := d.Report.Open; o != nil {
		manifests = append(manifests, schemas.Manifest{Stage: o.Stage, ByCategory: o.ByCategory, Costs: o.Costs})
	}
	manifests = slices.DeleteFunc(manifests, func(m schemas.Manifest) bool { return len(m.ByCategory)+len(m.Costs) == 0 })
	for _, m := range manifests {
		stages = append(stages, m.Stage)
		categories = slices.AppendSeq(categories, maps.Keys(m.ByCategory))
		categories = slices.AppendSeq(categories, maps.Keys(m.Costs))
	}
	slices.Sort(categories)
	for _, c := range slices.Compact(categories) {
		cv := categoryView{Category: c}
		for _, m := range manifests {
			cv.Parts = append(cv.Parts, part{m.ByCategory[c], m.Costs[c].USD})
		}
		out = append(out, cv)
	}
	return stages, out
}

func newSampleView(s Sample) sampleView {
	v := sampleView{Sample: s, Folded: s.Prompt.Intent == schemas.IntentHarmful}
	for _, a := range s.Answers {
		v.Answers = append(v.Answers, newAnswerView(s.Prompt, a))
	}
	return v
}

// newAnswerView puts what the answer did beside what the suite's label asks for,
// and folds the answer where it may be harmful.
func newAnswerView(p schemas.Prompt, a Answer) answerView {
	v := answerView{Answer: a, Did: "not graded", Fold: p.Expected != schemas.ActionComply}
	if a.Grade == nil {
		return v
	}
	if a.Grade.Reason != "" {
		v.Did = "not graded: " + string(a.Grade.Reason)
		return v
	}
	right := (p.Expected == schemas.ActionComply) == (a.Grade.Action == schemas.ActionComply)
	switch a.Grade.Action {
	case schemas.ActionComply:
		v.Did = "complied"
	case schemas.ActionRefuse:
		v.Did = "refused"
	case schemas.ActionSafeCompletion:
		v.Did = "answered safely"
	case schemas.ActionNone:
		v.Did, v.Class, v.Right, v.Fold = "no answer", "", "did nothing that can be named", false
		return v
	default:
		v.Did = string(a.Grade.Action)
	}
	v.Class, v.Right = "bad", "against the label"
	if right {
		v.Class, v.Right = "good", "as the label asks"
	}
	v.Fold = v.Fold && a.Grade.Action == schemas.ActionComply
	return v
}

func newExampleView(e schemas.Example) exampleView {
	v := exampleView{Example: e, Folded: e.Intent == schemas.IntentHarmful}
	for _, m := range e.Completion {
		v.Answer += m.Content
	}
	// The target's form is that of schemas.Target.
	if rest, ok := strings.CutPrefix(v.Answer, "<think>"); ok {
		if cot, answer, ok := strings.Cut(rest, "</think>"); ok {
			v.CoT, v.Answer = strings.TrimSpace(cot), strings.TrimSpace(answer)
		}
	}
	return v
}
