package llm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"regexp"
	"slices"
	"time"

	openai "github.com/sashabaranov/go-openai"

	"precept/schemas"
)

// Batch is a batch as its provider tells of it.
type Batch struct {
	ID       string
	File     string // that was submitted
	Created  time.Time
	Metadata map[string]string
	Requests int64
	Answered int64 // or failed
	// Err is why the provider took none of it.
	Err error

	status         string
	output, errors string // files
}

// The states of a batch in which it is at its end.
const (
	batchCompleted = "completed"
	batchExpired   = "expired"
	batchCancelled = "cancelled"
	batchFailed    = "failed"
)

// Ended reports whether no more answers will come.
func (b Batch) Ended() bool {
	return slices.Contains([]string{batchCompleted, batchExpired, batchCancelled, batchFailed}, b.status)
}

// completionWindow is the only one that providers offer.
const completionWindow = "24h"

// transferWithin bounds one call of the batch API that moves a file, which may be large.
const transferWithin = 15 * time.Minute

// Upload stores a part as a file at the provider, which costs nothing yet.
func (c *Client) Upload(ctx context.Context, p Part) (file string, err error) {
	body, contentType, err := form(p.lines)
	if err != nil {
		return "", schemas.E("upload batch to endpoint", c.endpoint.Name, schemas.Internal, err)
	}
	x := exchange{body: body, contentType: contentType}
	err = c.call(ctx, x, passing, func(ctx context.Context) error {
		// The transport sends the lines in place of this file's.
		f, err := c.api().CreateFileBytes(ctx, openai.FileBytesRequest{Name: fileName, Purpose: openai.PurposeBatch})
		file = f.ID
		return err
	})
	if err == nil && file == "" {
		err = c.unavailable(nil, "it stored a file and didn't say under which ID")
	}
	return file, err
}

const fileName = "requests.jsonl"

// form is the multipart form of an upload. The lines stay as they are: they share the
// policy's text.
func form(lines []line) (body net.Buffers, contentType string, err error) {
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	if err := w.WriteField("purpose", string(openai.PurposeBatch)); err != nil {
		return nil, "", err
	}
	if _, err := w.CreateFormFile("file", fileName); err != nil {
		return nil, "", err
	}
	body = append(body, bytes.Clone(buf.Bytes()))
	for _, l := range lines {
		body = append(body, l.text...)
	}
	buf.Reset()
	if err := w.Close(); err != nil {
		return nil, "", err
	}
	return append(body, buf.Bytes()), w.FormDataContentType(), nil
}

// Submit has the requests of an uploaded file answered. It is tried again only where it was
// refused for coming too soon: after another error the batch may be there all the same.
func (c *Client) Submit(ctx context.Context, file string, metadata map[string]string) (b Batch, err error) {
	r := openai.CreateBatchRequest{
		InputFileID: file, Endpoint: openai.BatchEndpointChatCompletions, CompletionWindow: completionWindow, Metadata: map[string]any{},
	}
	for name, value := range metadata {
		r.Metadata[name] = value
	}
	err = c.call(ctx, exchange{}, throttled, func(ctx context.Context) error {
		got, err := c.api().CreateBatch(ctx, r)
		b = c.batch(got.Batch)
		return err
	})
	if err == nil && b.ID == "" {
		err = c.unavailable(nil, "it took a batch and didn't say under which ID")
	}
	return b, err
}

// Batch looks a batch up.
func (c *Client) Batch(ctx context.Context, id string) (b Batch, err error) {
	err = c.call(ctx, exchange{thing: true}, passing, func(ctx context.Context) error {
		got, err := c.api().RetrieveBatch(ctx, id)
		b = c.batch(got.Batch)
		return err
	})
	return b, err
}

// CancelBatch asks the provider to answer no more of a batch. What it has answered by then
// is paid for, and can be fetched. One that has ended stays as it is.
func (c *Client) CancelBatch(ctx context.Context, id string) error {
	err := c.call(ctx, exchange{thing: true}, passing, func(ctx context.Context) error {
		_, err := c.api().CancelBatch(ctx, id)
		return err
	})
	if err == nil {
		return nil
	}
	if b, lookErr := c.Batch(ctx, id); lookErr == nil && b.Ended() {
		return nil
	}
	return err
}

// listed is how many batches are asked for at a time, and maxPages how often.
const (
	listed   = 100
	maxPages = 100
)

// RecentBatches lists the batches that were submitted since a time, by whomever. Providers
// list the latest first.
func (c *Client) RecentBatches(ctx context.Context, since time.Time) (recent []Batch, err error) {
	limit := listed
	var after *string
	for range maxPages {
		var page openai.ListBatchResponse
		err := c.call(ctx, exchange{}, passing, func(ctx context.Context) (err error) {
			page, err = c.api().ListBatch(ctx, after, &limit)
			return err
		})
		if err != nil {
			return nil, err
		}
		before := len(recent)
		for _, b := range page.Data {
			if b := c.batch(b); !b.Created.Before(since) {
				recent = append(recent, b)
			}
		}
		if !page.HasMore || len(recent) == before {
			break
		}
		after = &page.Data[len(page.Data)-1].ID
	}
	return recent, nil
}

// CheckBatches reports whether the endpoint takes batches, as far as that can be told
// without one.
func (c *Client) CheckBatches(ctx context.Context) error {
	if len(c.endpoint.BaseURLs) > 1 {
		return c.fail(schemas.InvalidInput, &fault{text: "it has several base_urls, and a batch lies with one server"},
			`Start the run with "mode": "online", or name an endpoint with one base_url.`)
	}
	limit := 1
	return c.call(ctx, exchange{}, passing, func(ctx context.Context) error {
		_, err := c.api().ListBatch(ctx, nil, &limit)
		return err
	})
}

func (c *Client) batch(b openai.Batch) Batch {
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	out := Batch{
		ID: b.ID, File: b.InputFileID, Created: time.Unix(int64(b.CreatedAt), 0), Metadata: map[string]string{},
		Requests: int64(b.RequestCounts.Total), Answered: int64(b.RequestCounts.Completed) + int64(b.RequestCounts.Failed),
		status: b.Status, output: text(b.OutputFileID), errors: text(b.ErrorFileID),
	}
	for name, value := range b.Metadata {
		if s, ok := value.(string); ok {
			out.Metadata[name] = s
		}
	}
	if b.Status == batchFailed {
		p := problem{text: "no reason given"}
		if b.Errors != nil && len(b.Errors.Data) > 0 {
			p = problem{code: b.Errors.Data[0].Code, text: b.Errors.Data[0].Message}
		}
		out.Err = c.batchRefused(b.ID, p)
	}
	return out
}

// queueText matches what providers say when more requests wait than an account may have.
var queueText = regexp.MustCompile(`(?i)token_limit_exceeded|enqueued|queue is full|too many (pending|batches)`)

// batchRefused is why a provider took none of a batch: its queue is full, the account is
// not in order, or the batch isn't.
func (c *Client) batchRefused(id string, p problem) error {
	p.text = fmt.Sprintf("batch %s failed: %s", id, p.text)
	if queueText.MatchString(p.code) || queueText.MatchString(p.text) {
		return c.fail(schemas.RateLimited, &fault{text: c.clean(p.text)}, "")
	}
	return c.refusedError(http.StatusBadRequest, p, nil)
}

// call makes a call of the batch API at its turn, and again while its errors may pass.
func (c *Client) call(ctx context.Context, x exchange, again func(error) bool, do func(context.Context) error) error {
	for attempt := 1; ; attempt++ {
		err := c.callOnce(ctx, x, do)
		if err == nil || !again(err) || attempt == c.attempts || ctx.Err() != nil {
			return err
		}
		pause := max(backoff(attempt), RetryAfter(err))
		if pause > maxPause {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// api is where batches lie: the base URL.
func (c *Client) api() *openai.Client { return c.pace.replicas[0].api }

func (c *Client) callOnce(ctx context.Context, x exchange, do func(context.Context) error) (err error) {
	t := &turn{seen: c.seen}
	if err := c.enter(ctx, t); err != nil {
		return err
	}
	sent := false
	// Without its seconds: how long a file takes tells nothing of how long an answer does.
	defer func() { c.pace.leave(t, outcome{sent: sent, aborted: ctx.Err() != nil, err: err}) }()
	if err := c.guard(); err != nil {
		return err
	}
	sent = true
	within := c.endpoint.timeout()
	if x.body != nil || x.file {
		within = transferWithin
	}
	attempt, cancel := context.WithTimeoutCause(ctx, within, noReply(within))
	defer cancel()
	x.other = true
	err = do(x.into(attempt))
	switch {
	case x.status == 0:
		return c.sendError(ctx, attempt, err)
	case x.status < 200 || x.status > 299:
		return c.callRefused(&x)
	case err != nil && schemas.KindOf(err) == schemas.Internal: // of nobody here
		return c.unavailable(ctx.Err(), "HTTP %d with what can't be read: %v", x.status, err)
	}
	return err
}

// errGone is that the provider has no such thing.
var errGone = errors.New("it is not there")

func (c *Client) callRefused(x *exchange) error {
	p, ok := readProblem(x.reply)
	if !ok {
		p.text = c.describe(x.reply)
	}
	text := fmt.Sprintf("HTTP %d: %s", x.status, c.clean(p.text))
	switch x.status {
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return c.noBatches(text)
	case http.StatusNotFound:
		if x.thing {
			return c.fail(schemas.NotFound, &fault{text: text, cause: errGone}, "")
		}
		return c.noBatches(text)
	}
	return c.refusedError(x.status, p, x.header)
}

func (c *Client) noBatches(text string) error {
	return c.fail(schemas.InvalidInput, &fault{text: "it has no Batch API (" + text + ")"},
		`Start the run with "mode": "online", or name an endpoint that takes batches.`)
}

// content reads a file of the provider's.
func (c *Client) content(ctx context.Context, file string, read func(io.Reader) error) error {
	return c.call(ctx, exchange{file: true, thing: true}, passing, func(ctx context.Context) error {
		content, err := c.api().GetFileContent(ctx, file)
		if err != nil {
			return err
		}
		defer content.Close()
		return read(content)
	})
}
