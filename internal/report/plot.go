package report

import (
	"bytes"
	"fmt"
	"html/template"
	"image/color"
	"maps"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"precept/schemas"
)

// picture is a plot with what it shows in words.
type picture struct {
	Title   string
	Caption string
	SVG     template.HTML
}

// The colours of a plot stand for the page's CSS variables, so that a plot
// follows the page's light or dark scheme.
var (
	ink    = color.RGBA{R: 0x11, A: 0xff}
	muted  = color.RGBA{R: 0x22, A: 0xff}
	line   = color.RGBA{R: 0x33, A: 0xff}
	accent = color.RGBA{R: 0x44, A: 0xff}
	band   = color.RGBA{R: 0x55, A: 0xff}

	variables = strings.NewReplacer(
		":#110000", ":var(--ink)",
		":#220000", ":var(--muted)",
		":#330000", ":var(--line)",
		":#440000", ":var(--accent)",
		":#550000", ":var(--band)",
	)
)

const plotWidth = 340 // points

// newPlot is an empty plot in the page's style.
func newPlot() *plot.Plot {
	p := plot.New()
	p.BackgroundColor = nil
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Color, axis.Tick.Color = line, line
		axis.Tick.Length = 3
		axis.Tick.Marker = plot.TickerFunc(plainTicks)
		axis.Tick.Label.Color, axis.Label.TextStyle.Color = muted, muted
		for _, f := range []*font.Font{&axis.Tick.Label.Font, &axis.Label.TextStyle.Font} {
			f.Variant, f.Size = "Sans", 10
		}
	}
	return p
}

// plainTicks are the default ticks with labels without superfluous zeros.
func plainTicks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i, t := range ticks {
		if t.Label != "" {
			ticks[i].Label = fmt.Sprintf("%.7g", t.Value)
		}
	}
	return ticks
}

func newGrid() *plotter.Grid {
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = line, line
	grid.Vertical.Width, grid.Horizontal.Width = 0.5, 0.5
	return grid
}

// inline draws p as an SVG element that is part of the page, with title as its
// name and words as what a reader who can't see it is told.
func inline(p *plot.Plot, height vg.Length, title, words string) (template.HTML, error) {
	c := vgsvg.New(plotWidth, height)
	p.Draw(draw.New(c))
	var raw bytes.Buffer
	if _, err := c.WriteTo(&raw); err != nil {
		return "", err
	}
	// The canvas writes a whole document; its head gives way to one that scales
	// and has a name.
	_, body, ok := strings.Cut(raw.String(), "<svg")
	if ok {
		_, body, ok = strings.Cut(body, ">")
	}
	if !ok {
		return "", fmt.Errorf("plot %q: the canvas wrote no svg element", title)
	}
	body = strings.ReplaceAll(variables.Replace(body), "font-family:Liberation Sans;font-variant:normal;font-weight:normal;font-style:normal;", "")
	head := fmt.Sprintf(`<svg class="plot" role="img" aria-label="%s" viewBox="0 0 %d %.0f"><title>%s</title>`,
		template.HTMLEscapeString(words), plotWidth, height.Points(), template.HTMLEscapeString(title))
	return template.HTML(head + body), nil
}

// measurePlot shows one figure: an arm a line, a dot with its interval.
func measurePlot(r row, arms []schemas.Arm) (picture, error) {
	var (
		points plotter.XYs
		bars   plotter.XErrors
		labels []string
		ticks  plot.ConstantTicks
		words  []string
	)
	shown := r.measured(arms)
	for i, a := range shown {
		m := r.arms[a]
		y := float64(len(shown) - 1 - i)
		points = append(points, plotter.XY{X: m.Value, Y: y})
		bars = append(bars, struct{ Low, High float64 }{m.Value - m.Low, m.High - m.Value})
		labels = append(labels, percent(m.Value))
		ticks = append(ticks, plot.Tick{Value: y, Label: armName(a)})
		words = append(words, fmt.Sprintf("%s %s percent of %d", armName(a), Value(m), m.N))
	}

	p := newPlot()
	p.X.Min, p.X.Max = 0, 1
	p.Y.Min, p.Y.Max = -0.5, float64(len(shown))-0.3
	p.Y.LineStyle.Width, p.Y.Tick.LineStyle.Width = 0, 0
	p.Y.Tick.Label.Color, p.Y.Tick.Label.Font.Size = ink, 11
	p.Y.Tick.Marker = ticks
	p.X.Tick.Marker = plot.ConstantTicks{{Value: 0, Label: "0%"}, {Value: 0.25}, {Value: 0.5, Label: "50%"}, {Value: 0.75}, {Value: 1, Label: "100%"}}
	grid := newGrid()
	grid.Horizontal.Width = 0

	spans, err := plotter.NewXErrorBars(struct {
		plotter.XYer
		plotter.XErrorer
	}{points, bars})
	if err != nil {
		return picture{}, err
	}
	spans.LineStyle = draw.LineStyle{Color: accent, Width: 2}
	spans.CapWidth = 6
	dots, err := plotter.NewScatter(points)
	if err != nil {
		return picture{}, err
	}
	dots.GlyphStyle = draw.GlyphStyle{Color: accent, Radius: 4, Shape: draw.CircleGlyph{}}
	names, err := plotter.NewLabels(plotter.XYLabels{XYs: points, Labels: labels})
	if err != nil {
		return picture{}, err
	}
	for i := range names.TextStyle {
		names.TextStyle[i].Color = ink
		names.TextStyle[i].Font.Variant, names.TextStyle[i].Font.Size = "Sans", 10
		names.TextStyle[i].XAlign = draw.XCenter
	}
	names.Offset.Y = 6
	p.Add(grid, spans, dots, names)

	svg, err := inline(p, vg.Length(34+30*len(shown)), r.title, r.title+", 95% intervals: "+strings.Join(words, "; ")+".")
	return picture{Title: r.title, Caption: r.meaning, SVG: svg}, err
}

// panel is one curve of a training job: the metric under the first of its names
// that was logged, with its spread where there is one.
type panel struct {
	stage   schemas.Stage
	title   string
	caption string
	metric  []string
	spread  []string
}

var panels = []panel{
	{schemas.StageSFT, "SFT: loss", "Training loss; the lower, the better the model writes the examples.",
		[]string{"loss", "train_loss"}, nil},
	{schemas.StageSFT, "SFT: loss on held-out rows", "Loss on rows that were not trained on.",
		[]string{"eval_loss"}, nil},
	{schemas.StageRL, "RL: reward", "Mean reward of a step's completions, between 0 and 1; the band is one standard deviation to each side.",
		[]string{"reward", "reward_mean", "rewards/mean"}, []string{"reward_std", "reward_spread", "rewards/std"}},
	{schemas.StageRL, "RL: completion length", "Mean length of a step's completions in tokens.",
		[]string{"completions/mean_length", "completion_length", "mean_length", "length"}, nil},
	{schemas.StageRL, "RL: distance from the SFT model", "Mean KL divergence from the model that RL started from.",
		[]string{"kl"}, nil},
}

// curvePlots draws the panels that a stage's curve has figures for.
func curvePlots(stage schemas.Stage, curve []schemas.CurvePoint) ([]picture, error) {
	var out []picture
	for _, pn := range panels {
		if pn.stage != stage {
			continue
		}
		mean := series(curve, pn.metric)
		if len(mean) == 0 {
			continue
		}
		pic, err := curvePlot(pn, mean, spreadBand(curve, pn))
		if err != nil {
			return nil, err
		}
		if pn.metric[0] == "reward" {
			pic.Caption += rewardParts(curve)
		}
		out = append(out, pic)
	}
	return out, nil
}

// rewardParts tells the terms of the reward and the reward by category, in the mean of the
// second half of the steps: a single step has few prompts.
func rewardParts(curve []schemas.CurvePoint) string {
	sums, counts := map[string]float64{}, map[string]int{}
	for _, pt := range curve[len(curve)/2:] {
		for name, v := range pt.Metrics {
			if plottable(v) {
				sums[name] += v
				counts[name]++
			}
		}
	}
	var terms, categories []string
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		mean := sums[name] / float64(counts[name])
		if term, ok := strings.CutPrefix(name, "rewards/"); ok {
			if term, ok = strings.CutSuffix(term, "/mean"); ok {
				terms = append(terms, fmt.Sprintf("%s %.2f", term, mean))
			}
		}
		if category, ok := strings.CutPrefix(name, schemas.MetricRewardOf); ok {
			categories = append(categories, fmt.Sprintf("%s %.2f", category, mean))
		}
	}
	if len(terms)+len(categories) == 0 {
		return ""
	}
	text := " In the second half of the steps"
	if len(terms) > 0 {
		text += ", by term: " + strings.Join(terms, ", ")
	}
	if len(categories) > 0 {
		text += "; by category: " + strings.Join(categories, ", ")
	}
	return text + "."
}

// plottable leaves out what no axis can show.
func plottable(v float64) bool { return math.Abs(v) <= 1e9 } // false for NaN

// widen makes an axis at least so long that its ticks are distinct numbers: the
// search for ticks doesn't end where they aren't.
func widen(axis *plot.Axis) {
	least := 1e-6 * max(1, math.Abs(axis.Min), math.Abs(axis.Max))
	if short := least - (axis.Max - axis.Min); short > 0 {
		axis.Min -= short / 2
		axis.Max += short / 2
	}
}

// series is the metric's values by step.
func series(curve []schemas.CurvePoint, names []string) (xys plotter.XYs) {
	for _, name := range names {
		for _, pt := range curve {
			if v, ok := pt.Metrics[name]; ok && plottable(v) && plottable(float64(pt.Step)) {
				xys = append(xys, plotter.XY{X: float64(pt.Step), Y: v})
			}
		}
		if len(xys) > 0 {
			return thin(xys)
		}
	}
	return nil
}

// thin keeps the page small: at most about 400 points a curve, evenly taken.
func thin[S ~[]E, E any](s S) S {
	const most = 400
	every := (len(s) + most - 1) / most
	if every <= 1 {
		return s
	}
	var out S
	for i := 0; i < len(s); i += every {
		out = append(out, s[i])
	}
	return append(out, s[len(s)-1])
}

// spreadBand is the outline of mean ± spread, empty where nothing was logged.
func spreadBand(curve []schemas.CurvePoint, pn panel) (outline plotter.XYs) {
	var low, high plotter.XYs
	for _, pt := range curve {
		mean, ok := first(pt.Metrics, pn.metric)
		spread, ok2 := first(pt.Metrics, pn.spread)
		if !ok || !ok2 || !plottable(float64(pt.Step)) {
			continue
		}
		low = append(low, plotter.XY{X: float64(pt.Step), Y: mean - spread})
		high = append(high, plotter.XY{X: float64(pt.Step), Y: mean + spread})
	}
	if len(low) < 2 {
		return nil
	}
	low, high = thin(low), thin(high)
	slices.Reverse(high)
	return append(low, high...)
}

func first(metrics map[string]float64, names []string) (float64, bool) {
	for _, name := range names {
		if v, ok := metrics[name]; ok && plottable(v) {
			return v, true
		}
	}
	return 0, false
}

func curvePlot(pn panel, mean, outline plotter.XYs) (picture, error) {
	p := newPlot()
	p.X.Label.Text = "step"
	grid := newGrid()
	grid.Vertical.Width = 0
	p.Add(grid)
	if len(outline) > 0 {
		area, err := plotter.NewPolygon(outline)
		if err != nil {
			return picture{}, err
		}
		area.Color, area.LineStyle.Width = band, 0
		p.Add(area)
	}
	l, err := plotter.NewLine(mean)
	if err != nil {
		return picture{}, err
	}
	l.LineStyle = draw.LineStyle{Color: accent, Width: 1.75}
	p.Add(l)
	if len(mean) < 30 { // so few that each may be seen
		dots, err := plotter.NewScatter(mean)
		if err != nil {
			return picture{}, err
		}
		dots.GlyphStyle = draw.GlyphStyle{Color: accent, Radius: 2.5, Shape: draw.CircleGlyph{}}
		p.Add(dots)
	}
	widen(&p.X)
	widen(&p.Y)
	from, to := mean[0], mean[len(mean)-1]
	words := fmt.Sprintf("%s: from %.3g at step %.0f to %.3g at step %.0f.", pn.title, from.Y, from.X, to.Y, to.X)
	svg, err := inline(p, 190, pn.title, words)
	return picture{Title: pn.title, Caption: pn.caption + fmt.Sprintf(" From %.3g to %.3g.", from.Y, to.Y), SVG: svg}, err
}
