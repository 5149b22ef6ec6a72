package fleet_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"precept/internal/fleet"
	"precept/internal/llm"
	"precept/schemas"
)

// api is an endpoint that takes all and keeps account of when.
type api struct {
	mu   sync.Mutex
	sent []time.Time
}

func (a *api) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	a.sent = append(a.sent, time.Now())
	a.mu.Unlock()
	time.Sleep(200 * time.Millisecond)
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Request: r,
		Body: io.NopCloser(strings.NewReader(`{"choices":[{"message":{"content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":100}}`)),
	}, nil
}

// between counts the requests from one time to another.
func (a *api) between(from, to time.Time) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range a.sent {
		if !at.Before(from) && at.Before(to) {
			n++
		}
	}
	return n
}

// load is a process that asks as much as it may, or a bit at a time.
type load struct {
	*process
	stop  context.CancelFunc
	every time.Duration // between two requests of one of its tasks
}

func (w *world) load(name string, rpm, tpm int, every time.Duration, a *api) *load {
	w.Helper()
	var c *llm.Client
	p := w.process(name, fleet.Options{Demand: func() float64 { return c.Demand() }})
	c, err := llm.NewClient(llm.Endpoint{
		Name: endpoint, BaseURL: "http://api/v1", Model: "m", Provider: "p", Revision: "1", MaxInFlight: 8, RPM: rpm, TPM: tpm,
	}, llm.Options{Journal: &llm.Memory{}, Attempts: 1, Share: p.Share, Transport: a})
	if err != nil {
		w.Fatal(err)
	}
	ctx, stop := context.WithCancel(w.Context())
	var tasks sync.WaitGroup
	for task := range 8 {
		tasks.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				text := fmt.Sprint(name, task, i)
				if _, _, err := c.Ask(ctx, llm.Request{Messages: []schemas.Message{{Role: "user", Content: text}}}); err != nil && ctx.Err() == nil {
					w.Error(err)
				}
				select {
				case <-time.After(every):
				case <-ctx.Done():
				}
			}
		})
	}
	w.Cleanup(func() { stop(); tasks.Wait() })
	return &load{p, stop, every}
}

// kill ends a load as SIGKILL does.
func (l *load) kill() {
	l.stop()
	l.die()
}

// TestRate has four workers ask one endpoint, of which one joins late, one is killed and one
// has little to do.
func TestRate(t *testing.T) {
	for _, test := range []struct {
		name  string
		rpm   int
		tpm   int
		every time.Duration // of the first; the others have enough to do
		loss  float64       // of the rate, once shares have settled
	}{
		{"all busy", 600, 0, 0, 0.02},
		{"one with little to do", 600, 0, 30 * time.Second, 0.1},
		{"limited in tokens", 0, 600 * 200, 0, 0.05},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const rpm, perSecond = 600, 10
				const settled = 15 * time.Second
				w, a := newWorld(t), &api{}
				start := time.Now()
				w.load("first", test.rpm, test.tpm, test.every, a)
				second := w.load("second", test.rpm, test.tpm, 0, a)
				w.load("third", test.rpm, test.tpm, 0, a)
				time.Sleep(time.Minute)
				w.load("fourth", test.rpm, test.tpm, 0, a)
				joined := time.Now()
				time.Sleep(settled + time.Minute)
				second.kill()
				killed := time.Now()
				time.Sleep(settled + time.Minute)

				rate := func(from, to time.Time) float64 { return float64(a.between(from, to)) / to.Sub(from).Seconds() }
				for _, phase := range []struct {
					what     string
					from, to time.Time
				}{
					{"when three had begun", start.Add(settled), joined},
					{"when one had joined", joined.Add(settled), killed},
					{"when one had died", killed.Add(settled), time.Now()},
				} {
					got := rate(phase.from, phase.to)
					t.Logf("%s: %.2f a second", phase.what, got)
					if math.Abs(got-perSecond) > test.loss*perSecond {
						t.Errorf("%s: %.2f requests a second, want %d", phase.what, got, perSecond)
					}
				}
				t.Logf("in the 15 s after one joined %.2f a second, after one was killed %.2f", rate(joined, joined.Add(settled)), rate(killed, killed.Add(settled)))
				most := 0
				for _, at := range a.sent {
					most = max(most, a.between(at, at.Add(time.Minute)))
				}
				// What a member that is alone may send from one renewal to the next.
				slack := perSecond * renew.Seconds()
				t.Logf("at most %d in a minute", most)
				if float64(most) > rpm+slack {
					t.Errorf("%d requests in a minute, want at most %v", most, rpm+slack)
				}
			})
		})
	}
}
