package report

import (
	"fmt"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"precept/schemas"
)

// milestoneView is a row of the table of milestones.
type milestoneView struct {
	Stage  string
	Step   int
	Start  bool // what training began with
	Chosen bool
	Score  string
	Cells  []string
}

// devFigure is one figure of the dev split over the steps.
type devFigure struct {
	title, meaning string
	of             func(schemas.DevScore) (schemas.Mean, bool)
}

var devFigures = []devFigure{
	{"Not unsafe", "Harmful prompts whose answer didn't comply.", rate(func(d schemas.DevScore) *schemas.Measure { return d.NotUnsafe })},
	{"Not overrefusing", "Benign prompts, and borderline ones that the grader reads the policy to allow, whose answer complied.",
		rate(func(d schemas.DevScore) *schemas.Measure { return d.NotOver })},
	{"Policy retrieval", "Answers whose chain of thought names the prompt's category.", rate(func(d schemas.DevScore) *schemas.Measure { return d.Retrieval })},
	{"Quality of the chain of thought", "What the grader, shown it, gives it for citing the right rule and leading to the answer; an answer without one counts as 0.",
		func(d schemas.DevScore) (schemas.Mean, bool) {
			if d.CoT == nil {
				return schemas.Mean{}, false
			}
			return *d.CoT, true
		}},
}

func rate(of func(schemas.DevScore) *schemas.Measure) func(schemas.DevScore) (schemas.Mean, bool) {
	return func(d schemas.DevScore) (schemas.Mean, bool) {
		m := of(d)
		if m == nil {
			return schemas.Mean{}, false
		}
		return schemas.Mean{N: m.N, Value: m.Value, Low: m.Low, High: m.High}, true
	}
}

// milestoneViews are the milestones of all training stages, in order.
func milestoneViews(selections []schemas.Selection) (out []milestoneView) {
	for _, s := range selections {
		for _, d := range s.Scores {
			v := milestoneView{Stage: armName(schemas.Arm(s.Stage)), Step: d.Step, Start: d.Step == 0, Chosen: d.Step == s.Step, Score: fmt.Sprintf("%.3f", d.Score)}
			for _, f := range devFigures {
				cell := "not measured"
				if m, ok := f.of(d); ok {
					cell = fmt.Sprintf("%s (%s, n = %d)", percent(m.Value), interval(schemas.Measure{Low: m.Low, High: m.High}), m.N)
				}
				v.Cells = append(v.Cells, cell)
			}
			out = append(out, v)
		}
	}
	return out
}

// milestonePlots draw the figures over the steps, one training stage after the other.
func milestonePlots(selections []schemas.Selection) (out []picture, err error) {
	for _, f := range devFigures {
		pic, ok, err := milestonePlot(f, selections)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, pic)
		}
	}
	return out, nil
}

const shownTicks = 9

func milestonePlot(f devFigure, selections []schemas.Selection) (pic picture, ok bool, err error) {
	p := newPlot()
	p.Y.Min, p.Y.Max = 0, 1
	p.Y.Tick.Marker = plot.ConstantTicks{{Value: 0, Label: "0%"}, {Value: 0.25}, {Value: 0.5, Label: "50%"}, {Value: 0.75}, {Value: 1, Label: "100%"}}
	p.X.Tick.Label.Font.Size = 8
	grid := newGrid()
	grid.Vertical.Width = 0
	p.Add(grid)
	var ticks plot.ConstantTicks
	var chosen plotter.XYs
	var words []string
	x := 0.0
	for _, s := range selections {
		var points plotter.XYs
		var bars plotter.YErrors
		for _, d := range s.Scores {
			m, measured := f.of(d)
			name := fmt.Sprintf("%s %d", armName(schemas.Arm(s.Stage)), d.Step)
			ticks = append(ticks, plot.Tick{Value: x, Label: name})
			if measured {
				points = append(points, plotter.XY{X: x, Y: m.Value})
				bars = append(bars, struct{ Low, High float64 }{m.Value - m.Low, m.High - m.Value})
				if d.Step == s.Step {
					chosen = append(chosen, plotter.XY{X: x, Y: m.Value})
					name += " (chosen)"
				}
				words = append(words, fmt.Sprintf("%s %s", name, percent(m.Value)))
			}
			x++
		}
		if len(points) == 0 {
			continue
		}
		if err := addSteps(p, points, bars); err != nil {
			return pic, false, err
		}
	}
	if len(words) == 0 {
		return pic, false, nil
	}
	if len(chosen) > 0 {
		dots, err := plotter.NewScatter(chosen)
		if err != nil {
			return pic, false, err
		}
		dots.GlyphStyle = draw.GlyphStyle{Color: ink, Radius: 6, Shape: draw.RingGlyph{}}
		p.Add(dots)
	}
	every := (len(ticks) + shownTicks - 1) / shownTicks
	for i := range ticks {
		if i%every > 0 {
			ticks[i].Label = ""
		}
	}
	p.X.Tick.Marker = ticks
	p.X.Min, p.X.Max = -0.4, x-0.6
	svg, err := inline(p, vg.Length(190), f.title+" on dev", f.title+" on the dev split by milestone: "+strings.Join(words, "; ")+".")
	return picture{Title: f.title, Caption: f.meaning + " The ring is the milestone that goes on; bars are 95% intervals.", SVG: svg}, true, err
}

// addSteps adds one training stage's line.
func addSteps(p *plot.Plot, points plotter.XYs, bars plotter.YErrors) error {
	l, err := plotter.NewLine(points)
	if err != nil {
		return err
	}
	l.LineStyle = draw.LineStyle{Color: accent, Width: 1.75}
	spans, err := plotter.NewYErrorBars(struct {
		plotter.XYer
		plotter.YErrorer
	}{points, bars})
	if err != nil {
		return err
	}
	spans.LineStyle = draw.LineStyle{Color: muted, Width: 1}
	spans.CapWidth = 4
	dots, err := plotter.NewScatter(points)
	if err != nil {
		return err
	}
	dots.GlyphStyle = draw.GlyphStyle{Color: accent, Radius: 2.5, Shape: draw.CircleGlyph{}}
	p.Add(spans, l, dots)
	return nil
}
