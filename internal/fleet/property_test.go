package fleet_test

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"precept/internal/fleet"
)

// event is what happens to a process at a time.
type event struct {
	After   time.Duration
	What    string
	Process int
}

// script draws what happens to at most six processes.
func script(t *rapid.T) (events []event) {
	for range rapid.IntRange(1, 30).Draw(t, "events") {
		events = append(events, event{
			After:   time.Duration(rapid.Int64Range(0, int64(fleet.TTL)).Draw(t, "after")),
			What:    rapid.SampledFrom([]string{"start", "start", "kill", "close", "freeze", "thaw", "cut off", "mend", "want", "want less"}).Draw(t, "what"),
			Process: rapid.IntRange(0, 5).Draw(t, "process"),
		})
	}
	return events
}

// TestSharesAddUp lets processes start, die, freeze and lose the store, over lines that are
// slow and lose calls. At no moment do their shares add up to more than all; when the noise
// ends, they soon add up to all.
func TestSharesAddUp(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		events, noisy, seed := script(rt), rapid.Bool().Draw(rt, "noisy"), rapid.Uint64().Draw(rt, "seed")
		var wrong string
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			running := map[int]*process{}
			less := map[int]*atomic.Bool{}
			sum := func() (sum float64) {
				for _, p := range w.processes {
					if !p.isFrozen() && !p.isDead() {
						sum += p.Share()
					}
				}
				return sum
			}
			pass := func(d time.Duration) bool {
				for start := time.Now(); time.Since(start) < d; time.Sleep(sampleEvery) {
					if s := sum(); s > 1+1e-9 {
						wrong = fmt.Sprintf("the shares add up to %v", s)
						return false
					}
				}
				return true
			}
			for i, e := range events {
				if !pass(e.After) {
					return
				}
				p := running[e.Process]
				if p == nil {
					if e.What == "start" {
						wantsLess := &atomic.Bool{}
						less[e.Process] = wantsLess
						p = w.process(named(e.Process), fleet.Options{Demand: func() float64 {
							if wantsLess.Load() {
								return 0.1
							}
							return 1
						}})
						if noisy {
							p.random = rand.New(rand.NewPCG(seed, uint64(i)))
						}
						running[e.Process] = p
					}
					continue
				}
				switch e.What {
				case "kill":
					p.die()
					delete(running, e.Process)
				case "close":
					p.thaw()
					go p.Close()
					delete(running, e.Process)
				case "freeze":
					p.freeze()
				case "thaw":
					p.thaw()
				case "cut off":
					p.cutOff(true)
				case "mend":
					p.cutOff(false)
				case "want":
					less[e.Process].Store(false)
				case "want less":
					less[e.Process].Store(true)
				}
			}
			for _, p := range w.processes {
				p.thaw()
				p.cutOff(false)
				p.calm()
			}
			// Calls under way may take as long as two lease times, and leave a lease behind.
			if !pass(4*fleet.TTL+6*renew) || len(running) == 0 {
				return
			}
			if s := sum(); s < 1-1e-9 {
				wrong = fmt.Sprintf("at the end the shares of %d add up to %v", len(running), s)
			}
			if n := len(w.leases()); n != len(running) {
				wrong = fmt.Sprintf("at the end %d run and there are the leases %v", len(running), w.leases())
			}
		})
		if wrong != "" {
			rt.Fatal(wrong)
		}
	})
}
