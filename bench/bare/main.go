// Command bare asks an endpoint as the shortest program would: go-openai and a pool
// of goroutines, nothing stored, nothing retried. It is what Precept's rate is
// measured against.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	openai "github.com/sashabaranov/go-openai"
	"github.com/sourcegraph/conc/pool"
)

func main() {
	url := flag.String("url", "http://127.0.0.1:8090/v1", "base URL of the endpoint")
	n := flag.Int("requests", 10_000, "requests to make")
	inFlight := flag.Int("in-flight", 256, "requests at once")
	size := flag.Int("system", 16<<10, "bytes of the system message")
	flag.Parse()
	if err := run(*url, *n, *inFlight, *size); err != nil {
		fmt.Fprintln(os.Stderr, "bare:", err)
		os.Exit(1)
	}
}

func run(url string, n, inFlight, size int) error {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, inFlight
	config := openai.DefaultConfig("")
	config.BaseURL, config.HTTPClient = url, &http.Client{Transport: transport}
	client := openai.NewClientWithConfig(config)
	system := strings.Repeat("Refuse what harms people, and comply with what does not. ", size/57+1)[:size]

	begun := time.Now()
	p := pool.New().WithErrors().WithMaxGoroutines(inFlight)
	for i := range n {
		p.Go(func() error {
			resp, err := client.CreateChatCompletion(context.Background(), openai.ChatCompletionRequest{
				Model: "mock-teacher", MaxCompletionTokens: 1024, Temperature: 1,
				Messages: []openai.ChatCompletionMessage{
					{Role: "system", Content: system}, {Role: "user", Content: fmt.Sprintf("How do I sort %d things?", i)},
				},
			})
			if err == nil && len(resp.Choices) != 1 {
				err = fmt.Errorf("%d choices", len(resp.Choices))
			}
			return err
		})
	}
	if err := p.Wait(); err != nil {
		return err
	}
	took := time.Since(begun)
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return err
	}
	cpu := time.Duration(u.Utime.Nano() + u.Stime.Nano())
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"requests": n, "seconds": took.Seconds(), "per_second": float64(n) / took.Seconds(), "cpu_us_per_request": float64(cpu.Microseconds()) / float64(n),
	})
}
