package llm

import (
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

// TestTheFirstOfAPrefixGoesAhead where the prefix is cheaper the second time, for as long
// as others can be expected to wait.
func TestTheFirstOfAPrefixGoesAhead(t *testing.T) {
	long := strings.Repeat("policy ", 1000)
	for _, test := range []struct {
		name   string
		cached float64
		policy string
		took   time.Duration // of one request
		alone  int64         // requests at the start
		all    time.Duration
	}{
		{"cheaper", 0.5, long, time.Second, 1, 2 * time.Second},
		{"no cheaper", 1, long, time.Second, 8, time.Second},
		{"a short prefix", 0.5, "policy", time.Second, 8, time.Second},
		{"slow", 0.5, long, time.Minute, 1, 70 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := endpoint()
				e.MaxInFlight, e.InputUSD, e.CachedUSD = 8, 1, test.cached
				var alone atomic.Int64
				start := time.Now()
				c := scripted(t, e, 1, func(*http.Request) (*http.Response, error) {
					if time.Since(start) == 0 {
						alone.Add(1)
					}
					time.Sleep(test.took)
					return response(200, hello), nil
				})
				var asked sync.WaitGroup
				for i := range 8 {
					asked.Go(func() {
						_, _, err := c.Ask(t.Context(), Request{Messages: []schemas.Message{{Role: "system", Content: test.policy}, {Role: "user", Content: fmt.Sprint(i)}}})
						if err != nil {
							t.Error(err)
						}
					})
				}
				asked.Wait()
				if took := time.Since(start); alone.Load() != test.alone || took != test.all {
					t.Errorf("%d requests at first, all in %s; want %d, %s", alone.Load(), took, test.alone, test.all)
				}
			})
		})
	}
}
