package llm

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// meter counts requests by the second.
type meter struct {
	start time.Time
	mu    sync.Mutex
	at    []time.Duration
}

func (m *meter) note() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = append(m.at, time.Since(m.start))
}

func (m *meter) between(from, to time.Duration) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, at := range m.at {
		if at >= from && at < to {
			n++
		}
	}
	return n
}

// flood has so many callers ask until the time is over.
func flood(t *testing.T, c *Client, callers int, during time.Duration) {
	start := time.Now()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for n := 0; time.Since(start) < during; n++ {
				if _, _, err := c.Ask(t.Context(), ask(fmt.Sprint(i, " ", n))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestTPM: a request is charged by an estimate, which learns, and then by what it took.
func TestTPM(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := meter{start: time.Now()}
		e := endpoint()
		e.MaxInFlight, e.TPM = 64, 60_000
		c := scripted(t, e, 1, func(*http.Request) (*http.Response, error) {
			m.note()
			time.Sleep(time.Second)
			return tokens(100), nil // and 100 of the prompt: five requests a second
		})
		flood(t, c, 64, time.Minute)
		if n := m.between(0, time.Minute); n < 285 || n > 310 {
			t.Errorf("%d requests of 200 tokens in a minute of 60,000", n)
		}
		if n := m.between(0, time.Second); n > 10 {
			t.Errorf("%d requests in the first second", n)
		}
	})
}

// TestHeadersTell: limits are read from the replies, and configured ones are an upper
// bound.
func TestHeadersTell(t *testing.T) {
	for _, test := range []struct {
		name      string
		rpm, tpm  int
		header    []string
		perSecond float64
	}{
		{"requests", 0, 0, []string{"X-Ratelimit-Limit-Requests", "600"}, 10},
		{"tokens", 0, 0, []string{"X-Ratelimit-Limit-Tokens", "60000"}, 5},
		{"less is configured", 300, 0, []string{"X-Ratelimit-Limit-Requests", "600"}, 5},
		{"more is configured", 900, 0, []string{"X-Ratelimit-Limit-Requests", "600"}, 10},
		{"of a day", 600, 0, []string{"X-Ratelimit-Limit-Requests", "300", "X-Ratelimit-Reset-Requests", "7m12s"}, 10},
		{"nonsense", 600, 0, []string{"X-Ratelimit-Limit-Requests", "-1", "X-Ratelimit-Limit-Tokens", "many"}, 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := meter{start: time.Now()}
				e := endpoint()
				e.MaxInFlight, e.RPM, e.TPM = 64, test.rpm, test.tpm
				c := scripted(t, e, 1, func(*http.Request) (*http.Response, error) {
					m.note()
					time.Sleep(time.Second)
					r := tokens(100)
					for i := 0; i < len(test.header); i += 2 {
						r.Header.Set(test.header[i], test.header[i+1])
					}
					return r, nil
				})
				flood(t, c, 64, 40*time.Second)
				// Before the first reply nothing is known.
				if got := float64(m.between(20*time.Second, 40*time.Second)) / 20; got < 0.95*test.perSecond || got > 1.02*test.perSecond {
					t.Errorf("%.2f requests a second, want %v", got, test.perSecond)
				}
			})
		})
	}
}

// TestRemaining: where others use up the limit too, the header says so before a refusal
// does.
func TestRemaining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 600.
		m := meter{start: time.Now()}
		var mu sync.Mutex
		left, at, refused := limit, time.Now(), 0
		take := func(n float64) (float64, bool) {
			mu.Lock()
			defer mu.Unlock()
			left = min(limit, left+time.Since(at).Seconds()*limit/60)
			at = time.Now()
			if left < n {
				return left, false
			}
			left -= n
			return left, true
		}
		stop := make(chan struct{})
		defer close(stop)
		go func() { // another process takes half
			for {
				select {
				case <-time.After(time.Second):
					take(5)
				case <-stop:
					return
				}
			}
		}()
		e := endpoint()
		e.MaxInFlight = 64
		c := scripted(t, e, 4, func(*http.Request) (*http.Response, error) {
			left, ok := take(1)
			if !ok {
				mu.Lock()
				refused++
				mu.Unlock()
				return response(429, ""), nil
			}
			m.note()
			time.Sleep(time.Second)
			r := tokens(10)
			r.Header.Set("X-Ratelimit-Limit-Requests", "600")
			r.Header.Set("X-Ratelimit-Remaining-Requests", strconv.Itoa(int(left)))
			return r, nil
		})
		flood(t, c, 64, 5*time.Minute)
		if got := float64(m.between(3*time.Minute, 5*time.Minute)) / 120; got < 4.5 {
			t.Errorf("%.2f requests a second, where 5 were left", got)
		}
		if refused > 30 {
			t.Errorf("%d refused", refused)
		}
	})
}

// TestShare: the share is read whenever a request is admitted, and what was saved up
// shrinks with it.
func TestShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var share atomic.Int64 // percent
		share.Store(100)
		e := endpoint()
		e.MaxInFlight, e.RPM = 64, 3000 // 50 a second
		m := meter{start: time.Now()}
		c, err := NewClient(e, Options{Journal: &Memory{}, Share: func() float64 { return float64(share.Load()) / 100 },
			Transport: roundTrip(func(*http.Request) (*http.Response, error) {
				m.note()
				time.Sleep(100 * time.Millisecond)
				return response(200, hello), nil
			})})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // a second's worth is saved up
		share.Store(10)
		m.start = time.Now()
		for at, to := range map[time.Duration]int64{10 * time.Second: 0, 20 * time.Second: 50} {
			time.AfterFunc(at, func() { share.Store(to) })
		}
		flood(t, c, 64, 40*time.Second)
		for _, span := range []struct {
			from, to time.Duration
			most     int
			least    int
		}{
			{0, time.Second, 10, 5},
			{2 * time.Second, 10 * time.Second, 41, 39},
			{10500 * time.Millisecond, 20 * time.Second, 0, 0},
			{21 * time.Second, 40 * time.Second, 480, 465},
		} {
			if n := m.between(span.from, span.to); n < span.least || n > span.most {
				t.Errorf("%d requests from %s to %s, want %d to %d", n, span.from, span.to, span.least, span.most)
			}
		}
	})
}
