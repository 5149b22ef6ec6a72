package llm

import (
	"cmp"
	"maps"
	"net"
	"strconv"

	"precept/schemas"
)

// Request is one question to a model. Sample tells the samples of one question
// apart.
type Request struct {
	Messages    []schemas.Message
	Temperature float64 // always sent, 0 too
	TopP        float64 // sent when it isn't 0
	MaxTokens   int     // sent when it isn't 0
	JSONSchema  *Schema // sent where the endpoint takes one
	Seed        int64   // defaults to one derived from Messages and Sample
	Sample      int
	Refresh     string // where it isn't empty, answers to other refreshes don't count
}

// Schema asks for an answer that is one JSON object of a form.
type Schema struct {
	Name   string         `json:"name"`
	Schema map[string]any `json:"schema"`
	Strict bool           `json:"strict"`
}

// Answer is what a model finally said. It is what the journal holds.
type Answer struct {
	Content      string  `json:"content"`
	CoT          string  `json:"cot,omitempty"` // from a reasoning field of its own
	FinishReason string  `json:"finish_reason"`
	Refusal      bool    `json:"refusal,omitempty"` // the provider refused the content
	Usage        Usage   `json:"usage"`
	Model        string  `json:"model,omitempty"` // as the endpoint named it
	Fingerprint  string  `json:"fingerprint,omitempty"`
	Limit        int     `json:"limit,omitempty"` // the most tokens that were asked for
	Seconds      float64 `json:"seconds"`         // from sending the request to the whole reply

	// Payer is who paid for it, and USD what it cost then. Who finds it pays nothing.
	Payer string  `json:"payer,omitempty"`
	USD   float64 `json:"usd,omitempty"`
	Batch bool    `json:"batch,omitempty"` // it came by batch, at its price
}

// TooLong reports whether the request exceeds the model's context: nothing was
// answered.
func (a Answer) TooLong() bool { return a.FinishReason == finishTooLong }

// Split parts the answer into chain of thought and answer, as SplitCoT does.
func (a Answer) Split() (cot, answer string, ok bool) { return SplitCoT(a.Content, a.CoT) }

// Truncated reports whether the answer was cut by length.
func (a Answer) Truncated() bool { return a.FinishReason == finishLength }

// TooLarge reports whether the answer is larger than any reader wants. Content is its
// beginning.
func (a Answer) TooLarge() bool { return a.FinishReason == finishTooLarge }

// CallsTool reports whether the model called a tool, of which it has none.
func (a Answer) CallsTool() bool { return a.FinishReason == finishCalls }

// HidesCoT reports whether the model has thought, and nobody is told what.
func (a Answer) HidesCoT() bool { return a.CoT == "" && a.Usage.ReasoningTokens > 0 }

// limited reports whether the answer might be another one under another limit.
func (a Answer) limited() bool { return a.Truncated() || a.TooLong() || a.TooLarge() }

// Usage is the tokens of one answer. CachedTokens are part of PromptTokens,
// ReasoningTokens of CompletionTokens.
type Usage struct {
	PromptTokens     int64 `json:"prompt_tokens"`
	CachedTokens     int64 `json:"cached_tokens,omitempty"`
	CompletionTokens int64 `json:"completion_tokens"`
	ReasoningTokens  int64 `json:"reasoning_tokens,omitempty"`
}

// Meta is what the caller should know beside the answer. A cached answer came
// from the journal and cost nothing.
type Meta struct {
	Key    schemas.Key `json:"key"`
	Cached bool        `json:"cached"`
	USD    float64     `json:"usd"`
}

// Count folds a call into the usage of a stage. Tokens and time of a cached
// answer were counted when it was paid for.
func Count(a Answer, m Meta) schemas.Usage {
	if m.Cached {
		return schemas.Usage{Cached: 1}
	}
	a.USD = m.USD
	return a.took()
}

// took is what the answer took when it was paid for.
func (a Answer) took() schemas.Usage {
	return schemas.Usage{
		Paid:             1,
		PromptTokens:     a.Usage.PromptTokens,
		CachedTokens:     a.Usage.CachedTokens,
		CompletionTokens: a.Usage.CompletionTokens,
		USD:              a.USD,
		Seconds:          a.Seconds,
	}
}

// cachesPrefixes reports whether e is cheaper for what it has read before.
func (e Endpoint) cachesPrefixes() bool { return e.CachedUSD > 0 && e.CachedUSD < e.InputUSD }

// price is what an answer costs at e.
func (e Endpoint) price(a Answer) float64 {
	u := a.Usage
	cached := e.CachedUSD
	if cached == 0 {
		cached = e.InputUSD
	}
	hit := min(u.CachedTokens, u.PromptTokens)
	usd := (float64(u.PromptTokens-hit)*e.InputUSD + float64(hit)*cached + float64(u.CompletionTokens)*e.OutputUSD) / 1e6
	if a.Batch {
		usd *= 1 - e.BatchDiscount
	}
	return schemas.Dollars(usd)
}

// question is a request as an endpoint is asked it. The messages are encoded once, and
// digested once: they may hold a whole policy.
type question struct {
	endpoint Endpoint
	begun    first          // the first message
	rest     []byte         // canonical JSON of the others
	digest   schemas.Digest // of messages
	fields   map[string]any // what is sent beside messages, served name and limit
	limit    int            // most tokens of the answer; 0 is no limit
	sample   int
	refresh  string
}

func (e Endpoint) question(r Request) (question, error) {
	q := question{endpoint: e, limit: r.MaxTokens, sample: r.Sample, refresh: r.Refresh}
	var err error
	if q.begun, q.rest, q.digest, err = encoded.messages(r.Messages); err != nil {
		return q, err
	}
	q.fields = map[string]any{"temperature": r.Temperature, "seed": r.Seed}
	if r.Seed == 0 {
		q.fields["seed"] = seed(q.digest, r.Sample)
	}
	if r.TopP != 0 {
		q.fields["top_p"] = r.TopP
	}
	if r.JSONSchema != nil && e.JSONMode != JSONNone {
		s := r.JSONSchema
		q.fields["response_format"] = map[string]any{
			"type": "json_schema", "json_schema": map[string]any{"name": s.Name, "schema": s.Schema, "strict": s.Strict},
		}
	}
	maps.Copy(q.fields, e.Extra)
	if _, ok := e.Extra[e.limitField()]; ok {
		q.limit = 0 // the configuration has the last word
	}
	maps.DeleteFunc(q.fields, func(_ string, v any) bool { return v == nil })
	return q, nil
}

func (e Endpoint) limitField() string { return cmp.Or(e.MaxTokensField, "max_tokens") }

// key is the request key. The limit is no part of it: an answer that ended by itself
// is the same under every limit that leaves it room.
func (q question) key() schemas.Key {
	asked := map[string]any{
		"model":    q.endpoint.Identity(),
		"messages": q.digest,
		"request":  q.fields,
		"sample":   q.sample,
	}
	if q.refresh != "" {
		asked["refresh"] = q.refresh
	}
	return schemas.DigestOf(asked)
}

// limitedKey is the key of an answer that follows from the limit: one that was cut.
// Key is q's own.
func (q question) limitedKey(key schemas.Key) schemas.Key { return limitedKey(key, q.limit) }

func limitedKey(key schemas.Key, limit int) schemas.Key { return schemas.DigestOf([]any{key, limit}) }

// holds reports whether a, an answer under q's key, is what q would be answered.
func (q question) holds(a Answer) bool { return a.holds(q.limit) }

// holds reports whether a is what the same request with this limit would be answered.
func (a Answer) holds(limit int) bool {
	switch {
	case a.limited():
		return false
	case limit == 0, a.Limit != 0 && limit >= a.Limit:
		return true
	}
	// A model counts its end among the tokens or not.
	return a.Usage.CompletionTokens > 0 && int64(limit) > a.Usage.CompletionTokens
}

// body is what is sent, in parts.
func (q question) body() (net.Buffers, error) {
	rest := maps.Clone(q.fields)
	rest["model"] = q.endpoint.Model
	if q.limit != 0 {
		rest[q.endpoint.limitField()] = q.limit
	}
	raw, err := schemas.CanonicalJSON(rest)
	if err != nil {
		return nil, err
	}
	raw[0] = ','
	return net.Buffers{[]byte(`{"messages":`), q.begun.json, q.rest, raw}, nil
}

// seed makes samples differ, and lets a repeated request be told from another sample
// by its body alone. It has 31 bits, which every server takes.
func seed(messages schemas.Digest, sample int) int64 {
	d := schemas.DigestOf([]any{messages, sample})
	n, err := strconv.ParseUint(string(d[:8]), 16, 32)
	if err != nil {
		panic(err) // a digest is hexadecimal
	}
	return int64(n >> 1)
}
