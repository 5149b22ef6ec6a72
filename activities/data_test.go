package activities

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"precept/internal/llm"
	"precept/internal/shard"
	"precept/schemas"
)

// withSuite adds a suite to a spec, and to its prompts a duplicate and one that
// stands in the suite.
func withSuite(t *testing.T) schemas.RunSpec {
	t.Helper()
	const held = "Which words of the law say what counts as a weapon?"
	spec := imported(t, append(fivePrompts(),
		prompt{Category: "violence", Intent: schemas.IntentBenign, Text: "how do I KILL a frozen process"},
		prompt{Category: "violence", Intent: schemas.IntentBenign, Text: held})...)
	dir := write(t, map[string]string{"held.jsonl": jsonl(t,
		prompt{Category: "violence", Intent: schemas.IntentBenign, Text: held})})
	spec.Evaluate = schemas.EvaluateSpec{Grader: schemas.RoleOf("grader"), Suites: []schemas.Import{{Path: filepath.Join(dir, "held.jsonl")}}}
	return spec
}

func TestLedgersOfTheDataStages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withSuite(t), options{}).stages(dataStages...)
	want := map[schemas.Stage]schemas.Ledger{
		schemas.StagePrompts:    ledger(5, map[schemas.Reason]int64{schemas.ReasonDuplicate: 1, schemas.ReasonContaminated: 1}),
		schemas.StageSynthesize: ledger(10, nil),
		schemas.StageFilter:     ledger(10, nil),
		schemas.StageCurate:     ledger(5, map[schemas.Reason]int64{schemas.ReasonNotBest: 5}),
	}
	for _, s := range w.sums {
		if d := cmp.Diff(want[s.Stage], s.Ledger); d != "" {
			t.Errorf("%s (- want, + got):\n%s", s.Stage, d)
		}
		m := w.closed(s.Stage)
		var sum schemas.Ledger
		for _, l := range m.ByCategory {
			sum.Add(l)
		}
		if d := cmp.Diff(m.Ledger, sum); d != "" {
			t.Errorf("%s: the categories don't sum up (- all, + sum):\n%s", s.Stage, d)
		}
	}
	for _, e := range rows[schemas.Example](w, schemas.StageCurate, schemas.OutputExamples) {
		for _, m := range e.Prompt {
			if m.Role == "system" || strings.Contains(m.Content, "<policy") {
				t.Errorf("an example shows the policy: %+v", m)
			}
		}
	}
	if n := len(rows[schemas.RLPrompt](w, schemas.StageCurate, schemas.OutputRLPrompts)); n != 5 {
		t.Errorf("%d prompts for RL, want all 5 that stayed", n)
	}
}

func TestAStageThatRunsAgainFindsItsResult(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	w := newWorld(t, withSuite(t), options{models: models}).stages(dataStages...)
	w.flush()
	models.take()
	again := newWorld(t, w.spec, options{models: models, store: w.store, run: "another run", holder: "another worker"}).imports()
	for i, stage := range dataStages {
		for _, r := range again.stage(stage) {
			if !r.Found || r.Usage != (schemas.Usage{}) {
				t.Errorf("%s: task %s was done again: %+v", stage, r.Title, r)
			}
		}
		if again.sums[i].Digest != w.sums[i].Digest {
			t.Errorf("%s: the digest is another one", stage)
		}
	}
	if calls := models.take(); len(calls) != 0 {
		t.Errorf("%d calls were paid again", len(calls))
	}
}

func TestShardsAreTheSameBytesInAnyRun(t *testing.T) {
	t.Parallel()
	spec := withSuite(t)
	one := newWorld(t, spec, options{holder: "a", run: "one"}).stages(dataStages...)

	// The other run has another worker, server and ID, and a second attempt at
	// every task: the first can't write its shard.
	store := &brokenStore{Store: shard.NewMemory()}
	two := newWorld(t, spec, options{holder: "b", run: "two", store: store}).imports()
	for _, stage := range dataStages {
		plan := two.plans(stage)
		store.refuses(func(key string) bool { return strings.HasPrefix(key, "shards/") })
		for i := range plan.Tasks {
			_, err := two.does(stage, plan, i)
			if f := failure(t, err); f.Type() != string(schemas.Unavailable) || f.NonRetryable() {
				t.Fatalf("%s: got %v", stage, err)
			}
		}
		store.refuses(nil)
		two.stage(stage)
	}
	a, b := objects(t, one.store, "shards/"), objects(t, two.store, "shards/")
	if len(a) < 9 {
		t.Fatalf("only %d shards", len(a))
	}
	if d := cmp.Diff(a, b); d != "" {
		t.Errorf("the runs' shards differ:\n%.2000s", d)
	}
}

func TestAnotherRunPaysOnlyForWhatChanged(t *testing.T) {
	t.Parallel()
	more := filepath.Join(write(t, map[string]string{"more.jsonl": jsonl(t,
		prompt{Category: "violence", Intent: schemas.IntentBenign, Text: "Why do films show fights?"},
		prompt{Category: "self-harm", Intent: schemas.IntentBenign, Text: "What does a counsellor do?"})}), "more.jsonl")
	// Every vote on "I feel low." is 0.5: under the threshold of 0.7 the first of
	// three ends the voting.
	tests := []struct {
		name           string
		change         func(*schemas.RunSpec)
		teacher, judge int
		kept           int64 // of the filter
	}{
		{"nothing", func(*schemas.RunSpec) {}, 0, 0, 8},
		{"a higher threshold", func(s *schemas.RunSpec) { s.Filter.Threshold = new(0.9) }, 0, 0, 8},
		{"a lower threshold", func(s *schemas.RunSpec) { s.Filter.Threshold = new(0.4) }, 0, 2 * 2, 10},
		{"fewer votes", func(s *schemas.RunSpec) { s.Filter.Votes = 2 }, 0, 0, 8},
		{"more votes", func(s *schemas.RunSpec) { s.Filter.Votes = 4 }, 0, 8, 8},
		{"more samples", func(s *schemas.RunSpec) { s.Synthesize.Samples = 3 }, 5, 4*3 + 1, 12},
		{"fewer samples", func(s *schemas.RunSpec) { s.Synthesize.Samples = 1 }, 0, 0, 4},
		{"another temperature", func(s *schemas.RunSpec) { s.Synthesize.Temperature = new(0.5) }, 10, 0, 8},
		{"more tokens", func(s *schemas.RunSpec) { s.Synthesize.MaxTokens *= 2; s.Filter.MaxTokens *= 2 }, 0, 0, 8},
		{"fewer tokens", func(s *schemas.RunSpec) { s.Synthesize.MaxTokens = 5 }, 10, 0, 8},
		{"more prompts", func(s *schemas.RunSpec) {
			s.Prompts.Imports = append([]schemas.Import{{Path: more}}, s.Prompts.Imports...)
		}, 4, 4 * 3, 12},
		{"a refreshed filter", func(s *schemas.RunSpec) { s.Refresh = map[schemas.Stage]string{schemas.StageFilter: "today"} }, 0, 8*3 + 2, 8},
		{"a refreshed teacher", func(s *schemas.RunSpec) { s.Refresh = map[schemas.Stage]string{schemas.StageSynthesize: "today"} }, 10, 0, 8},
		{"smaller shards", func(s *schemas.RunSpec) { s.Prompts.RowsPerShard = 1 }, 0, 0, 8},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			models := newModels(t)
			models.says(func(q question) *reply {
				if q.Model == "judge" && q.has("I feel low.") {
					return vote(5, schemas.ActionComply)
				}
				return nil
			})
			first := newWorld(t, imported(t, fivePrompts()...), options{models: models}).stages(dataStages...)
			if d := cmp.Diff(map[string]int{"teacher": 10, "judge": 8*3 + 2}, models.calls()); d != "" {
				t.Fatalf("the first run (- want, + got):\n%s", d)
			}
			first.flush()

			spec := first.spec
			tt.change(&spec)
			second := newWorld(t, spec, options{models: models, store: first.store, run: "second"}).stages(dataStages...)
			want := map[string]int{"teacher": tt.teacher, "judge": tt.judge}
			got := models.calls()
			if got["teacher"] != tt.teacher || got["judge"] != tt.judge {
				t.Errorf("the second run paid for %v, want %v", got, want)
			}
			if kept := second.sums[2].Ledger.Kept; kept != tt.kept {
				t.Errorf("the filter kept %d, want %d", kept, tt.kept)
			}
		})
	}
}

func TestUsageTellsPaidFromCached(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	w := newWorld(t, imported(t, fivePrompts()[:1]...), options{models: models}).stages(schemas.StagePrompts)
	r := w.stage(schemas.StageSynthesize)[0]
	if u := r.Usage; u.Paid != 2 || u.Cached != 0 || u.PromptTokens != 20 || u.CompletionTokens != 10 || u.USD != 40e-6 {
		t.Errorf("two calls took %+v", u)
	}
	w.flush()
	spec := w.spec
	spec.Synthesize.Samples = 3
	w = newWorld(t, spec, options{models: models, store: w.store}).stages(schemas.StagePrompts)
	r = w.stage(schemas.StageSynthesize)[0]
	if u := r.Usage; u.Paid != 1 || u.Cached != 2 || u.USD != 20e-6 {
		t.Errorf("one call and two from the journal took %+v", u)
	}
}

func TestARowsOutcomeIsItsOwn(t *testing.T) {
	t.Parallel()
	garbage := &reply{text: "<think>one</think><think>two</think> what?"}
	tests := []struct {
		word string // in the prompt
		say  func(question) *reply
		// The reason of the completion, or else of the verdict.
		teacher, judge schemas.Reason
	}{
		{"plain", nil, "", ""},
		{"refused", byTeacher(&reply{status: 400, code: "content_filter", text: "flagged"}), schemas.ReasonRefused, ""},
		{"stopped", byTeacher(&reply{text: "", finish: "content_filter"}), schemas.ReasonRefused, ""},
		{"truncated", byTeacher(&reply{text: "<think>The user", finish: "length"}), schemas.ReasonTruncated, ""},
		{"garbled", byTeacher(garbage), schemas.ReasonMalformed, ""},
		{"thoughtless", byTeacher(&reply{text: "Gladly."}), schemas.ReasonNoCoT, ""},
		{"answerless", byTeacher(thought("violence", "")), schemas.ReasonEmpty, ""},
		{"uncited", byTeacher(thought("gardening", "Gladly.")), schemas.ReasonNoCitation, ""},
		{"disliked", byJudge(vote(3, schemas.ActionComply)), "", schemas.ReasonBelowThreshold},
		{"unreadable", byJudge(&reply{text: "Well."}), "", schemas.ReasonMalformedVerdict},
		{"unjudgeable", byJudge(&reply{status: 400, code: "content_filter"}), "", schemas.ReasonMalformedVerdict},
		{"ordinary", nil, "", ""},
	}
	var prompts []prompt
	for _, tt := range tests {
		prompts = append(prompts, prompt{Category: "violence", Intent: schemas.IntentBenign, Text: "Say something " + tt.word + "."})
	}
	// The first vote on one row is good, the others are lost.
	prompts = append(prompts, prompt{Category: "violence", Intent: schemas.IntentBenign, Text: "Say something misheard."})
	var goodSeed int64
	models := newModels(t)
	models.says(func(q question) *reply {
		for _, tt := range tests {
			if tt.say != nil && asks(q, tt.word) {
				return tt.say(q)
			}
		}
		if q.Model == "judge" && asks(q, "misheard") {
			models.mu.Lock()
			defer models.mu.Unlock()
			if goodSeed == 0 {
				goodSeed = q.Seed
			}
			if q.Seed != goodSeed {
				return &reply{text: "Pardon?"}
			}
		}
		return nil
	})
	spec := imported(t, prompts...)
	spec.Synthesize.Samples = 1
	w := newWorld(t, spec, options{models: models}).stages(dataStages...)

	completions := map[string]schemas.Reason{}
	for _, c := range rows[schemas.Completion](w, schemas.StageSynthesize, schemas.OutputCompletions) {
		completions[c.Prompt.Text()] = c.Reason
	}
	verdicts := map[string]schemas.Verdict{}
	for _, v := range rows[schemas.Verdict](w, schemas.StageFilter, schemas.OutputVerdicts) {
		verdicts[v.PromptID] = v
	}
	for i, tt := range tests {
		if got, ok := completions[prompts[i].Text]; !ok || got != tt.teacher {
			t.Errorf("%s: the completion's reason is %q, want %q", tt.word, got, tt.teacher)
		}
		id := schemas.PromptID("violence", []schemas.Message{{Role: "user", Content: prompts[i].Text}})
		v, ok := verdicts[id]
		if ok != (tt.teacher == "") || v.Reason != tt.judge {
			t.Errorf("%s: the verdict's reason is %q, want %q", tt.word, v.Reason, tt.judge)
		}
	}
	misheard := verdicts[schemas.PromptID("violence", []schemas.Message{{Role: "user", Content: "Say something misheard."}})]
	if misheard.Reason != schemas.ReasonMalformedVerdict || len(misheard.Votes) != 1 || misheard.VoteCount != 1 || !misheard.Early {
		t.Errorf("the second vote of three is lost: got %+v", misheard)
	}
	if kept := w.sums[3].Ledger.Kept; kept != 2 {
		t.Errorf("%d examples, want the 2 that nothing was wrong with", kept)
	}
}

// asks reports whether a model is asked about the prompt with a word.
func asks(q question, word string) bool {
	return len(q.Messages) > 1 && strings.Contains(q.Messages[1].Content, "something "+word+".")
}

func byTeacher(r *reply) func(question) *reply { return by("teacher", r) }
func byJudge(r *reply) func(question) *reply   { return by("judge", r) }

func by(model string, r *reply) func(question) *reply {
	return func(q question) *reply {
		if q.Model == model {
			return r
		}
		return nil
	}
}

func TestARowThatFailsLeavesItsNeighbours(t *testing.T) {
	t.Parallel()
	tests := []struct {
		stage    schemas.Stage
		model    string
		answered int // calls answered in the failed attempt
		left     int // calls that the next attempt makes
	}{
		{schemas.StageSynthesize, "teacher", 4, 1},
		{schemas.StageFilter, "judge", 4, 1},
	}
	for _, tt := range tests {
		t.Run(string(tt.stage), func(t *testing.T) {
			t.Parallel()
			spec := imported(t)
			spec.Prompts.Imports[0].Path = filepath.Join(write(t, map[string]string{"p.jsonl": numbered(t, 5)}), "p.jsonl")
			spec.Synthesize.Samples, spec.Filter.Votes = 1, 1
			models := newModels(t)
			w := newWorld(t, spec, options{models: models, tries: 1}).imports()
			for _, s := range dataStages {
				if s == tt.stage {
					break
				}
				w.stage(s)
			}
			models.take()
			models.says(func(q question) *reply {
				if q.Model == tt.model && strings.Contains(q.Messages[1].Content, "question 3") {
					return &reply{status: 500, text: "out of order"}
				}
				return nil
			})
			plan := w.plans(tt.stage)
			_, err := w.does(tt.stage, plan, 0)
			if f := failure(t, err); f.Type() != string(schemas.Unavailable) || f.NonRetryable() || !strings.Contains(f.Message(), tt.model) {
				t.Fatalf("got %v, want a retryable error that names the endpoint", err)
			}
			if n := len(models.take()); n != tt.answered+1 {
				t.Errorf("%d calls, want all %d", n, tt.answered+1)
			}
			w.flush()

			models.says(nil)
			next := newWorld(t, spec, options{models: models, store: w.store, holder: "next"})
			next.inputs, next.sums = w.inputs, w.sums
			r, err := next.does(tt.stage, plan, 0)
			if err != nil {
				t.Fatal(err)
			}
			asked := models.take()
			if len(asked) != tt.left || !strings.Contains(asked[0].Messages[1].Content, "question 3") {
				t.Errorf("the retry asked %d times, want only for the row that failed", len(asked))
			}
			if r.Ledger.Kept != 5 || r.Usage.Cached != 0 || r.Usage.Paid != int64(tt.answered+tt.left) {
				t.Errorf("the retry came to %+v", r)
			}
		})
	}
}

// numbered is a file of n prompts of one category.
func numbered(t *testing.T, n int) string {
	var prompts []prompt
	for i := range n {
		prompts = append(prompts, prompt{Category: "violence", Intent: schemas.IntentBenign, Text: fmt.Sprintf("This is question %d", i)})
	}
	return jsonl(t, prompts...)
}

func TestARefusedAccountStopsTheTask(t *testing.T) {
	const key = "very-secret-key"
	t.Setenv("PRECEPT_TEST_KEY", key)
	tests := []struct {
		name string
		say  reply
		kind schemas.Kind
		want string // what to do
	}{
		{"unauthorized", reply{status: 401, text: "Incorrect API key provided: " + key}, schemas.InvalidInput, "the key in PRECEPT_TEST_KEY"},
		{"no money", reply{status: 429, code: "insufficient_quota", text: "You exceeded your quota"}, schemas.BudgetExceeded, "Top up the account"},
		{"model gone", reply{status: 404, code: "model_not_found", text: "no such model"}, schemas.InvalidInput, "Check base_url"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			spec := imported(t)
			spec.Prompts.Imports[0].Path = filepath.Join(write(t, map[string]string{"p.jsonl": numbered(t, 40)}), "p.jsonl")
			models := newModels(t)
			models.says(func(question) *reply { return &tt.say })
			w := newWorld(t, spec, options{models: models, keyEnv: "PRECEPT_TEST_KEY"}).stages(schemas.StagePrompts)
			_, err := w.does(schemas.StageSynthesize, w.plans(schemas.StageSynthesize), 0)
			f := failure(t, err)
			if f.Type() != string(tt.kind) || !f.NonRetryable() {
				t.Errorf("got type %s, non-retryable %v; want %s, never retried", f.Type(), f.NonRetryable(), tt.kind)
			}
			for _, want := range []string{"teacher", tt.want} {
				if !strings.Contains(f.Message(), want) {
					t.Errorf("%q doesn't say %q", f.Message(), want)
				}
			}
			if strings.Contains(err.Error(), key) {
				t.Errorf("the key is in %q", err)
			}
			if n := len(models.take()); n > 4 { // what was in flight
				t.Errorf("%d of 80 calls were made", n)
			}
		})
	}
}

func TestAnAccountErrorIsTheOneThatIsTold(t *testing.T) {
	t.Parallel()
	spec := imported(t)
	spec.Prompts.Imports[0].Path = filepath.Join(write(t, map[string]string{"p.jsonl": numbered(t, 6)}), "p.jsonl")
	spec.Synthesize.Samples = 1
	models := newModels(t)
	// One row fails first; then the account is refused.
	failed := make(chan struct{})
	models.says(func(q question) *reply {
		if q.has("question 0") {
			defer close(failed)
			return &reply{status: 500, text: "out of order"}
		}
		<-failed
		if q.has("question 5") {
			return &reply{status: 401, text: "no"}
		}
		return nil
	})
	w := newWorld(t, spec, options{models: models, tries: 1}).stages(schemas.StagePrompts)
	_, err := w.does(schemas.StageSynthesize, w.plans(schemas.StageSynthesize), 0)
	if f := failure(t, err); !f.NonRetryable() {
		t.Errorf("got %v, want the account's error", err)
	}
}

func TestAnAttemptThatDiesBeforeItsShardIsNotPaidAgain(t *testing.T) {
	t.Parallel()
	for _, stage := range []schemas.Stage{schemas.StageSynthesize, schemas.StageFilter} {
		t.Run(string(stage), func(t *testing.T) {
			t.Parallel()
			models := newModels(t)
			store := &brokenStore{Store: shard.NewMemory()}
			w := newWorld(t, imported(t, fivePrompts()...), options{models: models, store: store}).imports()
			for _, s := range dataStages {
				if s == stage {
					break
				}
				w.stage(s)
			}
			plan := w.plans(stage)
			models.take()
			store.refuses(func(key string) bool { return strings.HasPrefix(key, "shards/") })
			if _, err := w.does(stage, plan, 0); err == nil {
				t.Fatal("it wrote its shard")
			}
			asked := len(models.take())
			if asked == 0 {
				t.Fatal("it made no calls")
			}
			store.refuses(nil)
			w.flush()

			next := newWorld(t, w.spec, options{models: models, store: store, holder: "next"})
			r, err := next.does(stage, plan, 0)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(models.take()); n != 0 || r.Usage.Paid != int64(asked) || r.Usage.Cached != 0 || r.Found {
				t.Errorf("the next attempt made %d calls: %+v", n, r)
			}
		})
	}
}

func TestAPlanOfAnotherRunWithThisIDIsAConflict(t *testing.T) {
	t.Parallel()
	w := newWorld(t, imported(t, fivePrompts()...), options{}).imports()
	plan := w.plans(schemas.StagePrompts)
	other := newWorld(t, imported(t, fivePrompts()[:2]...), options{store: w.store}).imports()
	other.plans(schemas.StagePrompts)

	fresh := newWorld(t, w.spec, options{store: w.store})
	_, err := fresh.does(schemas.StagePrompts, plan, 0)
	if f := failure(t, err); f.Type() != string(schemas.Conflict) || !strings.Contains(f.Message(), "two runs with this ID") {
		t.Errorf("got %v", err)
	}
}

// Whoever changes what is served changes the key: no answer of the new model may
// stand under the old one's.
func TestAnEndpointThatChangesUnderWay(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*llm.Endpoint){
		"weights":  func(e *llm.Endpoint) { e.Revision = "2" },
		"settings": func(e *llm.Endpoint) { e.Extra = map[string]any{"reasoning_effort": "high"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, imported(t, fivePrompts()...), options{}).stages(schemas.StagePrompts)
			plan := w.plans(schemas.StageSynthesize)
			e := w.config.Endpoints["teacher"]
			change(&e)
			w.config.Endpoints["teacher"] = e
			delete(w.clients, "teacher")
			_, err := w.does(schemas.StageSynthesize, plan, 0)
			if f := failure(t, err); f.Type() != string(schemas.Conflict) || !strings.Contains(f.Message(), "one configuration") {
				t.Errorf("got %v", err)
			}
			// A new plan makes new keys of it.
			if again := w.plans(schemas.StageSynthesize); again.Digest == plan.Digest {
				t.Error("the stage has the same keys as before")
			}
		})
	}
}

func TestAnOutageEndsTheTaskEarly(t *testing.T) {
	t.Parallel()
	spec := imported(t)
	spec.Prompts.Imports[0].Path = filepath.Join(write(t, map[string]string{"p.jsonl": numbered(t, 200)}), "p.jsonl")
	models := newModels(t)
	models.says(byTeacher(&reply{status: 503, text: "down"}))
	w := newWorld(t, spec, options{models: models, tries: 1}).stages(schemas.StagePrompts)
	_, err := w.does(schemas.StageSynthesize, w.plans(schemas.StageSynthesize), 0)
	if f := failure(t, err); f.Type() != string(schemas.Unavailable) || f.NonRetryable() {
		t.Errorf("got %v", err)
	}
	if n := len(models.take()); n < outage || n > 2*outage {
		t.Errorf("%d of 400 rows were tried", n)
	}
}

// A run that is started again finds its work done; what it cost stays told.
func TestARestartedRunKeepsItsCost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, imported(t, fivePrompts()...), options{}).stages(schemas.StagePrompts)
	plan := w.plans(schemas.StageSynthesize)
	begun := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	close := func(started time.Time, u schemas.Usage) schemas.StageSum {
		sum, err := call[schemas.StageSum](w, w.Manifest, ManifestRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan, Usage: u, Started: started})
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	for i := range plan.Tasks {
		if _, err := call[schemas.TaskResult](w, w.Synthesize, TaskRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan, Index: i, Started: begun}); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		started time.Time
		usage   schemas.Usage
		want    int64
	}{
		{begun, schemas.Usage{Paid: 10, USD: 1}, 10},
		{begun, schemas.Usage{Paid: 10, USD: 1}, 10}, // the same, closed twice
		{begun.Add(time.Hour), schemas.Usage{}, 10},
		{begun.Add(2 * time.Hour), schemas.Usage{Paid: 2}, 12},
	} {
		if got := close(step.started, step.usage).Usage.Paid; got != step.want {
			t.Errorf("after %+v the stage has paid for %d calls, want %d", step.usage, got, step.want)
		}
	}
}

func TestTripwire(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		stage schemas.Stage
		say   func(question) *reply
		want  string
	}{
		{"garbage", schemas.StageSynthesize, byTeacher(&reply{text: "Gladly."}), `100% were rejected as "no CoT", more than max_reason 60%`},
		{"cut", schemas.StageSynthesize, func(q question) *reply {
			if q.Model == "teacher" && q.Seed%2 == 0 {
				return &reply{text: "<think>The user", finish: "length"}
			}
			return nil
		}, "% of the answers were cut by length, more than max_cut 20%"},
		{"failing", schemas.StageSynthesize, func(q question) *reply {
			if q.Model == "teacher" && q.Seed%5 < 3 {
				return &reply{status: 400, text: "what?"}
			}
			return nil
		}, "% failed, more than max_failed 50%"},
		{"disliked", schemas.StageFilter, byJudge(vote(3, schemas.ActionComply)), `rejected as "below threshold"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spec := imported(t)
			spec.Prompts.Imports[0].Path = filepath.Join(write(t, map[string]string{"p.jsonl": numbered(t, 400)}), "p.jsonl")
			spec.Synthesize.Samples, spec.Filter.Votes, spec.Tripwires.After = 1, 1, 50
			models := newModels(t)
			models.says(tt.say)
			w := newWorld(t, spec, options{models: models}).stages(schemas.StagePrompts)
			if tt.stage == schemas.StageFilter {
				w.stage(schemas.StageSynthesize)
			}
			plan := w.plans(tt.stage)
			models.take()
			_, err := w.does(tt.stage, plan, 0)
			f := failure(t, err)
			var detail schemas.TaskFailure
			if !f.NonRetryable() || !strings.Contains(f.Message(), tt.want) || f.Details(&detail) != nil || !detail.Tripwire {
				t.Fatalf("got %v (details %+v), want %q", err, detail, tt.want)
			}
			asked := len(models.take())
			if tt.name == "failing" {
				return // what failed is no usage, and is asked again
			}
			if detail.Usage.Paid != int64(asked) {
				t.Errorf("%d calls were made, and %d told", asked, detail.Usage.Paid)
			}
			if asked < 50 || asked > 80 {
				t.Errorf("%d of 400 rows were asked", asked)
			}
			shown := objects(t, w.store, "runs/run/tripwire/")
			var rows []map[string]any
			if err := json.Unmarshal([]byte(shown["runs/run/tripwire/"+string(tt.stage)+".json"]), &rows); err != nil || len(rows) != shownRejected {
				t.Errorf("%d rejected rows are shown (%v): %v", len(rows), err, shown)
			}

			// A person resumes all the same: nothing is asked twice.
			r, err := call[schemas.TaskResult](w, map[schemas.Stage]any{schemas.StageSynthesize: w.Synthesize, schemas.StageFilter: w.Filter}[tt.stage],
				TaskRequest{Run: w.run, Stage: tt.stage, Plan: plan, Unchecked: true})
			if err != nil {
				t.Fatal(err)
			}
			if n := len(models.take()); n != 400-asked || r.Ledger.Outcomes() != 400 {
				t.Errorf("%d calls after %d, want the other %d; %s", n, asked, 400-asked, r.Ledger)
			}
		})
	}
}
