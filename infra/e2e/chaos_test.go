//go:build chaos

package e2e

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestChaos runs the same spec in peace, and then under one fault after the other. All
// make the same data set, byte for byte.
func TestChaos(t *testing.T) {
	const latency = 100 * time.Millisecond
	calm := map[int]outcome{}
	faults := []struct {
		fault
		rows int
	}{
		{fault{"kills", nil, kills(number("CHAOS_KILLS", 20))}, number("CHAOS_ROWS", 5_000)},
		{fault{"full disk", onDisk, fillDisk}, number("CHAOS_ROWS", 2_000)},
		{fault{"full disk, emulated", behindProxy, disturbed(fullDisk, 0.25, 20*time.Second)}, number("CHAOS_ROWS", 2_000)},
		{fault{"S3 asks to slow down", behindProxy, disturbed(slowDown, 0.1, time.Minute)}, number("CHAOS_ROWS", 2_000)},
		{fault{"S3 is slow", behindProxy, disturbed(slow, 0.1, time.Minute)}, number("CHAOS_ROWS", 2_000)},
		{fault{"lost replies", behindProxy, disturbed(lostReply, 0, time.Minute)}, number("CHAOS_ROWS", 2_000)},
		{fault{"endpoint down", nil, endpointDown}, number("CHAOS_ROWS", 2_000)},
		{fault{"frozen worker", watched, frozen}, number("CHAOS_ROWS", 2_000)},
	}
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			if _, ok := calm[f.rows]; !ok {
				calm[f.rows] = peace(t, f.rows, latency)
			}
			f.try(t, f.rows, latency, calm[f.rows])
		})
	}
}

// kills kills the worker, and now and then Temporal or the S3 gateway, over and over.
func kills(n int) func(*trial) int64 {
	return func(s *trial) (repeats int64) {
		// Always the same order; the moments are drawn.
		draw := rand.New(rand.NewPCG(1, 2))
		pause := 3 * time.Second
		for killed := range n {
			next := time.Now().Add(pause)
			s.await("the next kill", time.Minute, func() bool {
				s.resume()
				return time.Now().After(next)
			})
			if s.over() {
				s.Errorf("the run ended after %d of %d kills: give it more rows", killed, n)
				return repeats
			}
			switch killed % 7 {
			case 3:
				repeats += killTemporal(s)
			case 5:
				repeats += killGateway(s)
			default:
				repeats += killWorker(s)
			}
			pause = time.Second + time.Duration(draw.Int64N(int64(9*time.Second)))
		}
		return repeats
	}
}
