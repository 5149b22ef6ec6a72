package llm

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

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
