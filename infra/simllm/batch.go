package main

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// batchConfig is what the flags set for the Batch API.
type batchConfig struct {
	delay  time.Duration // from submission to end
	expire float64       // share of the requests that are not begun in time
	queue  int           // requests that may wait at once; 0 is no limit
	state  string        // folder that files and batches outlive a restart in; empty keeps none
}

// batches is the Batch API. A batch is answered when somebody looks at it after its delay:
// its answers follow from its requests, as those of the chat API do.
type batches struct {
	batchConfig
	server *server
	now    func() time.Time

	mu      sync.Mutex
	files   map[string]*file
	batches []*batch       // in the order of their submission
	tried   map[digest]int // how often a body was submitted
}

type file struct {
	ID       string `json:"id"`
	Object   string `json:"object"`
	Bytes    int    `json:"bytes"`
	Created  int64  `json:"created_at"`
	Filename string `json:"filename"`
	Purpose  string `json:"purpose"`
	content  []byte
}

// batch is the object that clients see.
type batch struct {
	ID       string            `json:"id"`
	Object   string            `json:"object"`
	Endpoint string            `json:"endpoint"`
	Errors   *batchErrors      `json:"errors"`
	Input    string            `json:"input_file_id"`
	Window   string            `json:"completion_window"`
	Status   string            `json:"status"`
	Output   string            `json:"output_file_id,omitempty"`
	Refused  string            `json:"error_file_id,omitempty"`
	Created  int64             `json:"created_at"`
	Expires  int64             `json:"expires_at"`
	Counts   batchCounts       `json:"request_counts"`
	Metadata map[string]string `json:"metadata"`
	// Begun is Created, exactly.
	Begun time.Time `json:"x_begun"`
}

type batchErrors struct {
	Object string       `json:"object"`
	Data   []batchError `json:"data"`
}

type batchError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

type batchCounts struct {
	Total     int `json:"total"`
	Completed int `json:"completed"`
	Failed    int `json:"failed"`
}

// The states of a batch.
const (
	validating = "validating"
	inProgress = "in_progress"
	finalizing = "finalizing"
	completed  = "completed"
	expired    = "expired"
	cancelled  = "cancelled"
	failed     = "failed"
)

func (b *batch) ended() bool {
	return slices.Contains([]string{completed, expired, cancelled, failed}, b.Status)
}

const (
	maxBatchFile  = 200 << 20
	maxBatchLines = 50_000
	chatPath      = "/v1/chat/completions"
)

func newBatches(s *server, c batchConfig) *batches {
	return &batches{batchConfig: c, server: s, now: time.Now, files: map[string]*file{}, tried: map[digest]int{}}
}

func (b *batches) routes(mux *http.ServeMux) {
	handle := func(pattern string, do func(r *http.Request) (any, *apiError)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if e := b.server.authorize(r); e != nil {
				e.write(w)
				return
			}
			// A slow client holds up nobody else: its body is read before, and its reply
			// written after, what is done for one at a time.
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBatchFile+1<<20))
			if err != nil {
				badRequest("the body can't be read: " + err.Error()).write(w)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			reply, contentType, e := b.reply(r, do)
			if e != nil {
				e.write(w)
				return
			}
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Content-Length", strconv.Itoa(len(reply)))
			// A client that went away has no use for the reply.
			_, _ = w.Write(reply)
		})
	}
	handle("POST /v1/files", b.upload)
	handle("GET /v1/files/{id}", b.serveFile)
	handle("GET /v1/files/{id}/content", b.serveContent)
	handle("DELETE /v1/files/{id}", b.deleteFile)
	handle("POST /v1/batches", b.create)
	handle("GET /v1/batches", b.list)
	handle("GET /v1/batches/{id}", b.get)
	handle("POST /v1/batches/{id}/cancel", b.cancel)
}

// reply does a call, and returns its reply: a file's content as it is, else JSON.
func (b *batches) reply(r *http.Request, do func(r *http.Request) (any, *apiError)) (raw []byte, contentType string, _ *apiError) {
	b.mu.Lock()
	defer b.mu.Unlock()
	reply, e := do(r)
	if e != nil {
		return nil, "", e
	}
	if content, ok := reply.([]byte); ok {
		return content, "application/octet-stream", nil
	}
	// What are plain values can be written.
	raw, _ = json.Marshal(reply)
	return raw, "application/json", nil
}

func missing(what, id string) *apiError {
	return &apiError{status: http.StatusNotFound, Type: "invalid_request_error", Code: "not_found", Message: fmt.Sprintf("no %s has the ID %q", what, id)}
}

func (b *batches) upload(r *http.Request) (any, *apiError) {
	part, header, err := r.FormFile("file")
	if err != nil {
		return nil, badRequest("no file came: " + err.Error())
	}
	defer part.Close()
	content, err := io.ReadAll(part)
	if err != nil {
		return nil, badRequest("the file can't be read: " + err.Error())
	}
	if purpose := r.FormValue("purpose"); purpose != "batch" {
		return nil, badRequest(fmt.Sprintf("purpose %q is not simulated; use batch", purpose))
	}
	f := b.store(header.Filename, "batch", content)
	return f, b.save()
}

func (b *batches) store(name, purpose string, content []byte) *file {
	f := &file{
		ID: "file-simulated-" + rand.Text(), Object: "file", Bytes: len(content), Created: b.now().Unix(),
		Filename: name, Purpose: purpose, content: content,
	}
	b.files[f.ID] = f
	return f
}

func (b *batches) serveFile(r *http.Request) (any, *apiError) {
	if f := b.files[r.PathValue("id")]; f != nil {
		return f, nil
	}
	return nil, missing("file", r.PathValue("id"))
}

func (b *batches) serveContent(r *http.Request) (any, *apiError) {
	f := b.files[r.PathValue("id")]
	if f == nil {
		return nil, missing("file", r.PathValue("id"))
	}
	return f.content, nil
}

func (b *batches) deleteFile(r *http.Request) (any, *apiError) {
	id := r.PathValue("id")
	if b.files[id] == nil {
		return nil, missing("file", id)
	}
	delete(b.files, id)
	return map[string]any{"id": id, "object": "file", "deleted": true}, b.save()
}

func (b *batches) create(r *http.Request) (any, *apiError) {
	var asked struct {
		Input    string            `json:"input_file_id"`
		Endpoint string            `json:"endpoint"`
		Window   string            `json:"completion_window"`
		Metadata map[string]string `json:"metadata"`
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		return nil, badRequest("the body is no batch: " + err.Error())
	}
	n := &batch{
		ID: "batch_simulated_" + rand.Text(), Object: "batch", Status: validating, Begun: b.now(), Created: b.now().Unix(),
		Expires: b.now().Add(24 * time.Hour).Unix(), Input: asked.Input, Endpoint: asked.Endpoint, Window: asked.Window, Metadata: asked.Metadata,
	}
	input := b.files[n.Input]
	switch {
	case input == nil:
		return nil, badRequest(fmt.Sprintf("input_file_id: no file has the ID %q", n.Input))
	case n.Endpoint != chatPath:
		return nil, badRequest(fmt.Sprintf("endpoint %q is not simulated; use %s", n.Endpoint, chatPath))
	case n.Window != "24h":
		return nil, badRequest(`completion_window must be "24h"`)
	case len(n.Metadata) > 16:
		return nil, badRequest("metadata has more than 16 entries")
	}
	lines, problem := readLines(input.content)
	n.Counts.Total = len(lines)
	waiting := 0
	for _, other := range b.batches {
		if b.advance(other); !other.ended() {
			waiting += other.Counts.Total
		}
	}
	switch {
	case problem != nil:
		n.fail(*problem)
	case b.queue > 0 && waiting+len(lines) > b.queue:
		n.fail(batchError{"token_limit_exceeded", fmt.Sprintf("simulated: the enqueued limit of %d requests is reached; try again once some in_progress batches have been completed", b.queue)})
	}
	b.batches = append(b.batches, n)
	return n, b.save()
}

func (b *batch) fail(e batchError) {
	b.Status, b.Errors = failed, &batchErrors{"list", []batchError{e}}
}

func (b *batches) find(id string) *batch {
	for _, x := range b.batches {
		if x.ID == id {
			b.advance(x)
			return x
		}
	}
	return nil
}

func (b *batches) get(r *http.Request) (any, *apiError) {
	x := b.find(r.PathValue("id"))
	if x == nil {
		return nil, missing("batch", r.PathValue("id"))
	}
	return x, b.save()
}

// list lists the latest batches first, as the API does.
func (b *batches) list(r *http.Request) (any, *apiError) {
	limit := 20
	if text := r.FormValue("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 100 {
			return nil, badRequest("limit must be between 1 and 100")
		}
		limit = n
	}
	page := []*batch{}
	after, more := r.FormValue("after"), false
	for _, x := range slices.Backward(b.batches) {
		b.advance(x)
		switch {
		case after != "":
			if x.ID == after {
				after = ""
			}
		case len(page) == limit:
			more = true
		default:
			page = append(page, x)
		}
	}
	reply := map[string]any{"object": "list", "data": page, "has_more": more}
	if len(page) > 0 {
		reply["first_id"], reply["last_id"] = page[0].ID, page[len(page)-1].ID
	}
	return reply, b.save()
}

// cancel ends a batch half-way: what was answered by then stays.
func (b *batches) cancel(r *http.Request) (any, *apiError) {
	x := b.find(r.PathValue("id"))
	if x == nil {
		return nil, missing("batch", r.PathValue("id"))
	}
	if x.ended() {
		return nil, &apiError{status: http.StatusConflict, Type: "invalid_request_error", Code: "batch_ended",
			Message: fmt.Sprintf("the batch is %s and can't be cancelled", x.Status)}
	}
	b.answer(x, cancelled, x.Counts.Total/2)
	return x, b.save()
}

// advance brings a batch to where it stands by now.
func (b *batches) advance(x *batch) {
	if x.ended() {
		return
	}
	switch passed := b.now().Sub(x.Begun); {
	case passed >= b.delay:
		b.answer(x, completed, x.Counts.Total)
	case passed >= b.delay*9/10:
		x.Status = finalizing
	case passed >= b.delay/10:
		x.Status = inProgress
		x.Counts.Completed = int(float64(x.Counts.Total) * passed.Seconds() / b.delay.Seconds())
	}
}

// batchLine is a request of a batch.
type batchLine struct {
	CustomID string          `json:"custom_id"`
	Method   string          `json:"method"`
	URL      string          `json:"url"`
	Body     json.RawMessage `json:"body"`
}

// readLines reads an input file, or says what is wrong with it.
func readLines(content []byte) (lines []batchLine, problem *batchError) {
	ids := map[string]bool{}
	for text := range bytes.Lines(content) {
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		var l batchLine
		switch err := json.Unmarshal(text, &l); {
		case err != nil:
			return lines, &batchError{"invalid_json_line", fmt.Sprintf("line %d: %v", len(lines)+1, err)}
		case ids[l.CustomID] || l.CustomID == "":
			return lines, &batchError{"duplicate_custom_id", fmt.Sprintf("line %d: custom_id %q is empty or was used before", len(lines)+1, l.CustomID)}
		case l.Method != http.MethodPost || l.URL != chatPath:
			return lines, &batchError{"mismatched_url", fmt.Sprintf("line %d: %s %s is not the batch's endpoint", len(lines)+1, l.Method, l.URL)}
		}
		ids[l.CustomID] = true
		lines = append(lines, l)
	}
	switch {
	case len(lines) == 0:
		return lines, &batchError{"empty_file", "the file has no requests"}
	case len(lines) > maxBatchLines:
		return lines, &batchError{"too_many_requests", fmt.Sprintf("the file has more than %d requests", maxBatchLines)}
	}
	return lines, nil
}

// answer ends a batch of which so many requests had their turn.
func (b *batches) answer(x *batch, status string, begun int) {
	input := b.files[x.Input]
	if input == nil {
		x.fail(batchError{"input_file_gone", "the input file was deleted"})
		return
	}
	lines, problem := readLines(input.content)
	if problem != nil {
		x.fail(*problem)
		return
	}
	var output, refused bytes.Buffer
	x.Status, x.Counts = status, batchCounts{Total: len(lines)}
	// In no order that a client could count on.
	slices.SortFunc(lines, func(p, q batchLine) int { return -cmp.Compare(p.CustomID, q.CustomID) })
	for i, l := range lines {
		sum := sha256.Sum256(l.Body)
		body := digest(sum[:16])
		b.tried[body]++
		to, reply := &refused, map[string]any{"id": fmt.Sprintf("batch_req_simulated_%x", body[:12]), "custom_id": l.CustomID, "response": nil, "error": nil}
		switch late := rng(body, 5+uint64(b.tried[body])<<8).Float64() < b.expire; {
		case i >= begun:
			reply["error"] = batchError{"batch_cancelled", "This request was not executed because the batch was cancelled."}
		case late:
			x.Status = cmp.Or(map[string]string{completed: expired}[x.Status], x.Status)
			reply["error"] = batchError{"batch_expired", "This request could not be executed before the completion window expired."}
		default:
			code, response := b.server.line(l.Body, body)
			if code == http.StatusOK {
				to = &output
			}
			reply["response"] = map[string]any{"status_code": code, "request_id": fmt.Sprintf("req_simulated_%x", body[:8]), "body": response}
		}
		if to == &output {
			x.Counts.Completed++
		} else {
			x.Counts.Failed++
		}
		// What was read as JSON can be written.
		text, _ := json.Marshal(reply)
		to.Write(append(text, '\n'))
	}
	if output.Len() > 0 {
		x.Output = b.store(x.ID+"_output.jsonl", "batch_output", output.Bytes()).ID
	}
	if refused.Len() > 0 {
		x.Refused = b.store(x.ID+"_error.jsonl", "batch_output", refused.Bytes()).ID
	}
}

// line answers a request of a batch as the chat API would. Limits are none of a batch's.
func (s *server) line(raw json.RawMessage, body digest) (int, any) {
	var req chatRequest
	refuse := func(e *apiError) (int, any) { return e.status, map[string]any{"error": e} }
	if err := json.Unmarshal(raw, &req); err != nil {
		return refuse(badRequest("the body is not a chat request: " + err.Error()))
	}
	e := s.ledger.open(req.Model, body)
	var paid *usage
	defer func() { s.ledger.closeBatched(e, paid) }()
	if problem := s.check(req); problem != nil {
		return refuse(problem)
	}
	drawn := s.faults.draw(body, e.nth, s.judges(req))
	if e, ok := s.fails(drawn, body); ok {
		return refuse(e)
	}
	cached, remember := s.prefixes.look(req.Model, req.prompt())
	req.cached = cached
	remember()
	res := s.answer(req, body, drawn)
	paid = &res.Usage
	return http.StatusOK, res
}

// state is what a folder keeps: files and batches as JSON, contents as files.
type state struct {
	Files   []*file        `json:"files"`
	Batches []*batch       `json:"batches"`
	Tried   map[string]int `json:"tried"`
}

// save writes what must outlive a restart.
func (b *batches) save() *apiError {
	if b.state == "" {
		return nil
	}
	if err := b.write(); err != nil {
		return &apiError{status: http.StatusInternalServerError, Type: "server_error", Code: "state", Message: "state can't be written: " + err.Error()}
	}
	return nil
}

func (b *batches) write() error {
	s := state{Batches: b.batches, Tried: map[string]int{}}
	for body, n := range b.tried {
		s.Tried[fmt.Sprintf("%x", body)] = n
	}
	for _, f := range b.files {
		s.Files = append(s.Files, f)
		path := filepath.Join(b.state, f.ID)
		if _, err := os.Stat(path); err == nil {
			continue // contents never change
		}
		if err := writeFile(path, f.content); err != nil {
			return err
		}
	}
	slices.SortFunc(s.Files, func(x, y *file) int { return strings.Compare(x.ID, y.ID) })
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(b.state, "state.json"), raw)
}

// writeFile writes a file whole, or not at all.
func writeFile(path string, content []byte) error {
	if err := os.WriteFile(path+".new", content, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (b *batches) load() error {
	if b.state == "" {
		return nil
	}
	if err := os.MkdirAll(b.state, 0o755); err != nil {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(b.state, "state.json"))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var s state
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	b.batches = s.Batches
	for text, n := range s.Tried {
		var body []byte
		if _, err := fmt.Sscanf(text, "%x", &body); err != nil || len(body) != len(digest{}) {
			return fmt.Errorf("read state: %q is no body", text)
		}
		b.tried[digest(body)] = n
	}
	for _, f := range s.Files {
		if f.content, err = os.ReadFile(filepath.Join(b.state, f.ID)); err != nil {
			return err
		}
		b.files[f.ID] = f
	}
	return nil
}
