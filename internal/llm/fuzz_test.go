package llm

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"precept/internal/llm/llmtest"
	"precept/schemas"
)

// recorded is every reply that has a body and comes whole, as a seed.
func recorded(seed func(status int, body []byte)) {
	for _, reply := range llmtest.Replies {
		if strings.HasPrefix(reply.Name, "stall") || strings.Contains(reply.Name, "megabytes") || reply.Name == "switched protocol" || reply.Name == "nested JSON" {
			continue
		}
		w := httptest.NewRecorder()
		func() {
			defer func() { _ = recover() }() // a connection that is cut
			reply.Write(w, httptest.NewRequest("POST", "/", nil), llmtest.Answer{Model: "m", CoT: "A thought.", Text: "An answer.", PromptTokens: 10, CompletionTokens: 5})
		}()
		seed(w.Code, w.Body.Bytes())
	}
}

// FuzzReply: whatever a server replies is an answer that is journaled or an error that
// says what to do, and both can be kept anywhere.
func FuzzReply(f *testing.F) {
	f.Add(200, []byte(hello))
	f.Add(200, []byte(`{"error":{"code":429}}`))
	f.Add(400, []byte(`{"error":{"message":"No.","innererror":{"code":1}}}`))
	recorded(func(status int, body []byte) { f.Add(status, body) })
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 100 || status > 599 {
			return
		}
		journal := &Memory{}
		c, err := NewClient(endpoint(), Options{Journal: journal, Attempts: 1, Transport: roundTrip(func(*http.Request) (*http.Response, error) {
			return response(status, string(body)), nil
		})})
		if err != nil {
			t.Fatal(err)
		}
		answer, meta, err := c.Ask(t.Context(), ask("Hi"))
		if (err == nil) != (journal.Len() == 1) {
			t.Fatalf("%d answers journaled with error %v", journal.Len(), err)
		}
		if err != nil {
			if kind := schemas.KindOf(err); kind == schemas.Internal {
				t.Fatalf("unclassified: %v", err)
			}
			if text := err.Error(); !utf8.ValidString(text) || len(text) > 4*maxText+1000 {
				t.Fatalf("%d bytes: %q", len(text), text)
			}
			return
		}
		holds(t, answer)
		again, found, err := c.Ask(t.Context(), ask("Hi"))
		if err != nil || !found.Cached || again != answer || meta.USD < 0 {
			t.Fatalf("%+v is journaled as %+v, %v", answer, again, err)
		}
	})
}

// holds holds what is true of every answer.
func holds(t *testing.T, a Answer) {
	for _, text := range []string{a.Content, a.CoT, a.FinishReason, a.Model, a.Fingerprint} {
		if !utf8.ValidString(text) {
			t.Fatalf("%q is not UTF-8", text)
		}
	}
	u := a.Usage
	if len(a.Content)+len(a.CoT) > maxAnswer+10 || u.CachedTokens < 0 || u.CachedTokens > u.PromptTokens || u.ReasoningTokens < 0 || u.ReasoningTokens > u.CompletionTokens || u.PromptTokens > 4*maxCount || u.CompletionTokens > 4*maxCount {
		t.Fatalf("%.2000v", a)
	}
	for _, form := range []CoT{"", CoTThink, CoTField, CoTSections} {
		if cot, answer, ok := form.Read(a); ok && (strings.TrimSpace(cot) == "" || hasTag(answer)) {
			t.Fatalf("%q: %+v is read as %q and %q", form, a, cot, answer)
		}
	}
}

// FuzzStream: a stream of any bytes, cut anywhere, is read alike whether it was asked
// for or not, and as if its end had not mattered once it has told its reason to end.
func FuzzStream(f *testing.F) {
	f.Add([]byte("data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\r\n\r\ndata: [DONE]\r\n\r\n"), uint16(20))
	f.Add([]byte("event: error\ndata: {\"message\":\"away\"}\n\n"), uint16(0))
	f.Add([]byte("data: {\"choices\":\ndata: []}\n\n"), uint16(9))
	recorded(func(status int, body []byte) {
		if status == 200 && isStream(body) {
			f.Add(body, uint16(0))
			f.Add(body, uint16(len(body)/2))
		}
	})
	f.Fuzz(func(t *testing.T, body []byte, cut uint16) {
		send := func(streams bool, cut int) (Answer, error) {
			e := endpoint()
			e.Stream, e.Timeout = streams, time.Minute
			c, err := NewClient(e, Options{Journal: &Memory{}, Attempts: 1, Transport: roundTrip(func(*http.Request) (*http.Response, error) {
				resp := response(200, string(body))
				if cut > 0 {
					resp.Body = io.NopCloser(io.MultiReader(strings.NewReader(string(body[:cut])), broken{}))
				}
				return resp, nil
			})})
			if err != nil {
				t.Fatal(err)
			}
			a, _, err := c.Ask(t.Context(), ask("Hi"))
			a.Seconds = 0
			return a, err
		}
		asked, err := send(true, 0)
		unasked, other := send(false, 0)
		if asked != unasked || (err == nil) != (other == nil) {
			t.Fatalf("asked for a stream: %+v, %v; not asked: %+v, %v", asked, err, unasked, other)
		}
		if err == nil {
			holds(t, asked)
		}
		if n := min(int(cut), len(body)); n > 0 {
			part, err := send(true, n)
			if err == nil && !readStream(body[:n]).ended {
				t.Fatalf("half a stream is taken for %+v", part)
			}
		}
	})
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// FuzzSecret: no piece of a key of minSecret bytes stays in a text, however it is written
// there, and what is no piece of it stays.
func FuzzSecret(f *testing.F) {
	f.Add("sk-0123456789abcdef", "the header was Bearer ", " and more", uint8(0), uint8(9))
	f.Add("ab/cd+ef==ghijkl", `{"error":"`, `"}`, uint8(3), uint8(16))
	f.Add("aaaaaaaaaaaaaaaa", "aaaa", "aaaaaaa", uint8(0), uint8(16))
	f.Fuzz(func(t *testing.T, key, before, after string, from, to uint8) {
		s := newSecret(key)
		if !utf8.ValidString(key) || strings.ContainsFunc(key, unicode.IsControl) {
			return // no header takes it
		}
		for _, form := range s.forms {
			i, j := min(int(from), len(form)), min(int(to), len(form))
			if j-i < minSecret {
				continue
			}
			for _, part := range strings.Split(s.hide(before+form[i:j]+after), "[key]") {
				for k := i; k+minSecret <= j; k++ {
					if piece := form[k : k+minSecret]; strings.Contains(part, piece) {
						t.Fatalf("%q of the key %q is left: %q", piece, key, part)
					}
				}
			}
		}
	})
}
