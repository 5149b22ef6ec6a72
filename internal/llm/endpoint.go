package llm

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"precept/schemas"
)

// The values of Endpoint.JSONMode.
const (
	JSONSchema = "schema" // the endpoint takes response_format json_schema
	JSONNone   = "none"   // it doesn't; the messages alone ask for JSON
)

const (
	defaultTimeout     = 2 * time.Minute
	defaultMaxInFlight = 8
	defaultBatchPoll   = time.Minute
)

// Endpoint describes one model behind an OpenAI-compatible API. In JSON and YAML
// its names are in snake case, and its timeout is a string such as "90s".
type Endpoint struct {
	Name string `json:"name"`
	// BaseURL is up to and without /chat/completions. BaseURLs stands in its place where
	// several servers serve the same model.
	BaseURL  string   `json:"base_url,omitempty"`
	BaseURLs []string `json:"base_urls,omitempty"`
	Model    string   `json:"model"` // the name that the API knows it by

	// Provider and Revision make the model's identity together with Model.
	// Whoever changes what is served under the same name changes Revision.
	Provider string `json:"provider,omitempty"`
	Revision string `json:"revision,omitempty"`
	// Weights is the digest of a model that Precept serves itself. It is the
	// whole identity then.
	Weights schemas.Digest `json:"weights,omitempty"`

	// APIKeyEnv names the environment variable that holds the key. Empty for an
	// endpoint without one.
	APIKeyEnv string `json:"api_key_env,omitempty"`
	// APIKeyHeader is the header that carries the key, such as "api-key". By default
	// it is Authorization, with the word Bearer before the key.
	APIKeyHeader string `json:"api_key_header,omitempty"`
	// Simulated says that no language model answers.
	Simulated bool `json:"simulated,omitempty"`

	// MaxInFlight, of each base URL, defaults to 8. Less are sent while the endpoint
	// refuses or only queues them.
	MaxInFlight int `json:"max_in_flight,omitempty"`
	// RPM and TPM are requests and tokens a minute, of all base URLs. Without them what the
	// endpoint's x-ratelimit headers tell holds, and with them whichever is less.
	RPM int `json:"rpm,omitempty"`
	TPM int `json:"tpm,omitempty"`
	// Timeout bounds one request or, where Stream is set, the time in which nothing
	// of its reply comes. It defaults to two minutes.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Stream has answers come in pieces, so that a slow one can be told from none. It
	// changes no answer.
	Stream bool `json:"stream,omitempty"`

	// The prices are for a million tokens. CachedUSD defaults to InputUSD.
	InputUSD  float64 `json:"input_usd,omitempty"`
	CachedUSD float64 `json:"cached_usd,omitempty"`
	OutputUSD float64 `json:"output_usd,omitempty"`
	// BatchDiscount is the share of the price that an answer by batch costs less: 0.5
	// where it is half price.
	BatchDiscount float64 `json:"batch_discount,omitempty"`
	// BatchPoll is how long to wait before a batch is looked at again, in the beginning;
	// up to ten times that later. It defaults to a minute.
	BatchPoll schemas.Duration `json:"batch_poll,omitempty"`

	CoT      CoT    `json:"cot,omitempty"`       // how a teacher is to show its chain of thought
	JSONMode string `json:"json_mode,omitempty"` // defaults to JSONSchema
	// MaxTokensField defaults to max_tokens; some models want
	// max_completion_tokens.
	MaxTokensField string `json:"max_tokens_field,omitempty"`
	// Extra holds fields to add to the body of every request. They replace
	// Precept's own; null leaves a field out.
	Extra map[string]any `json:"extra,omitempty"`
}

// Identity says which weights answer at e.
func (e Endpoint) Identity() schemas.ModelIdentity {
	if e.Weights != "" {
		return schemas.ModelIdentity(e.Weights)
	}
	return schemas.ModelIdentity(fmt.Sprintf("%s/%s@%s", e.Provider, e.Model, e.Revision))
}

// InFlight is how many requests may be in flight to e, over all its base URLs.
func (e Endpoint) InFlight() int { return e.atOnce() * max(1, len(e.urls())) }

// atOnce is how many requests may be in flight to each base URL.
func (e Endpoint) atOnce() int { return cmp.Or(e.MaxInFlight, defaultMaxInFlight) }

func (e Endpoint) urls() []string {
	if e.BaseURL != "" {
		return []string{e.BaseURL}
	}
	return e.BaseURLs
}

// AnswerWithin is how long one request may take. A stream that never falls silent may
// take ten times the timeout.
func (e Endpoint) AnswerWithin() time.Duration {
	if e.Stream {
		return 10 * e.timeout()
	}
	return e.timeout()
}

func (e Endpoint) timeout() time.Duration { return cmp.Or(e.Timeout, defaultTimeout) }

// PollEvery is how long to wait before a batch of an age is looked at again.
func (e Endpoint) PollEvery(age time.Duration) time.Duration {
	first := cmp.Or(time.Duration(e.BatchPoll), defaultBatchPoll)
	return min(max(first, age/10), 10*first)
}

// Sent is what e's configuration adds to every request or takes from it. It is part
// of what answers follow from, as the identity is.
func (e Endpoint) Sent() map[string]any {
	sent := map[string]any{}
	if len(e.Extra) > 0 {
		sent["extra"] = e.Extra
	}
	if e.JSONMode == JSONNone {
		sent["json_mode"] = e.JSONMode
	}
	if e.MaxTokensField == "max_completion_tokens" {
		sent["max_tokens_field"] = e.MaxTokensField
	}
	if e.CoT != "" {
		sent["cot"] = e.CoT
	}
	return sent
}

// reserved are the fields that Extra can't set: they are what the request is. A
// server that takes no seed or stream_options may have it left out.
var reserved = []string{"messages", "model", "n", "seed", "stream", "stream_options"}

var mayBeLeftOut = []string{"seed", "stream_options"}

// Check reports the first field of e that can't be used.
func (e Endpoint) Check() error {
	fail := func(field, format string, args ...any) error {
		return schemas.Errorf("check endpoint", e.Name, schemas.InvalidInput, "%s: %w", field, fmt.Errorf(format, args...))
	}
	if e.Name == "" {
		return fail("name", "it is empty")
	}
	field := "base_url"
	if len(e.BaseURLs) > 0 {
		field = "base_urls"
	}
	if (e.BaseURL == "") == (len(e.BaseURLs) == 0) {
		return fail(field, "give either base_url or base_urls")
	}
	for i, text := range e.urls() {
		if err := checkURL(text); err != nil {
			return fail(field, "%w", err)
		}
		if slices.Contains(e.urls()[:i], text) {
			return fail(field, "%s stands there twice", text)
		}
	}
	if e.Model == "" {
		return fail("model", "it is empty")
	}
	if e.Weights == "" && (e.Provider == "" || e.Revision == "") {
		return fail("provider, revision", "both are needed, since answers are kept under them")
	}
	if e.MaxInFlight < 0 {
		return fail("max_in_flight", "%d is negative", e.MaxInFlight)
	}
	if e.RPM < 0 {
		return fail("rpm", "%d is negative", e.RPM)
	}
	if e.TPM < 0 {
		return fail("tpm", "%d is negative", e.TPM)
	}
	if e.Timeout < 0 {
		return fail("timeout", "%s is negative", e.Timeout)
	}
	for _, p := range []struct {
		field string
		price float64
	}{{"input_usd", e.InputUSD}, {"cached_usd", e.CachedUSD}, {"output_usd", e.OutputUSD}} {
		if !(p.price >= 0) {
			return fail(p.field, "%v is no price", p.price)
		}
	}
	if !(e.BatchDiscount >= 0 && e.BatchDiscount <= 1) {
		return fail("batch_discount", "%v is no share; half price is 0.5", e.BatchDiscount)
	}
	if e.BatchPoll < 0 {
		return fail("batch_poll", "%s is negative", time.Duration(e.BatchPoll))
	}
	if e.APIKeyHeader != "" && (e.APIKeyEnv == "" || !headerName.MatchString(e.APIKeyHeader)) {
		return fail("api_key_header", "%q can't carry the key that api_key_env names", e.APIKeyHeader)
	}
	if !slices.Contains([]CoT{"", CoTThink, CoTField, CoTSections}, e.CoT) {
		return fail("cot", "%q is none of %q, %q and %q", e.CoT, CoTThink, CoTField, CoTSections)
	}
	if !slices.Contains([]string{"", JSONSchema, JSONNone}, e.JSONMode) {
		return fail("json_mode", "%q is neither %q nor %q", e.JSONMode, JSONSchema, JSONNone)
	}
	if !slices.Contains([]string{"", "max_tokens", "max_completion_tokens"}, e.MaxTokensField) {
		return fail("max_tokens_field", "%q is neither max_tokens nor max_completion_tokens", e.MaxTokensField)
	}
	for _, field := range slices.Sorted(maps.Keys(e.Extra)) {
		if slices.Contains(reserved, field) && !(slices.Contains(mayBeLeftOut, field) && e.Extra[field] == nil) {
			return fail("extra", "%q can't be set; %s are Precept's", field, strings.Join(reserved, ", "))
		}
	}
	if _, err := json.Marshal(e.Extra); err != nil {
		return fail("extra", "%w", err)
	}
	return nil
}

// headerName is the name of a header that nothing else uses.
var headerName = regexp.MustCompile(`(?i)^(authorization|[a-z0-9-]*(key|token|auth|secret)[a-z0-9-]*)$`)

func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("it is not a URL") // the error would show a password
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return errors.New(`it must begin with http:// or https://, such as "http://127.0.0.1:8000/v1"`)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("it can hold neither user, query nor fragment; put the key into the variable that api_key_env names")
	}
	return nil
}

// wire is Endpoint in JSON: the outer Timeout hides the inner one.
type wire struct {
	*plain
	Timeout string `json:"timeout,omitempty"`
}

type plain Endpoint

// MarshalJSON writes the timeout as a string.
func (e Endpoint) MarshalJSON() ([]byte, error) {
	w := wire{plain: (*plain)(&e)}
	if e.Timeout != 0 {
		w.Timeout = e.Timeout.String()
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads the timeout from a string and refuses unknown fields.
func (e *Endpoint) UnmarshalJSON(raw []byte) error {
	w := wire{plain: (*plain)(e)}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&w); err != nil {
		return schemas.Explain(raw, w, err)
	}
	if w.Timeout == "" {
		return nil
	}
	d, err := time.ParseDuration(w.Timeout)
	if err != nil {
		return errors.New(`timeout: ` + err.Error() + `; write it like "90s"`)
	}
	e.Timeout = d
	return nil
}
