package llm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"precept/schemas"
)

// TestTogether: pacing, replicas, the share, streams, prefixes, calls of the batch API, callers
// that leave and an account that is refused for a while leave nothing behind, whatever the
// endpoint does; and when all is well again, all is answered.
func TestTogether(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { together(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func together(t *testing.T, random *rand.Rand) {
	var mu sync.Mutex
	draw := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n)
	}
	start := time.Now()
	well := func() bool { return time.Since(start) > 3*time.Minute }
	e := endpoint()
	e.BaseURL, e.BaseURLs = "", []string{"http://a/v1", "http://b/v1"}
	e.MaxInFlight, e.RPM, e.TPM = 4, 6_000, 6_000_000
	e.Timeout, e.Stream = 10*time.Second, true
	e.InputUSD, e.CachedUSD, e.OutputUSD = 2, 1, 4
	share := func() float64 { // a store that comes and goes
		if !well() && int(time.Since(start).Seconds())%20 < 5 {
			return 0
		}
		return 0.5
	}
	serve := func(r *http.Request) (*http.Response, error) {
		if r.Body != nil {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return nil, err
			}
		}
		select {
		case <-time.After(time.Duration(draw(3000)) * time.Millisecond):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		if !well() {
			switch at := time.Since(start); {
			case at > 60*time.Second && at < 70*time.Second:
				return response(401, `{"error":{"message":"no"}}`), nil
			case at > 90*time.Second && at < 120*time.Second, r.URL.Host == "b" && draw(2) == 0:
				return response(503, "", "Retry-After", fmt.Sprint(draw(3))), nil
			}
			switch draw(12) {
			case 0:
				return response(429, "", "Retry-After", fmt.Sprint(draw(4))), nil
			case 1:
				return nil, errors.New("connection reset")
			case 2: // silence in the middle
				return says(time.Second, nil, delta("a"))(r)
			case 3:
				return says(time.Second, io.ErrUnexpectedEOF, delta("a"))(r)
			}
		}
		if strings.HasSuffix(r.URL.Path, "/batches/b1") {
			return response(200, `{"id":"b1"}`), nil
		}
		return says(100*time.Millisecond, io.EOF, delta("a"), stop, used, done)(r)
	}
	c, err := NewClient(e, Options{Journal: &Memory{}, Share: share, Transport: roundTrip(serve)})
	if err != nil {
		t.Fatal(err)
	}
	policies := []string{strings.Repeat("one ", 2000), strings.Repeat("two ", 2000), "short"}
	ask := func(ctx context.Context, i int) error {
		client := c.Guarded(func() error { return nil })
		if i%5 == 0 {
			client = client.Hasty()
		}
		if i%7 == 0 {
			_, err := client.Batch(ctx, "b1")
			return err
		}
		_, _, err := client.Ask(ctx, Request{Messages: []schemas.Message{{Role: "system", Content: policies[i%3]}, {Role: "user", Content: fmt.Sprint(i % 400)}}})
		return err
	}
	var callers sync.WaitGroup
	for i := range 32 {
		callers.Go(func() {
			for n := i; !well(); n += 32 {
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if draw(6) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(draw(5000))*time.Millisecond)
				}
				begun := time.Now()
				_ = ask(ctx, n)
				if took := time.Since(begun); took > 6*time.Minute {
					t.Errorf("%d took %s", n, took)
				}
				cancel()
				time.Sleep(time.Duration(draw(1000)) * time.Millisecond)
			}
		})
	}
	callers.Wait()
	if err := ask(t.Context(), 1); err != nil { // which may be what opens the account, or a replica
		t.Error(err)
	}
	for i := range 64 {
		callers.Go(func() {
			if err := ask(t.Context(), 3+i*5); err != nil {
				t.Errorf("when all is well: %v", err)
			}
		})
	}
	callers.Wait()
	p := c.pace
	for _, r := range p.replicas {
		if r.inFlight != 0 || r.waiting.Len() != 0 || r.breaker.trial != nil || r.gradient.asked != 0 {
			t.Errorf("%s: %d in flight, %d wait, trial %v, %d asked", r.url, r.inFlight, r.waiting.Len(), r.breaker.trial, r.gradient.asked)
		}
	}
	if p.queued != 0 || p.account.trial != nil || p.account.refusal != nil || len(c.flights.open) != 0 {
		t.Errorf("%d wait, account %+v, %d flights", p.queued, p.account, len(c.flights.open))
	}
}
