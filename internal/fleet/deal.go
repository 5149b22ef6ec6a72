package fleet

import (
	"math"
	"slices"
)

const (
	// leastDemand is what an idle member demands, so that it can begin at once.
	leastDemand = 0.01
	// demandStep is the grain of demands: parts don't move with every change of a rate.
	demandStep = 0.05
	// headroom is what a member demands beside what it used, so that it can grow.
	headroom = 1.25
)

// demandOf is the demand of a member that used a part of the limits; 1 or more says that
// it would have used more.
func demandOf(used float64) float64 {
	if !(used > 0) {
		return leastDemand
	}
	return min(1, math.Ceil(used*headroom/demandStep)*demandStep)
}

// part deals 1 among demands, and returns what one of them gets: all get what they demand
// up to a level that leaves nothing over, or equal parts of what is left over.
func part(own float64, demands []float64) float64 {
	rest := 1.0
	for i, d := range slices.Sorted(slices.Values(demands)) {
		if level := rest / float64(len(demands)-i); d >= level {
			return min(own, level)
		}
		rest -= d
	}
	return own + rest/float64(len(demands))
}
