package llm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"precept/schemas"
)

// opAsk is the operation in the errors of a request.
const opAsk = "ask endpoint"

// fault is why a request got no answer. It stands inside a schemas.Error.
type fault struct {
	text       string
	cause      error
	retryAfter time.Duration
	account    bool
	late       bool // no reply in time
	unbilled   bool // nobody bills a request that ends so
}

func (f *fault) Error() string { return f.text }
func (f *fault) Unwrap() error { return f.cause }

// RetryAfter is how long the endpoint asked to be left alone, 0 when it didn't.
func RetryAfter(err error) time.Duration {
	var f *fault
	if errors.As(err, &f) {
		return f.retryAfter
	}
	return 0
}

// IsAccount reports whether err is an account condition: no row's fault, and not
// mended by a retry. Calling should stop until a person has looked at it.
func IsAccount(err error) bool {
	var f *fault
	return errors.As(err, &f) && f.account
}

// IsOutage reports whether err is that a request waited as long as it may for an endpoint
// that is out.
func IsOutage(err error) bool {
	var o *outage
	return errors.As(err, &o)
}

// AskedBy names the endpoint whose error err is, empty where it is none's.
func AskedBy(err error) string {
	var e *schemas.Error
	if errors.As(err, &e) && e.Op == opAsk {
		return e.Thing
	}
	return ""
}

// IsRequest reports whether err is about the request that it answers: another one may
// be answered all the same.
func IsRequest(err error) bool {
	var f *fault
	return errors.As(err, &f) && !f.account
}

// noReply is that no reply came within a time. It is made for every request, so that its
// text waits until it is asked for.
type noReply time.Duration

func (n noReply) Error() string { return fmt.Sprintf("no reply within %s", time.Duration(n)) }

// IsLate reports whether err is that no reply came in time.
func IsLate(err error) bool {
	var f *fault
	return errors.As(err, &f) && f.late
}

// problem is an error body, in whichever form a server writes one.
type problem struct {
	code, kind, text string
}

// readProblem reads OpenAI's {"error":{…}}, the same object without its
// envelope, {"error":"…"} and {"detail":…}.
func readProblem(reply []byte) (problem, bool) {
	var envelope struct {
		Error   json.RawMessage `json:"error"`
		Message json.RawMessage `json:"message"`
		Detail  json.RawMessage `json:"detail"`
	}
	if json.Unmarshal(reply, &envelope) != nil {
		return problem{}, false
	}
	set := func(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }
	switch {
	case set(envelope.Error):
		return readProblemObject(envelope.Error), true
	case set(envelope.Message):
		return readProblemObject(reply), true
	case set(envelope.Detail):
		return problem{text: scalar(envelope.Detail)}, true
	}
	return problem{}, false
}

func readProblemObject(raw json.RawMessage) problem {
	var object struct {
		Code       json.RawMessage `json:"code"`
		Type       json.RawMessage `json:"type"`
		Message    json.RawMessage `json:"message"`
		InnerError struct {
			Code json.RawMessage `json:"code"`
		} `json:"innererror"`
	}
	if json.Unmarshal(raw, &object) != nil {
		return problem{text: scalar(raw)}
	}
	return problem{
		code: strings.TrimSpace(scalar(object.Code) + " " + scalar(object.InnerError.Code)),
		kind: scalar(object.Type),
		text: scalar(object.Message),
	}
}

// scalar is a JSON string's content, or any other value as it is written.
func scalar(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

var (
	contentCode = regexp.MustCompile(`(?i)content_?(filter|policy|management)|responsible_?ai|moderation|data_inspection|policy_violation`)
	contentText = regexp.MustCompile(`(?i)content (management )?(policy|filter)|usage polic(y|ies)|flagged (by|as|for)|input was flagged`)
	quotaCode   = regexp.MustCompile(`(?i)insufficient_?(quota|balance|credit|funds)|billing|quota_exceeded|payment_required`)
	modelCode   = regexp.MustCompile(`(?i)model_?not_?(found|exist|available)|model_?(deprecated|removed)|deployment_?not_?found`)
	longCode    = regexp.MustCompile(`(?i)context_?length|context_?window|string_above_max_length`)
	limitText   = regexp.MustCompile(`(?i)max_(completion_|new_)?tokens\W.{0,60}too large|too many new tokens`)
	longText    = regexp.MustCompile(`(?i)maximum context length|context (length|window|size)|(prompt|input) is too long`)
	authCode    = regexp.MustCompile(`(?i)invalid_?api_?key|authentication|permission|account_?(deactivated|suspended)|unauthorized`)
)

// content reports whether the provider refused what was asked, not how.
func (p problem) content() bool {
	return contentCode.MatchString(p.code) || contentCode.MatchString(p.kind) || contentText.MatchString(p.text)
}

// tooLong reports whether the request exceeds what the model can read: an outcome
// of the row. A limit that leaves no room for any prompt is none.
func (p problem) tooLong(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return !limitText.MatchString(p.text) && (p.matches(longCode) || longText.MatchString(p.text))
	}
	return false
}

func (p problem) matches(re *regexp.Regexp) bool {
	return re.MatchString(p.code) || re.MatchString(p.kind)
}

// status is the HTTP status that a gateway wrote into an error's code, if it did.
func (p problem) status() int {
	code, _, _ := strings.Cut(p.code, " ")
	if n, err := strconv.Atoi(code); err == nil && n >= 400 && n <= 599 {
		return n
	}
	return 0
}

// refusedContent reports whether a problem of this status is the provider's
// refusal of the content: an outcome of the row.
func refusedContent(status int, p problem) bool {
	switch status {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusUnprocessableEntity, http.StatusUnavailableForLegalReasons:
		return p.content()
	}
	return false
}

// refusedError classifies an HTTP status that is no success and no refusal of
// the content.
func (c *Client) refusedError(status int, p problem, header http.Header) error {
	f := &fault{
		text: fmt.Sprintf("HTTP %d", status), retryAfter: retryAfter(status, header, time.Now()),
		late: status == http.StatusRequestTimeout || status == http.StatusGatewayTimeout, unbilled: unbilled(status),
	}
	if text := c.clean(p.text); text != "" {
		f.text += ": " + text
	}
	kind, hint := schemas.InvalidInput, ""
	switch {
	case status == http.StatusPaymentRequired || p.matches(quotaCode):
		f.account = true
		kind, hint = schemas.BudgetExceeded, "Top up the account, then resume."
	case status == http.StatusTooManyRequests:
		kind = schemas.RateLimited
	case status >= 500 || status == http.StatusRequestTimeout || status == http.StatusConflict || status == http.StatusTooEarly:
		kind = schemas.Unavailable
	case status == http.StatusUnauthorized || status == http.StatusForbidden || p.matches(authCode):
		f.account = true
		hint = fmt.Sprintf("Check the access to model %s%s.", c.endpoint.Model, c.keyHint())
	case status == http.StatusNotFound || status == http.StatusGone || status < 400 || p.matches(modelCode):
		f.account = true
		hint = fmt.Sprintf("Check base_url (%s) and model (%s).", strings.Join(c.endpoint.urls(), ", "), c.endpoint.Model)
	}
	return c.fail(kind, f, hint)
}

func (c *Client) keyHint() string {
	if c.endpoint.APIKeyEnv == "" {
		return "; api_key_env names no key"
	}
	return " and the key in " + c.endpoint.APIKeyEnv
}

func (c *Client) fail(kind schemas.Kind, f *fault, hint string) error {
	err := schemas.E(opAsk, c.endpoint.Name, kind, f)
	if hint != "" {
		return err.WithHint("%s", hint)
	}
	return err
}

func (c *Client) unavailable(cause error, format string, args ...any) error {
	return c.fail(schemas.Unavailable, &fault{text: c.clean(fmt.Sprintf(format, args...)), cause: cause}, "")
}

// sendError classifies a request that got no HTTP reply.
func (c *Client) sendError(ctx, attempt context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return c.unavailable(ctx.Err(), "%v", ctx.Err())
	case attempt.Err() != nil:
		return c.fail(schemas.Unavailable, &fault{text: context.Cause(attempt).Error(), late: true}, "")
	}
	return c.fail(schemas.Unavailable, &fault{text: c.clean(err.Error()), unbilled: unsent(err)}, "")
}

const maxText = 300

var keyLike = regexp.MustCompile(`\bsk-[\w*.-]+`)

// clean makes text from outside fit for an error message: short, on one line,
// without the key.
func (c *Client) clean(text string) string {
	return c.short(strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " "), maxText)
}

// short cuts text from outside, after the key was taken out of it: the first half of one
// is hard to find.
func (c *Client) short(text string, most int) string {
	text = keyLike.ReplaceAllString(c.hide(strings.ToValidUTF8(text, "\uFFFD")), "[key]")
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "…"
	}
	return text
}

// retryAfter reads when to come back from a reply's header: Retry-After in
// seconds or as a date, Retry-After-Ms, or for a 429 the reset of the limit that
// is used up.
func retryAfter(status int, header http.Header, now time.Time) time.Duration {
	if ms, err := strconv.ParseFloat(header.Get("Retry-After-Ms"), 64); err == nil {
		return seconds(ms / 1000)
	}
	if value := header.Get("Retry-After"); value != "" {
		if s, err := strconv.ParseFloat(value, 64); err == nil {
			return seconds(s)
		}
		if at, err := http.ParseTime(value); err == nil {
			return max(0, at.Sub(now))
		}
	}
	if status != http.StatusTooManyRequests {
		return 0
	}
	var wait time.Duration
	for _, what := range []string{"Requests", "Tokens"} {
		if header.Get("X-Ratelimit-Remaining-"+what) != "0" {
			continue
		}
		if d, err := time.ParseDuration(header.Get("X-Ratelimit-Reset-" + what)); err == nil {
			wait = max(wait, d)
		}
	}
	return wait
}

// seconds is bounded, so that no number from outside overflows.
func seconds(s float64) time.Duration {
	const day = 24 * 60 * 60
	if !(s > 0) {
		return 0
	}
	return time.Duration(min(s, day) * float64(time.Second))
}
