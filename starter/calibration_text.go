package main

import (
	"fmt"
	"math"
	"strings"
	"text/tabwriter"

	"precept/internal/calibrate"
	"precept/internal/report"
)

// calibrationText shows a report in a terminal.
func calibrationText(r calibrate.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s) as %s over %s, %s\n%s", r.Judge.Endpoint, r.Judge.Identity, r.Role, r.File, plural(r.Votes, "vote"), simulatedLine(r.Simulated))
	fmt.Fprintf(&b, "%s\n", answersLine(r))
	if r.Result != nil {
		b.WriteString(resultText(*r.Result))
	}
	table := func(f func(w *tabwriter.Writer)) {
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		f(w)
		w.Flush() // A strings.Builder takes all.
	}
	if len(r.Categories) > 1 {
		fmt.Fprintln(&b)
		table(func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "category\tanswers\taccuracy\tkappa")
			for _, p := range r.Categories {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", p.Category, p.N, interval(p.Accuracy), kappa(p.Kappa))
			}
		})
	}
	for _, p := range r.People {
		fmt.Fprintf(&b, "People: %s and %s agree on %s of %d, kappa %s\n", p.A, p.B, interval(p.Agreement.Share), p.N, kappa(p.Agreement.Kappa))
	}
	if len(r.Misjudged) > 0 {
		fmt.Fprintf(&b, "\nJudged otherwise than labelled, the furthest first%s:\n", shown(len(r.Misjudged), r.Otherwise()))
		b.WriteString(judgedLines(r.Misjudged))
	}
	if x := r.Against; x != nil {
		fmt.Fprintf(&b, "\nAgainst %s (%s): ", x.Judge.Endpoint, x.Judge.Identity)
		if x.N > 0 {
			both := x.Agreement.Both
			fmt.Fprintf(&b, "on %d answers the two agree on %s, kappa %s; their scores are %.2f apart on average%s\n",
				x.N, interval(x.Agreement.Share), kappa(x.Agreement.Kappa), x.Agreement.Distance, report.LostText(*x))
			fmt.Fprintf(&b, "Kept by both %d, by %s alone %d, by %s alone %d, by neither %d\n",
				both.KeptGood, r.Judge.Endpoint, both.KeptBad, x.Judge.Endpoint, both.RejectedGood, both.RejectedBad)
		} else {
			fmt.Fprintln(&b, report.LostText(*x))
		}
		if len(x.Rows) > 0 {
			fmt.Fprintf(&b, "Where they differ most%s:\n", shown(len(x.Rows), x.Differ))
			b.WriteString(judgedLines(x.Rows))
		}
	}
	fmt.Fprintf(&b, "\n%s", costLine(r.Usage))
	return b.String()
}

// shown says how many of n rows a list has, and how to see all, where it hasn't all.
func shown(rows int, n int64) string {
	if int64(rows) == n {
		return ""
	}
	return fmt.Sprintf(" (%d of %d shown; all with -n %d)", rows, n, n)
}

func answersLine(r calibrate.Report) string {
	line := plural(int(r.Answers), "answer")
	if r.Result != nil {
		line += fmt.Sprintf(": %d good and %d bad by their labels", r.Result.Good, r.Result.N-r.Result.Good)
	}
	var left []string
	for _, why := range []struct {
		n    int64
		what string
	}{{r.Lost, "whose votes could not be read"}, {r.Unlabelled, "without a label"}, {r.Split, "whose labels are evenly split"}} {
		if why.n > 0 {
			left = append(left, fmt.Sprintf("%d %s", why.n, why.what))
		}
	}
	if len(left) > 0 {
		line += "; left out: " + strings.Join(left, ", ")
	}
	return line
}

func resultText(r calibrate.Result) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	f := r.At.Confusion
	fmt.Fprintf(w, "\nat threshold %.2f\tgood\tbad\n", r.Threshold)
	fmt.Fprintf(w, "kept\t%d\t%d\n", f.KeptGood, f.KeptBad)
	fmt.Fprintf(w, "rejected\t%d\t%d\n\n", f.RejectedGood, f.RejectedBad)
	fmt.Fprintf(w, "accuracy\t%s\n", interval(r.At.Accuracy))
	fmt.Fprintf(w, "precision\t%s\n", interval(r.At.Precision))
	fmt.Fprintf(w, "recall\t%s\n", interval(r.At.Recall))
	fmt.Fprintf(w, "kappa\t%s\n", kappa(r.At.Kappa))
	fmt.Fprintf(w, "calibration error\t%.3f\n\n", r.ECE)
	fmt.Fprintln(w, "threshold\tkept\tprecision\trecall")
	for _, c := range few(r.Cuts) {
		fmt.Fprintf(w, "%.2f\t%d\t%s\t%s\n", c.Threshold, c.Precision.N, interval(c.Precision), interval(c.Recall))
	}
	fmt.Fprintln(w, "\nscore\tanswers\tshare of good ones (| is their score)\t")
	for _, bin := range r.Bins {
		fmt.Fprintf(w, "%.1f to %.1f\t%d\t%s\t%s\n", bin.Low, bin.High, bin.Good.N, shareBar(bin), interval(bin.Good))
	}
	w.Flush() // A strings.Builder takes all.
	if r.Target != nil {
		fmt.Fprintf(&b, "\n%s\n", report.TargetText(*r.Target))
	}
	return b.String()
}

// few keeps a table short: at most a screen of thresholds, evenly taken.
func few(cuts []calibrate.Cut) []calibrate.Cut {
	const most = 20
	if len(cuts) <= most {
		return cuts
	}
	out := make([]calibrate.Cut, most)
	for i := range out {
		out[i] = cuts[i*(len(cuts)-1)/(most-1)]
	}
	return out
}

// shareBar draws a bin's share of good answers, and where a calibrated judge's would end.
func shareBar(b calibrate.Bin) string {
	const width = 30
	line := []byte(strings.Repeat("#", int(math.Round(b.Good.Value*width))) + strings.Repeat(".", width))[:width]
	line[min(int(math.Round(b.Score*width)), width-1)] = '|'
	return string(line)
}

func interval(s calibrate.Share) string {
	if s.N == 0 {
		return "of none"
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f)", s.Value, s.Low, s.High)
}

func kappa(k *calibrate.Kappa) string {
	if k == nil {
		return "not defined"
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f)", k.Value, k.Low, k.High)
}

func judgedLines(rows []calibrate.Row) string {
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "  row %d, %s: score %.2f", r.Number, r.Category, r.Score)
		if r.Other != nil {
			fmt.Fprintf(&b, " and %.2f", *r.Other)
		}
		if r.Label != nil {
			fmt.Fprintf(&b, ", label %.2g", *r.Label)
		}
		fmt.Fprintf(&b, "\n    %s\n", clip(oneLine(r.Why), 200))
		if r.OtherWhy != "" {
			fmt.Fprintf(&b, "    %s\n", clip(oneLine(r.OtherWhy), 200))
		}
		if r.Prompt != "" {
			fmt.Fprintf(&b, "    prompt: %s\n    answer: %s\n", oneLine(r.Prompt), oneLine(r.Answer))
		}
	}
	return b.String()
}
