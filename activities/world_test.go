package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"precept/internal/config"
	"precept/internal/llm"
	"precept/internal/policy/policytest"
	"precept/internal/shard"
	"precept/internal/trainer"
	"precept/schemas"
)

// models poses as every language model. What it answers follows from what it is
// asked, unless a test's script says otherwise.
type models struct {
	*httptest.Server

	mu     sync.Mutex
	asked  []question
	script func(question) *reply                   // nil, or returns nil, for the usual reply
	as     string                                  // how the models name themselves, as JSON fields
	hosted bool                                    // others serve them
	usage  func(question) llm.Usage                // of an answer
	tells  func(q question, text string) llm.Usage // likewise, by what it says
	batch  *provider                               // takes batches; nil takes none
}

// served has the models answer under a name with a fingerprint.
func (m *models) served(name, fingerprint string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.as = fmt.Sprintf(`"model":%q,"system_fingerprint":%q,`, name, fingerprint)
}

// question is one request to a model.
type question struct {
	Model    string            `json:"model"`
	Messages []schemas.Message `json:"messages"`
	Seed     int64             `json:"seed"`
}

// last is what was said last.
func (q question) last() string { return q.Messages[len(q.Messages)-1].Content }

// has reports whether a word stands in the last turn.
func (q question) has(word string) bool { return strings.Contains(q.last(), word) }

// policy is the category whose policy the model was given, or "".
func (q question) policy() string {
	if m := policyTag.FindStringSubmatch(q.Messages[0].Content); m != nil {
		return m[1]
	}
	return ""
}

var policyTag = regexp.MustCompile(`<policy category="([^"]*)">`)

// reply is what a model answers: text with a finish reason, or an error's status
// and code.
type reply struct {
	text, finish string
	status       int
	code         string
}

// thought is a teacher's reply that follows the policy's form.
func thought(category, answer string) *reply {
	return &reply{text: fmt.Sprintf(
		"<think>\nThe user asks for fact: something. It is about any; affected: nobody. Policy %s, rule V2: comply.\n</think>\n\n%s",
		strings.ReplaceAll(category, "-", " "), answer)}
}

// vote is a judge's reply with all scores the same.
func vote(score int, action schemas.Action) *reply {
	return &reply{text: fmt.Sprintf(
		`{"expected":"comply","rule":"V2","action":%q,"compliance":%d,"helpfulness":%d,"style":%d,"citation":%d,"reason":"because"}`,
		action, score, score, score, score)}
}

// written is a teacher's reply to a brief: a prompt that names what was asked for.
func written(q question) *reply {
	field := func(name string) string {
		_, after, _ := strings.Cut(q.last(), name+": ")
		line, _, _ := strings.Cut(after, "\n")
		word, _, _ := strings.Cut(line, ":")
		return word
	}
	return &reply{text: fmt.Sprintf("<prompt>\nA prompt of %s, %s: %d %s %s\n</prompt>", field("Category"), field("Intent"), q.Seed, field("Persona"), field("Style"))}
}

// told is a judge's label: a prompt's words say it, "of CATEGORY, INTENT". Others are of none.
func told(q question) *reply {
	category, intent := "none", "benign"
	if m := ofTag.FindStringSubmatch(q.Messages[1].Content); m != nil {
		category, intent = m[1], m[2]
	}
	return label(category, "none", intent)
}

var ofTag = regexp.MustCompile(`of ([a-z-]+), (harmful|borderline|benign)`)

func label(category, second, intent string) *reply {
	return &reply{text: fmt.Sprintf(`{"category":%q,"second":%q,"intent":%q,"reason":"because"}`, category, second, intent)}
}

func newModels(t testing.TB) *models {
	m := &models{}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.answer(w, r) }))
	t.Cleanup(m.Close)
	return m
}

// answer answers, and returns what that took.
func (m *models) answer(w http.ResponseWriter, r *http.Request) (u llm.Usage, ok bool) {
	if m.batch != nil && !strings.HasSuffix(r.URL.Path, "/chat/completions") {
		m.batch.ServeHTTP(w, r)
		return u, false
	}
	var q question
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return u, false
	}
	m.mu.Lock()
	m.asked = append(m.asked, q)
	script, as := m.script, m.as
	m.mu.Unlock()
	var say *reply
	if script != nil {
		say = script(q)
	}
	switch {
	case say != nil:
	case strings.HasPrefix(q.Messages[0].Content, "Role: generate\n"):
		say = written(q)
	case strings.HasPrefix(q.Messages[0].Content, "Role: classify\n"):
		say = told(q)
	}
	if say == nil && strings.HasPrefix(q.Model, "teacher") {
		say = thought(q.policy(), fmt.Sprintf("Answer %d to %s", q.Seed, q.last()))
	} else if say == nil {
		say = vote(10, schemas.ActionComply)
	}
	w.Header().Set("Content-Type", "application/json")
	if say.status != 0 {
		w.WriteHeader(say.status)
		fmt.Fprintf(w, `{"error":{"code":%q,"message":%q}}`, say.code, say.text)
		return u, false
	}
	finish := say.finish
	if finish == "" {
		finish = "stop"
	}
	text, err := json.Marshal(say.text)
	if err != nil {
		panic(err) // a string
	}
	u = llm.Usage{PromptTokens: 10, CompletionTokens: 5}
	if m.usage != nil {
		u = m.usage(q)
	}
	if m.tells != nil {
		u = m.tells(q, say.text)
	}
	fmt.Fprintf(w, `{`+as+`"choices":[{"message":{"role":"assistant","content":%s},"finish_reason":%q}],"usage":{"prompt_tokens":%d,"completion_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d}}}`,
		text, finish, u.PromptTokens, u.CompletionTokens, u.CachedTokens)
	return u, true
}

// says sets the script.
func (m *models) says(script func(question) *reply) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.script = script
}

// take returns what was asked since the last take.
func (m *models) take() []question {
	m.mu.Lock()
	defer m.mu.Unlock()
	asked := m.asked
	m.asked = nil
	return asked
}

// calls counts the requests since the last take by model.
func (m *models) calls() map[string]int {
	n := map[string]int{}
	for _, q := range m.take() {
		n[q.Model]++
	}
	return n
}

// endpoint is one of the models.
func (m *models) endpoint(name string) llm.Endpoint {
	return llm.Endpoint{
		Name: name, Model: name, BaseURL: m.URL + "/v1", Provider: "test", Revision: "1", Simulated: !m.hosted,
		MaxInFlight: 4, InputUSD: 1, OutputUSD: 2, BatchDiscount: 0.5, BatchPoll: schemas.Duration(time.Millisecond),
	}
}

// world is one worker and one run.
type world struct {
	*Activities
	t      *testing.T
	env    *testsuite.TestActivityEnvironment
	run    schemas.RunID
	spec   schemas.RunSpec
	inputs schemas.InputsRef
	sums   []schemas.StageSum
	draws  []schemas.Draw

	telling sync.Mutex
	told    []schemas.OutagesTold // by activities to the run
}

// lastTold is what a teller has told last; nil where it told nothing.
func (w *world) lastTold(by schemas.Teller) (last *schemas.OutagesTold) {
	w.telling.Lock()
	defer w.telling.Unlock()
	for _, told := range w.told {
		if told.By == by {
			last = &told
		}
	}
	return last
}

// options say what a world is made of. Every field has a default.
type options struct {
	store   shard.Store
	models  *models
	holder  string
	run     schemas.RunID
	trainer trainer.Config
	tries   int // of one request
	keyEnv  string
	change  func(*llm.Endpoint)
	log     io.Writer // nil for none
	// endpoints are more models than teacher, judge and grader.
	endpoints []string

	biller *biller // in place of models
	mortal bool    // nothing is there to close its journal
	flush  time.Duration
}

func newWorld(t *testing.T, spec schemas.RunSpec, o options) *world {
	t.Helper()
	if o.store == nil {
		o.store = shard.NewMemory()
	}
	if o.biller != nil {
		o.models = o.biller.models
	}
	if o.models == nil {
		o.models = newModels(t)
	}
	if o.run == "" {
		o.run = "run"
	}
	if o.trainer.WorkDir == "" {
		o.trainer.WorkDir = t.TempDir()
	}
	c := config.Config{Endpoints: map[string]llm.Endpoint{}, Trainer: o.trainer, Models: map[string]string{"tiny": baseModel(t)}}
	for _, name := range append([]string{"teacher", "judge", "grader"}, o.endpoints...) {
		e := o.models.endpoint(name)
		if o.biller != nil {
			e = o.biller.endpoint(name)
		}
		e.APIKeyEnv = o.keyEnv
		if o.change != nil {
			o.change(&e)
		}
		c.Endpoints[name] = e
	}
	journals := shard.JournalOptions{Writer: o.holder, FlushEvery: o.flush, CompactEvery: -1}
	if o.mortal {
		journals.Log = slog.New(slog.DiscardHandler)
	}
	journal := shard.OpenJournal(o.store, journals)
	t.Cleanup(func() {
		if err := journal.Close(context.Background()); err != nil && !o.mortal {
			t.Error(err)
		}
	})
	a := New(c, o.store, journal, o.holder)
	if o.tries != 0 || o.biller != nil {
		for name, e := range c.Endpoints {
			options := llm.Options{Journal: journal, Attempts: o.tries}
			if o.biller != nil {
				options.Transport = o.biller
			}
			client, err := llm.NewClient(e, options)
			if err != nil {
				t.Fatal(err)
			}
			a.clients[name] = client
		}
	}
	var suite testsuite.WorkflowTestSuite
	logs := slog.New(slog.DiscardHandler)
	if o.log != nil {
		logs = slog.New(slog.NewTextHandler(o.log, nil))
	}
	suite.SetLogger(log.NewStructuredLogger(logs))
	env := suite.NewTestActivityEnvironment()
	env.RegisterActivity(a)
	w := &world{Activities: a, t: t, env: env, run: o.run, spec: spec.WithDefaults()}
	a.tell = func(_ context.Context, told schemas.OutagesTold) error {
		w.telling.Lock()
		defer w.telling.Unlock()
		w.told = append(w.told, told)
		return nil
	}
	return w
}

// call executes an activity and returns what it returned, as a workflow sees it.
func call[T any](w *world, activity any, args ...any) (out T, err error) {
	v, err := w.env.ExecuteActivity(activity, args...)
	if err == nil && v.HasValue() {
		err = v.Get(&out)
	}
	return out, err
}

// imports copies the run's inputs.
func (w *world) imports() *world {
	w.t.Helper()
	inputs, err := call[schemas.InputsRef](w, w.Import, ImportRequest{Run: w.run, Spec: w.spec})
	if err != nil {
		w.t.Fatal(err)
	}
	w.inputs = inputs
	return w
}

func (w *world) plans(stage schemas.Stage) schemas.PlanRef {
	w.t.Helper()
	ref, err := call[schemas.PlanRef](w, w.Plan, PlanRequest{Run: w.run, Stage: stage, Spec: w.spec, Inputs: w.inputs, Sums: w.sums, Draws: w.draws})
	if err != nil {
		w.t.Fatalf("plan %s: %v", stage, err)
	}
	return ref
}

// does does one task of a stage.
func (w *world) does(stage schemas.Stage, plan schemas.PlanRef, index int) (schemas.TaskResult, error) {
	w.t.Helper()
	activity := map[schemas.Stage]any{
		schemas.StageGenerate: w.Generate, schemas.StageClassify: w.Classify,
		schemas.StagePrompts: w.Prompts, schemas.StageSynthesize: w.Synthesize, schemas.StageFilter: w.Filter,
		schemas.StageCurate: w.Curate, schemas.StageSFT: w.SFT, schemas.StageRL: w.RL,
		schemas.StageSample: w.Sample, schemas.StageGrade: w.Grade,
	}[stage.Work()]
	return call[schemas.TaskResult](w, activity, TaskRequest{Run: w.run, Stage: stage, Plan: plan, Index: index})
}

// stage runs a whole stage, whose ledger must add up in every task and in all,
// and returns its tasks' results.
func (w *world) stage(stage schemas.Stage) (results []schemas.TaskResult) {
	w.t.Helper()
	plan := w.plans(stage)
	var told schemas.Ledger
	var usage schemas.Usage
	var costs schemas.Costs
	for i := range plan.Tasks {
		r, err := w.does(stage, plan, i)
		if err != nil {
			w.t.Fatalf("%s, task %d: %v", stage, i, err)
		}
		if err := r.Ledger.Check(r.Ledger.Planned); err != nil {
			w.t.Errorf("%s, task %d: %v", stage, i, err)
		}
		told.Add(r.Ledger)
		usage.Add(r.Usage)
		costs.AddAll(r.Costs)
		results = append(results, r)
	}
	sum, err := call[schemas.StageSum](w, w.Manifest, ManifestRequest{Run: w.run, Stage: stage, Plan: plan, Usage: usage, Costs: costs})
	if err != nil {
		w.t.Fatalf("close %s: %v", stage, err)
	}
	if err := sum.Ledger.Check(plan.Planned); err != nil {
		w.t.Errorf("%s: %v", stage, err)
	}
	if schemas.DigestOf(sum.Ledger) != schemas.DigestOf(told) {
		w.t.Errorf("%s: the manifest has %v, the tasks told %v", stage, sum.Ledger, told)
	}
	w.sums = append(w.sums, sum)
	return results
}

// dataStages are those that make the training sets.
var dataStages = []schemas.Stage{schemas.StagePrompts, schemas.StageSynthesize, schemas.StageFilter, schemas.StageCurate}

// promptStages are those that make the prompts, where some are generated or classified.
var promptStages = []schemas.Stage{schemas.StageGenerate, schemas.StageClassify, schemas.StagePrompts}

// stages imports and runs stages.
func (w *world) stages(stages ...schemas.Stage) *world {
	w.t.Helper()
	w.imports()
	for _, s := range stages {
		w.stage(s)
	}
	return w
}

// rows reads all rows of one kind that a stage of the run wrote.
func rows[T any](w *world, stage schemas.Stage, kind string) (out []T) {
	w.t.Helper()
	m := w.closed(stage)
	for _, ref := range m.Outputs[kind] {
		part, err := shard.Read[T](w.t.Context(), w.store, ref)
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, part...)
	}
	return out
}

// closed is the manifest of a stage of the run.
func (w *world) closed(stage schemas.Stage) schemas.Manifest {
	w.t.Helper()
	m, err := w.manifest(w.t.Context(), w.sums, stage)
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

// flush writes the journal, as its timer would.
func (w *world) flush() {
	w.t.Helper()
	if err := w.journal.Flush(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// objects reads what lies under a prefix.
func objects(t *testing.T, s shard.Store, prefix string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		raw, _, err := s.Get(t.Context(), info.Key)
		if err != nil {
			t.Fatal(err)
		}
		out[info.Key] = string(raw)
	}
	return out
}

// failure is the error as a workflow sees it.
func failure(t *testing.T, err error) *temporal.ApplicationError {
	t.Helper()
	var app *temporal.ApplicationError
	if !errors.As(err, &app) {
		t.Fatalf("got %v, want an application error", err)
	}
	return app
}

// brokenStore refuses some writes.
type brokenStore struct {
	shard.Store
	mu     sync.Mutex
	refuse func(key string) bool
}

func (b *brokenStore) Put(ctx context.Context, key string, body []byte, o shard.PutOptions) (shard.Info, error) {
	b.mu.Lock()
	refused := b.refuse != nil && b.refuse(key)
	b.mu.Unlock()
	if refused {
		return shard.Info{}, schemas.Errorf("put", key, schemas.Unavailable, "the store is away")
	}
	return b.Store.Put(ctx, key, body, o)
}

func (b *brokenStore) refuses(refuse func(key string) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuse = refuse
}

// write writes files into a new folder.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, body := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// baseModel is a folder that passes for a model.
func baseModel(t *testing.T) string {
	return write(t, map[string]string{"config.json": "{}", "model.safetensors": "base weights"})
}

// prompt is a line of a file of prompts: "category intent text".
type prompt struct {
	Category schemas.Category `json:"category"`
	Intent   schemas.Intent   `json:"intent"`
	Text     string           `json:"text"`
	Expected schemas.Action   `json:"expected,omitempty"`
}

func jsonl(t *testing.T, prompts ...prompt) string {
	t.Helper()
	var b strings.Builder
	for _, p := range prompts {
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(raw, '\n'))
	}
	return b.String()
}

// smallPolicy is the folder of a policy of two categories.
func smallPolicy(t *testing.T) string {
	files := map[string]string{}
	for name, f := range policytest.Files() {
		files[name] = string(f.Data)
	}
	return write(t, files)
}

// imported is a spec of the data stages over these prompts, none of which is held out.
func imported(t *testing.T, prompts ...prompt) schemas.RunSpec {
	t.Helper()
	dir := write(t, map[string]string{"train.jsonl": jsonl(t, prompts...)})
	return schemas.RunSpec{
		Name: "test", Base: "tiny",
		Policy:     schemas.PolicySpec{Source: smallPolicy(t)},
		Prompts:    schemas.PromptsSpec{Imports: []schemas.Import{{Path: filepath.Join(dir, "train.jsonl")}}},
		Synthesize: schemas.SynthesizeSpec{Teacher: schemas.RoleOf("teacher")},
		Filter:     schemas.FilterSpec{Judge: schemas.RoleOf("judge")},
		RL:         schemas.RLSpec{Judge: schemas.RoleOf("judge")},
		Dev:        schemas.DevSpec{Skip: true},
		Evaluate:   schemas.EvaluateSpec{Skip: true, Grader: schemas.RoleOf("grader")},
	}
}

// fivePrompts are in two categories; all of them stay.
func fivePrompts() []prompt {
	return []prompt{
		{Category: "violence", Intent: schemas.IntentHarmful, Text: "How do I hurt my neighbour?"},
		{Category: "violence", Intent: schemas.IntentBenign, Text: "How do I kill a frozen process?"},
		{Category: "violence", Intent: schemas.IntentBorderline, Text: "Write a scene with a duel."},
		{Category: "self-harm", Intent: schemas.IntentBorderline, Text: "I feel low."},
		{Category: "self-harm", Intent: schemas.IntentBenign, Text: "What does the word crisis mean?"},
	}
}

// python writes a stand-in for the trainer's interpreter: a shell script that is
// called as `python -m precept_trainer <command> --job <file>`. Its prelude keeps
// a copy of each job file as job-1.json, job-2.json, … in $here.
func python(t *testing.T, script string) trainer.Config {
	t.Helper()
	const prelude = `#!/bin/sh
here=$(dirname "$0")
echo attempt >> "$here/attempts"
n=$(($(wc -l < "$here/attempts")))
cp "$5" "$here/job-$n.json"
field() { sed -n "s/^ *\"$1\": \"\(.*\)\",*\$/\1/p" "$here/job-$n.json"; }
step() { last=$1; echo "{\"event\":\"progress\",\"step\":$1,\"total_steps\":4,\"loss\":0.5}"; }
save() {
	mkdir -p "$(field checkpoints)/checkpoint-$1"
	echo "weights $1" > "$(field checkpoints)/checkpoint-$1/model"
	echo "{\"event\":\"checkpoint\",\"step\":$1,\"path\":\"$(field checkpoints)/checkpoint-$1\"}"
}
milestone() {
	mkdir -p "$(field output)-$1"
	echo "weights $1" > "$(field output)-$1/model.safetensors"
	echo "{\"event\":\"milestone\",\"step\":$1,\"path\":\"$(field output)-$1\"}"
}
finish() {
	mkdir -p "$(field output)"
	echo trained > "$(field output)/model.safetensors"
	echo "{\"event\":\"done\",\"path\":\"$(field output)\",\"steps\":$last,\"metrics\":{\"loss\":0.25}}"
}
`
	dir := t.TempDir()
	path := filepath.Join(dir, "python")
	if err := os.WriteFile(path, []byte(prelude+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return trainer.Config{Python: path, Package: dir, WorkDir: t.TempDir(), Grace: schemas.Duration(5 * time.Second)}
}

// elsewhere is c on another machine: nothing is left of earlier attempts.
func elsewhere(t *testing.T, c trainer.Config) trainer.Config {
	c.WorkDir = t.TempDir()
	return c
}

// beside reads a file beside the stand-in's script.
func beside(t *testing.T, c trainer.Config, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(filepath.Dir(c.Python), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// attempts is how often the stand-in was started.
func attempts(t *testing.T, c trainer.Config) int {
	return strings.Count(beside(t, c, "attempts"), "\n")
}

// ledger makes a ledger whose units are planned.
func ledger(kept int64, rejected map[schemas.Reason]int64) schemas.Ledger {
	l := schemas.Ledger{Kept: kept, Rejected: maps.Clone(rejected)}
	l.Planned = l.Outcomes()
	return l
}
