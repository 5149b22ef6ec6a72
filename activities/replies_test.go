package activities

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/protobuf/encoding/protojson"

	"precept/internal/llm"
	"precept/internal/llm/llmtest"
	"precept/schemas"
)

// becomes is what becomes of a teacher's row, by what the endpoint replied: it is kept, or
// rejected or failed for a reason.
var becomes = map[string]schemas.Reason{
	"think block": "", "think closed only": "", "reasoning tags": "", "headings": "", "bold headings": "",
	"reasoning_content": "", "reasoning": "", "reasoning_details": "", "thinking part": "", "thoughts of its own": "",
	"stream": "", "stream without its end": "", "stream cut after the answer": "",
	"JSON": "", "wrong Content-Type": "", "byte order mark": "", "early hints": "", "invalid UTF-8": "",
	"usage in strings": "", "negative usage": "", "enormous usage": "", "usage of another type": "", "no usage": "",
	"large header": "", "echo": "",

	"hidden thoughts": schemas.ReasonNoCoT, "null content": schemas.ReasonNoCoT, "empty content": schemas.ReasonNoCoT,
	"content of another type": schemas.ReasonNoCoT,
	"two blocks":              schemas.ReasonMalformed, "block without end": schemas.ReasonMalformed, "tool call": schemas.ReasonMalformed,
	"ten megabytes": schemas.ReasonMalformed, "twenty megabytes": schemas.ReasonMalformed,
	"cut by length": schemas.ReasonTruncated, "context length": schemas.ReasonTooLong,
	"refusal": schemas.ReasonRefused, "content filter": schemas.ReasonRefused, "content filter in a 200": schemas.ReasonRefused,

	"no choice": schemas.ReasonUnavailable, "null choices": schemas.ReasonUnavailable, "null choice": schemas.ReasonUnavailable,
	"choices of another type": schemas.ReasonUnavailable, "no message": schemas.ReasonUnavailable, "no JSON": schemas.ReasonUnavailable,
	"nested JSON": schemas.ReasonUnavailable, "text": schemas.ReasonUnavailable, "page": schemas.ReasonUnavailable,
	"no content": schemas.ReasonUnavailable, "error in a 200": schemas.ReasonUnavailable, "stopped by the server": schemas.ReasonUnavailable,
	"error in a stream": schemas.ReasonUnavailable, "half a stream": schemas.ReasonUnavailable, "no JSON in a stream": schemas.ReasonUnavailable,
	"half a body": schemas.ReasonUnavailable, "cut connection": schemas.ReasonUnavailable, "gzip garbage": schemas.ReasonUnavailable,
	"unknown encoding": schemas.ReasonUnavailable, "huge header": schemas.ReasonUnavailable,
	"server error": schemas.ReasonUnavailable, "echo in an error": schemas.ReasonUnavailable, "bad gateway": schemas.ReasonUnavailable,
	"stall": schemas.ReasonTimedOut, "stalled body": schemas.ReasonTimedOut, "stalled stream": schemas.ReasonTimedOut,
	"gateway timeout": schemas.ReasonTimedOut, "rate limit": schemas.ReasonRateLimited, "bad request": schemas.ReasonBadRequest,
}

// TestEveryReplyHasItsOutcome gives each reply to a row of one stage. Each row has its
// outcome, and all others are as if nothing had been.
func TestEveryReplyHasItsOutcome(t *testing.T) {
	t.Parallel()
	for _, streams := range []bool{false, true} {
		t.Run(fmt.Sprintf("stream %v", streams), func(t *testing.T) {
			t.Parallel()
			var prompts []prompt
			for _, reply := range llmtest.Replies {
				for _, text := range []string{"reply: " + reply.Name, "neighbour of " + reply.Name} {
					if _, listed := becomes[reply.Name]; listed == reply.Stop {
						t.Fatalf("%q: in the table %v, stops the stage %v", reply.Name, listed, reply.Stop)
					} else if listed {
						prompts = append(prompts, prompt{Category: "violence", Intent: schemas.IntentBenign, Text: text})
					}
				}
			}
			spec := imported(t, prompts...)
			spec.Synthesize.Samples, spec.Prompts.NearDuplicates, spec.Tripwires.Off = 1, new(0.0), true
			m := &models{}
			m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				raw, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				r.Body = io.NopCloser(bytes.NewReader(raw))
				var q question
				if err := json.Unmarshal(raw, &q); err != nil {
					t.Error(err)
				}
				name, odd := strings.CutPrefix(q.last(), "reply: ")
				if !odd || q.Model != "teacher" {
					m.answer(w, r)
					return
				}
				reply, _ := llmtest.Find(name)
				say, _, _ := strings.Cut(strings.TrimPrefix(thought(q.policy(), "").text, "<think>\n"), "\n</think>")
				reply.Write(w, r, llmtest.Answer{Model: "m", CoT: say, Text: "The answer.", PromptTokens: 10, CompletionTokens: 5})
			}))
			t.Cleanup(m.Close)
			w := newWorld(t, spec, options{models: m, tries: 1, change: func(e *llm.Endpoint) {
				e.Stream, e.Timeout = streams, 8*time.Second
			}}).stages(schemas.StagePrompts)
			plan := w.plans(schemas.StageSynthesize)
			r, err := call[schemas.TaskResult](w, w.Synthesize, TaskRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan, MayMiss: int64(len(prompts))})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Ledger.Check(int64(len(prompts))); err != nil {
				t.Error(err)
			}
			if u := r.Usage; u.Paid != r.Ledger.Planned-sum(r.Ledger.Failed) || u.PromptTokens < 0 || u.USD < 0 || u.USD > 1 {
				t.Errorf("usage %+v", u)
			}
			stage, err := call[schemas.StageSum](w, w.Manifest, ManifestRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan, Usage: r.Usage})
			if err != nil {
				t.Fatal(err)
			}
			w.sums = append(w.sums, stage)

			got := map[string]schemas.Reason{}
			for _, c := range rows[schemas.Completion](w, schemas.StageSynthesize, schemas.OutputCompletions) {
				if !utf8.ValidString(c.Answer + c.CoT + c.FinishReason) {
					t.Errorf("a row isn't UTF-8: %.300q", c.Answer)
				}
				name, odd := strings.CutPrefix(c.Prompt.Text(), "reply: ")
				if !odd && c.Reason != "" {
					t.Errorf("%s is rejected: %s", c.Prompt.Text(), c.Reason)
				}
				if odd {
					got[name] = c.Reason
				}
				if odd && c.Reason == "" && (!strings.HasPrefix(c.Answer, "The answer.") || !strings.HasPrefix(c.CoT, "The user asks") || !strings.HasSuffix(c.CoT, "comply.")) {
					t.Errorf("%s is read as %q and %q", name, c.CoT, c.Answer)
				}
			}
			var record schemas.Partial
			for _, raw := range objects(t, w.store, schemas.RunObject(w.run, "partial/")) {
				if err := json.Unmarshal([]byte(raw), &record); err != nil {
					t.Fatal(err)
				}
			}
			names := map[string]string{}
			for _, p := range rows[schemas.Prompt](w, schemas.StagePrompts, schemas.OutputPrompts) {
				names[p.ID] = strings.TrimPrefix(p.Text(), "reply: ")
			}
			for _, f := range record.Missing {
				got[names[f.PromptID]] = f.Reason
			}
			if d := cmp.Diff(becomes, got); d != "" {
				t.Errorf("(- want, + got):\n%s", d)
			}
			for _, s := range []schemas.Stage{schemas.StageFilter, schemas.StageCurate} {
				w.stage(s)
			}
		})
	}
}

func sum(counts map[schemas.Reason]int64) (n int64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// TestKeyIsStoredNowhere has endpoints echo the key in every answer and error, and looks
// for it in all that is left of the run: objects, rows, journal, errors and results as
// the history has them, and logs.
func TestKeyIsStoredNowhere(t *testing.T) {
	for i, key := range []string{"sk-proj-0123456789abcdefghij", "plain0123456789abcdef", "ab/cd+ef/gh+ijklmnopqrst=="} {
		t.Run(fmt.Sprint("key ", i), func(t *testing.T) {
			t.Setenv("PRECEPT_TEST_KEY", key)
			var prompts []prompt
			for n := range 24 {
				prompts = append(prompts, prompt{Category: "violence", Intent: schemas.IntentBenign, Text: fmt.Sprintf("This is question %d", n)})
			}
			spec := imported(t, prompts...)
			spec.Synthesize.Samples, spec.Tripwires.Off, spec.Prompts.NearDuplicates = 1, true, new(0.0)
			m := &models{hosted: true}
			m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var q question
				if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
					t.Error(err)
				}
				seen, _ := json.Marshal(r.Header.Get("Authorization"))
				echo := strings.Trim(string(seen), `"`)
				w.Header().Set("X-Echo", r.Header.Get("Authorization"))
				if q.Model != "teacher" {
					text, _ := json.Marshal(strings.Replace(vote(10, schemas.ActionComply).text, "because", "You sent "+echo, 1))
					fmt.Fprintf(w, `{"model":"j %s","choices":[{"message":{"content":%s},"finish_reason":"stop"}]}`, echo, text)
					return
				}
				switch q.Seed % 4 {
				case 0:
					w.WriteHeader(500)
					fmt.Fprintf(w, `{"error":{"message":"your header: %s"}}`, echo)
				case 1:
					w.WriteHeader(400)
					fmt.Fprintf(w, `{"error":{"code":"content_filter","message":"your header: %s"}}`, echo)
				default:
					text, _ := json.Marshal(thought(q.policy(), "You sent "+r.Header.Get("Authorization")).text)
					fmt.Fprintf(w, `{"model":"m %[1]s","system_fingerprint":"%[1]s","choices":[{"message":{"content":%[2]s},"finish_reason":"stop"}]}`, echo, text)
				}
			}))
			t.Cleanup(m.Close)
			var logs syncBuffer
			w := newWorld(t, spec, options{models: m, tries: 1, keyEnv: "PRECEPT_TEST_KEY", log: &logs}).stages(schemas.StagePrompts)
			var kept []string
			keep := func(v any, err error) {
				raw, _ := json.Marshal(v)
				kept = append(kept, string(raw), fmt.Sprintf("%+v", err))
				if err != nil {
					history, _ := protojson.Marshal(temporal.GetDefaultFailureConverter().ErrorToFailure(err))
					kept = append(kept, string(history))
				}
			}
			plan := w.plans(schemas.StageSynthesize)
			keep(w.does(schemas.StageSynthesize, plan, 0))
			r, err := call[schemas.TaskResult](w, w.Synthesize, TaskRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan, MayMiss: 24})
			keep(r, err)
			if err != nil || r.Ledger.Failed[schemas.ReasonUnavailable] == 0 || r.Ledger.Rejected[schemas.ReasonRefused] == 0 || r.Ledger.Kept == 0 {
				t.Fatalf("%v, %v", r.Ledger, err)
			}
			stage, err := call[schemas.StageSum](w, w.Manifest, ManifestRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan, Usage: r.Usage})
			keep(stage, err)
			w.sums = append(w.sums, stage)
			w.stage(schemas.StageFilter)
			keep(call[schemas.Served](w, w.Served, ServedRequest{Spec: w.spec, Policy: w.inputs.Policy}))
			w.flush()
			completions, verdicts := rows[schemas.Completion](w, schemas.StageSynthesize, schemas.OutputCompletions), rows[schemas.Verdict](w, schemas.StageFilter, schemas.OutputVerdicts)
			keep(completions, nil)
			keep(verdicts, nil)
			for _, c := range completions {
				raw, ok, err := w.journal.Lookup(t.Context(), c.Request)
				if !ok || err != nil {
					t.Fatalf("the answer to %s is not journaled: %v", c.ID, err)
				}
				kept = append(kept, string(raw))
			}
			for name, body := range objects(t, w.store, "") {
				kept = append(kept, name, body)
			}
			kept = append(kept, logs.String())
			found := 0
			for _, text := range kept {
				for i := 0; i+8 <= len(key); i++ {
					if strings.Contains(text, key[i:i+8]) {
						t.Errorf("%q is in %.500q", key[i:i+8], text)
						break
					}
				}
				found += strings.Count(text, "[key]")
			}
			if found < 40 {
				t.Errorf("the key was taken out %d times only: is it echoed at all?", found)
			}
		})
	}
}

// syncBuffer is a buffer that many may write to.
type syncBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

// TestTeachersAreAskedInTheirForms: each endpoint of a route is asked for the form of its
// own, and read in it.
func TestTeachersAreAskedInTheirForms(t *testing.T) {
	t.Parallel()
	spec := imported(t, fivePrompts()...)
	spec.Synthesize.Samples = 1
	spec.Synthesize.Teacher = schemas.Role{{Endpoint: "teacher", Fallback: []string{"other"}}}
	models := newModels(t)
	models.says(func(q question) *reply {
		cot, answer, _ := strings.Cut(strings.TrimPrefix(thought(q.policy(), "An answer.").text, "<think>\n"), "\n</think>\n\n")
		asked := q.Messages[0].Content
		switch {
		case q.Model == "teacher" && (!strings.Contains(asked, "## Reasoning") || strings.Contains(asked, "<think>")):
			return &reply{status: 400, text: "it is asked for another form"}
		case q.Model == "teacher" && q.has("I feel low."):
			return &reply{status: 500, text: "away"}
		case q.Model == "teacher":
			return &reply{text: "## Reasoning\n" + cot + "\n\n## Answer\n" + answer}
		case q.Model == "other" && strings.Contains(asked, "inside <think> and </think>"):
			return thought(q.policy(), "An answer.")
		}
		return nil
	})
	w := newWorld(t, spec, options{models: models, tries: 1, endpoints: []string{"other"}, change: func(e *llm.Endpoint) {
		e.CoT = map[string]llm.CoT{"teacher": llm.CoTSections, "other": llm.CoTThink}[e.Name]
	}}).stages(schemas.StagePrompts, schemas.StageSynthesize)
	for _, c := range rows[schemas.Completion](w, schemas.StageSynthesize, schemas.OutputCompletions) {
		if c.Reason != "" || c.Answer != "An answer." || !strings.HasPrefix(c.CoT, "The user asks") {
			t.Errorf("%s: %s: %q and %q, %s", c.Prompt.Text(), c.Model, c.CoT, c.Answer, c.Reason)
		}
	}
}
