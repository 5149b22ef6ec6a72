package llm

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	openai "github.com/sashabaranov/go-openai"
)

// completion is a chat completion, as servers write it. What has another type than it
// should counts as not said; only where nothing can be made of the whole is that an error.
type completion struct {
	Model       loose[string] `json:"model"`
	Fingerprint loose[string] `json:"system_fingerprint"`
	Choices     []choice      `json:"choices"`
	Usage       loose[usage]  `json:"usage"`
}

// choice is one answer, whole or, in a stream, a piece of it.
type choice struct {
	Index        count         `json:"index"`
	Message      *message      `json:"message"`
	Delta        *message      `json:"delta"`
	FinishReason loose[string] `json:"finish_reason"`
}

// message is what a model says. The thoughts have four names.
type message struct {
	Content          content       `json:"content"`
	Refusal          loose[string] `json:"refusal"`
	ReasoningContent thoughts      `json:"reasoning_content"` // DeepSeek, older vLLM
	Reasoning        thoughts      `json:"reasoning"`         // vLLM, OpenRouter
	ReasoningDetails thoughts      `json:"reasoning_details"` // OpenRouter
	ToolCalls        loose[[]any]  `json:"tool_calls"`
	FunctionCall     any           `json:"function_call"`
}

// cot is the thoughts under the first name that holds any: servers that use two repeat
// them.
func (m message) cot() string {
	for _, t := range []thoughts{m.ReasoningContent, m.Reasoning, m.ReasoningDetails} {
		if t != "" {
			return string(t)
		}
	}
	return m.Content.thoughts
}

// calls reports whether a tool is called.
func (m message) calls() bool {
	return len(m.ToolCalls.v) > 0 || m.FunctionCall != nil || m.Content.calls
}

// empty reports whether the message says nothing at all.
func (m message) empty() bool {
	return m.Content.text == "" && m.Refusal.v == "" && m.Content.refusal == "" && m.cot() == "" && !m.calls()
}

// content is a message's text: a string, a part, or a list of parts, of which some may
// be thoughts, a refusal or the call of a tool.
type content struct {
	text, thoughts, refusal string
	calls                   bool
}

func (c *content) UnmarshalJSON(raw []byte) error {
	if json.Unmarshal(raw, &c.text) == nil {
		return nil
	}
	var parts []json.RawMessage
	if json.Unmarshal(raw, &parts) != nil {
		parts = []json.RawMessage{raw}
	}
	for _, part := range parts {
		var head struct {
			Type    loose[string] `json:"type"`
			Refusal loose[string] `json:"refusal"`
		}
		_ = json.Unmarshal(part, &head) // a part without a type is text
		said := gather(part, maxNesting)
		switch kind := head.Type.v; {
		case strings.Contains(kind, "think") || strings.Contains(kind, "reason"):
			c.thoughts += said
		case strings.Contains(kind, "refus"):
			c.refusal += head.Refusal.v + said
		case strings.Contains(kind, "tool") || strings.Contains(kind, "function"):
			c.calls = true
		default:
			c.text += said
		}
	}
	return nil
}

// thoughts is a chain of thought: a string, an object that holds it, or a list of such.
type thoughts string

func (t *thoughts) UnmarshalJSON(raw []byte) error {
	*t = thoughts(gather(raw, maxNesting))
	return nil
}

// maxNesting bounds how deep texts are looked for.
const maxNesting = 4

// gather joins the texts in a string, in an object's field for them, or in a list of
// these.
func gather(raw json.RawMessage, depth int) string {
	if depth == 0 {
		return ""
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) == nil {
		var all strings.Builder
		for _, part := range list {
			all.WriteString(gather(part, depth-1))
		}
		return all.String()
	}
	var object struct {
		Text      json.RawMessage `json:"text"`
		Thinking  json.RawMessage `json:"thinking"`
		Reasoning json.RawMessage `json:"reasoning"`
		Content   json.RawMessage `json:"content"`
		Summary   json.RawMessage `json:"summary"`
	}
	if json.Unmarshal(raw, &object) != nil {
		return ""
	}
	for _, field := range []json.RawMessage{object.Text, object.Thinking, object.Reasoning, object.Content, object.Summary} {
		if said := gather(field, depth-1); said != "" {
			return said
		}
	}
	return ""
}

// usage is the tokens of an answer, under the names that servers have for them.
type usage struct {
	Prompt     count `json:"prompt_tokens"`
	Completion count `json:"completion_tokens"`
	Total      count `json:"total_tokens"`
	Input      count `json:"input_tokens"`
	Output     count `json:"output_tokens"`

	PromptDetails     loose[details] `json:"prompt_tokens_details"`
	CompletionDetails loose[details] `json:"completion_tokens_details"`
	CacheHit          count          `json:"prompt_cache_hit_tokens"`     // DeepSeek
	CacheRead         count          `json:"cache_read_input_tokens"`     // Anthropic
	CacheCreation     count          `json:"cache_creation_input_tokens"` // Anthropic
}

type details struct {
	Cached    count `json:"cached_tokens"`
	Reasoning count `json:"reasoning_tokens"`
}

func (u usage) counted() Usage {
	out := Usage{
		PromptTokens: int64(u.Prompt), CompletionTokens: int64(u.Completion),
		CachedTokens:    int64(max(u.PromptDetails.v.Cached, u.CacheHit, u.CacheRead)),
		ReasoningTokens: int64(u.CompletionDetails.v.Reasoning),
	}
	if u.Prompt == 0 && u.Input != 0 { // the cached ones stand beside them there
		out.PromptTokens = int64(u.Input + u.CacheRead + u.CacheCreation)
	}
	if u.Completion == 0 {
		out.CompletionTokens = int64(u.Output)
	}
	// Some servers count hidden thoughts apart, and bill them all the same.
	if out.ReasoningTokens > 0 && int64(u.Total) == out.PromptTokens+out.CompletionTokens+out.ReasoningTokens {
		out.CompletionTokens += out.ReasoningTokens
	}
	out.CachedTokens = min(out.CachedTokens, out.PromptTokens)
	out.ReasoningTokens = min(out.ReasoningTokens, out.CompletionTokens)
	return out
}

// count is a number of tokens, as a number or in a string. One that can't be is 0, as
// where none is told.
type count int64

// maxCount is more tokens than any model reads.
const maxCount = 1 << 24

func (n *count) UnmarshalJSON(raw []byte) error {
	f, err := strconv.ParseFloat(strings.Trim(string(raw), `" `), 64)
	if err == nil && f >= 0 && f <= maxCount {
		*n = count(f)
	}
	return nil
}

// loose is a T, or nothing where the value is of another type.
type loose[T any] struct{ v T }

func (l *loose[T]) UnmarshalJSON(raw []byte) error {
	var v T
	if json.Unmarshal(raw, &v) == nil {
		l.v = v
	}
	return nil
}

var errNoCompletion = errors.New("it is no chat completion")

// readReply reads what a server sent with a status of success: a completion or the
// events of a streamed one, whichever of them was asked for and whatever its
// Content-Type says. The problem is the error that it holds instead, if it does.
func readReply(raw []byte) (completion, *problem, error) {
	raw = bytes.TrimSpace(bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf")))
	if isStream(raw) {
		s := readStream(raw)
		if s.problem == nil && s.err == nil && !s.ended {
			s.err = errors.New("the stream ended in the middle of the answer")
		}
		return s.completion, s.problem, s.err
	}
	var whole completion
	err := json.Unmarshal(raw, &whole)
	if err != nil || len(whole.Choices) == 0 || whole.Choices[0].Message == nil || whole.Choices[0].Message.empty() {
		// Some gateways put the error of the server behind them into a 200.
		if p, ok := readProblem(raw); ok {
			return whole, &p, nil
		}
	}
	if err != nil {
		err = errNoCompletion
	}
	return whole, nil, err
}

// read makes an answer or an error of a reply.
func (c *Client) read(x *exchange) (Answer, error) {
	if x.status < 200 || x.status > 299 {
		p, ok := readProblem(x.reply)
		if !ok {
			p.text = c.describe(x.reply)
		}
		return c.refused(x.status, p, x.header)
	}
	if x.over {
		return c.tooLarge(x.reply)
	}
	whole, p, err := readReply(x.reply)
	switch {
	case p != nil:
		return c.problem(x, *p)
	case errors.Is(err, errNoCompletion):
		return Answer{}, c.unavailable(nil, "HTTP %d with what is no chat completion: %s", x.status, c.describe(x.reply))
	case err != nil:
		return Answer{}, c.unavailable(nil, "%v", err)
	case len(whole.Choices) == 0:
		return Answer{}, c.unavailable(nil, "HTTP %d without a choice", x.status)
	case whole.Choices[0].Message == nil:
		return Answer{}, c.unavailable(nil, "HTTP %d with a choice without a message", x.status)
	}
	finish := finishReason(whole.Choices[0])
	if finish == finishBroken {
		return Answer{}, c.unavailable(nil, "the server stopped in the middle of the answer (finish_reason %s)", whole.Choices[0].FinishReason.v)
	}
	return c.answer(whole, finish), nil
}

// answer is what a completion says in its first choice.
func (c *Client) answer(whole completion, finish string) Answer {
	m := *whole.Choices[0].Message
	refusal := m.Refusal.v + m.Content.refusal
	a := Answer{
		Content:      c.hide(m.Content.text),
		CoT:          c.hide(m.cot()),
		FinishReason: c.clean(finish),
		Refusal:      refusal != "" || finish == finishRefused,
		Model:        c.clean(whole.Model.v),
		Fingerprint:  c.clean(whole.Fingerprint.v),
		Usage:        whole.Usage.v.counted(),
	}
	if a.Content == "" {
		a.Content = c.hide(refusal)
	}
	if len(a.Content)+len(a.CoT) > maxAnswer {
		a.Content, a.CoT, a.FinishReason = beginning(a.Content), "", finishTooLarge
	}
	return a
}

// maxAnswer bounds the text of an answer: no model says so much that is to the point.
const maxAnswer = 1 << 20

// beginning is what is kept of an answer that is too large, for people to look at.
func beginning(text string) string {
	const kept = 2000
	if len(text) <= kept {
		return text
	}
	return strings.ToValidUTF8(text[:kept], "") + "…"
}

// tooLarge is the answer in a reply that is too large to be read whole.
func (c *Client) tooLarge(reply []byte) (Answer, error) {
	start := bytes.TrimSpace(reply[:min(len(reply), 1<<10)])
	if !bytes.HasPrefix(start, []byte("{")) && !isStream(start) {
		return Answer{}, c.unavailable(nil, "the reply is larger than %d MiB, and no chat completion: %s", maxReply>>20, c.describe(reply[:1<<10]))
	}
	text := c.hide(strings.ToValidUTF8(string(reply[:8<<10]), "\uFFFD"))
	return Answer{Content: beginning(text), FinishReason: finishTooLarge}, nil
}

// The finish reasons that something follows from. Servers have other words for them.
const (
	finishLength   = "length"
	finishRefused  = string(openai.FinishReasonContentFilter)
	finishCalls    = string(openai.FinishReasonToolCalls)
	finishTooLong  = "too long"  // the model could not read the request whole
	finishTooLarge = "too large" // nobody reads the answer whole
	finishBroken   = "error"
)

var finishWords = map[string]string{
	"length": finishLength, "max_tokens": finishLength, "max_output_tokens": finishLength, "model_length": finishLength,
	"content_filter": finishRefused, "safety": finishRefused, "refusal": finishRefused, "prohibited_content": finishRefused,
	"tool_calls": finishCalls, "function_call": finishCalls, "tool_use": finishCalls,
	"error": finishBroken, "abort": finishBroken, "insufficient_system_resource": finishBroken,
}

func finishReason(c choice) string {
	said := c.FinishReason.v
	switch word, known := finishWords[strings.ToLower(said)]; {
	case known && word != finishCalls:
		return word
	case known || c.Message.calls():
		return finishCalls
	case said == finishTooLong || said == finishTooLarge:
		return "stop" // those are Precept's own
	}
	return said
}

// problem is the answer or error of an error in a reply with a status of success.
func (c *Client) problem(x *exchange, p problem) (Answer, error) {
	if status := p.status(); status != 0 {
		return c.refused(status, p, x.header)
	}
	if p.content() || p.tooLong(http.StatusBadRequest) {
		return c.refused(http.StatusBadRequest, p, x.header)
	}
	return Answer{}, c.unavailable(nil, "HTTP %d with an error: %s", x.status, p.text)
}

// refused is the answer or error of a reply whose status is no success.
func (c *Client) refused(status int, p problem, header http.Header) (Answer, error) {
	if p.tooLong(status) {
		return Answer{Content: c.clean(p.text), FinishReason: finishTooLong}, nil
	}
	if refusedContent(status, p) {
		return Answer{Content: c.clean(p.text), FinishReason: finishRefused, Refusal: true}, nil
	}
	return Answer{}, c.refusedError(status, p, header)
}

// describe says what a reply that can't be read looks like.
func (c *Client) describe(reply []byte) string {
	text := strings.TrimSpace(string(reply[:min(len(reply), 4<<10)]))
	switch {
	case text == "":
		return "an empty body"
	case strings.HasPrefix(text, "<"):
		return "a page of HTML or XML"
	}
	return strconv.Quote(c.short(text, 80))
}
