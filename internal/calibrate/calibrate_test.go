package calibrate

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"precept/internal/eval"
)

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 5e-5 {
		t.Errorf("%s: %.5f, want %.5f", what, got, want)
	}
}

// rows makes rated answers: n good and m bad ones of a score.
func rows(groups ...[3]float64) (out []Rated) {
	for _, g := range groups {
		for i := range int(g[1] + g[2]) {
			out = append(out, Rated{Score: g[0], Good: i < int(g[1])})
		}
	}
	return out
}

// TestJudge is computed by hand.
//
// Scores 0.9 (8 good, 1 bad), 0.7 (3, 1), 0.4 (1, 2), 0.1 (0, 4): 20 answers, 12 good.
// At 0.7, 13 are kept, of which 11 are good: accuracy 17/20, precision 11/13, recall 11/12.
// Kappa: agreed 0.85, chance 0.65·0.6+0.35·0.4 = 0.53, so 0.32/0.47 = 0.68085; its half
// width 1.95996·√(0.85·0.15/20)/0.47 = 0.33296.
func TestJudge(t *testing.T) {
	got := Judge(rows([3]float64{0.9, 8, 1}, [3]float64{0.7, 3, 1}, [3]float64{0.4, 1, 2}, [3]float64{0.1, 0, 4}), 0.7, 0)
	if d := cmp.Diff(Confusion{KeptGood: 11, KeptBad: 2, RejectedGood: 1, RejectedBad: 6}, got.At.Confusion); d != "" {
		t.Error(d)
	}
	if got.N != 20 || got.Good != 12 || got.Target != nil {
		t.Errorf("%+v", got)
	}
	near(t, "accuracy", got.At.Accuracy.Value, 0.85)
	near(t, "its lower end", got.At.Accuracy.Low, 0.63958)
	near(t, "its upper end", got.At.Accuracy.High, 0.94762)
	near(t, "precision", got.At.Precision.Value, 11./13)
	near(t, "recall", got.At.Recall.Value, 11./12)
	near(t, "kappa", got.At.Kappa.Value, 0.68085)
	near(t, "its lower end", got.At.Kappa.Low, 0.68085-0.33296)
	near(t, "its upper end", got.At.Kappa.High, 1)

	var cuts [][3]float64
	for _, c := range got.Cuts {
		cuts = append(cuts, [3]float64{c.Threshold, float64(c.Precision.N), float64(c.Recall.Hits)})
	}
	if d := cmp.Diff([][3]float64{{0.9, 9, 8}, {0.7, 13, 11}, {0.4, 16, 12}, {0.1, 20, 12}}, cuts); d != "" {
		t.Errorf("threshold, kept, kept good:\n%s", d)
	}
	// |0.9-8/9|·9 + |0.7-0.75|·4 + |0.4-1/3|·3 + |0.1-0|·4, over 20.
	near(t, "ECE", got.ECE, (0.1+0.2+0.2+0.4)/20)
	if len(got.Bins) != 4 || got.Bins[0].Low != 0.1 || got.Bins[3].Good.N != 9 {
		t.Errorf("bins %+v", got.Bins)
	}
}

func TestKappa(t *testing.T) {
	for _, tt := range []struct {
		name string
		c    Confusion
		want float64 // NaN: not defined
	}{
		{"full agreement", Confusion{KeptGood: 5, RejectedBad: 5}, 1},
		{"none", Confusion{KeptBad: 5, RejectedGood: 5}, -1},
		{"chance", Confusion{KeptGood: 1, KeptBad: 1, RejectedGood: 1, RejectedBad: 1}, 0},
		// agreed 0.7; chance 0.5·0.6+0.5·0.4 = 0.5.
		{"Cohen's example", Confusion{KeptGood: 20, KeptBad: 5, RejectedGood: 10, RejectedBad: 15}, 0.4},
		{"all alike", Confusion{KeptGood: 7}, math.NaN()},
		{"nothing", Confusion{}, math.NaN()},
	} {
		got := tt.c.kappa()
		if math.IsNaN(tt.want) != (got == nil) || got != nil && math.Abs(got.Value-tt.want) > 1e-12 {
			t.Errorf("%s: %+v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestBinsOfTenths: scores of the filter are tenths, which are not exact in binary.
func TestBinsOfTenths(t *testing.T) {
	for n := range 11 {
		got, _ := bins([]Rated{{Score: float64(n) / 10}})
		if want := float64(min(n, 9)) / 10; got[0].Low != want {
			t.Errorf("score %d/10 lies in the bin from %v, want %v", n, got[0].Low, want)
		}
	}
}

// TestTarget is computed by hand, with z² = 3.84146. Of n answers that are all good the
// lower end is n/(n+z²): 0.95 takes 19·z² = 72.99, hence 73. At p = 0.98 it takes
// z²·0.95·0.05/0.03² = 202.74, hence 203.
func TestTarget(t *testing.T) {
	for _, tt := range []struct {
		name    string
		rated   []Rated
		wanted  float64
		cut     float64 // -1: none
		nearest float64 // -1: none
		more    int64
	}{
		{"just enough", rows([3]float64{1, 73, 0}, [3]float64{0.2, 0, 73}), 0.95, 1, -1, 0},
		{"one too few", rows([3]float64{1, 72, 0}, [3]float64{0.2, 0, 72}), 0.95, -1, 1, 2},
		{"a share of the labels", rows([3]float64{1, 49, 1}, [3]float64{0.2, 0, 50}), 0.95, -1, 1, 306},
		{"the lowest", rows([3]float64{1, 80, 0}, [3]float64{0.8, 80, 0}, [3]float64{0.2, 0, 80}), 0.95, 0.8, -1, 0},
		{"no number of labels", rows([3]float64{1, 9, 1}, [3]float64{0.2, 0, 5}), 0.95, -1, -1, 0},
		{"nothing at all", nil, 0.95, -1, -1, 0},
	} {
		got := *Judge(tt.rated, 0.7, tt.wanted).Target
		at := func(c *Cut) float64 {
			if c == nil {
				return -1
			}
			return c.Threshold
		}
		if at(got.Cut) != tt.cut || at(got.Nearest) != tt.nearest || got.MoreLabels != tt.more {
			t.Errorf("%s: threshold %v, nearest %v, %d more", tt.name, at(got.Cut), at(got.Nearest), got.MoreLabels)
		}
	}
	// Two thresholds were tried: z of 1-0.05/4 is 2.24140, and 73/(73+5.02388) = 0.93561.
	got := Judge(rows([3]float64{1, 73, 0}, [3]float64{0.2, 0, 73}), 0.7, 0.95).Target
	near(t, "the corrected end", got.Corrected, 0.93561)
	near(t, "its quantile", quantile(0.975), eval.Z95)
}

// TestMoreLabelsAreEnough: with as many more of the same kind, the lower end is reached.
func TestMoreLabelsAreEnough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(1, 400).Draw(t, "kept")
		s := share(rapid.Int64Range(0, n).Draw(t, "good"), n)
		wanted := float64(rapid.IntRange(1, 99).Draw(t, "wanted")) / 100
		more, ok := moreLabels(s, n, wanted) // all are kept
		if ok != (s.Value > wanted) {
			t.Fatalf("%+v: %d, %v", s, more, ok)
		}
		if !ok || more > 1e6 {
			return
		}
		all := n + more
		low, _ := eval.Wilson(int64(math.Ceil(s.Value*float64(all))), all, eval.Z95)
		if low < wanted-1e-9 {
			t.Fatalf("%+v: with %d more the lower end is %v", s, more, low)
		}
	})
}

func TestAgree(t *testing.T) {
	pairs := []Pair{{0.9, 0.8}, {0.8, 0.2}, {0.3, 0.8}, {0.1, 0.1}, {0.7, 0.7}}
	got := Agree(pairs, 0.7, 0.7)
	want := Confusion{KeptGood: 2, KeptBad: 1, RejectedGood: 1, RejectedBad: 1}
	if d := cmp.Diff(want, got.Both); d != "" {
		t.Error(d)
	}
	// agreed 0.6; chance 0.6·0.6+0.4·0.4 = 0.52.
	near(t, "kappa", got.Kappa.Value, 0.08/0.48)
	near(t, "distance", got.Distance, (0.1+0.6+0.5)/5)
	if d := cmp.Diff([]int{1, 2}, Widest(pairs, 2)); d != "" {
		t.Error(d)
	}
	if got := Widest(pairs, 9); len(got) != 3 {
		t.Errorf("pairs that differ: %v", got)
	}
}

func TestMajority(t *testing.T) {
	for _, tt := range []struct {
		labels   []float64
		good, ok bool
	}{
		{[]float64{1}, true, true},
		{[]float64{0.5}, true, true},
		{[]float64{0.49}, false, true},
		{[]float64{1, 0}, false, false},
		{[]float64{1, 0, 1}, true, true},
		{[]float64{0, 0, 1}, false, true},
	} {
		good, ok := Majority(tt.labels)
		if ok != tt.ok || ok && good != tt.good {
			t.Errorf("%v: %v, %v", tt.labels, good, ok)
		}
	}
}
