package llm

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"regexp"
	"slices"
	"time"
)

// streamed is the field that asks for a stream, and the one that asks for the usage at
// its end.
func (e Endpoint) streamed(body net.Buffers) net.Buffers {
	fields := `,"stream":true,"stream_options":{"include_usage":true}}`
	if _, set := e.Extra["stream_options"]; set { // to null: the server knows no such field
		fields = `,"stream":true}`
	}
	last := len(body) - 1
	body = slices.Clone(body)
	// In a copy: the body is sent again after an error.
	body[last] = slices.Concat(bytes.TrimSuffix(body[last], []byte("}")), []byte(fields))
	return body
}

// stream is the server-sent events of one completion, folded.
type stream struct {
	completion
	pieces  pieces
	problem *problem
	err     error // an event that can't be read
	ended   bool  // the answer is whole, whatever is missing of the stream
}

var streamLine = regexp.MustCompile(`^(\x{FEFF}|\s)*(data|event|id|retry)?:`)

// isStream tells events from a JSON document by their first line.
func isStream(raw []byte) bool { return streamLine.Match(raw) }

// readStream folds the events in raw. Comments, names and numbers of events are skipped.
func readStream(raw []byte) (s stream) {
	var data []byte
	for line := range bytes.Lines(raw) {
		line = bytes.TrimRight(line, "\r\n")
		field, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case len(line) == 0:
			s.event(data)
			data = data[:0]
		case string(field) != "data":
		case string(bytes.TrimSpace(value)) == "[DONE]":
			s.event(data)
			s.ended = s.err == nil && s.problem == nil
			s.join()
			return s
		default:
			data = append(append(data, value...), '\n')
		}
	}
	s.event(data) // a stream that was cut has no empty line at its end
	s.join()
	return s
}

// event adds an event, or several that no empty line parts. What follows a problem
// counts no more, and a problem that follows the whole answer doesn't.
func (s *stream) event(data []byte) {
	for dec := json.NewDecoder(bytes.NewReader(data)); s.problem == nil && s.err == nil; {
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if err == io.EOF || err != nil && s.ended {
			return
		}
		var piece completion
		if err == nil {
			err = json.Unmarshal(raw, &piece)
		}
		if err != nil {
			s.err = errNoCompletion
			return
		}
		if len(piece.Choices) == 0 && !s.ended {
			if p, ok := readProblem(raw); ok {
				s.problem = &p
				return
			}
		}
		s.add(piece)
	}
}

func (s *stream) add(piece completion) {
	if s.Model.v == "" {
		s.Model = piece.Model
	}
	if s.Fingerprint.v == "" {
		s.Fingerprint = piece.Fingerprint
	}
	if piece.Usage.v != (usage{}) {
		s.Usage = piece.Usage
	}
	for _, c := range piece.Choices {
		if c.Index != 0 {
			continue
		}
		if len(s.Choices) == 0 {
			s.Choices = []choice{{Message: &message{}}}
		}
		first := &s.Choices[0]
		switch {
		case c.Delta != nil:
			s.pieces.add(*c.Delta)
		case c.Message != nil && !c.Message.empty(): // the whole, after or in place of its pieces
			first.Message, s.pieces = c.Message, pieces{}
		}
		if c.FinishReason.v != "" {
			first.FinishReason = c.FinishReason
			s.ended = true
		}
	}
}

// pieces is what a stream's pieces say together.
type pieces struct {
	text, parts, refusal, reasoningContent, reasoning, details []byte
	calls                                                      bool
}

func (p *pieces) add(m message) {
	p.text = append(p.text, m.Content.text...)
	p.parts = append(p.parts, m.Content.thoughts...)
	p.refusal = append(append(p.refusal, m.Refusal.v...), m.Content.refusal...)
	p.reasoningContent = append(p.reasoningContent, m.ReasoningContent...)
	p.reasoning = append(p.reasoning, m.Reasoning...)
	p.details = append(p.details, m.ReasoningDetails...)
	p.calls = p.calls || m.calls()
}

// join makes the message of the pieces.
func (s *stream) join() {
	if len(s.Choices) == 0 || !s.Choices[0].Message.empty() {
		return
	}
	p := s.pieces
	s.Choices[0].Message = &message{
		Content:          content{text: string(p.text), thoughts: string(p.parts), refusal: string(p.refusal), calls: p.calls},
		ReasoningContent: thoughts(p.reasoningContent), Reasoning: thoughts(p.reasoning), ReasoningDetails: thoughts(p.details),
	}
}

var (
	streamDone = regexp.MustCompile(`[\r\n]data: ?\[DONE\]\s*$`)
	// afterDone is how long a server may take to close a stream that has ended.
	afterDone = time.Second
)

// watched is the body of a streamed reply. Whatever comes puts the alarm off.
type watched struct {
	io.Reader
	alarm   *time.Timer
	silence time.Duration
	tail    []byte // of what was read
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if n > 0 {
		w.tail = append(w.tail, p[:n]...)
		w.tail = w.tail[max(0, len(w.tail)-64):]
		if streamDone.Match(w.tail) {
			w.silence = min(w.silence, afterDone)
		}
		w.alarm.Reset(w.silence)
	}
	return n, err
}
