package llm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"
)

const (
	maxReply   = 16 << 20 // bounds what is read of a reply
	maxProblem = 1 << 20  // and of one whose status is no success
)

// exchange is one request and its reply, byte for byte. It travels to the
// transport in the request's context, because go-openai's types can neither say
// all that is sent (temperature 0, fields of other servers) nor keep all that
// comes back (headers of an error, fields and types of other servers).
type exchange struct {
	body net.Buffers // nil where go-openai's is sent

	// The following are for calls of another API than that of chat completions.
	other       bool   // it is one: go-openai reads the reply, too
	contentType string // of body; JSON where it is empty
	file        bool   // a success's reply is left to who reads it
	thing       bool   // it is about a thing: a 404 says that this isn't there

	// alarm ends a request whose reply is streamed when nothing of it came for silence.
	alarm   *time.Timer
	silence time.Duration

	status int // 0 until a reply was read, or begins to be
	header http.Header
	reply  []byte
	over   bool // the reply is larger than what was read
}

type exchangeKey struct{}

func (x *exchange) into(ctx context.Context) context.Context {
	return context.WithValue(ctx, exchangeKey{}, x)
}

// transport sends an exchange's body in place of go-openai's, and keeps the
// reply.
type transport struct {
	base        http.RoundTripper
	header, key string // where the key isn't the bearer's
}

func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	x, ok := req.Context().Value(exchangeKey{}).(*exchange)
	if !ok {
		return nil, fmt.Errorf("%s %s carries no exchange", req.Method, req.URL.Path)
	}
	out := req
	if x.body != nil {
		if req.Body != nil {
			req.Body.Close() // a RoundTripper closes the body it was given
		}
		out = req.Clone(req.Context())
		out.GetBody = func() (io.ReadCloser, error) {
			unread := slices.Clone(x.body) // to read consumes it
			return io.NopCloser(&unread), nil
		}
		out.Body, _ = out.GetBody()
		out.ContentLength = int64(size(x.body))
		if x.contentType != "" {
			out.Header.Set("Content-Type", x.contentType)
		}
	}
	if t.header != "" {
		out.Header.Set(t.header, t.key)
	}
	if x.alarm != nil {
		out.Header.Set("Accept", "text/event-stream")
	}
	resp, err := t.base.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	if x.file && resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		x.status, x.header = resp.StatusCode, resp.Header
		return resp, nil
	}
	defer resp.Body.Close()
	if err := x.read(resp); err != nil {
		return nil, fmt.Errorf("read reply: %w", err)
	}
	read := []byte("{}") // the client reads x
	if x.other {
		read = x.reply
	}
	resp.Body = io.NopCloser(bytes.NewReader(read))
	return resp, nil
}

// read keeps the reply. A stream that ended counts as read whole, whatever became of its
// connection, and half of an error is an error.
func (x *exchange) read(resp *http.Response) error {
	if resp.StatusCode < 200 { // what follows is another protocol
		x.status, x.header = resp.StatusCode, resp.Header
		return nil
	}
	var body io.Reader = resp.Body
	most, failed := int64(maxReply), resp.StatusCode > 299
	if failed {
		most = maxProblem
	}
	if x.alarm != nil {
		x.alarm.Reset(x.silence)
		body = &watched{Reader: body, alarm: x.alarm, silence: x.silence, tail: []byte("\n")}
	}
	reply, err := io.ReadAll(io.LimitReader(body, most+1))
	if err != nil && !failed && !(isStream(reply) && readStream(reply).ended) {
		return err
	}
	x.over = int64(len(reply)) > most
	x.status, x.header, x.reply = resp.StatusCode, resp.Header, reply[:min(int64(len(reply)), most)]
	return nil
}
