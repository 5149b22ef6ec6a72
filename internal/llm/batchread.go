package llm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"

	"precept/schemas"
)

// Fetch reads what a batch that has ended brought, as replies of the chat API are read, and
// journals its answers, whose requests had this limit of tokens. paid is called for each
// answer that wasn't journaled before. What was refused is returned by request key; of
// requests that were never begun there may be nothing.
func (c *Client) Fetch(ctx context.Context, b Batch, limit int, paid func(Answer, Meta)) (refused map[schemas.Key]error, err error) {
	refused = map[schemas.Key]error{}
	for _, file := range []string{b.output, b.errors} {
		if file == "" {
			continue
		}
		err := c.content(ctx, file, func(r io.Reader) error {
			return eachLine(r, func(raw []byte) error {
				key, answer, err := c.readLine(raw)
				switch {
				case key == "":
					return nil // of no request; one that is missing for it is asked again
				case err != nil:
					refused[key] = err
					return nil
				}
				delete(refused, key)
				return c.keep(ctx, key, limit, answer, paid)
			})
		})
		if errors.Is(err, errGone) {
			continue // providers keep files for a month
		}
		if err != nil {
			return nil, err
		}
	}
	return refused, nil
}

// maxBatchLine bounds one line of a file: a reply and what stands around it.
const maxBatchLine = maxReply + 1<<20

// eachLine calls do for the lines of a file. A line that is too long is left out.
func eachLine(r io.Reader, do func([]byte) error) error {
	lines := bufio.NewReaderSize(r, 1<<16)
	var text []byte
	tooLong := false
	for {
		part, err := lines.ReadSlice('\n')
		if tooLong = tooLong || len(text)+len(part) > maxBatchLine; !tooLong {
			text = append(text, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(text) > 0 && !tooLong {
			if err := do(text); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
		text, tooLong = text[:0], false
	}
}

var requestKey = regexp.MustCompile(`^[0-9a-f]{64}$`)

// readLine reads a line of an output or error file. It has no key where it is no such line.
func (c *Client) readLine(raw []byte) (key schemas.Key, answer Answer, err error) {
	var line struct {
		CustomID schemas.Key `json:"custom_id"`
		Response *struct {
			Status int             `json:"status_code"`
			Body   json.RawMessage `json:"body"`
		} `json:"response"`
		Error json.RawMessage `json:"error"`
	}
	if json.Unmarshal(raw, &line) != nil || !requestKey.MatchString(string(line.CustomID)) {
		return "", answer, nil
	}
	if line.Response == nil || line.Response.Status == 0 {
		answer, err = c.unanswered(readProblemObject(line.Error))
		return line.CustomID, answer, err
	}
	answer, err = c.read(&exchange{status: line.Response.Status, reply: line.Response.Body})
	answer.Batch = err == nil
	return line.CustomID, answer, err
}

// unanswered reads the error of a request that no model was asked.
func (c *Client) unanswered(p problem) (Answer, error) {
	if strings.Contains(p.code, "batch_expired") {
		return Answer{}, c.fail(schemas.Unavailable, &fault{text: c.clean(p.text), late: true}, "")
	}
	status := p.status()
	if status == 0 {
		status = http.StatusInternalServerError
		if p.content() || p.tooLong(http.StatusBadRequest) || p.matches(quotaCode) || p.matches(authCode) || p.matches(modelCode) {
			status = http.StatusBadRequest
		}
	}
	return c.refused(status, p, nil)
}

// keep journals an answer that came by batch, unless the request has one.
func (c *Client) keep(ctx context.Context, key schemas.Key, limit int, answer Answer, paid func(Answer, Meta)) error {
	answer.Limit = limit
	earlier, found, err := c.recall(ctx, key)
	if err != nil || found && earlier.holds(limit) {
		c.twice(ctx, earlier, answer, err)
		return err
	}
	under := key
	if found || answer.limited() {
		under = limitedKey(key, limit)
		if other, known, err := c.recall(ctx, under); known || err != nil {
			c.twice(ctx, other, answer, err)
			return err
		}
	}
	c.received(ctx, &answer)
	if err := c.journal.Ready(ctx); err != nil {
		return err
	}
	if err := c.record(under, answer); err != nil {
		return err
	}
	if answer.Model != "" {
		c.last.Store(&Served{answer.Model, answer.Fingerprint})
	}
	paid(answer, Meta{Key: key, USD: answer.USD})
	return nil
}

// twice has the payer count an answer that somebody else has paid for, too: it is billed
// all the same. One of its own was read before.
func (c *Client) twice(ctx context.Context, known, answer Answer, err error) {
	if err == nil && c.payer != nil && known.Payer != c.payer.Token() {
		c.received(ctx, &answer)
	}
}
