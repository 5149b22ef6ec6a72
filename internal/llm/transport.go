package llm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
)

// maxReply bounds what is read of one reply.
const maxReply = 16 << 20

// exchange is one request and its reply, byte for byte, of which go-openai's own body stands
// where there is none here. It travels to the
// transport in the request's context, because go-openai's types can neither say
// all that is sent (temperature 0, fields of other servers) nor keep all that
// comes back (headers of an error, a field named reasoning).
type exchange struct {
	body        net.Buffers
	contentType string // of body; JSON where it is empty
	stream      bool   // a success's reply is left to who reads it
	thing       bool   // it is about a thing: a 404 says that this isn't there

	status int // 0 until a whole reply was read, or begins to be
	header http.Header
	reply  []byte
}

type exchangeKey struct{}

func (x *exchange) into(ctx context.Context) context.Context {
	return context.WithValue(ctx, exchangeKey{}, x)
}

// transport sends an exchange's body in place of go-openai's, and keeps the
// reply.
type transport struct {
	base http.RoundTripper
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
	resp, err := t.base.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	if x.stream && resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		x.status, x.header = resp.StatusCode, resp.Header
		return resp, nil
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		return nil, fmt.Errorf("read reply: %w", err)
	}
	if len(reply) > maxReply {
		return nil, fmt.Errorf("the reply is larger than %d MiB", maxReply>>20)
	}
	x.status, x.header, x.reply = resp.StatusCode, resp.Header, reply
	resp.Body = io.NopCloser(bytes.NewReader(reply))
	return resp, nil
}
