package llm

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"precept/schemas"
)

// transported answers without a network.
type transported struct{}

func (transported) RoundTrip(r *http.Request) (*http.Response, error) {
	_, _ = io.Copy(io.Discard, r.Body)
	r.Body.Close()
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(hello)), Request: r}, nil
}

// BenchmarkAsk is what a request costs beside the network: a policy of 16 KB, a new
// question each.
func BenchmarkAsk(b *testing.B) {
	c, err := NewClient(endpoint(), Options{Journal: &Memory{}, Transport: transported{}})
	if err != nil {
		b.Fatal(err)
	}
	policy := strings.Repeat("Refuse what harms people, and comply with what does not. ", 287)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_, _, err := c.Ask(b.Context(), Request{MaxTokens: 1024, Temperature: 1, Messages: []schemas.Message{
			{Role: "system", Content: policy}, {Role: "user", Content: fmt.Sprint("How do I sort these? ", i)},
		}})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTurn is what pacing costs a request: 1,024 callers at an endpoint with limits
// of its own, and half of them waiting.
func BenchmarkTurn(b *testing.B) {
	for _, replicas := range []int{1, 4} {
		b.Run(fmt.Sprint(replicas), func(b *testing.B) {
			e := endpoint()
			e.BaseURL, e.MaxInFlight, e.RPM, e.TPM = "", 512/replicas, 1e9, 1e12
			for i := range replicas {
				e.BaseURLs = append(e.BaseURLs, fmt.Sprintf("http://%d/v1", i))
			}
			p := newPace(e, nil, time.Minute)
			for _, r := range p.replicas {
				r.ceiling.most, r.ceiling.rate = 1e6, 1e9
			}
			guard := func() error { return nil }
			header := http.Header{"X-Ratelimit-Limit-Requests": {"1000000000"}, "X-Ratelimit-Remaining-Requests": {"999999999"}}
			b.SetParallelism(1024 / runtime.GOMAXPROCS(0))
			b.ReportAllocs()
			before := cpu(b)
			b.RunParallel(func(pb *testing.PB) {
				for n := uint32(0); pb.Next(); n++ {
					t := &turn{prefix: n % 7, bytes: 20_000}
					if err := p.enter(b.Context(), t, guard); err != nil {
						b.Error(err)
						return
					}
					runtime.Gosched() // it is on its way
					p.leave(t, outcome{sent: true, usage: Usage{PromptTokens: 5000, CompletionTokens: 500}, seconds: 1, header: header})
				}
			})
			b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpu is the time that this process has used: other processes may take most of the
// machine's.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
