package llm

import (
	"bytes"
	"encoding/json"
	"testing"

	"pgregory.net/rapid"

	"precept/schemas"
)

func drawRequest(t *rapid.T, label string) Request {
	message := rapid.Custom(func(t *rapid.T) schemas.Message {
		return schemas.Message{Role: rapid.SampledFrom([]string{"system", "user"}).Draw(t, "role"), Content: rapid.SampledFrom([]string{"", "a", "b", "<c> & d"}).Draw(t, "content")}
	})
	return Request{
		Messages:    rapid.SliceOfN(message, 1, 3).Draw(t, label+" messages"),
		Temperature: rapid.SampledFrom([]float64{0, 0.7, 1}).Draw(t, label+" temperature"),
		TopP:        rapid.SampledFrom([]float64{0, 0.9}).Draw(t, label+" top_p"),
		MaxTokens:   rapid.SampledFrom([]int{0, 16, 512}).Draw(t, label+" max_tokens"),
		Seed:        rapid.SampledFrom([]int64{0, 7}).Draw(t, label+" seed"),
		Sample:      rapid.IntRange(0, 2).Draw(t, label+" sample"),
		Refresh:     rapid.SampledFrom([]string{"", "today"}).Draw(t, label+" refresh"),
	}
}

func drawEndpoint(t *rapid.T, label string) Endpoint {
	e := Endpoint{
		Name:    rapid.SampledFrom([]string{"x", "y"}).Draw(t, label+" name"),
		BaseURL: rapid.SampledFrom([]string{"http://one/v1", "http://two/v1"}).Draw(t, label+" url"),
		Model:   rapid.SampledFrom([]string{"m", "n"}).Draw(t, label+" model"), Provider: "p",
		Revision: rapid.SampledFrom([]string{"1", "2"}).Draw(t, label+" revision"),
	}
	if rapid.Bool().Draw(t, label+" extra") {
		e.Extra = map[string]any{"top_k": 3}
	}
	return e
}

// Two requests share a request key if, and only if, the same weights are asked the same:
// whatever the endpoint's name and address, and whatever the limit of tokens.
func TestRequestKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type asked struct {
			e Endpoint
			r Request
			q question
		}
		var both [2]asked
		for i, label := range []string{"first", "second"} {
			a := asked{e: drawEndpoint(t, label), r: drawRequest(t, label)}
			if i == 1 && rapid.Bool().Draw(t, "alike") {
				// Most pairs differ in everything: let these differ in little.
				limit, name, url := a.r.MaxTokens, a.e.Name, a.e.BaseURL
				a.r, a.e = both[0].r, both[0].e
				a.r.MaxTokens, a.e.Name, a.e.BaseURL = limit, name, url
			}
			var err error
			if a.q, err = a.e.question(a.r); err != nil {
				t.Fatal(err)
			}
			both[i] = a
		}
		same := func(a asked) schemas.Digest {
			a.r.MaxTokens = 0
			return schemas.DigestOf([]any{a.e.Model, a.e.Revision, a.e.Extra, a.r})
		}
		if got, want := both[0].q.key() == both[1].q.key(), same(both[0]) == same(both[1]); got != want {
			t.Errorf("one key: %v, want %v:\n%+v\n%+v", got, want, both[0], both[1])
		}
		// An answer that was cut belongs to its limit.
		limits := both[0].q.limitedKey(both[0].q.key()) == both[1].q.limitedKey(both[1].q.key())
		if want := same(both[0]) == same(both[1]) && both[0].r.MaxTokens == both[1].r.MaxTokens; limits != want {
			t.Errorf("one limited key: %v, want %v", limits, want)
		}
	})
}

// What is sent is JSON that holds the messages as they are.
func TestRequestBody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e, r := drawEndpoint(t, ""), drawRequest(t, "")
		q, err := e.question(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := q.body()
		if err != nil {
			t.Fatal(err)
		}
		var sent struct {
			Model     string            `json:"model"`
			Messages  []schemas.Message `json:"messages"`
			MaxTokens int               `json:"max_tokens"`
			Seed      *int64            `json:"seed"`
		}
		if err := json.NewDecoder(bytes.NewReader(bytes.Join(body, nil))).Decode(&sent); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		if sent.Model != e.Model || sent.MaxTokens != r.MaxTokens || sent.Seed == nil || schemas.DigestOf(sent.Messages) != schemas.DigestOf(r.Messages) {
			t.Errorf("sent %s for %+v", body, r)
		}
	})
}
