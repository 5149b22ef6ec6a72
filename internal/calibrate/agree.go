package calibrate

import (
	"cmp"
	"math"
	"slices"
)

// Agreement is how two raters of the same answers agree.
type Agreement struct {
	// Both counts answers: kept by the first, and good by the second.
	Both  Confusion `json:"both"`
	Share Share     `json:"share"`
	Kappa *Kappa    `json:"kappa"` // nil where it isn't defined
	// Distance is the mean distance of their scores.
	Distance float64 `json:"distance"`
}

// Pair is one answer's scores by two raters.
type Pair struct{ A, B float64 }

// Apart is how far the two are from each other.
func (p Pair) Apart() float64 { return math.Abs(p.A - p.B) }

// Agree compares two raters. A score of at least its rater's threshold keeps.
func Agree(pairs []Pair, thresholdA, thresholdB float64) Agreement {
	var a Agreement
	for _, p := range pairs {
		a.Both.count(p.A >= thresholdA, p.B >= thresholdB)
		a.Distance += p.Apart() / float64(len(pairs))
	}
	a.Share = share(a.Both.KeptGood+a.Both.RejectedBad, int64(len(pairs)))
	a.Kappa = a.Both.kappa()
	return a
}

// Widest lists the pairs that are furthest apart, by their indices: at most n, and none
// whose scores are the same.
func Widest(pairs []Pair, n int) []int {
	var out []int
	for i, p := range pairs {
		if p.Apart() > 0 {
			out = append(out, i)
		}
	}
	slices.SortStableFunc(out, func(x, y int) int { return cmp.Compare(pairs[y].Apart(), pairs[x].Apart()) })
	return out[:min(n, len(out))]
}

// GoodLabel is the least label that says good.
const GoodLabel = 0.5

// Majority is what most labels say. It isn't ok where they are split evenly.
func Majority(labels []float64) (good, ok bool) {
	balance := 0
	for _, l := range labels {
		if l >= GoodLabel {
			balance++
		} else {
			balance--
		}
	}
	return balance > 0, balance != 0
}
