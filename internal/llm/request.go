package llm

import (
	"encoding/json"
	"maps"
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
}

// Schema asks for an answer that is one JSON object of a form.
type Schema struct {
	Name   string          `json:"name"`
	Schema json.RawMessage `json:"schema"`
	Strict bool            `json:"strict"`
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
	Seconds      float64 `json:"seconds"` // from sending the request to the whole reply
}

// Split parts the answer into chain of thought and answer, as SplitCoT does.
func (a Answer) Split() (cot, answer string, ok bool) { return SplitCoT(a.Content, a.CoT) }

// finishTooLong is the FinishReason of a request that the model could not read
// whole. OpenAI's code for it is context_length_exceeded.
const finishTooLong = "too long"

// TooLong reports whether the request exceeds the model's context: nothing was
// answered.
func (a Answer) TooLong() bool { return a.FinishReason == finishTooLong }

// Truncated reports whether the answer was cut by length.
func (a Answer) Truncated() bool { return a.FinishReason == "length" }

// Usage is the tokens of one answer. CachedTokens are part of PromptTokens.
type Usage struct {
	PromptTokens     int64 `json:"prompt_tokens"`
	CachedTokens     int64 `json:"cached_tokens,omitempty"`
	CompletionTokens int64 `json:"completion_tokens"`
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
	return schemas.Usage{
		Paid:             1,
		PromptTokens:     a.Usage.PromptTokens,
		CachedTokens:     a.Usage.CachedTokens,
		CompletionTokens: a.Usage.CompletionTokens,
		USD:              m.USD,
		Seconds:          a.Seconds,
	}
}

// price is what u costs at e.
func (e Endpoint) price(u Usage) float64 {
	cached := e.CachedUSD
	if cached == 0 {
		cached = e.InputUSD
	}
	hit := min(u.CachedTokens, u.PromptTokens)
	return (float64(u.PromptTokens-hit)*e.InputUSD + float64(hit)*cached + float64(u.CompletionTokens)*e.OutputUSD) / 1e6
}

// fields is the body of r without the served name of the model, which is no part
// of the request key.
func (e Endpoint) fields(r Request) map[string]any {
	seed := r.Seed
	if seed == 0 {
		seed = deriveSeed(r.Messages, r.Sample)
	}
	f := map[string]any{
		"messages":    r.Messages,
		"temperature": r.Temperature,
		"seed":        seed,
	}
	if r.TopP != 0 {
		f["top_p"] = r.TopP
	}
	if r.MaxTokens != 0 {
		field := e.MaxTokensField
		if field == "" {
			field = "max_tokens"
		}
		f[field] = r.MaxTokens
	}
	if r.JSONSchema != nil && e.JSONMode != JSONNone {
		f["response_format"] = map[string]any{"type": "json_schema", "json_schema": r.JSONSchema}
	}
	maps.Copy(f, e.Extra)
	maps.DeleteFunc(f, func(_ string, v any) bool { return v == nil })
	return f
}

func (e Endpoint) key(fields map[string]any, sample int) schemas.Key {
	return schemas.DigestOf(map[string]any{
		"model":   e.Identity(),
		"request": fields,
		"sample":  sample,
	})
}

func (e Endpoint) body(fields map[string]any) ([]byte, error) {
	f := maps.Clone(fields)
	f["model"] = e.Model
	return schemas.CanonicalJSON(f)
}

// deriveSeed makes samples differ, and lets a repeated request be told from
// another sample by its body alone. It has 31 bits, which every server takes.
func deriveSeed(messages []schemas.Message, sample int) int64 {
	d := schemas.DigestOf(map[string]any{"messages": messages, "sample": sample})
	n, err := strconv.ParseUint(string(d[:8]), 16, 32)
	if err != nil {
		panic(err) // a digest is hexadecimal
	}
	return int64(n >> 1)
}
