package llm

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// keys have odd shapes; a server may want any of them.
var keys = []string{
	testKey,
	"0123456789abcdef0123456789abcdef",
	"ab/cd+ef/gh+ijklmnopqrstuv==",
	`quote"back\slash'and<angle>&co`,
	"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
	"schlüssel-mit-ümlauten",
}

func TestHide(t *testing.T) {
	for _, key := range keys {
		s := newSecret(key)
		raw, err := json.Marshal(key)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{
			"Bearer " + key, key + key, string(raw), strings.ReplaceAll(string(raw), "/", `\/`), fmt.Sprintf("%q", key),
			url.QueryEscape(key), url.PathEscape(key), "?key=" + strings.ToLower(url.QueryEscape(key[:1])) + url.QueryEscape(key),
			base64.StdEncoding.EncodeToString([]byte(key)), base64.RawURLEncoding.EncodeToString([]byte("Bearer " + key)),
			"cut: " + key[:minSecret+3] + "…", "cut: …" + key[len(key)-minSecret-3:], key[:len(key)-1],
		} {
			if got := s.hide(text); !strings.Contains(got, "[key]") || strings.Contains(got, key) || len(got) > len(text) {
				t.Errorf("key %q: %q is shown as %q", key, text, got)
			}
		}
		for _, text := range []string{"", "a", "nothing of it", key[:minSecret-1]} {
			if got := s.hide(text); got != text {
				t.Errorf("key %q: %q became %q", key, text, got)
			}
		}
	}
	if got := newSecret("none").hide("there is none"); got != "there is none" {
		t.Errorf("a word is taken for a key: %q", got)
	}
}

// echoes replies with the request's header in a way of its own each time.
func echoes(n int, r *http.Request) (status int, body string) {
	seen := r.Header.Get("Authorization")
	raw, _ := json.Marshal(seen)
	text := strings.Trim(string(raw), `"`)
	switch n {
	case 0:
		return 200, fmt.Sprintf(`{"model":"m %[1]s","system_fingerprint":"%[1]s","choices":[{"message":{"content":"You sent %[1]s","reasoning":"%[1]s"},"finish_reason":"%[1]s"}]}`, text)
	case 1:
		return 200, fmt.Sprintf(`{"choices":[{"message":{"refusal":"No %s"},"finish_reason":"stop"}]}`, strings.ReplaceAll(text, "/", `\/`))
	case 2:
		return 400, fmt.Sprintf(`{"error":{"code":"content_filter","message":"%s"}}`, text)
	case 3:
		return 400, fmt.Sprintf(`{"error":{"code":"context_length_exceeded","message":"%s"}}`, text)
	case 4:
		return 401, fmt.Sprintf(`{"error":{"code":"invalid_api_key","message":"Incorrect API key provided: %s"}}`, text)
	case 5:
		return 500, strings.Repeat("x", 60) + seen // is cut in the middle of it
	case 6:
		return 500, fmt.Sprintf(`{"error":{"message":"%s%s"}}`, strings.Repeat("x", maxText-20), text)
	case 7:
		return 200, `{"error":{"message":"` + text + `"}}`
	case 8:
		return 200, "no JSON: " + string(raw)
	case 9:
		return 429, url.QueryEscape(seen)
	case 10:
		return 200, fmt.Sprintf("data: {\"choices\":[{\"delta\":{\"content\":\"%s\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"%s\"},\"finish_reason\":\"stop\"}]}\n\n", text[:len(text)/2], text[len(text)/2:])
	case 11:
		return 502, `<html>` + seen
	case 12:
		return 200, `{"choices":[{"message":{"content":"` + strings.Repeat("x", maxAnswer-20) + text + `"}}]}`
	case 13:
		return 200, `{"choices":[{"message":{"content":"` + strings.Repeat("x", 1980) + text + strings.Repeat("x", maxAnswer) + `"}}]}`
	case 14:
		return 404, base64.StdEncoding.EncodeToString([]byte(seen))
	}
	return 0, ""
}

// TestKeyIsKeptNowhere: whatever a server echoes, neither an answer that is journaled nor
// an error holds a piece of the key.
func TestKeyIsKeptNowhere(t *testing.T) {
	for _, key := range keys {
		for n := 0; ; n++ {
			if status, _ := echoes(n, &http.Request{}); status == 0 {
				break
			}
			c, journal := serve(t, func(w http.ResponseWriter, r *http.Request) {
				status, body := echoes(n, r)
				w.Header().Set("X-Echo", r.Header.Get("Authorization"))
				w.WriteHeader(status)
				fmt.Fprint(w, body)
			}, func(e *Endpoint, _ *Options) { t.Setenv(e.APIKeyEnv, key) })
			a, _, err := c.Ask(t.Context(), ask("Hi"))
			kept := []string{fmt.Sprintf("%+v %v %+v %#v %v", a, err, err, c, c.Last())}
			for _, raw := range journal.answers {
				kept = append(kept, string(raw))
				if err := json.Unmarshal(raw, &a); err != nil {
					t.Fatal(err)
				}
				kept = append(kept, fmt.Sprintf("%+v", a))
			}
			for _, text := range kept {
				for _, form := range newSecret(key).forms {
					for i := range len(form) - minSecret {
						if strings.Contains(text, form[i:i+minSecret]) {
							t.Errorf("echo %d of %q: %q is in %.1000s", n, key, form[i:i+minSecret], text)
							break
						}
					}
				}
			}
		}
	}
}

func TestKeyThatNoHeaderTakes(t *testing.T) {
	t.Setenv("TEST_LLM_KEY", "two\nlines of a key")
	e := endpoint()
	e.APIKeyEnv = "TEST_LLM_KEY"
	if _, err := NewClient(e, Options{Journal: &Memory{}}); err == nil || !strings.Contains(err.Error(), "line break") || strings.Contains(err.Error(), "lines") {
		t.Errorf("got %v", err)
	}
}
