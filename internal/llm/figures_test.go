package llm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"precept/schemas"
)

// The mocks below are endpoints with a capacity that nobody tells the client. They run in
// fake time, so that the figures are the same on every machine.

// capacity is a mock of an endpoint that can do so much.
type capacity interface {
	http.RoundTripper
	// set changes what it can do.
	set(float64)
}

// counted counts what became of requests by the time of the reply.
type counted struct {
	capacity
	start time.Time

	mu      sync.Mutex
	served  []time.Duration
	refused []time.Duration
	seconds []float64 // in flight, of those served
}

func (c *counted) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Body.Close()
	begun := time.Now()
	resp, err := c.capacity.RoundTrip(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := time.Since(c.start); resp.StatusCode == http.StatusTooManyRequests {
		c.refused = append(c.refused, at)
	} else {
		c.served = append(c.served, at)
		c.seconds = append(c.seconds, time.Since(begun).Seconds())
	}
	return resp, err
}

// figures of a span of time.
type figures struct {
	perSecond float64 // requests served
	refused   float64 // share
	seconds   float64 // mean latency
}

func (c *counted) between(from, to time.Duration) (f figures) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var served, refused float64
	for i, at := range c.served {
		if at >= from && at < to {
			served++
			f.seconds += c.seconds[i]
		}
	}
	for _, at := range c.refused {
		if at >= from && at < to {
			refused++
		}
	}
	f.perSecond = served / (to - from).Seconds()
	f.refused = refused / max(1, served+refused)
	f.seconds /= max(1, served)
	return f
}

// busy is how many requests were in flight, on average.
func (c *counted) busy(from, to time.Duration) (mean float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, at := range c.served {
		begun := at - time.Duration(c.seconds[i]*float64(time.Second))
		mean += max(0, min(at, to)-max(begun, from)).Seconds()
	}
	return mean / (to - from).Seconds()
}

// tokens is a reply with so many.
func tokens(n int) *http.Response {
	return response(200, fmt.Sprintf(`{"choices":[{"message":{"content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":%d}}`, n))
}

// refusal comes after a round trip.
func refusal(header ...string) *http.Response {
	time.Sleep(20 * time.Millisecond)
	return response(429, "", header...)
}

// rated refuses what exceeds a rate. It holds a second's worth, or less.
type rated struct {
	holds   float64 // seconds
	latency func() time.Duration
	after   func(wait time.Duration) []string // the header of a refusal

	mu   sync.Mutex
	rate float64
	left float64
	at   time.Time
}

func (m *rated) set(rate float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refill()
	m.rate = rate
}

func (m *rated) refill() {
	now := time.Now()
	m.left = min(max(1, m.rate*m.holds), m.left+m.rate*now.Sub(m.at).Seconds())
	m.at = now
}

func (m *rated) RoundTrip(*http.Request) (*http.Response, error) {
	m.mu.Lock()
	m.refill()
	if m.left < 1-1e-6 {
		header := m.after(time.Duration((1 - m.left) / m.rate * float64(time.Second)))
		m.mu.Unlock()
		return refusal(header...), nil
	}
	m.left--
	m.mu.Unlock()
	time.Sleep(m.latency())
	return tokens(100), nil
}

// crowded refuses what exceeds a number at once.
type crowded struct {
	latency func() time.Duration

	mu       sync.Mutex
	most     float64
	inFlight float64
}

func (m *crowded) set(most float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.most = most
}

func (m *crowded) RoundTrip(*http.Request) (*http.Response, error) {
	m.mu.Lock()
	if m.inFlight >= m.most {
		m.mu.Unlock()
		return refusal(), nil
	}
	m.inFlight++
	m.mu.Unlock()
	time.Sleep(m.latency())
	m.mu.Lock()
	m.inFlight--
	m.mu.Unlock()
	return tokens(100), nil
}

// queueing serves so many at once, one after the other, and lets the others wait,
// as vLLM does.
type queueing struct {
	token  time.Duration
	length func() int

	mu      sync.Mutex
	slots   float64
	busy    float64
	waiting []chan struct{}
}

func (m *queueing) set(slots float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slots = slots
	m.next()
}

func (m *queueing) next() {
	for len(m.waiting) > 0 && m.busy < m.slots {
		m.busy++
		close(m.waiting[0])
		m.waiting = m.waiting[1:]
	}
}

func (m *queueing) RoundTrip(*http.Request) (*http.Response, error) {
	turn := make(chan struct{})
	m.mu.Lock()
	m.waiting = append(m.waiting, turn)
	n := m.length()
	m.next()
	m.mu.Unlock()
	<-turn
	time.Sleep(time.Duration(n) * m.token)
	m.mu.Lock()
	m.busy--
	m.next()
	m.mu.Unlock()
	return tokens(n), nil
}

// free has no limit.
type free struct {
	latency func() time.Duration
}

func (free) set(float64) {}

func (m *free) RoundTrip(*http.Request) (*http.Response, error) {
	time.Sleep(m.latency())
	return tokens(100), nil
}

// lognormal draws around a mean, by the spread of the logarithm.
func lognormal(seed uint64, mean, spread float64) func() float64 {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 0))
	return func() float64 {
		mu.Lock()
		defer mu.Unlock()
		return mean * math.Exp(spread*r.NormFloat64()-spread*spread/2)
	}
}

func latency(seed uint64, mean time.Duration, spread float64) func() time.Duration {
	draw := lognormal(seed, float64(mean), spread)
	return func() time.Duration { return time.Duration(draw()) }
}

// press has max_in_flight callers ask for so long, with a change of capacity on the way.
func press(t *testing.T, m capacity, inFlight int, during time.Duration, changes map[time.Duration]float64) *counted {
	t.Helper()
	c := &counted{capacity: m, start: time.Now()}
	e := endpoint()
	e.MaxInFlight, e.Timeout = inFlight, 10*time.Minute
	client, err := NewClient(e, Options{Journal: &Memory{}, Transport: c})
	if err != nil {
		t.Fatal(err)
	}
	for at, to := range changes {
		time.AfterFunc(at, func() { m.set(to) })
	}
	var wg sync.WaitGroup
	for i := range inFlight {
		wg.Go(func() {
			for n := 0; time.Since(c.start) < during; n++ {
				if _, _, err := client.Ask(t.Context(), ask(strconv.Itoa(i)+" "+strconv.Itoa(n))); err != nil && schemas.KindOf(err) != schemas.RateLimited {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	return c
}

func none(time.Duration) []string { return nil }

func whole(wait time.Duration) []string {
	return []string{"Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds())))}
}

func exact(wait time.Duration) []string {
	return []string{"Retry-After-Ms", strconv.FormatFloat(float64(wait)/float64(time.Millisecond), 'f', 3, 64)}
}

// TestFigures: whatever an endpoint can do is reached within ten seconds, and again within
// ten seconds of a change, with hardly any request refused after that.
func TestFigures(t *testing.T) {
	const s = time.Second
	steady := func() time.Duration { return s }
	for _, test := range []struct {
		name     string
		mock     func() capacity
		inFlight int
		first    float64
		each     float64 // requests a second for one of the capacity
		slowest  float64 // mean seconds of a request in the end; 0 for any
	}{
		{"a rate", func() capacity { return &rated{holds: 1, latency: latency(1, s/2, 0.3), after: none} }, 256, 100, 1, 0},
		{"a rate, a tenth of a second saved up", func() capacity { return &rated{holds: 0.1, latency: latency(1, s/2, 0.3), after: none} }, 256, 100, 1, 0},
		{"a rate with Retry-After", func() capacity { return &rated{holds: 1, latency: latency(1, s/2, 0.3), after: whole} }, 256, 100, 1, 0},
		{"a rate with Retry-After-Ms", func() capacity { return &rated{holds: 1, latency: latency(1, s/2, 0.3), after: exact} }, 256, 100, 1, 0},
		{"a rate with Retry-After, near max_in_flight", func() capacity { return &rated{holds: 1, latency: latency(1, s/2, 0.3), after: whole} }, 128, 100, 1, 0},
		{"a number at once", func() capacity { return &crowded{latency: steady} }, 256, 64, 1, 0},
		{"a number at once, varying", func() capacity { return &crowded{latency: latency(1, s, 0.5)} }, 256, 64, 1, 0},
		{"a queue", func() capacity {
			length := lognormal(1, 100, 0.7)
			return &queueing{token: 10 * time.Millisecond, length: func() int { return 1 + int(length()) }}
		}, 128, 32, 1, 2}, // of which one is its own
	} {
		for change, factor := range map[string]float64{"steady": 1, "halves": 0.5, "doubles": 2} {
			t.Run(test.name+"/"+change, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := test.mock()
					m.set(test.first)
					time.Sleep(time.Minute) // it is rested
					c := press(t, m, test.inFlight, 70*s, map[time.Duration]float64{30 * s: test.first * factor})
					for _, span := range []struct {
						from, to time.Duration
						capacity float64
					}{{10 * s, 30 * s, test.first}, {40 * s, 70 * s, test.first * factor}} {
						f := c.between(span.from, span.to)
						t.Logf("%s to %s: %.1f%% of the capacity, %.2f%% refused, %.2f s", span.from, span.to, 100*f.perSecond/span.capacity/test.each, 100*f.refused, f.seconds)
						if f.perSecond < 0.95*span.capacity*test.each || f.refused >= 0.02 {
							t.Errorf("from %s to %s: %.1f%% of the capacity, %.2f%% refused", span.from, span.to, 100*f.perSecond/span.capacity/test.each, 100*f.refused)
						}
					}
					if f := c.between(40*s, 70*s); test.slowest != 0 && f.seconds > test.slowest {
						t.Errorf("a request takes %.2f s in the end", f.seconds)
					}
				})
			})
		}
	}
}

// batching serves all at once, each the slower the more there are, as a GPU does.
type batching struct {
	length func() int

	mu       sync.Mutex
	inFlight int
}

func (m *batching) set(float64) {}

func (m *batching) RoundTrip(*http.Request) (*http.Response, error) {
	m.mu.Lock()
	m.inFlight++
	n := m.length()
	m.mu.Unlock()
	for left := n; left > 0; left -= 10 {
		m.mu.Lock()
		token := 7*time.Millisecond + time.Duration(m.inFlight)*43*time.Microsecond
		m.mu.Unlock()
		time.Sleep(time.Duration(min(left, 10)) * token)
	}
	m.mu.Lock()
	m.inFlight--
	m.mu.Unlock()
	return tokens(n), nil
}

// TestBatchesAreNoQueue: 256 at once are answered 2.6 times as slowly as one, and 98 times
// as many a second.
func TestBatchesAreNoQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		length := lognormal(1, 100, 0.7)
		c := press(t, &batching{length: func() int { return 1 + int(length()) }}, 256, 130*time.Second, nil)
		used := c.busy(10*time.Second, 130*time.Second) / 256
		t.Logf("%.1f%% of max_in_flight is used", 100*used)
		if used < 0.95 {
			t.Errorf("%.1f%% of max_in_flight is used", 100*used)
		}
	})
}

// TestLatenciesThatVary: where nothing queues, what a client could have in flight is what
// it could have answered, and it uses all of it, however widely latencies vary.
func TestLatenciesThatVary(t *testing.T) {
	const inFlight, from, to = 64, 10 * time.Second, 130 * time.Second
	for _, spread := range []float64{0.5, 1, 1.5} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("%v/%d", spread, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := press(t, &free{latency: latency(seed, time.Second, spread)}, inFlight, to, nil)
					used := c.busy(from, to) / inFlight
					t.Logf("%.2f%% of max_in_flight's throughput", 100*used)
					if used < 0.95 {
						t.Errorf("%.1f%% of what max_in_flight gives", 100*used)
					}
				})
			})
		}
	}
}
