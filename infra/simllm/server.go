package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	teacherModel = "sim-teacher"
	judgeModel   = "sim-judge"
	fingerprint  = "simulated-precept-1"
	maxBody      = 4 << 20
	maxChoices   = 16
)

var ownModels = []string{teacherModel, judgeModel}

// config is what the flags set.
type config struct {
	latency, jitter time.Duration
	faults          faults
	flaws           flaws
	// rpm and tpm are the numbers of requests and tokens a minute over which 429
	// is answered; 0 is no limit.
	rpm, tpm int
	// poses are model names of others under which it answers, as teacher or
	// judge: the messages tell which.
	poses []string
	// maxInFlight is the number of requests at once over which 429 is
	// answered; 0 is no limit.
	maxInFlight int
	// apiKey is the bearer token asked for; empty asks for none.
	apiKey string
	// reasoningField moves the teacher's chain of thought out of the content
	// into the message's field of this name; empty leaves it in <think> tags.
	reasoningField string
	batch          batchConfig
}

type server struct {
	config
	ledger   *ledger
	prefixes *prefixCache
	minds    *minds
	batches  *batches
	limits   *limits
	seconds  seconds
	inFlight atomic.Int64
}

func newServer(c config) *server {
	s := &server{config: c, prefixes: newPrefixCache(), minds: newMinds(), limits: newLimits(c.rpm, c.tpm)}
	s.ledger = newLedger(s.serves)
	s.batches = newBatches(s, c.batch)
	return s
}

// models are the names it answers under.
func (s *server) models() []string { return slices.Concat(ownModels, s.poses) }

func (s *server) serves(model string) bool { return slices.Contains(s.models(), model) }

// judges reports whether a request is for the judge. Under another's name the
// messages tell: a judge is told its role.
func (s *server) judges(req chatRequest) bool {
	if !slices.Contains(s.poses, req.Model) {
		return req.Model == judgeModel
	}
	return slices.ContainsFunc(req.Messages, func(m message) bool {
		return m.Role == "system" && roleLine.MatchString(string(m.Content[:min(len(m.Content), 4096)]))
	})
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/chat/completions", s.serveChat)
	mux.HandleFunc("GET /v1/models", s.serveModels)
	s.batches.routes(mux)
	mux.HandleFunc("GET /ledger", s.ledger.serveGet)
	mux.HandleFunc("GET /ledger/seconds", s.seconds.serveGet)
	mux.HandleFunc("POST /ledger/reset", s.ledger.serveReset)
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"status": "ok", "simulated": true})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Simulated", "true")
		mux.ServeHTTP(w, r)
	})
}

func (s *server) serveModels(w http.ResponseWriter, r *http.Request) {
	if e := s.authorize(r); e != nil {
		e.write(w)
		return
	}
	list := []map[string]any{}
	for _, m := range s.models() {
		list = append(list, map[string]any{
			"id": m, "object": "model", "created": 0, "owned_by": "precept-simulation", "simulated": true,
		})
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": list})
}

// chatRequest is the part of an OpenAI chat request that the simulation reads;
// the rest only enters the seed, as bytes of the body.
type chatRequest struct {
	Model               string    `json:"model"`
	Messages            []message `json:"messages"`
	Stream              bool      `json:"stream"`
	N                   int       `json:"n"`
	MaxTokens           int       `json:"max_tokens"`
	MaxCompletionTokens int       `json:"max_completion_tokens"`
	StreamOptions       struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`

	text string // the prompt, once it was asked for
	// cached is how many characters of it were in the prefix cache when it came.
	cached int
}

// prompt is what the model reads.
func (r *chatRequest) prompt() string {
	if r.text == "" {
		var b strings.Builder
		for _, m := range r.Messages {
			b.WriteString(m.Role)
			b.WriteByte('\n')
			b.WriteString(string(m.Content))
			b.WriteByte('\n')
		}
		r.text = b.String()
	}
	return r.text
}

type message struct {
	Role    string  `json:"role"`
	Content content `json:"content"`
}

// content is a message's text; a list of parts is joined.
type content string

func (c *content) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err == nil {
		*c = content(text)
		return nil
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if err := json.Unmarshal(b, &parts); err != nil {
		return errors.New("content must be a string or a list of text parts")
	}
	var all strings.Builder
	for _, p := range parts {
		all.WriteString(p.Text)
	}
	*c = content(all.String())
	return nil
}

type reply struct {
	Role             string  `json:"role"`
	Content          *string `json:"content"`
	Refusal          *string `json:"refusal,omitempty"`
	Reasoning        string  `json:"reasoning,omitempty"`
	ReasoningContent string  `json:"reasoning_content,omitempty"`
}

type choice struct {
	Index        int    `json:"index"`
	Message      reply  `json:"message"`
	FinishReason string `json:"finish_reason"`
}

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
	Details          struct {
		CachedTokens int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
}

type chatResponse struct {
	ID                string   `json:"id"`
	Object            string   `json:"object"`
	Created           int64    `json:"created"`
	Model             string   `json:"model"`
	SystemFingerprint string   `json:"system_fingerprint"`
	Choices           []choice `json:"choices"`
	Usage             usage    `json:"usage"`
}

func (s *server) serveChat(w http.ResponseWriter, r *http.Request) {
	if e := s.authorize(r); e != nil {
		e.write(w)
		return
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		badRequest("the body can't be read: " + err.Error()).write(w)
		return
	}
	var req chatRequest
	if err := json.Unmarshal(raw, &req); err != nil {
		badRequest("the body is not a chat request: " + err.Error()).write(w)
		return
	}
	sum := sha256.Sum256(raw)
	body := digest(sum[:16])
	e := s.ledger.open(req.Model, body)
	var paid *usage
	// Deferred, since a cut connection leaves by panic.
	defer func() { s.ledger.close(e, paid) }()
	defer s.inFlight.Add(-1)
	if n := s.inFlight.Add(1); s.maxInFlight > 0 && n > int64(s.maxInFlight) {
		tooMany("capacity_exceeded", "too many requests at once", time.Second).write(w)
		return
	}
	if problem := s.check(req); problem != nil {
		problem.write(w)
		return
	}
	what, wait := s.limits.take(len(raw) / charsPerToken)
	s.seconds.count(time.Now(), wait > 0)
	s.limits.tell(w.Header())
	if wait > 0 {
		tooMany("rate_limit_exceeded", what+" per minute are used up", wait).write(w)
		return
	}
	drawn := s.faults.draw(body, e.nth, s.judges(req))
	switch drawn {
	case limitFault:
		tooMany("rate_limit_exceeded", "simulated rate limit", time.Second).write(w)
		return
	case stallFault:
		<-r.Context().Done()
		return
	}
	cached, remember := s.prefixes.look(req.Model, req.prompt())
	req.cached = cached
	if !s.wait(r.Context(), body) {
		return
	}
	remember()
	if e, ok := s.fails(drawn, body); ok {
		e.write(w)
		return
	}
	res := s.answer(req, body, drawn)
	if reply, ok := drawn.odd(body, e.nth); ok {
		if !reply.Fails {
			paid = &res.Usage
		}
		reply.Write(w, r, res.said())
		return
	}
	if drawn == cutFault {
		cut(w, res)
	}
	if req.Stream {
		err = stream(w, res, req.StreamOptions.IncludeUsage)
	} else {
		err = writeJSON(w, http.StatusOK, res)
	}
	if err == nil && r.Context().Err() == nil {
		paid = &res.Usage
	}
}

// fails is the error that a fault makes of an answer, if it makes one.
func (s *server) fails(drawn fault, body digest) (*apiError, bool) {
	switch {
	case drawn == failFault:
		return &apiError{status: http.StatusInternalServerError, Type: "server_error", Code: "internal_error", Message: "simulated server error"}, true
	case drawn == refusalFault && rng(body, 3).IntN(2) == 0:
		return &apiError{status: http.StatusBadRequest, Type: "invalid_request_error", Code: "content_filter",
			Message: "simulated: the provider's content management policy refuses this prompt"}, true
	}
	return nil, false
}

// check returns what a real endpoint would answer 4xx to.
func (s *server) check(r chatRequest) *apiError {
	switch {
	case !s.serves(r.Model):
		return &apiError{status: http.StatusNotFound, Type: "invalid_request_error", Code: "model_not_found", Param: "model",
			Message: fmt.Sprintf("model %q does not exist; this simulation has %s", r.Model, strings.Join(s.models(), " and "))}
	case len(r.Messages) == 0:
		return badRequest("messages must not be empty")
	case r.N > maxChoices || r.N < 0:
		return badRequest(fmt.Sprintf("n must be between 1 and %d", maxChoices))
	case r.MaxTokens < 0 || r.MaxCompletionTokens < 0:
		return badRequest("max_tokens must not be negative")
	}
	return nil
}

// wait spends the simulated latency; false when the client left meanwhile.
func (s *server) wait(ctx context.Context, body digest) bool {
	d := s.latency + time.Duration(rng(body, 4).Float64()*float64(s.jitter))
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *server) answer(req chatRequest, body digest, drawn fault) *chatResponse {
	res := &chatResponse{
		ID: fmt.Sprintf("chatcmpl-simulated-%x", body[:12]), Object: "chat.completion",
		// A time that follows from the body keeps equal requests' answers equal.
		Created: int64(binary.BigEndian.Uint32(body[:4]) >> 2), Model: req.Model, SystemFingerprint: fingerprint,
	}
	limit := req.MaxCompletionTokens
	if limit == 0 {
		limit = req.MaxTokens
	}
	for i := range max(1, req.N) {
		r := rng(body, 16+uint64(i))
		var think, text string
		switch {
		case drawn == refusalFault:
			refusal := "I'm sorry, I can't assist with that request. (simulated refusal of the provider)"
			res.Choices = append(res.Choices, choice{Index: i, Message: reply{Role: "assistant", Refusal: &refusal}, FinishReason: "stop"})
			res.Usage.CompletionTokens += tokens(refusal)
			continue
		case drawn == garbageFault:
			text = garbage(r)
		case s.judges(req):
			text = s.judge(req.Messages, r)
		default:
			think, text = s.teach(req.Messages, r)
		}
		c := s.choice(i, think, text, limit)
		res.Usage.CompletionTokens += tokens(*c.Message.Content) + tokens(c.Message.Reasoning) + tokens(c.Message.ReasoningContent)
		res.Choices = append(res.Choices, c)
	}
	res.Usage.PromptTokens = tokens(req.prompt())
	res.Usage.Details.CachedTokens = req.cached / charsPerToken
	res.Usage.TotalTokens = res.Usage.PromptTokens + res.Usage.CompletionTokens
	return res
}

// choice lays think and text out as the configuration asks and cuts them at
// limit tokens (0 is no limit).
func (s *server) choice(index int, think, text string, limit int) choice {
	c := choice{Index: index, Message: reply{Role: "assistant"}, FinishReason: "stop"}
	if think != "" && s.reasoningField == "" {
		text = "<think>\n" + think + "\n</think>\n\n" + text
		think = ""
	}
	if limit > 0 {
		var cutThink, cutText bool
		think, cutThink = truncate(think, limit)
		text, cutText = truncate(text, max(0, limit-tokens(think)))
		if cutThink || cutText {
			c.FinishReason = "length"
		}
	}
	c.Message.Content = &text
	switch s.reasoningField {
	case "reasoning":
		c.Message.Reasoning = think
	case "reasoning_content":
		c.Message.ReasoningContent = think
	}
	return c
}

const charsPerToken = 4

func tokens(text string) int { return (len(text) + charsPerToken - 1) / charsPerToken }

func truncate(text string, limit int) (string, bool) {
	end := limit * charsPerToken
	if len(text) <= end {
		return text, false
	}
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end], true
}

// garbage is text that no reader can use: a loop, or words of no language.
func garbage(r *rand.Rand) string {
	if r.IntN(2) == 0 {
		return strings.Repeat("the the of ", 20+r.IntN(20))
	}
	const signs = `bcdfgklmnprstvwxz{}[]\|~^<>`
	var b strings.Builder
	for range 30 + r.IntN(30) {
		for range 2 + r.IntN(7) {
			b.WriteByte(signs[r.IntN(len(signs))])
		}
		b.WriteByte(' ')
	}
	return b.String()
}

// cut promises the whole answer, sends half of it and drops the connection.
func cut(w http.ResponseWriter, res *chatResponse) {
	whole, err := json.Marshal(res)
	if err == nil {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(whole)))
		// The connection is dropped next: whether this half arrives is no matter.
		_, _ = w.Write(whole[:len(whole)/2])
		_ = http.NewResponseController(w).Flush()
	}
	panic(http.ErrAbortHandler)
}

// stream sends the answer as server-sent events, some words at a time.
func stream(w http.ResponseWriter, res *chatResponse, withUsage bool) error {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	flusher := http.NewResponseController(w)
	send := func(choices []map[string]any, u *usage) error {
		chunk := map[string]any{
			"id": res.ID, "object": "chat.completion.chunk", "created": res.Created, "model": res.Model,
			"system_fingerprint": res.SystemFingerprint, "choices": choices,
		}
		if withUsage {
			chunk["usage"] = u
		}
		b, err := json.Marshal(chunk)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "data: %s\n\n", b); err != nil {
			return err
		}
		return flusher.Flush()
	}
	part := func(index int, delta map[string]any, finish any) error {
		return send([]map[string]any{{"index": index, "delta": delta, "finish_reason": finish}}, nil)
	}
	for _, c := range res.Choices {
		if err := part(c.Index, map[string]any{"role": "assistant"}, nil); err != nil {
			return err
		}
		fields := []struct{ name, text string }{
			{"reasoning", c.Message.Reasoning}, {"reasoning_content", c.Message.ReasoningContent},
		}
		if c.Message.Content != nil {
			fields = append(fields, struct{ name, text string }{"content", *c.Message.Content})
		}
		if c.Message.Refusal != nil {
			fields = append(fields, struct{ name, text string }{"refusal", *c.Message.Refusal})
		}
		for _, f := range fields {
			for _, piece := range pieces(f.text, 8) {
				if err := part(c.Index, map[string]any{f.name: piece}, nil); err != nil {
					return err
				}
			}
		}
		if err := part(c.Index, map[string]any{}, c.FinishReason); err != nil {
			return err
		}
	}
	if withUsage {
		if err := send([]map[string]any{}, &res.Usage); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(w, "data: [DONE]\n\n"); err != nil {
		return err
	}
	return flusher.Flush()
}

// pieces splits text after every n spaces.
func pieces(text string, n int) []string {
	var out []string
	start, spaces := 0, 0
	for i := range len(text) {
		if text[i] != ' ' {
			continue
		}
		if spaces++; spaces == n {
			out = append(out, text[start:i+1])
			start, spaces = i+1, 0
		}
	}
	if start < len(text) {
		out = append(out, text[start:])
	}
	return out
}

func (s *server) authorize(r *http.Request) *apiError {
	want := "Bearer " + s.apiKey
	if s.apiKey == "" || subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte(want)) == 1 {
		return nil
	}
	return &apiError{status: http.StatusUnauthorized, Type: "invalid_request_error", Code: "invalid_api_key",
		Message: "the simulation was started with --api-key: send it as a bearer token"}
}

// apiError is an error in OpenAI's form.
type apiError struct {
	status     int
	retryAfter time.Duration
	Message    string `json:"message"`
	Type       string `json:"type"`
	Param      string `json:"param,omitempty"`
	Code       string `json:"code"`
}

func badRequest(message string) *apiError {
	return &apiError{status: http.StatusBadRequest, Type: "invalid_request_error", Code: "invalid_request", Message: message}
}

func tooMany(code, message string, wait time.Duration) *apiError {
	return &apiError{status: http.StatusTooManyRequests, Type: "requests", Code: code, Message: message, retryAfter: wait}
}

func (e *apiError) write(w http.ResponseWriter) {
	if e.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
		w.Header().Set("Retry-After-Ms", strconv.FormatInt(max(1, e.retryAfter.Milliseconds()), 10))
	}
	// A client that went away has no use for the error.
	_ = writeJSON(w, e.status, map[string]any{"error": e})
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, err = w.Write(b)
	return err
}
