package llm

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"precept/schemas"
)

// farm is the servers behind one endpoint, by host.
type farm struct {
	latency time.Duration

	mu   sync.Mutex
	down map[string]bool
	got  map[string]map[string]int // requests by host and policy
	now  map[string]int            // in flight
	most map[string]int
}

func newFarm(latency time.Duration) *farm {
	return &farm{latency: latency, down: map[string]bool{}, got: map[string]map[string]int{}, now: map[string]int{}, most: map[string]int{}}
}

func (f *farm) RoundTrip(r *http.Request) (*http.Response, error) {
	body := make([]byte, r.ContentLength)
	_, _ = r.Body.Read(body)
	r.Body.Close()
	policy, host := "", r.URL.Host
	if i := strings.Index(string(body), "policy "); i >= 0 {
		policy = string(body)[i : i+9]
	}
	f.mu.Lock()
	if f.down[host] {
		f.mu.Unlock()
		return nil, errors.New("connection refused")
	}
	if f.got[host] == nil {
		f.got[host] = map[string]int{}
	}
	f.got[host][policy]++
	f.now[host]++
	f.most[host] = max(f.most[host], f.now[host])
	f.mu.Unlock()
	time.Sleep(f.latency)
	f.mu.Lock()
	f.now[host]--
	f.mu.Unlock()
	return response(200, hello), nil
}

// stayed is the share of requests that went to the host of most of their policy's.
func (f *farm) stayed() float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	most, all := map[string]int{}, 0
	for _, policies := range f.got {
		for policy, n := range policies {
			most[policy] = max(most[policy], n)
			all += n
		}
	}
	stayed := 0
	for _, n := range most {
		stayed += n
	}
	return float64(stayed) / float64(all)
}

// of is how many requests each host got since the last time.
func (f *farm) of() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	counts := map[string]int{}
	for host, policies := range f.got {
		for _, n := range policies {
			counts[host] += n
		}
	}
	clear(f.got)
	return counts
}

func farmed(t *testing.T, f *farm) *Client {
	e := endpoint()
	e.BaseURL, e.BaseURLs, e.MaxInFlight = "", []string{"http://a/v1", "http://b/v1", "http://c/v1"}, 16
	return scripted(t, e, 0, f.RoundTrip)
}

// share has so many callers ask about so many policies for a time.
func share(t *testing.T, c *Client, callers, policies int, during time.Duration) {
	t.Helper()
	start := time.Now()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for n := 0; time.Since(start) < during; n++ {
				r := Request{Messages: []schemas.Message{
					{Role: "system", Content: fmt.Sprintf("policy %02d", i%policies)},
					{Role: "user", Content: fmt.Sprint(start.UnixNano(), i, n)},
				}}
				if _, _, err := c.Ask(t.Context(), r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestReplicasKeepPrefixes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(time.Second)
		share(t, farmed(t, f), 7, 7, 30*time.Second)
		if got := f.stayed(); got != 1 {
			t.Errorf("%.1f%% of the requests stayed where their prefix is", 100*got)
		}
		if n := len(f.of()); n < 2 {
			t.Errorf("%d replicas were used", n)
		}
	})
}

// TestReplicasShareLoad: one policy fills all replicas when there is work for them.
func TestReplicasShareLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(time.Second)
		c := farmed(t, f)
		if got := c.Endpoint().InFlight(); got != 48 {
			t.Fatalf("%d in flight", got)
		}
		share(t, c, 48, 1, 60*time.Second)
		total := 0
		for host, n := range f.of() {
			total += n
			if f.most[host] > 16 {
				t.Errorf("%d at once to %s", f.most[host], host)
			}
		}
		if rate := float64(total) / 60; rate < 0.93*48 {
			t.Errorf("%.1f requests a second of 48", rate)
		}
	})
}

// TestReplicaDiesAndReturns: its prefixes move, the others' don't, and they come back.
func TestReplicaDiesAndReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(time.Second)
		c := farmed(t, f)
		share(t, c, 24, 12, 20*time.Second)
		if stayed := f.stayed(); stayed < 0.99 {
			t.Errorf("%.1f%% stayed at first", 100*stayed)
		}
		before := f.of()
		var dead string
		for host, n := range before {
			if n > before[dead] {
				dead = host
			}
		}
		f.mu.Lock()
		f.down[dead] = true
		f.mu.Unlock()
		share(t, c, 24, 12, 60*time.Second)
		if stayed := f.stayed(); stayed < 0.95 {
			t.Errorf("%.1f%% stayed while one was dead", 100*stayed)
		}
		during, total := f.of(), 0
		for _, n := range during {
			total += n
		}
		if during[dead] != 0 || total < 24*55 {
			t.Errorf("while one was dead: %v", during)
		}
		f.mu.Lock()
		f.down[dead] = false
		f.mu.Unlock()
		share(t, c, 24, 12, 40*time.Second) // within the longest pause between trials
		f.of()
		share(t, c, 24, 12, 20*time.Second)
		if stayed := f.stayed(); stayed < 0.99 {
			t.Errorf("%.1f%% stayed after it returned", 100*stayed)
		}
		after := f.of()
		t.Logf("before %v, while one was dead %v, after %v", before, during, after)
		for host := range before {
			if after[host] < before[host]*9/10 {
				t.Errorf("before %v, after %v", before, after)
			}
		}
	})
}
