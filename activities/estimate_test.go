package activities

import (
	"slices"
	"strings"
	"testing"
	"time"

	"precept/internal/llm"
	"precept/internal/shard"
	"precept/schemas"
)

// estimates tells what the world's run would take under another ID.
func (w *world) estimates() (Estimate, map[schemas.Stage]StageEstimate) {
	w.t.Helper()
	e, err := EstimateRun(w.t.Context(), w.config, w.store, w.journal, "other", w.spec)
	if err != nil {
		w.t.Fatal(err)
	}
	stages := map[schemas.Stage]StageEstimate{}
	for _, s := range e.Stages {
		stages[s.Stage] = s
	}
	return e, stages
}

// untold lists the stages of which nothing tells what is likely.
func (e Estimate) untold() (stages []schemas.Stage) {
	for _, s := range e.Stages {
		if s.Likely == nil && s.Untold != "" {
			stages = append(stages, s.Stage)
		}
	}
	return stages
}

func TestEstimate(t *testing.T) {
	t.Parallel()
	spec := imported(t, fivePrompts()...)
	spec.Evaluate.Skip, spec.SFT.Skip = true, true
	w := newWorld(t, spec, options{})
	check := func(what string, s StageEstimate, calls Range) {
		t.Helper()
		if s.Calls != calls {
			t.Errorf("%s: %v calls, want %v", what, s.Calls, calls)
		}
		if calls.High > 0 && (s.USD.High <= 0 || s.USD.Low > s.USD.High || s.Prompt.High <= s.Prompt.Low || s.Completion.High == 0) {
			t.Errorf("%s: %+v", what, s)
		}
	}
	e, stages := w.estimates()
	check("synthesize", stages[schemas.StageSynthesize], Range{10, 10})
	// Of the completions none may reach the filter; all votes may have to be repaired.
	check("filter", stages[schemas.StageFilter], Range{0, 60})
	rollouts := float64(w.spec.RL.Steps * w.spec.RL.PromptsPerStep * w.spec.RL.Generations)
	check("rl", stages[schemas.StageRL], Range{0, 2 * rollouts})
	if e.Total.Calls != (Range{10, 70 + 2*rollouts}) || len(e.Assumes) == 0 {
		t.Errorf("in all %+v, assuming %q", e.Total, e.Assumes)
	}
	// Nothing is recorded, and nothing is made up.
	if e.Total.Likely != nil || len(e.untold()) != 3 {
		t.Errorf("likely %+v, untold %v", e.Total.Likely, e.untold())
	}
	if len(objects(t, w.store, "plans/")) != 0 {
		t.Error("an estimate has written plans")
	}

	w.stages(dataStages...)
	w.flush()
	_, stages = w.estimates()
	check("synthesize, answered", stages[schemas.StageSynthesize], Range{0, 0})
	if s := stages[schemas.StageFilter]; s.Calls != (Range{}) || s.USD != (Range{}) || s.Likely == nil || *s.Likely != (Likely{}) {
		t.Errorf("filter, answered: %+v", s)
	}

	// What some answers took is what the others likely take.
	w.spec.Synthesize.Samples = 6
	_, stages = w.estimates()
	s := stages[schemas.StageSynthesize]
	check("synthesize, more samples", s, Range{20, 20})
	if s.Answered != 10 || s.Likely.Answers != 10 || s.Likely.Calls != 20 || s.Likely.Prompt != 200 || s.Likely.Completion != 100 || s.Likely.USD != 400e-6 {
		t.Errorf("with more samples: %+v, likely %+v", s, s.Likely)
	}
	s = stages[schemas.StageFilter]
	check("filter, more samples", s, Range{0, 120})
	if s.Answered != 30 || s.Likely.Answers != 30 || s.Likely.Calls != 60 || s.Likely.USD != 1200e-6 || s.USD.High < s.Likely.USD {
		t.Errorf("with more samples: %+v, likely %+v", s, s.Likely)
	}
}

// counted is the usage of an answer whose tokens have four bytes, and of which all that a
// request began with is cached where one before did.
func counted(q question, text string, seen bool) llm.Usage {
	u := llm.Usage{CompletionTokens: int64(len(text)+3) / 4}
	for _, m := range q.Messages {
		u.PromptTokens += int64(len(m.Content)+3) / 4
	}
	if seen {
		u.CachedTokens = int64(len(q.Messages[0].Content)) / 4
	}
	return u
}

// What a run takes lies between low and high, whatever its answers are like and whatever of
// it was recorded before, and what is recorded makes the likely figure near it.
func TestTheTruthLiesInTheEstimate(t *testing.T) {
	t.Parallel()
	unlabelled := func(s *schemas.RunSpec) {
		s.Prompts.Imports = slices.Clone(s.Prompts.Imports)
		s.Prompts.Imports[0].Classify = true
		s.Prompts.Classify.Judge = schemas.RoleOf("judge")
	}
	for _, tt := range []struct {
		name    string
		prompts []prompt
		adapts  func(*schemas.RunSpec)
		script  func(question) *reply
		change  func(*llm.Endpoint)
	}{
		{name: "usual"},
		{name: "no price for the cache", change: func(e *llm.Endpoint) { e.CachedUSD = 0 }},
		{name: "a cheap cache", change: func(e *llm.Endpoint) { e.CachedUSD, e.OutputUSD = 0.02, 0.1 }},
		{name: "a cache that costs more", change: func(e *llm.Endpoint) { e.CachedUSD = 2 * e.InputUSD }},
		{name: "by batch's price", adapts: func(s *schemas.RunSpec) { s.Filter.Votes = 1 }, change: func(e *llm.Endpoint) { e.OutputUSD = 60 }},
		{name: "short answers", script: func(q question) *reply {
			if q.Model == "teacher" {
				return &reply{text: "<think>Policy " + q.policy() + ".</think>No."}
			}
			return nil
		}},
		{name: "all alike", script: func(q question) *reply {
			if q.Model == "teacher" {
				return thought(q.policy(), "No.")
			}
			return nil
		}},
		{name: "answers that end the voting", script: func(q question) *reply {
			if q.Model == "judge" && q.Seed%2 == 0 {
				return vote(1, schemas.ActionComply)
			}
			return nil
		}},
		{name: "answers that reach no judge", script: func(q question) *reply {
			if q.Model == "teacher" {
				return &reply{text: "No."}
			}
			return nil
		}},
		{name: "votes that have to be repaired", script: func(q question) *reply {
			if q.Model == "judge" && len(q.Messages) == 2 {
				return &reply{text: strings.Repeat("I like it. ", 300)}
			}
			return nil
		}},
		{name: "answers as long as they may be", script: func(q question) *reply {
			if q.Model == "teacher" {
				return thought(q.policy(), strings.Repeat("word ", 750)) // of at most 1,024 tokens
			}
			return nil
		}},
		{name: "prompts beyond ASCII", prompts: []prompt{
			{Category: "violence", Intent: schemas.IntentBenign, Text: strings.Repeat("如何杀死一个卡住的进程？", 20)},
			{Category: "violence", Intent: schemas.IntentHarmful, Text: strings.Repeat("Как мне навредить соседу? ", 20)},
		}},
		{name: "classified", adapts: unlabelled, prompts: []prompt{
			{Text: "A tale of violence, benign"}, {Text: "A song of violence, harmful"}, {Text: "A word of self-harm, borderline"}, {Text: "A word to nobody"},
		}},
		{name: "classified, and split", adapts: func(s *schemas.RunSpec) { unlabelled(s); s.Prompts.Classify.Votes = 5 }, prompts: []prompt{
			{Text: "A tale of violence, benign"}, {Text: "A song of violence, harmful"}, {Text: "A word to nobody"},
			{Text: "A tale of self-harm, benign"}, {Text: "A song of self-harm, harmful"}, {Text: "No word to anybody"},
		}, script: func(q question) *reply {
			if strings.HasPrefix(q.Messages[0].Content, "Role: classify") && q.Seed%3 == 0 {
				return label("self-harm", "none", "benign")
			}
			return nil
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newBiller()
			said := map[string]bool{}
			p.says(tt.script)
			p.tells = func(q question, text string) llm.Usage {
				p.mu.Lock()
				defer p.mu.Unlock()
				begun := q.Messages[0].Content
				seen := said[q.Model+begun]
				said[q.Model+begun] = true
				return counted(q, text, seen)
			}
			if tt.prompts == nil {
				for _, p := range fivePrompts() {
					for _, end := range []string{"", " Tell me.", " In one sentence, please."} {
						p.Text += end
						tt.prompts = append(tt.prompts, p)
					}
				}
			}
			spec := imported(t, tt.prompts...)
			spec.Until = schemas.StageCurate
			if tt.adapts != nil {
				tt.adapts(&spec)
			}
			change := func(e *llm.Endpoint) {
				e.InputUSD, e.CachedUSD, e.OutputUSD = 2, 0.2, 8
				if tt.change != nil {
					tt.change(e)
				}
			}
			stages := dataStages
			if spec.Classifies() {
				stages = append([]schemas.Stage{schemas.StageClassify}, stages...)
			}
			paid := func(w *world) (usage schemas.Usage, byStage map[schemas.Stage]schemas.Usage) {
				byStage = map[schemas.Stage]schemas.Usage{}
				w.imports()
				for _, stage := range stages {
					for _, r := range w.stage(stage) {
						usage.Add(r.Usage)
						u := byStage[stage]
						u.Add(r.Usage)
						byStage[stage] = u
					}
				}
				w.flush()
				return usage, byStage
			}
			holds := func(what string, e StageEstimate, u schemas.Usage) {
				t.Helper()
				for _, f := range []struct {
					name  string
					r     Range
					truth float64
				}{
					{"calls", e.Calls, float64(u.Paid)}, {"prompt tokens", e.Prompt, float64(u.PromptTokens)},
					{"completion tokens", e.Completion, float64(u.CompletionTokens)}, {"USD", e.USD, u.USD},
				} {
					if f.truth < f.r.Low || f.truth > f.r.High {
						t.Errorf("%s, %s: %v is not in %v", what, f.name, f.truth, f.r)
					}
				}
			}
			priced := func(what string, w *world) Estimate {
				t.Helper()
				e, told := w.estimates()
				u, byStage := paid(w)
				if u.Paid == 0 {
					t.Fatalf("%s: nothing was paid", what)
				}
				for stage, u := range byStage {
					if s, ok := told[stage]; ok {
						holds(what+", "+string(stage), s, u)
					}
				}
				holds(what, e.Total, u)
				if l := e.Total.Likely; l != nil && (l.USD < e.Total.USD.Low || l.USD > e.Total.USD.High) {
					t.Errorf("%s: likely %v is not in %v", what, l.USD, e.Total.USD)
				} else if l != nil && len(e.untold()) == 0 && (l.USD > 2*u.USD || l.USD < u.USD/2) {
					t.Errorf("%s: likely is $%v, the truth $%v, %v calls of %v", what, l.USD, u.USD, l.Calls, u.Paid)
				}
				return e
			}
			pilot := spec
			pilot.Prompts.Limit = (len(tt.prompts) + 1) / 2
			w := newWorld(t, pilot, options{biller: p, change: change, run: "pilot"})
			if e := priced("the pilot", w); e.Total.Likely != nil {
				t.Errorf("nothing is recorded, and likely is %+v", e.Total.Likely)
			}
			full := newWorld(t, spec, options{biller: p, change: change, store: w.store, run: "full"})
			if e := priced("the run", full); len(e.untold()) > 0 {
				t.Errorf("after a pilot nothing tells of %v: %q", e.untold(), e.Assumes)
			}
			// All is recorded: nothing is left to pay.
			e, _ := full.estimates()
			if t0 := e.Total; t0.Calls != (Range{}) || t0.USD != (Range{}) || t0.Likely == nil || t0.Likely.USD != 0 {
				t.Errorf("after the run: %+v", t0)
			}
		})
	}
}

// Where the very requests are not recorded, the latest run that has asked the same models
// tells what is likely; one that has asked others doesn't.
func TestAnEarlierRunTellsWhatIsLikely(t *testing.T) {
	t.Parallel()
	store, models := shard.NewMemory(), newModels(t)
	spec := imported(t, fivePrompts()...)
	spec.Until = schemas.StageCurate
	w := newWorld(t, spec, options{store: store, models: models, run: "first"}).stages(dataStages...)
	w.flush()

	w.spec.Refresh = map[schemas.Stage]string{schemas.StageSynthesize: "anew", schemas.StageFilter: "anew"}
	e, stages := w.estimates()
	l := stages[schemas.StageFilter].Likely
	if len(e.untold()) != 0 || l == nil || l.From != "from 30 recorded answers of run first" || l.Calls != 30 || e.Total.Likely.Calls != 40 || e.Total.Likely.USD != 800e-6 {
		t.Errorf("likely %+v, %+v, untold %v", e.Total.Likely, l, e.untold())
	}

	w = newWorld(t, w.spec, options{store: store, models: models, change: func(e *llm.Endpoint) { e.Revision = "2" }})
	if e, _ := w.estimates(); e.Total.Likely != nil {
		t.Errorf("other models are likely to take %+v", e.Total.Likely)
	}
}

func TestAnEstimateAndItsBudget(t *testing.T) {
	t.Parallel()
	spec := imported(t, fivePrompts()...)
	spec.Until = schemas.StageCurate
	w := newWorld(t, spec, options{})
	bare, _ := w.estimates()
	if bare.Budget != nil {
		t.Errorf("there is no budget, and it is %+v", bare.Budget)
	}
	low, high := bare.Total.USD.Low, bare.Total.USD.High
	for _, tt := range []struct {
		budget schemas.BudgetSpec
		want   string
	}{
		{schemas.BudgetSpec{USD: low / 2}, "low"},
		{schemas.BudgetSpec{USD: (low + high) / 2}, "high"},
		{schemas.BudgetSpec{USD: high + 1}, ""},
		{schemas.BudgetSpec{USD: high + 1, Tokens: 100}, "low"},
	} {
		w.spec.Budget = tt.budget
		if e, _ := w.estimates(); e.Budget == nil || e.Budget.Passes != tt.want {
			t.Errorf("%+v: %+v, want %q", tt.budget, e.Budget, tt.want)
		}
	}

	// What was spent under the run's ID counts, with what nobody knows of.
	spent := schemas.Spent{Usage: schemas.Usage{Paid: 3, PromptTokens: 20, CompletionTokens: 10, USD: 5, UnansweredUSD: 1}}
	record := schemas.SpentObject("other", schemas.StageFilter, time.Now(), "aa")
	if err := shard.PutJSON(t.Context(), w.store, record, spent, shard.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for usd, want := range map[float64]string{5.5: "low", 6 + high: "", 6 + high/2: "high"} {
		w.spec.Budget = schemas.BudgetSpec{USD: usd}
		e, _ := w.estimates()
		if e.Budget.Passes != want || e.Budget.Spent != (schemas.Cost{USD: 6, Tokens: 30}) {
			t.Errorf("$%v: %+v, want %q", usd, e.Budget, want)
		}
	}

	// A likely figure that passes it is told before the high one.
	w.stages(dataStages...)
	w.flush()
	w.spec.Synthesize.Samples = 4
	w.spec.Budget = schemas.BudgetSpec{Tokens: 30 + 400}
	if e, _ := w.estimates(); e.Budget.Passes != "likely" {
		t.Errorf("%+v, likely %+v", e.Budget, e.Total.Likely)
	}
}
