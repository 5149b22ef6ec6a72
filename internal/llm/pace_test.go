package llm

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"precept/schemas"
)

// scripted is a client whose requests are answered by f, in a synctest bubble.
func scripted(t *testing.T, e Endpoint, attempts int, f roundTrip) *Client {
	t.Helper()
	c, err := NewClient(e, Options{Journal: &Memory{}, Attempts: attempts, Transport: f})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRetries(t *testing.T) {
	for _, test := range []struct {
		name     string
		attempts int
		replies  []func() *http.Response
		kind     schemas.Kind
		sent     int
		min, max time.Duration
	}{
		{"mended", 4, []func() *http.Response{
			func() *http.Response { return response(500, "") },
			func() *http.Response { return response(200, "<html>") },
			func() *http.Response { return response(200, hello) },
		}, "", 3, 750 * time.Millisecond, 1500 * time.Millisecond},
		{"attempts spent", 2, []func() *http.Response{
			func() *http.Response { return response(500, "") },
			func() *http.Response { return response(500, "") },
		}, schemas.Unavailable, 2, 250 * time.Millisecond, 500 * time.Millisecond},
		{"obeys Retry-After", 4, []func() *http.Response{
			func() *http.Response { return response(429, "", "Retry-After", "20") },
			func() *http.Response { return response(200, hello) },
		}, "", 2, 20 * time.Second, 20 * time.Second},
		{"leaves a long wait to the caller", 4, []func() *http.Response{
			func() *http.Response { return response(429, "", "Retry-After", "3600") },
		}, schemas.RateLimited, 1, 0, 0},
		{"invalid", 4, []func() *http.Response{
			func() *http.Response { return response(400, "") },
		}, schemas.InvalidInput, 1, 0, 0},
		{"account", 4, []func() *http.Response{
			func() *http.Response { return response(401, "") },
		}, schemas.InvalidInput, 1, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sent := 0
				c := scripted(t, endpoint(), test.attempts, func(*http.Request) (*http.Response, error) {
					sent++
					return test.replies[sent-1](), nil
				})
				start := time.Now()
				_, _, err := c.Ask(t.Context(), ask("Hi"))
				took := time.Since(start)
				if schemas.KindOf(err) != test.kind || sent != test.sent {
					t.Errorf("%d requests, then %v", sent, err)
				}
				if took < test.min || took > test.max {
					t.Errorf("took %s", took)
				}
			})
		})
	}
}

func TestRetryStopsBeforeDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c := scripted(t, endpoint(), 4, func(*http.Request) (*http.Response, error) {
			return response(429, "", "Retry-After", "20"), nil
		})
		start := time.Now()
		_, _, err := c.Ask(ctx, ask("Hi"))
		if schemas.KindOf(err) != schemas.RateLimited || RetryAfter(err) != 20*time.Second || time.Since(start) != 0 {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

// TestRetryAfterHoldsBackEverybody: one reply is enough for all callers.
func TestRetryAfterHoldsBackEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		first := true
		c := scripted(t, endpoint(), 1, func(*http.Request) (*http.Response, error) {
			if first {
				first = false
				return response(429, "", "Retry-After", "20"), nil
			}
			return response(200, hello), nil
		})
		if _, _, err := c.Ask(t.Context(), ask("a")); schemas.KindOf(err) != schemas.RateLimited {
			t.Fatal(err)
		}
		if _, _, err := c.Ask(t.Context(), ask("b")); err != nil || time.Since(start) != 20*time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

func TestInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now, most := 0, 0
		e := endpoint()
		e.MaxInFlight = 3
		c := scripted(t, e, 1, func(*http.Request) (*http.Response, error) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			now--
			mu.Unlock()
			return response(200, hello), nil
		})
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 9 {
			wg.Go(func() {
				// Clients of one endpoint share its pace.
				if _, _, err := c.Guarded(func() error { return nil }).Ask(t.Context(), ask(string(rune('a'+i)))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if most != 3 || time.Since(start) != 3*time.Second {
			t.Errorf("%d at once, %s", most, time.Since(start))
		}
	})
}

func TestRPM(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := endpoint()
		e.RPM = 60
		c := scripted(t, e, 1, func(*http.Request) (*http.Response, error) { return response(200, hello), nil })
		start := time.Now()
		for i := range 5 {
			if _, _, err := c.Ask(t.Context(), ask(string(rune('a'+i)))); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start).Round(time.Millisecond); took != 4*time.Second {
			t.Errorf("five requests at one a second took %s", took)
		}
	})
}
