package calibrate

import (
	"math"
	"slices"

	"precept/internal/eval"
)

// Rated is an answer with a judge's score, 0 to 1.
type Rated struct {
	Score float64
	Good  bool
}

// Result is how a judge's scores compare with labels.
type Result struct {
	N         int64   `json:"n"`
	Good      int64   `json:"good"`
	Threshold float64 `json:"threshold"`
	At        Cut     `json:"at_threshold"`
	Cuts      []Cut   `json:"cuts"` // at every score that occurs, the highest first
	Bins      []Bin   `json:"bins"` // those that hold answers
	ECE       float64 `json:"ece"`
	Target    *Target `json:"target,omitempty"`
}

// Share is a share with its 95% interval. Of nothing, it is unknown: 0 to 1.
type Share struct {
	Hits  int64   `json:"hits"`
	N     int64   `json:"n"`
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

func share(hits, n int64) Share {
	s := Share{Hits: hits, N: n}
	if n > 0 {
		s.Value = float64(hits) / float64(n)
	}
	s.Low, s.High = eval.Wilson(hits, n, eval.Z95)
	return s
}

// Confusion counts answers by what the judge does with them and what they are.
type Confusion struct {
	KeptGood     int64 `json:"kept_good"`
	KeptBad      int64 `json:"kept_bad"`
	RejectedGood int64 `json:"rejected_good"`
	RejectedBad  int64 `json:"rejected_bad"`
}

func (c *Confusion) count(kept, good bool) {
	switch {
	case kept && good:
		c.KeptGood++
	case kept:
		c.KeptBad++
	case good:
		c.RejectedGood++
	default:
		c.RejectedBad++
	}
}

// Cut is what a threshold makes of the answers.
type Cut struct {
	Threshold float64   `json:"threshold"`
	Confusion Confusion `json:"confusion"`
	Accuracy  Share     `json:"accuracy"`
	Precision Share     `json:"precision"` // of those kept, the good ones
	Recall    Share     `json:"recall"`    // of the good ones, those kept
	Kappa     *Kappa    `json:"kappa"`     // nil where it isn't defined
}

// Bin is the answers whose scores lie from Low up to High.
type Bin struct {
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
	Score float64 `json:"score"` // their mean
	Good  Share   `json:"good"`
}

// Judge compares scores with labels. With a precision wanted, above 0, it looks for the
// threshold that reaches it.
func Judge(rated []Rated, threshold, precision float64) Result {
	r := Result{N: int64(len(rated)), Threshold: threshold, At: cut(rated, threshold)}
	var scores []float64
	for _, x := range rated {
		scores = append(scores, x.Score)
		if x.Good {
			r.Good++
		}
	}
	slices.Sort(scores)
	scores = slices.Compact(scores)
	slices.Reverse(scores)
	for _, s := range scores {
		r.Cuts = append(r.Cuts, cut(rated, s))
	}
	r.Bins, r.ECE = bins(rated)
	if precision > 0 {
		t := target(r.Cuts, r.N, precision)
		r.Target = &t
	}
	return r
}

func cut(rated []Rated, threshold float64) Cut {
	c := Cut{Threshold: threshold}
	for _, x := range rated {
		c.Confusion.count(x.Score >= threshold, x.Good)
	}
	f := c.Confusion
	c.Accuracy = share(f.KeptGood+f.RejectedBad, int64(len(rated)))
	c.Precision = share(f.KeptGood, f.KeptGood+f.KeptBad)
	c.Recall = share(f.KeptGood, f.KeptGood+f.RejectedGood)
	c.Kappa = f.kappa()
	return c
}

// Kappa is Cohen's, with the 95% interval of large samples.
type Kappa struct {
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// kappa takes the judge and the labels as two raters. It is not defined where both give
// all answers the same.
func (c Confusion) kappa() *Kappa {
	n := float64(c.KeptGood + c.KeptBad + c.RejectedGood + c.RejectedBad)
	if n == 0 {
		return nil
	}
	agreed := float64(c.KeptGood+c.RejectedBad) / n
	kept, good := float64(c.KeptGood+c.KeptBad)/n, float64(c.KeptGood+c.RejectedGood)/n
	chance := kept*good + (1-kept)*(1-good)
	if chance >= 1 {
		return nil
	}
	k := (agreed - chance) / (1 - chance)
	half := eval.Z95 * math.Sqrt(agreed*(1-agreed)/n) / (1 - chance)
	return &Kappa{Value: k, Low: max(-1, k-half), High: min(1, k+half)}
}

const binCount = 10

// bins parts the answers by tenths of their scores. The last bin holds 1 too.
func bins(rated []Rated) (out []Bin, ece float64) {
	var (
		sums [binCount]float64
		good [binCount]int64
		all  [binCount]int64
	)
	for _, x := range rated {
		// A score such as 0.7 may be a hair under its tenth.
		b := max(0, min(int(x.Score*binCount+1e-9), binCount-1))
		sums[b] += x.Score
		all[b]++
		if x.Good {
			good[b]++
		}
	}
	for b := range binCount {
		if all[b] == 0 {
			continue
		}
		bin := Bin{
			Low: float64(b) / binCount, High: float64(b+1) / binCount,
			Score: sums[b] / float64(all[b]), Good: share(good[b], all[b]),
		}
		ece += math.Abs(bin.Score-bin.Good.Value) * float64(all[b]) / float64(len(rated))
		out = append(out, bin)
	}
	return out, ece
}

// Target is the threshold at which a precision is reached.
type Target struct {
	Precision float64 `json:"precision"`
	// Cut is the lowest threshold whose precision has it as the lower end of its interval;
	// nil where none has.
	Cut *Cut `json:"cut,omitempty"`
	// Corrected is that lower end when it is taken into account that Tried thresholds were
	// looked at on the same answers (Bonferroni).
	Corrected float64 `json:"corrected_low,omitempty"`
	Tried     int     `json:"tried"`
	// Nearest is, where there is none, the threshold that would need the fewest more
	// labels, and MoreLabels about how many answers more are to be labelled if the
	// precision stays what it is there. Both are absent where no threshold's precision is
	// above what is wanted: no number of labels would do.
	Nearest    *Cut  `json:"nearest,omitempty"`
	MoreLabels int64 `json:"more_labels,omitempty"`
	// Best is the highest precision that occurs.
	Best *Cut `json:"best,omitempty"`
}

func target(cuts []Cut, n int64, precision float64) Target {
	t := Target{Precision: precision, Tried: len(cuts)}
	for i := range cuts {
		c := &cuts[i]
		if t.Best == nil || c.Precision.Value > t.Best.Precision.Value {
			t.Best = c
		}
		if c.Precision.Low >= precision {
			t.Cut = c // the cuts go down
		}
	}
	if t.Cut != nil {
		level := 0.05 / float64(t.Tried)
		t.Corrected, _ = eval.Wilson(t.Cut.Precision.Hits, t.Cut.Precision.N, quantile(1-level/2))
		return t
	}
	for i := range cuts {
		more, ok := moreLabels(cuts[i].Precision, n, precision)
		if ok && (t.Nearest == nil || more <= t.MoreLabels) {
			t.Nearest, t.MoreLabels = &cuts[i], more
		}
	}
	return t
}

// moreLabels is how many answers more are to be labelled, out of n so far, until the
// lower end of s is wanted, if its value stays. Wilson's interval holds the shares that
// a score test doesn't reject, hence (p-w)·√n = z·√(w(1-w)).
func moreLabels(s Share, n int64, wanted float64) (int64, bool) {
	if s.N == 0 || s.Value <= wanted {
		return 0, false
	}
	kept := eval.Z95 * eval.Z95 * wanted * (1 - wanted) / ((s.Value - wanted) * (s.Value - wanted))
	missing := max(0, math.Ceil(kept)-float64(s.N))
	return max(1, int64(math.Ceil(missing*float64(n)/float64(s.N)))), true
}

// quantile is the standard normal distribution's.
func quantile(p float64) float64 { return math.Sqrt2 * math.Erfinv(2*p-1) }
