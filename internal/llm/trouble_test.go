package llm

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestTrouble: an endpoint that is out or refuses the account says so, from when it began,
// until it answers; one that fails now and then doesn't.
func TestTrouble(t *testing.T) {
	tests := []struct {
		name  string
		send  func(n int) (*http.Response, error)
		after int    // how many requests, one a second, show that it is in trouble; 0 for never
		says  string // in its trouble
	}{
		{"out", func(int) (*http.Response, error) { return nil, errors.New("connection refused") }, troubleAfter, "Post \"http://127.0.0.1:1/v1/chat/completions\": connection refused"},
		{"a refused key", func(int) (*http.Response, error) {
			return response(401, `{"error":{"message":"no such key"}}`), nil
		}, 1, "HTTP 401: no such key"},
		{"fails now and then", func(n int) (*http.Response, error) {
			if n%troubleAfter == 0 {
				return response(200, hello), nil
			}
			return response(502, ""), nil
		}, 0, ""},
		{"too many requests", func(int) (*http.Response, error) { return response(429, ""), nil }, 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				up, sent := false, 0
				c := scripted(t, endpoint(), 1, func(*http.Request) (*http.Response, error) {
					if sent++; up {
						return response(200, hello), nil
					}
					return tt.send(sent)
				})
				for i := range 2 * troubleAfter {
					_, _, err := c.Guarded(func() error { return nil }).Ask(t.Context(), ask(fmt.Sprint(i)))
					got := c.Trouble()
					if want := tt.after > 0 && i+1 >= tt.after; want != (got != nil) {
						t.Fatalf("after request %d, which ended with %v, it is in trouble: %+v", i+1, err, got)
					}
					if got != nil && (!got.Since.Equal(start) || !strings.HasPrefix(got.Says, tt.says)) {
						t.Errorf("since %s it says %q", got.Since.Sub(start), got.Says)
					}
					time.Sleep(time.Second)
				}
				before := c.Answers()
				up = true
				if _, _, err := c.Guarded(func() error { return nil }).Ask(t.Context(), ask("again")); err != nil || c.Trouble() != nil || c.Answers() != before+1 {
					t.Errorf("when it is back: %v, %+v", err, c.Trouble())
				}
			})
		})
	}
}
