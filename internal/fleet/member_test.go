package fleet_test

import (
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"precept/internal/fleet"
	"precept/internal/shard"
	"precept/internal/shard/shardtest"
)

const (
	renew = fleet.RenewEvery
	ttl   = fleet.TTL
)

func TestJoinAndLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.process("a", fleet.Options{})
		if len(w.leases()) > 0 {
			t.Error("it joined before it was asked")
		}
		w.until(sampleEvery, 1)
		w.stay(time.Minute, 1)
		w.process("b", fleet.Options{})
		if took := w.until(2*renew, 0.5, 0.5); took < sampleEvery {
			t.Errorf("the second had its share after %v, before the first could know", took)
		}
		w.stay(time.Minute, 0.5, 0.5)
		w.process("c", fleet.Options{})
		w.process("d", fleet.Options{})
		w.until(3*renew, 0.25, 0.25, 0.25, 0.25)
		keys := w.leases()
		if len(keys) != 4 || !strings.HasPrefix(keys[0], "limits/api%2Eteacher%2F1/a-") || !strings.HasSuffix(keys[0], ".json") {
			t.Errorf("the leases are %v", keys)
		}
		a.Close()
		if len(w.leases()) != 3 {
			t.Errorf("the leases are %v", w.leases())
		}
		w.until(2*renew, 0, 1./3, 1./3, 1./3)
		w.stay(time.Minute, 0, 1./3, 1./3, 1./3)
	})
}

// TestKilled: a dead member's share returns after its lease time, and its lease goes.
func TestKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range 4 {
			w.process(named(i), fleet.Options{})
		}
		w.until(3*renew, 0.25, 0.25, 0.25, 0.25)
		w.processes[2].die()
		took := w.until(ttl+2*renew, 1./3, 1./3, 0, 1./3)
		if took < ttl-renew {
			t.Errorf("its share returned after %v; its lease time is %v", took, ttl)
		}
		if len(w.leases()) != 3 {
			t.Errorf("the leases are %v", w.leases())
		}
	})
}

// TestFrozen: who wakes sends nothing until it has a share again.
func TestFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, _ := w.process("a", fleet.Options{}), w.process("b", fleet.Options{})
		w.until(3*renew, 0.5, 0.5)
		old := w.leases()[0]
		a.freeze()
		w.until(ttl+2*renew, 0, 1)
		a.thaw()
		if share := a.Share(); share != 0 {
			t.Errorf("it wakes with a share of %v", share)
		}
		w.until(3*renew, 0.5, 0.5)
		if keys := w.leases(); len(keys) != 2 || keys[0] == old || keys[1] == old {
			t.Errorf("the leases are %v; the old one was %s", keys, old)
		}
		// A short stop costs nothing.
		a.freeze()
		time.Sleep(ttl / 2)
		a.thaw()
		w.stay(time.Minute, 0.5, 0.5)
	})
}

// TestCutOff: who can't renew has share 0 by its own clock, before others have it.
func TestCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.process("a", fleet.Options{}), w.process("b", fleet.Options{})
		w.until(3*renew, 0.5, 0.5)
		a.cutOff(true)
		if took := w.until(ttl, 0, 0.5); took > ttl/5*4 {
			t.Errorf("it stopped after %v", took)
		}
		w.until(ttl/5+2*renew, 0, 1)
		a.cutOff(false)
		w.until(3*renew, 0.5, 0.5)
		// The store is away from everybody.
		a.cutOff(true)
		b.cutOff(true)
		w.until(ttl, 0, 0)
		w.stay(10*ttl, 0, 0)
		a.cutOff(false)
		b.cutOff(false)
		w.until(4*renew, 0.5, 0.5)
	})
}

// TestBuriedTooLate: who renews its lease at the last moment keeps it.
func TestBuriedTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.process("a", fleet.Options{}), w.process("b", fleet.Options{})
		w.until(3*renew, 0.5, 0.5)
		keys, tries := w.leases(), atomic.Int64{}
		b.watch(func(key string, _ []byte) {
			if key == keys[0] {
				tries.Add(1)
				a.cutOff(false)
				time.Sleep(renew + sampleEvery) // its next one
			}
		})
		a.cutOff(true)
		w.until(ttl, 0, 0.5)
		w.until(ttl, 0.5, 0.5)
		w.stay(ttl, 0.5, 0.5)
		if got := w.leases(); tries.Load() != 1 || !slices.Equal(got, keys) {
			t.Errorf("after %d tries to bury the first, the leases are %v, and were %v", tries.Load(), got, keys)
		}
	})
}

// TestIdle: who doesn't ask for a minute leaves, and joins again when it does.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.process("a", fleet.Options{})
		w.until(sampleEvery, 1)
		time.Sleep(fleet.IdleAfter + renew)
		if len(w.leases()) != 0 {
			t.Errorf("the leases are %v", w.leases())
		}
		a.count()
		time.Sleep(time.Hour)
		if n := a.count(); n != 0 {
			t.Errorf("it went on with %d requests to the store", n)
		}
		w.until(sampleEvery, 1)
	})
}

// TestDemand: an idle member holds next to nothing, and has its part soon after it wants it.
func TestDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var percent atomic.Int64
		percent.Store(100)
		w.process("a", fleet.Options{})
		w.process("b", fleet.Options{Demand: func() float64 { return float64(percent.Load()) / 100 }})
		w.until(3*renew, 0.5, 0.5)
		percent.Store(0)
		w.until(3*renew, 1-fleet.LeastDemand, fleet.LeastDemand)
		percent.Store(20)
		w.until(3*renew, 0.75, 0.25)
		percent.Store(100)
		w.until(3*renew, 0.5, 0.5)
	})
}

// TestClocks: members live by clocks of their own, and the store by another one.
func TestClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		skewed := func(by time.Duration) fleet.Options {
			return fleet.Options{}.Clocked(func() time.Time { return time.Now().Add(by) })
		}
		w.process("a", skewed(-1000*time.Hour))
		w.process("b", skewed(1000*time.Hour))
		w.until(3*renew, 0.5, 0.5)
		w.stay(time.Minute, 0.5, 0.5)
		w.processes[0].die()
		w.until(ttl+2*renew, 0, 1)
	})
}

// TestUnreadable: nobody knows what a lease claims that can't be read.
func TestUnreadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, body := range []string{"", "{", `{"claim":-1}`, `{"claim":2}`, `{"demand":7}`} {
			if _, err := w.store.Put(t.Context(), "limits/api%2Eteacher%2F1/x.json", []byte(body), shard.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			a := w.process("a", fleet.Options{})
			w.stay(ttl, 0)
			w.until(2*renew, 1)
			a.Close()
			w.processes = nil
		}
	})
}

// TestRequests counts what a renewal asks of the store.
func TestRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range 4 {
			w.process(named(i), fleet.Options{})
		}
		w.until(3*renew, 0.25, 0.25, 0.25, 0.25)
		a := w.processes[0]
		a.count()
		w.stay(10*renew, 0.25, 0.25, 0.25, 0.25)
		// One written, one list, and at most the three that the others have written.
		if n := a.count(); n < 20 || n > 5*10 {
			t.Errorf("%d requests in ten renewals", n)
		}
	})
}

// TestS3 has members meet in a real store: one joins, one dies, one leaves.
func TestS3(t *testing.T) {
	s := shardtest.S3(t)
	o := fleet.Options{Renew: 200 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}
	member := func(name string) *process {
		l := &line{Store: s, frozen: make(chan struct{}, 1)}
		p := &process{fleet.New(l, endpoint, name, o), l, name}
		t.Cleanup(p.Close)
		return p
	}
	until := func(what string, want func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !want(); time.Sleep(sampleEvery) {
			if time.Now().After(deadline) {
				t.Fatal("not within a minute: ", what)
			}
		}
	}
	a, b, c := member("a"), member("b"), member("c")
	until("the first alone", func() bool { return a.Share() == 1 })
	until("three with equal shares", func() bool { return min(a.Share(), b.Share(), c.Share()) > 0.33 })
	b.die()
	until("the dead one's share returns", func() bool { return min(a.Share(), c.Share()) == 0.5 })
	a.Close()
	until("the other one's share returns", func() bool { return c.Share() == 1 })
}
