package fleet_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"precept/internal/fleet"
)

func TestPart(t *testing.T) {
	for _, test := range []struct {
		name    string
		demands []float64
		want    []float64
	}{
		{"alone", []float64{0.01}, []float64{1}},
		{"all want more", []float64{1, 1, 1, 1}, []float64{0.25, 0.25, 0.25, 0.25}},
		{"one is idle", []float64{1, 0.01, 1}, []float64{0.495, 0.01, 0.495}},
		{"one has little to do", []float64{1, 0.2, 1, 1}, []float64{0.8 / 3, 0.2, 0.8 / 3, 0.8 / 3}},
		{"little is more than its part", []float64{1, 0.3, 1, 1}, []float64{0.25, 0.25, 0.25, 0.25}},
		{"nobody wants all", []float64{0.2, 0.4}, []float64{0.4, 0.6}},
	} {
		for i, own := range test.demands {
			if got := fleet.Part(own, test.demands); math.Abs(got-test.want[i]) > 1e-12 {
				t.Errorf("%s: %v gets %v of %v, want %v", test.name, own, got, test.demands, test.want[i])
			}
		}
	}
}

// TestPartAddsUp: all is dealt, nobody gets less than another who demands less, and nobody
// who goes short gets less than an equal part.
func TestPartAddsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		demands := rapid.SliceOfN(rapid.Float64Range(fleet.LeastDemand, 1), 1, 20).Draw(t, "demands")
		sum := 0.0
		for _, own := range demands {
			got := fleet.Part(own, demands)
			sum += got
			if got < own && got < 1/float64(len(demands))-1e-9 {
				t.Errorf("%v gets %v of %v", own, got, demands)
			}
			for _, other := range demands {
				if other <= own && fleet.Part(other, demands) > got {
					t.Errorf("%v gets more than %v of %v", other, own, demands)
				}
			}
		}
		if math.Abs(sum-1) > 1e-9 {
			t.Errorf("%v are dealt %v", demands, sum)
		}
	})
}

func TestDemandOf(t *testing.T) {
	for used, want := range map[float64]float64{
		0: fleet.LeastDemand, -1: fleet.LeastDemand, 0.001: 0.05, 0.2: 0.25, 0.21: 0.3, 0.9: 1, 1: 1, 7: 1, math.Inf(1): 1,
	} {
		if got := fleet.DemandOf(used); math.Abs(got-want) > 1e-12 {
			t.Errorf("who used %v demands %v, want %v", used, got, want)
		}
	}
	if got := fleet.DemandOf(math.NaN()); got != fleet.LeastDemand {
		t.Errorf("who used NaN demands %v", got)
	}
}
