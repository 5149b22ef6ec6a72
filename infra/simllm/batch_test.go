package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// batchClient speaks to the Batch API of a simulation whose clock it sets.
type batchClient struct {
	*testing.T
	url    string
	server *server
	clock  time.Time
}

func startBatches(t *testing.T, c config) *batchClient {
	t.Helper()
	x := &batchClient{T: t, server: newServer(c), clock: time.Unix(1_000_000, 0)}
	x.server.batches.now = func() time.Time { return x.clock }
	if err := x.server.batches.load(); err != nil {
		t.Fatal(err)
	}
	hs := httptest.NewServer(x.server.handler())
	t.Cleanup(hs.Close)
	x.url = hs.URL
	return x
}

// call does a request and decodes its reply.
func (x *batchClient) call(method, path string, body any, reply any) int {
	x.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		x.Fatal(err)
	}
	req, err := http.NewRequest(method, x.url+path, bytes.NewReader(raw))
	if err != nil {
		x.Fatal(err)
	}
	return x.do(req, reply)
}

func (x *batchClient) do(req *http.Request, reply any) int {
	x.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		x.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		x.Fatal(err)
	}
	if s, ok := reply.(*string); ok {
		*s = string(text)
	} else if reply != nil && json.Unmarshal(text, reply) != nil {
		x.Fatalf("%s %s: %s", req.Method, req.URL.Path, text)
	}
	return res.StatusCode
}

func (x *batchClient) upload(lines ...string) string {
	x.Helper()
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	_ = w.WriteField("purpose", "batch")
	part, err := w.CreateFormFile("file", "in.jsonl")
	if err != nil {
		x.Fatal(err)
	}
	_, _ = io.WriteString(part, strings.Join(lines, "\n"))
	if err := w.Close(); err != nil {
		x.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, x.url+"/v1/files", &form)
	if err != nil {
		x.Fatal(err)
	}
	req.Header.Set("Content-Type", w.FormDataContentType())
	var f file
	if status := x.do(req, &f); status != http.StatusOK || f.ID == "" {
		x.Fatalf("upload: %d, %+v", status, f)
	}
	return f.ID
}

func (x *batchClient) submit(input string) (b batch) {
	x.Helper()
	body := map[string]any{"input_file_id": input, "endpoint": chatPath, "completion_window": "24h", "metadata": map[string]string{"task": "t"}}
	if status := x.call(http.MethodPost, "/v1/batches", body, &b); status != http.StatusOK {
		x.Fatalf("submit: %d, %+v", status, b)
	}
	return b
}

func (x *batchClient) get(id string) (b batch) {
	x.Helper()
	x.call(http.MethodGet, "/v1/batches/"+id, nil, &b)
	return b
}

// lines reads an output or error file by custom_id.
func (x *batchClient) lines(id string) map[string]map[string]any {
	x.Helper()
	var text string
	if status := x.call(http.MethodGet, "/v1/files/"+id+"/content", nil, &text); status != http.StatusOK {
		x.Fatalf("content of %q: %d %s", id, status, text)
	}
	out := map[string]map[string]any{}
	for l := range strings.Lines(text) {
		var line map[string]any
		if err := json.Unmarshal([]byte(l), &line); err != nil {
			x.Fatal(err)
		}
		out[line["custom_id"].(string)] = line
	}
	return out
}

func (x *batchClient) requests(n int) (lines []string) {
	x.Helper()
	policy := block(testPolicy(x))
	for i := range n {
		raw, err := json.Marshal(chat(policy, "How do I kill a process?", i))
		if err != nil {
			x.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf(`{"custom_id":"r%d","method":"POST","url":"/v1/chat/completions","body":%s}`, i, raw))
	}
	return lines
}

func TestBatchAnswersAsChatDoes(t *testing.T) {
	x := startBatches(t, config{batch: batchConfig{delay: time.Hour}})
	b := x.submit(x.upload(x.requests(2)...))
	var states []string
	for _, passed := range []time.Duration{0, 30 * time.Minute, 27 * time.Minute, 3 * time.Minute} {
		x.clock = x.clock.Add(passed)
		states = append(states, x.get(b.ID).Status)
	}
	if d := cmp.Diff([]string{"validating", "in_progress", "finalizing", "completed"}, states); d != "" {
		t.Errorf("states (- want, + got):\n%s", d)
	}
	b = x.get(b.ID)
	if b.Counts != (batchCounts{2, 2, 0}) || b.Refused != "" || b.Metadata["task"] != "t" {
		t.Errorf("batch %+v", b)
	}
	online := answered(t, x.url, chat(block(testPolicy(t)), "How do I kill a process?", 1))
	raw, err := json.Marshal(x.lines(b.Output)["r1"]["response"].(map[string]any)["body"])
	if err != nil {
		t.Fatal(err)
	}
	var batched chatResponse
	if err := json.Unmarshal(raw, &batched); err != nil {
		t.Fatal(err)
	}
	online.Usage.Details, batched.Usage.Details = usage{}.Details, usage{}.Details // of the prefix cache
	if d := cmp.Diff(online, batched); d != "" {
		t.Errorf("by batch (- online, + batch):\n%s", d)
	}
	l := readLedger(t, x.url)
	if l.Requests != 3 || l.Paid != 3 || l.Batched != 2 || l.PaidRepeated != 1 || l.BatchedPromptTokens != 2*int64(online.Usage.PromptTokens) {
		t.Errorf("ledger %+v", l.counts)
	}
}

func TestBatchExpiresForAShare(t *testing.T) {
	x := startBatches(t, config{batch: batchConfig{expire: 0.5}})
	input := x.upload(x.requests(40)...)
	b := x.get(x.submit(input).ID)
	if b.Status != expired || b.Counts.Completed < 8 || b.Counts.Failed < 8 || b.Counts.Total != 40 {
		t.Fatalf("batch %+v", b)
	}
	for id, line := range x.lines(b.Refused) {
		if got := line["error"].(map[string]any)["code"]; got != "batch_expired" {
			t.Errorf("%s: %v", id, line)
		}
	}
	// Another time others expire.
	again := x.get(x.submit(input).ID)
	if cmp.Equal(x.lines(b.Refused), x.lines(again.Refused)) {
		t.Error("the same requests expire for ever")
	}
	if l := readLedger(t, x.url); l.Requests != int64(b.Counts.Completed+again.Counts.Completed) {
		t.Errorf("%d requests are counted, %d and %d were answered", l.Requests, b.Counts.Completed, again.Counts.Completed)
	}
}

func TestBatchCancelKeepsWhatWasAnswered(t *testing.T) {
	x := startBatches(t, config{batch: batchConfig{delay: time.Hour}})
	b := x.submit(x.upload(x.requests(4)...))
	x.call(http.MethodPost, "/v1/batches/"+b.ID+"/cancel", nil, &b)
	if b.Status != cancelled || b.Counts != (batchCounts{4, 2, 2}) {
		t.Errorf("batch %+v", b)
	}
	if len(x.lines(b.Output)) != 2 || len(x.lines(b.Refused)) != 2 {
		t.Error("its files don't part what was answered")
	}
	if status := x.call(http.MethodPost, "/v1/batches/"+b.ID+"/cancel", nil, nil); status != http.StatusConflict {
		t.Errorf("cancelled again: %d", status)
	}
}

func TestBatchesThatFail(t *testing.T) {
	x := startBatches(t, config{batch: batchConfig{delay: time.Hour, queue: 3}})
	one := x.requests(1)[0]
	for _, test := range []struct {
		name, code string
		lines      []string
	}{
		{"no JSON", "invalid_json_line", []string{"{"}},
		{"twice", "duplicate_custom_id", []string{one, one}},
		{"another path", "mismatched_url", []string{strings.Replace(one, "chat/completions", "embeddings", 1)}},
		{"empty", "empty_file", nil},
		{"too much", "token_limit_exceeded", x.requests(4)},
	} {
		if b := x.submit(x.upload(test.lines...)); b.Status != failed || b.Errors.Data[0].Code != test.code {
			t.Errorf("%s: %+v", test.name, b)
		}
	}
	x.submit(x.upload(x.requests(3)...))
	if b := x.submit(x.upload(one)); b.Status != failed {
		t.Errorf("over the queue: %+v", b)
	}
	x.clock = x.clock.Add(time.Hour)
	if b := x.submit(x.upload(one)); b.Status != validating {
		t.Errorf("when the queue is empty: %+v", b)
	}
}

func TestBatchLineFaultsAreErrors(t *testing.T) {
	x := startBatches(t, config{faults: faults{fail: 1}})
	b := x.get(x.submit(x.upload(x.requests(1)...)).ID)
	if b.Status != completed || b.Counts != (batchCounts{1, 0, 1}) || b.Output != "" {
		t.Fatalf("batch %+v", b)
	}
	if got := x.lines(b.Refused)["r0"]["response"].(map[string]any)["status_code"]; got != 500.0 {
		t.Errorf("status %v", got)
	}
}

func TestBatchListAndFiles(t *testing.T) {
	x := startBatches(t, config{apiKey: ""})
	input := x.upload(x.requests(1)...)
	var ids []string
	for range 3 {
		ids = append([]string{x.submit(input).ID}, ids...)
	}
	var got []string
	for after := ""; ; {
		var page struct {
			Data []batch `json:"data"`
			More bool    `json:"has_more"`
			Last string  `json:"last_id"`
		}
		x.call(http.MethodGet, "/v1/batches?limit=2&after="+after, nil, &page)
		for _, b := range page.Data {
			got = append(got, b.ID)
		}
		if after = page.Last; !page.More {
			break
		}
	}
	if d := cmp.Diff(ids, got); d != "" {
		t.Errorf("list (- want, + got):\n%s", d)
	}
	if status := x.call(http.MethodDelete, "/v1/files/"+input, nil, nil); status != http.StatusOK {
		t.Errorf("delete: %d", status)
	}
	if status := x.call(http.MethodGet, "/v1/files/"+input+"/content", nil, nil); status != http.StatusNotFound {
		t.Errorf("content of a deleted file: %d", status)
	}
}

func TestBatchesOutliveARestart(t *testing.T) {
	c := config{batch: batchConfig{delay: time.Hour, state: t.TempDir()}}
	x := startBatches(t, c)
	done := x.submit(x.upload(x.requests(2)...))
	x.clock = x.clock.Add(time.Hour)
	want := x.lines(x.get(done.ID).Output)
	open := x.submit(x.upload(x.requests(3)...))

	y := startBatches(t, c)
	y.clock = x.clock
	if d := cmp.Diff(want, y.lines(y.get(done.ID).Output)); d != "" {
		t.Errorf("output (- before, + after):\n%s", d)
	}
	if b := y.get(open.ID); b.Status != validating || b.Counts.Total != 3 {
		t.Errorf("open batch: %+v", b)
	}
	y.clock = y.clock.Add(time.Hour)
	if b := y.get(open.ID); b.Status != completed || b.Counts.Completed != 3 {
		t.Errorf("open batch at its end: %+v", b)
	}
}

// A client that is frozen in the middle of its upload holds up nobody.
func TestASlowUploadHoldsUpNobody(t *testing.T) {
	s := httptest.NewServer(newServer(config{}).handler())
	defer s.Close()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /v1/files HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n\r\n")
	// It is read now.
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatal(line, err)
	}
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get(s.URL + "/v1/batches")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}
