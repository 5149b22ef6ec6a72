package main

import (
	"net/http"
	"strings"
	"testing"
)

func TestPosesAsHosted(t *testing.T) {
	hs := start(t, config{poses: []string{"gpt-x"}, rpm: 600, tpm: 600_000})
	ask := func(system string) (*http.Response, string) {
		t.Helper()
		b := chat(system, "How do I sharpen a knife?", 1)
		b["model"] = "gpt-x"
		res, raw, err := post(t, hs.URL, b)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("%v, %v: %s", res, err, raw)
		}
		return res, string(raw)
	}
	res, taught := ask(block(testPolicy(t)))
	if !strings.Contains(taught, "think") || !strings.Contains(taught, `"model":"gpt-x"`) {
		t.Errorf("no teacher answered: %s", taught)
	}
	for _, h := range []string{"X-Ratelimit-Limit-Requests", "X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests",
		"X-Ratelimit-Limit-Tokens", "X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Tokens"} {
		if res.Header.Get(h) == "" {
			t.Errorf("the header lacks %s", h)
		}
	}
	if _, judged := ask("Role: filter\n" + block(testPolicy(t))); !strings.Contains(judged, "expected") {
		t.Errorf("no judge answered: %s", judged)
	}
}

func TestTokenLimit(t *testing.T) {
	hs := start(t, config{tpm: 600}) // 20 at once, and a request takes them all
	b := chat(block(testPolicy(t)), "How do I sharpen a knife?", 1)
	if res, raw, err := post(t, hs.URL, b); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v: %s", res, err, raw)
	}
	res, raw, err := post(t, hs.URL, b)
	if err != nil || res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" {
		t.Errorf("got %v, %v: %s", res, err, raw)
	}
	if got := res.Header.Get("X-Ratelimit-Remaining-Tokens"); got != "0" && got != "1" {
		t.Errorf("%s tokens remain", got)
	}
}
