package llm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"precept/schemas"
)

// TestOutage: while the endpoint is out, little is sent and everybody waits; when it is
// back, everybody is answered.
func TestOutage(t *testing.T) {
	for name, fail := range map[string]func() (*http.Response, error){
		"refused connections": func() (*http.Response, error) { return nil, errors.New("connection refused") },
		"502":                 func() (*http.Response, error) { return response(502, "<html>"), nil },
		"503 with Retry-After": func() (*http.Response, error) {
			return response(503, "", "Retry-After", "2"), nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var sent, trials atomic.Int64
				e := endpoint()
				e.MaxInFlight = 32
				c := scripted(t, e, 0, func(*http.Request) (*http.Response, error) {
					sent.Add(1)
					time.Sleep(10 * time.Millisecond)
					if out := time.Since(start); out < 40*time.Second {
						if out > 5*time.Second {
							trials.Add(1)
						}
						return fail()
					}
					return response(200, hello), nil
				})
				var wg sync.WaitGroup
				for i := range 200 {
					wg.Go(func() {
						if _, _, err := c.Ask(t.Context(), ask(fmt.Sprint(i))); err != nil {
							t.Errorf("after %s: %v", time.Since(start), err)
						}
					})
				}
				wg.Wait()
				if n := trials.Load(); n < 2 || n > 20 {
					t.Errorf("%d trials in 35 seconds", n)
				}
				if n := sent.Load(); n > 200+outageAfter+32+30 {
					t.Errorf("%d requests for 200 answers", n)
				}
				if took := time.Since(start); took > 75*time.Second {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// TestOutageLasts: nobody waits for ever, and the error says what the endpoint said.
func TestOutageLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c := scripted(t, endpoint(), 1, func(*http.Request) (*http.Response, error) {
			return response(502, `{"error":{"message":"no upstream"}}`), nil
		})
		for i := range outageAfter {
			if _, _, err := c.Ask(t.Context(), ask(fmt.Sprint(i))); schemas.KindOf(err) != schemas.Unavailable || time.Since(start) > time.Second {
				t.Fatalf("after %s: %v", time.Since(start), err)
			}
		}
		var ended atomic.Int64
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				_, _, err := c.Ask(t.Context(), ask(fmt.Sprint("waits ", i)))
				if schemas.KindOf(err) != schemas.Unavailable || !IsRequest(err) || !strings.Contains(err.Error(), "no upstream") {
					t.Errorf("got %v", err)
				}
				if strings.Contains(err.Error(), "out since") != IsOutage(err) {
					t.Errorf("an outage or none: %v", err)
				}
				if IsOutage(err) {
					ended.Add(1)
				}
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, _, err := c.Ask(ctx, ask("in a hurry")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		wg.Wait()
		if took := time.Since(start); took < defaultPatience || took > defaultPatience+2*time.Second {
			t.Errorf("they waited %s", took)
		}
		if ended.Load() < 3 {
			t.Errorf("%d waited to the end", ended.Load())
		}
	})
}

// TestGuardEndsWaiting: who lost its lease doesn't wait for the endpoint.
func TestGuardEndsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c := scripted(t, endpoint(), 1, func(*http.Request) (*http.Response, error) {
			return response(429, "", "Retry-After", "50"), nil
		})
		c.Ask(t.Context(), ask("refused"))
		lost := schemas.E("check lease", "shard", schemas.Conflict, nil)
		guarded := c.Guarded(func() error {
			if time.Since(start) > 5*time.Second {
				return lost
			}
			return nil
		})
		if _, _, err := guarded.Ask(t.Context(), ask("waits")); !errors.Is(err, lost) || time.Since(start) > 7*time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

// TestThrottleIsNoOutage: refusals neither open the breaker nor use up attempts quickly,
// and nothing overtakes what was refused.
func TestThrottleIsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var sent atomic.Int64
		c := scripted(t, endpoint(), 4, func(*http.Request) (*http.Response, error) {
			sent.Add(1)
			if time.Since(start) < 30*time.Second {
				return response(429, "", "Retry-After", "10"), nil
			}
			return response(200, hello), nil
		})
		flood(t, c, 50, time.Second)
		if c.pace.replicas[0].breaker.open {
			t.Error("the breaker is open")
		}
		if n := sent.Load(); n > 50+8*4 {
			t.Errorf("%d requests for 50 answers", n)
		}
	})
}

func TestAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int64
		var mended atomic.Bool
		e := endpoint()
		e.MaxInFlight = 4
		c := scripted(t, e, 4, func(*http.Request) (*http.Response, error) {
			sent.Add(1)
			time.Sleep(time.Second)
			if mended.Load() {
				return response(200, hello), nil
			}
			return response(429, `{"error":{"code":"insufficient_quota","message":"pay first"}}`), nil
		})
		yes := func() error { return nil }
		all := func(c *Client, what string) (refused int) {
			var wg sync.WaitGroup
			var n atomic.Int64
			for i := range 20 {
				wg.Go(func() {
					_, _, err := c.Ask(t.Context(), ask(fmt.Sprint(what, i)))
					if err != nil {
						n.Add(1)
					}
					if err != nil && (!IsAccount(err) || !strings.Contains(err.Error(), "pay first")) {
						t.Errorf("%s: %v", what, err)
					}
				})
			}
			wg.Wait()
			return int(n.Load())
		}
		want := func(what string, refused, wantRefused int, wantSent int64) {
			t.Helper()
			if n := sent.Swap(0); refused != wantRefused || n != wantSent {
				t.Errorf("%s: %d refused of 20, %d sent; want %d and %d", what, refused, n, wantRefused, wantSent)
			}
		}
		first := c.Guarded(yes)
		want("first", all(first, "first"), 20, 4) // those that were in flight
		want("the same client", all(first, "again"), 20, 0)
		want("unguarded", all(c, "unguarded"), 20, 0)
		second := c.Guarded(yes)
		want("a new one", all(second, "second"), 20, 1)
		want("which was refused", all(second, "more"), 20, 0)
		third := c.Guarded(yes)
		mended.Store(true)
		want("an old one", all(second, "old"), 20, 0)
		want("mended", all(third, "third"), 0, 20)
		want("mended for all", all(first, "all"), 0, 20)

		mended.Store(false)
		all(first, "shut again")
		sent.Store(0)
		if _, _, err := c.Probe(t.Context(), Request{}); !IsAccount(err) || sent.Load() != 1 {
			t.Errorf("probed %d times: %v", sent.Load(), err)
		}
		mended.Store(true)
		if _, _, err := c.Probe(t.Context(), Request{}); err != nil {
			t.Errorf("probed: %v", err)
		}
		sent.Store(0)
		want("probed", all(first, "probed"), 0, 20)
	})
}

// TestPatience: a request that is tried again meanwhile waits no longer than others.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := scripted(t, endpoint(), 4, func(*http.Request) (*http.Response, error) { return response(502, ""), nil })
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for n := range 8 {
					start := time.Now()
					if _, _, err := c.Ask(t.Context(), ask(fmt.Sprint(i, " ", n))); !IsRequest(err) {
						t.Error(err)
					}
					if took := time.Since(start); took > defaultPatience+maxTrialPause+maxBackoff {
						t.Errorf("it waited %s", took)
					}
				}
			})
		}
		wg.Wait()
	})
}

// TestHasty: who may be asked elsewhere waits for nobody who is out, and finds out when that
// is over.
func TestHasty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		out, sent := true, 0
		c := scripted(t, endpoint(), 1, func(*http.Request) (*http.Response, error) {
			sent++
			if out {
				return response(502, ""), nil
			}
			return response(200, hello), nil
		})
		c = c.Hasty()
		for i := range 1000 {
			if _, _, err := c.Ask(t.Context(), ask(fmt.Sprint(i))); schemas.KindOf(err) != schemas.Unavailable || !IsRequest(err) {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(start); took > 101*time.Second {
			t.Errorf("1,000 requests and as many tenths of a second took %s", took)
		}
		if sent < outageAfter+10 || sent > outageAfter+40 {
			t.Errorf("%d were sent", sent)
		}
		out, sent = false, 0
		for i := range 200 {
			_, _, _ = c.Ask(t.Context(), ask(fmt.Sprint(i)))
			time.Sleep(100 * time.Millisecond)
		}
		if sent < 100 {
			t.Errorf("%d were sent when it was back", sent)
		}
	})
}
