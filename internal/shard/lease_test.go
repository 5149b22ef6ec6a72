package shard_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"precept/internal/shard"
	"precept/internal/shard/shardtest"
	"precept/schemas"
)

const ttl = 30 * time.Second

func leaseOptions(holder string) shard.LeaseOptions {
	return shard.LeaseOptions{Holder: holder, TTL: ttl, Log: slog.New(slog.DiscardHandler)}
}

// freezable freezes the caller of a store, as a stopped process is: while something
// is in it, calls neither begin nor fail.
type freezable chan struct{}

func (f freezable) store(s shard.Store) shard.Store { return frozen{s, f} }

type frozen struct {
	shard.Store
	freezable
}

func (f frozen) Put(ctx context.Context, key string, body []byte, opts shard.PutOptions) (shard.Info, error) {
	f.freezable <- struct{}{}
	defer func() { <-f.freezable }()
	return f.Store.Put(context.WithoutCancel(ctx), key, body, opts)
}

func TestLeaseHandover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, s := t.Context(), shard.NewMemory()
		first, err := shard.Acquire(ctx, s, "k", leaseOptions("first"))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		go func() {
			time.Sleep(10 * ttl) // renewed all the time
			if err := first.Check(); err != nil {
				t.Error(err)
			}
			ended, cancel := context.WithCancel(ctx)
			cancel()
			if err := first.Release(ended); err != nil {
				t.Error(err)
			}
			if err := first.Check(); schemas.KindOf(err) != schemas.Conflict {
				t.Errorf("Check after Release: %v, want Conflict", err)
			}
		}()
		second, err := shard.Acquire(ctx, s, "k", leaseOptions("second"))
		if err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited < 10*ttl || waited > 10*ttl+ttl/5 {
			t.Errorf("the second waited %v for one that was released after %v", waited, 10*ttl)
		}
		if err := second.Check(); err != nil {
			t.Error(err)
		}
		if !first.Former().IsZero() || !second.Former().Equal(start.Add(10*ttl)) {
			t.Errorf("held before by somebody until %v and %v, want never and %v", first.Former(), second.Former(), start.Add(10*ttl))
		}
		waiting, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		_, err = shard.Acquire(waiting, s, "k", leaseOptions("third"))
		if schemas.KindOf(err) != schemas.Unavailable || !strings.Contains(err.Error(), "held by second") {
			t.Errorf("Acquire of what is held: %v", err)
		}
		if err := second.Release(ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestLeaseFrozen freezes a holder: another takes over after a TTL, and when the
// first wakes it neither believes in its lease nor gets it renewed.
func TestLeaseFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, memory := t.Context(), shard.NewMemory()
		s := make(freezable, 1)
		frozen, err := shard.Acquire(ctx, s.store(memory), "k", leaseOptions("frozen"))
		if err != nil {
			t.Fatal(err)
		}
		s <- struct{}{} // freeze
		start := time.Now()
		waiter, err := shard.Acquire(ctx, memory, "k", leaseOptions("waiter"))
		if err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited < ttl || waited > ttl+ttl/5 {
			t.Errorf("the waiter waited %v, want about %v", waited, ttl)
		}
		if err := frozen.Check(); schemas.KindOf(err) != schemas.Conflict || !strings.Contains(err.Error(), "not renewed for") {
			t.Errorf("Check of the frozen one: %v", err)
		}
		<-s // wakes, and its renewal is sent
		time.Sleep(ttl)
		if err := frozen.Check(); schemas.KindOf(err) != schemas.Conflict || !strings.Contains(err.Error(), "taken over by waiter") {
			t.Errorf("Check after waking: %v", err)
		}
		if err := frozen.Release(ctx); err != nil {
			t.Error(err)
		}
		if err := waiter.Check(); err != nil {
			t.Errorf("the waiter's Check: %v", err)
		}
		if err := waiter.Release(ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestLeaseOutage cuts a holder off for longer than a TTL. Nobody else wanted the
// lease: it has it again.
func TestLeaseOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &outage{Store: shard.NewMemory()}
		l, err := shard.Acquire(t.Context(), s, "k", leaseOptions("holder"))
		if err != nil {
			t.Fatal(err)
		}
		s.err.Store(schemas.E("put", "", schemas.Unavailable, nil))
		time.Sleep(ttl)
		if err := l.Check(); schemas.KindOf(err) != schemas.Conflict {
			t.Errorf("Check in an outage: %v, want Conflict", err)
		}
		s.err.Store(nil)
		time.Sleep(ttl / 2)
		if err := l.Check(); err != nil {
			t.Errorf("Check after an outage: %v", err)
		}
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestLeaseExclusion lets workers contend over a store that delays, loses replies
// and freezes its callers. Never do two of them believe that they have the lease.
func TestLeaseExclusion(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, memory := t.Context(), shard.NewMemory()
				var mu sync.Mutex
				holders := map[string]*shard.Lease{}
				check := func() {
					mu.Lock()
					defer mu.Unlock()
					var believers []string
					for name, l := range holders {
						if l.Check() == nil {
							believers = append(believers, name)
						}
					}
					if len(believers) > 1 {
						t.Errorf("%v all have the lease", believers)
					}
				}
				var wg sync.WaitGroup
				for worker := range 4 {
					wg.Go(func() {
						random := rand.New(rand.NewPCG(seed, uint64(worker)))
						for turn := range 5 {
							name := fmt.Sprintf("worker %d, turn %d", worker, turn)
							l, err := shard.Acquire(ctx, &shaky{Store: memory, random: random}, "k", leaseOptions(name))
							if schemas.KindOf(err) == schemas.Unavailable {
								continue
							}
							if err != nil {
								t.Error(err)
								return
							}
							mu.Lock()
							holders[name] = l
							mu.Unlock()
							for range 20 {
								check()
								time.Sleep(ttl / 7)
							}
							l.Release(ctx)
							mu.Lock()
							delete(holders, name)
							mu.Unlock()
						}
					})
				}
				wg.Wait()
			})
		})
	}
}

// shaky is a store with a bad connection: calls take long before and after they are
// done, and some replies get lost.
type shaky struct {
	shard.Store
	random *rand.Rand
}

func (s *shaky) pause() (lost bool) {
	d := time.Duration(s.random.Int64N(int64(time.Second)))
	if s.random.IntN(10) == 0 {
		d = time.Duration(s.random.Int64N(int64(2 * ttl)))
	}
	time.Sleep(d)
	return s.random.IntN(10) == 0
}

func (s *shaky) Get(ctx context.Context, key string) ([]byte, shard.Info, error) {
	s.pause()
	body, info, err := s.Store.Get(context.WithoutCancel(ctx), key)
	s.pause()
	return body, info, err
}

func (s *shaky) Put(ctx context.Context, key string, body []byte, opts shard.PutOptions) (shard.Info, error) {
	s.pause()
	info, err := s.Store.Put(context.WithoutCancel(ctx), key, body, opts)
	if s.pause() {
		// The client tries again, and hears of its own write.
		if opts.IfNoneMatch || opts.IfMatch != "" {
			return s.Store.Put(context.WithoutCancel(ctx), key, body, opts)
		}
		return shard.Info{}, schemas.Errorf("put", key, schemas.Unavailable, "connection reset")
	}
	return info, err
}

func TestLeaseS3(t *testing.T) {
	ctx, s := t.Context(), shardtest.S3(t)
	options := shard.LeaseOptions{Holder: "dead", TTL: 300 * time.Millisecond}
	dead, err := shard.Acquire(ctx, s, "k", options)
	if err != nil {
		t.Fatal(err)
	}
	shard.Die(dead)
	options.Holder = "next"
	next, err := shard.Acquire(ctx, s, "k", options)
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.Check(); schemas.KindOf(err) != schemas.Conflict {
		t.Errorf("Check of the dead one: %v, want Conflict", err)
	}
	if err := next.Release(ctx); err != nil {
		t.Error(err)
	}
	last, err := shard.Acquire(ctx, s, "k", options)
	if err != nil {
		t.Fatal(err)
	}
	if err := last.Release(ctx); err != nil {
		t.Error(err)
	}
}

// Whoever takes a lease over reads what its holder told last, and keeps that until it
// tells something itself.
func TestALeaseTellsItsNote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, s := t.Context(), shard.NewMemory()
		note := ""
		options := leaseOptions("first")
		options.Note = func() json.RawMessage {
			if note == "" {
				return nil
			}
			return json.RawMessage(note)
		}
		first, err := shard.Acquire(ctx, s, "k", options)
		if err != nil {
			t.Fatal(err)
		}
		if first.Told() != nil {
			t.Errorf("told %s before anybody held it", first.Told())
		}
		note = `{"n":1}`
		if err := first.Renew(ctx); err != nil {
			t.Fatal(err)
		}
		if err := first.Release(ctx); err != nil {
			t.Fatal(err)
		}
		for _, holder := range []string{"second", "third"} { // the second says nothing
			l, err := shard.Acquire(ctx, s, "k", leaseOptions(holder))
			if err != nil {
				t.Fatal(err)
			}
			if string(l.Told()) != `{"n":1}` {
				t.Errorf("the %s is told %s", holder, l.Told())
			}
			if err := l.Release(ctx); err != nil {
				t.Fatal(err)
			}
			if err := l.Renew(ctx); schemas.KindOf(err) != schemas.Conflict {
				t.Errorf("a released lease is renewed: %v", err)
			}
		}
	})
}
