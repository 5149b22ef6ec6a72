package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"

	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg/draw"

	"precept/internal/calibrate"
	"precept/schemas"
)

//go:embed calibration.html.tmpl
var calibrationTemplate string

var calibrationPage = template.Must(template.Must(page.Clone()).New("calibration").Funcs(template.FuncMap{
	"share": func(s calibrate.Share) string {
		if s.N == 0 {
			return "of none"
		}
		return fmt.Sprintf("%.2f (%.2f to %.2f)", s.Value, s.Low, s.High)
	},
	"kappa": func(k *calibrate.Kappa) string {
		if k == nil {
			return "not defined"
		}
		return fmt.Sprintf("%.2f (%.2f to %.2f)", k.Value, k.Low, k.High)
	},
	"target":   TargetText,
	"decimals": func(v *float64) string { return fmt.Sprintf("%.2f", *v) },
}).Parse(calibrationTemplate))

// RenderCalibration writes a calibration as one HTML page, which loads nothing and runs
// no script.
func RenderCalibration(w io.Writer, r calibrate.Report) error {
	const op = "render calibration"
	v := struct {
		calibrate.Report
		Style template.CSS
		Plots []picture
	}{Report: r, Style: template.CSS(pageStyle)}
	if r.Result != nil {
		for _, draw := range []func(calibrate.Result) (picture, error){reliabilityPlot, precisionPlot} {
			p, err := draw(*r.Result)
			if err != nil {
				return schemas.E(op, r.File, schemas.Internal, err)
			}
			v.Plots = append(v.Plots, p)
		}
	}
	var b bytes.Buffer
	if err := calibrationPage.Execute(&b, v); err != nil {
		return schemas.E(op, r.File, schemas.Internal, err)
	}
	if _, err := b.WriteTo(w); err != nil {
		return schemas.E(op, r.File, schemas.Unavailable, err)
	}
	return nil
}

// TargetText says in words whether a threshold reaches the precision that is wanted.
func TargetText(t calibrate.Target) string {
	at := func(c *calibrate.Cut) string {
		s := c.Precision
		return fmt.Sprintf("at %.2f it is %.2f (%.2f to %.2f) of %d kept", c.Threshold, s.Value, s.Low, s.High, s.N)
	}
	switch {
	case t.Cut != nil:
		return fmt.Sprintf("Threshold %.2f reaches a precision of %.2f: %s, recall %.2f. It was picked among %d on these answers; corrected for that, the lower end is %.2f. Check it on others.",
			t.Cut.Threshold, t.Precision, at(t.Cut), t.Cut.Recall.Value, t.Tried, t.Corrected)
	case t.Nearest != nil:
		return fmt.Sprintf("No threshold is shown to reach a precision of %.2f: %s. About %d more labelled answers would show it, if the precision stays what it is.",
			t.Precision, at(t.Nearest), t.MoreLabels)
	case t.Best != nil:
		return fmt.Sprintf("No threshold reaches a precision of %.2f: %s, and none is higher. More labels would hardly change that.", t.Precision, at(t.Best))
	}
	return ""
}

// reliabilityPlot holds the share of good answers against their score.
func reliabilityPlot(r calibrate.Result) (picture, error) {
	const title = "Reliability"
	p := newPlot()
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, 1, 0, 1
	p.X.Label.Text = "score"
	even, err := plotter.NewLine(plotter.XYs{{X: 0, Y: 0}, {X: 1, Y: 1}})
	if err != nil {
		return picture{}, err
	}
	even.LineStyle = draw.LineStyle{Color: muted, Width: 1}
	var points plotter.XYs
	var bars plotter.YErrors
	var words []string
	for _, b := range r.Bins {
		points = append(points, plotter.XY{X: b.Score, Y: b.Good.Value})
		bars = append(bars, struct{ Low, High float64 }{b.Good.Value - b.Good.Low, b.Good.High - b.Good.Value})
		words = append(words, fmt.Sprintf("at score %.2f %s of %d", b.Score, percent(b.Good.Value), b.Good.N))
	}
	spans, err := plotter.NewYErrorBars(struct {
		plotter.XYer
		plotter.YErrorer
	}{points, bars})
	if err != nil {
		return picture{}, err
	}
	spans.LineStyle = draw.LineStyle{Color: accent, Width: 1.5}
	spans.CapWidth = 5
	dots, err := plotter.NewScatter(points)
	if err != nil {
		return picture{}, err
	}
	dots.GlyphStyle = draw.GlyphStyle{Color: accent, Radius: 4, Shape: draw.CircleGlyph{}}
	p.Add(newGrid(), even, spans, dots)
	svg, err := inline(p, 230, title, "Share of good answers: "+strings.Join(words, "; ")+".")
	return picture{
		Title: title, SVG: svg,
		Caption: fmt.Sprintf("Share of good answers by score, with 95%% intervals; on the line a judge is calibrated. Mean distance (ECE) %.3f.", r.ECE),
	}, err
}

// precisionPlot holds precision and recall against the threshold.
func precisionPlot(r calibrate.Result) (picture, error) {
	const title = "Precision and recall"
	p := newPlot()
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, 1, 0, 1
	p.X.Label.Text = "threshold"
	p.Add(newGrid())
	var precision, recall, low, high plotter.XYs
	for _, c := range r.Cuts {
		precision = append(precision, plotter.XY{X: c.Threshold, Y: c.Precision.Value})
		recall = append(recall, plotter.XY{X: c.Threshold, Y: c.Recall.Value})
		low = append(low, plotter.XY{X: c.Threshold, Y: c.Precision.Low})
		high = append(plotter.XYs{{X: c.Threshold, Y: c.Precision.High}}, high...)
	}
	if len(low) > 1 {
		area, err := plotter.NewPolygon(append(low, high...))
		if err != nil {
			return picture{}, err
		}
		area.Color, area.LineStyle.Width = band, 0
		p.Add(area)
	}
	for _, l := range []struct {
		xys   plotter.XYs
		style draw.LineStyle
		glyph draw.GlyphDrawer
	}{
		{precision, draw.LineStyle{Color: accent, Width: 1.75}, draw.CircleGlyph{}},
		{recall, draw.LineStyle{Color: muted, Width: 1.25}, draw.SquareGlyph{}},
	} {
		curve, dots, err := plotter.NewLinePoints(l.xys)
		if err != nil {
			return picture{}, err
		}
		curve.LineStyle = l.style
		dots.GlyphStyle = draw.GlyphStyle{Color: l.style.Color, Radius: 2.5, Shape: l.glyph}
		p.Add(curve, dots)
	}
	at := r.At
	words := fmt.Sprintf("At threshold %.2f precision is %s and recall %s.", r.Threshold, percent(at.Precision.Value), percent(at.Recall.Value))
	svg, err := inline(p, 230, title, words)
	return picture{Title: title, SVG: svg, Caption: "Precision (dots, with its 95% band) and recall (squares) of what a threshold keeps. " + words}, err
}
