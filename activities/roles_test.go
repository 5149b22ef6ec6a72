package activities

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"precept/internal/llm"
	"precept/internal/shard"
	"precept/schemas"
)

// routed has three teachers: harmful prompts stay with one or its stand-in.
func routed(t *testing.T) schemas.RunSpec {
	spec := imported(t, fivePrompts()...)
	spec.Synthesize.Samples, spec.Filter.Votes = 1, 2
	spec.Synthesize.Teacher = schemas.Role{
		{Endpoint: "teacher-local", Intents: []schemas.Intent{schemas.IntentHarmful, schemas.IntentBorderline}, Fallback: []string{"teacher-local2"}},
		{Endpoint: "teacher-hosted", Categories: []schemas.Category{"self-harm"}},
		{Endpoint: "teacher"},
	}
	spec.Until = schemas.StageFilter
	return spec
}

var routedEndpoints = []string{"teacher-local", "teacher-local2", "teacher-hosted", "judge2"}

// sentTo counts the requests by model and the words of the prompt.
func sentTo(asked []question) map[string]int {
	n := map[string]int{}
	for _, q := range asked {
		for _, p := range fivePrompts() {
			if q.has(p.Text) {
				n[fmt.Sprintf("%s: %s %s", q.Model, p.Category, p.Intent)]++
			}
		}
	}
	return n
}

func TestPromptsGoTheirRoutes(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	w := newWorld(t, routed(t), options{models: models, endpoints: routedEndpoints}).stages(schemas.StagePrompts, schemas.StageSynthesize)
	want := map[string]int{
		"teacher-local: violence harmful": 1, "teacher-local: violence borderline": 1, "teacher-local: self-harm borderline": 1,
		"teacher-hosted: self-harm benign": 1, "teacher: violence benign": 1,
	}
	if d := cmp.Diff(want, sentTo(models.take())); d != "" {
		t.Error(d)
	}
	by := map[schemas.ModelIdentity]int{}
	for _, c := range rows[schemas.Completion](w, schemas.StageSynthesize, schemas.OutputCompletions) {
		by[c.Model]++
	}
	if d := cmp.Diff(map[schemas.ModelIdentity]int{"test/teacher-local@1": 3, "test/teacher-hosted@1": 1, "test/teacher@1": 1}, by); d != "" {
		t.Error(d)
	}
	plan := w.closed(schemas.StageSynthesize).Plan
	for i := range plan.Tasks {
		p, err := w.loadPlan(t.Context(), plan)
		if err != nil {
			t.Fatal(err)
		}
		models, err := modelsOf(p.Tasks[i])
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, m := range models {
			names = append(names, string(m.Identity))
		}
		last := map[schemas.Category]string{"self-harm": "test/teacher-hosted@1", "violence": "test/teacher@1"}[p.Tasks[i].Category]
		want := []string{"test/teacher-local2@1", "test/teacher-local@1", last}
		slices.Sort(want)
		if slices.Sort(names); !slices.Equal(names, want) {
			t.Errorf("%s follows from %v, want %v", p.Tasks[i].Title, names, want)
		}
		if !strings.Contains(string(p.Tasks[i].Lineage), `"routes":`) {
			t.Errorf("%s doesn't follow from its routes: %s", p.Tasks[i].Title, p.Tasks[i].Lineage)
		}
	}
}

// TestKeysOfPlainNames: what a plain name's shards follow from is what it was before there
// were routes, and routes that lead all prompts of a shard to one model change nothing.
func TestKeysOfPlainNames(t *testing.T) {
	t.Parallel()
	keys := func(role schemas.Role) map[string]string {
		t.Helper()
		spec := imported(t, fivePrompts()...)
		spec.Synthesize.Teacher = role
		w := newWorld(t, spec, options{endpoints: routedEndpoints}).stages(schemas.StagePrompts)
		plan, err := w.loadPlan(t.Context(), w.plans(schemas.StageSynthesize))
		if err != nil {
			t.Fatal(err)
		}
		lineages := map[string]string{}
		for _, task := range plan.Tasks {
			_, lineage, _ := strings.Cut(string(task.Lineage), `"kind"`)
			models, _, _ := strings.Cut(lineage[strings.Index(lineage, `"models"`):], `,"version"`)
			lineages[string(task.Category)] = models
		}
		return lineages
	}
	plain := keys(schemas.RoleOf("teacher"))
	for category, got := range plain {
		if !strings.HasPrefix(got, `"models":[{"identity":"test/teacher@1"}],"params":{"max_tokens":1024,"samples":2,"temperature":1},`) {
			t.Errorf("%s: %s", category, got)
		}
	}
	other := keys(schemas.Role{
		{Endpoint: "teacher-hosted", Categories: []schemas.Category{"self-harm"}, Intents: []schemas.Intent{schemas.IntentBenign}},
		{Endpoint: "teacher", Intents: schemas.Intents, Fallback: []string{"teacher"}[:0]},
	})
	if other["violence"] != plain["violence"] {
		t.Errorf("got %s, want %s", other["violence"], plain["violence"])
	}
	if other["self-harm"] == plain["self-harm"] || !strings.Contains(other["self-harm"], `"routes":{"self-harm":{"benign":[{"identity":"test/teacher-hosted@1"}],"borderline":[{"identity":"test/teacher@1"}],"harmful":[{"identity":"test/teacher@1"}]}}`) {
		t.Errorf("got %s", other["self-harm"])
	}
}

// TestFallback: where an endpoint can't answer, the next one of the route is asked, and
// what it has answered counts from then on.
func TestFallback(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		away reply
		note string
	}{
		{"a refused account", reply{status: 401, text: "no such key"}, "endpoint teacher-local refused the account: teacher-local2 was asked in its place"},
		{"a used up quota", reply{status: 429, code: "insufficient_quota"}, "endpoint teacher-local refused the account: teacher-local2 was asked in its place"},
		{"an outage", reply{status: 503, text: "away"}, "endpoint teacher-local was away: teacher-local2 was asked in its place"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			models := newModels(t)
			models.says(func(q question) *reply {
				if q.Model == "teacher-local" {
					return &tt.away
				}
				return nil
			})
			w := newWorld(t, routed(t), options{models: models, endpoints: routedEndpoints, tries: 1}).stages(schemas.StagePrompts)
			var notes []string
			for _, r := range w.stage(schemas.StageSynthesize) {
				notes = append(notes, r.Notes...)
			}
			if len(notes) != 2 || notes[0] != tt.note || notes[1] != tt.note {
				t.Errorf("the tasks tell %q", notes)
			}
			digest := w.closed(schemas.StageSynthesize).Digest()
			by := map[schemas.ModelIdentity]int{}
			for _, c := range rows[schemas.Completion](w, schemas.StageSynthesize, schemas.OutputCompletions) {
				by[c.Model]++
			}
			if by["test/teacher-local2@1"] != 3 || by["test/teacher-local@1"] != 0 {
				t.Errorf("answered by %v", by)
			}
			// The shards are lost, the endpoint is back: the journal makes the same rows.
			w.flush()
			for key := range objects(t, w.store, "shards/synthesize/") {
				if err := w.store.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
			models.says(nil)
			models.take()
			again := newWorld(t, w.spec, options{models: models, endpoints: routedEndpoints, store: w.store}).stages(schemas.StagePrompts, schemas.StageSynthesize)
			if got := again.closed(schemas.StageSynthesize).Digest(); got != digest || len(models.take()) != 0 {
				t.Errorf("made again it is %s, was %s", got.Short(), digest.Short())
			}
		})
	}
}

// TestFallbackAtOnce: while an endpoint is out, rows go to the next one without waiting for it.
func TestFallbackAtOnce(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	models.says(func(q question) *reply {
		if q.Model == "teacher-local" {
			return &reply{status: 503, text: "away"}
		}
		return nil
	})
	var many []prompt
	for i := range 60 {
		many = append(many, prompt{Category: "violence", Intent: schemas.IntentHarmful, Text: fmt.Sprintf("What is %d and %d times %d?", i, i*7919, i*104729)})
	}
	spec := imported(t, many...)
	spec.Synthesize.Teacher = routed(t).Synthesize.Teacher
	start := time.Now()
	w := newWorld(t, spec, options{models: models, endpoints: routedEndpoints, tries: 1}).stages(schemas.StagePrompts, schemas.StageSynthesize)
	if calls := models.calls(); calls["teacher-local2"] != 60*w.spec.Synthesize.Samples || calls["teacher-local"] > 40 {
		t.Errorf("asked %v", calls)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestNoFallback: a refusal of the content is an answer, and a wrong or rationed request is
// no outage.
func TestNoFallback(t *testing.T) {
	t.Parallel()
	for name, says := range map[string]reply{
		"a refused content":  {status: 400, code: "content_filter", text: "no"},
		"a wrong request":    {status: 400, text: "unknown field seed"},
		"too many requests":  {status: 429, text: "slow down"},
		"an answer that's a": {text: "nothing to read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			models := newModels(t)
			models.says(func(q question) *reply {
				if q.Model == "teacher-local" {
					return &says
				}
				return nil
			})
			w := newWorld(t, routed(t), options{models: models, endpoints: routedEndpoints, tries: 1}).stages(schemas.StagePrompts)
			plan := w.plans(schemas.StageSynthesize)
			for i := range plan.Tasks {
				_, _ = w.does(schemas.StageSynthesize, plan, i) // what comes of it is others' to test
			}
			if calls := models.calls(); calls["teacher-local2"] != 0 || calls["teacher-local"] != 3 {
				t.Errorf("asked %v", calls)
			}
		})
	}
}

// TestVotesOfTwoJudges: a verdict names all who voted.
func TestVotesOfTwoJudges(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	var mu sync.Mutex
	seen := map[string]int{}
	models.says(func(q question) *reply {
		if q.Model != "judge" {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		if seen[q.last()]++; seen[q.last()] == 2 {
			return &reply{status: 503}
		}
		return nil
	})
	spec := routed(t)
	spec.Filter.Judge = schemas.Role{{Endpoint: "judge", Fallback: []string{"judge2"}}}
	w := newWorld(t, spec, options{models: models, endpoints: routedEndpoints, tries: 1}).stages(schemas.StagePrompts, schemas.StageSynthesize, schemas.StageFilter)
	verdicts := rows[schemas.Verdict](w, schemas.StageFilter, schemas.OutputVerdicts)
	for _, v := range verdicts {
		if v.Judge != "test/judge@1 + test/judge2@1" || len(v.Votes) != 2 {
			t.Errorf("%d votes by %s", len(v.Votes), v.Judge)
		}
	}
	if len(verdicts) != 5 {
		t.Errorf("%d verdicts", len(verdicts))
	}
}

// TestImportChecksRoutes: what no route fits, or names what isn't there, is bad input.
func TestImportChecksRoutes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		role schemas.Role
		want string
	}{
		{"no such fallback", schemas.Role{{Endpoint: "teacher", Fallback: []string{"nobody"}}}, "check run spec synthesize.teacher[0].fallback[0]: "},
		{"no such endpoint", schemas.Role{{Endpoint: "teacher", Intents: []schemas.Intent{schemas.IntentBenign}}, {Endpoint: "nobody"}}, "check run spec synthesize.teacher[1].endpoint: "},
		{"no such category", schemas.Role{{Endpoint: "teacher", Categories: []schemas.Category{"selfharm"}}, {Endpoint: "judge"}}, `has "selfharm"`},
		{"a category without a route", schemas.Role{{Endpoint: "teacher", Categories: []schemas.Category{"violence"}}}, `no route for harmful and borderline and benign prompts of category "self-harm"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spec := imported(t, fivePrompts()...)
			spec.Synthesize.Teacher = tt.role
			w := newWorld(t, spec, options{})
			_, err := call[schemas.InputsRef](w, w.Import, ImportRequest{Run: w.run, Spec: w.spec})
			if f := failure(t, err); f.Type() != string(schemas.InvalidInput) || !strings.Contains(f.Message(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestNoPromptLeavesItsRoute: whatever the routes, and however endpoints answer, a prompt is
// sent to endpoints of its own route alone, in their order, and to none behind one that
// has answered.
func TestNoPromptLeavesItsRoute(t *testing.T) {
	t.Parallel()
	names := []string{"m0", "m1", "m2", "m3"}
	models := newModels(t)
	replies := map[string]reply{
		"answers": {text: "yes"}, "account": {status: 403, text: "no"}, "outage": {status: 502}, "content": {status: 400, code: "content_filter"},
		"quota": {status: 429, code: "insufficient_quota"}, "rate": {status: 429}, "bad": {status: 400, text: "unknown field"},
	}
	passedOn := []string{"account", "outage", "quota"}
	how := map[string]string{} // by model; set while nothing is asked
	models.says(func(q question) *reply { r := replies[how[q.Model]]; return &r })
	spec := imported(t, fivePrompts()...)
	base := newWorld(t, spec, options{models: models, endpoints: names, tries: 1}).imports()
	categories := []schemas.Category{"self-harm", "violence"}
	number := 0
	lease, err := shard.Acquire(t.Context(), base.store, "task", shard.LeaseOptions{Holder: "test", TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		endpoint := rapid.SampledFrom(names)
		var role schemas.Role
		for range rapid.IntRange(0, 3).Draw(t, "routes") {
			role = append(role, schemas.Route{
				Endpoint:   endpoint.Draw(t, "endpoint"),
				Intents:    rapid.SliceOfNDistinct(rapid.SampledFrom(schemas.Intents), 0, 2, rapid.ID).Draw(t, "intents"),
				Categories: rapid.SliceOfNDistinct(rapid.SampledFrom(categories), 0, 1, rapid.ID).Draw(t, "categories"),
				Fallback:   rapid.SliceOfNDistinct(endpoint, 0, 2, rapid.ID).Draw(t, "fallback"),
			})
		}
		role = append(role, schemas.Route{Endpoint: endpoint.Draw(t, "last")})
		for i, r := range role {
			role[i].Fallback = slices.DeleteFunc(r.Fallback, func(name string) bool { return name == r.Endpoint })
		}
		clear(base.clients)
		for _, m := range names {
			how[m] = rapid.SampledFrom([]string{"answers", "account", "outage", "content", "quota", "rate", "bad"}).Draw(t, m)
			client, err := llm.NewClient(models.endpoint(m), llm.Options{Journal: base.journal, Attempts: 1})
			if err != nil {
				t.Fatal(err)
			}
			base.clients[m] = client
		}
		p := planner{Activities: base.Activities}
		l := lineage{Params: map[string]any{}}
		if err := p.cast(&l, role, schemas.Intents, categories...); err != nil {
			t.Fatal(err)
		}
		w := &work{
			Activities: base.Activities, plan: &schemas.Plan{Inputs: schemas.Inputs{Categories: categories}},
			Task: newTask("task", 1, l), account: newAccount("test"), beat: &beat{}, lease: lease,
		}
		router, err := w.router(role, schemas.Intents...)
		if err != nil {
			t.Fatal(err)
		}
		models.take()
		for _, category := range categories {
			for _, intent := range schemas.Intents {
				number++
				text := fmt.Sprintf("prompt %d", number)
				route, err := role.For(category, intent)
				if err != nil {
					t.Fatal(err)
				}
				choice, err := router.to(schemas.Prompt{Category: category, Intent: intent})
				if err != nil {
					t.Fatal(err)
				}
				_, _, err = choice.Ask(base.t.Context(), llm.Request{Messages: []schemas.Message{{Role: "user", Content: text}}})
				var want []string
				for _, name := range route.Endpoints() {
					want = append(want, name)
					if !slices.Contains(passedOn, how[name]) {
						break
					}
				}
				var got []string
				for _, q := range models.take() {
					if q.last() != text {
						t.Errorf("%q was asked besides", q.last())
					}
					got = append(got, q.Model)
				}
				// One that is known to be away may be passed over.
				sent := slices.DeleteFunc(slices.Clone(want), func(name string) bool { return !slices.Contains(got, name) })
				if !slices.Equal(got, sent) {
					t.Errorf("%v, %v: %s %s was sent to %v, want %v", role, how, category, intent, got, want)
				}
				last := want[len(want)-1]
				answers := how[last] == "answers" || how[last] == "content"
				if answers != (err == nil) || answers && !slices.Contains(got, last) {
					t.Errorf("%s says %q: %v", last, how[last], err)
				}
			}
		}
	})
}

// TestAnUnusableRoute: where one endpoint of a route is out and the other refuses the account,
// the task ends at once, is not tried again, and says what both say.
func TestAnUnusableRoute(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		replies map[string]reply
	}{
		{"the fallback refuses", map[string]reply{"teacher": {status: 503, text: "no upstream"}, "spare": {status: 401, text: "no such key"}}},
		{"the fallback refuses by quota", map[string]reply{"teacher": {status: 503, text: "no upstream"}, "spare": {status: 429, code: "insufficient_quota", text: "no such key"}}},
		{"both refuse", map[string]reply{"teacher": {status: 403, text: "no upstream"}, "spare": {status: 401, text: "no such key"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			models := newModels(t)
			models.says(func(q question) *reply { r := tt.replies[q.Model]; return &r })
			var many []prompt
			for i := range 60 {
				many = append(many, prompt{Category: "violence", Intent: schemas.IntentHarmful, Text: fmt.Sprintf("What is %d and %d times %d?", i, i*7919, i*104729)})
			}
			spec := imported(t, many...)
			spec.Synthesize.Teacher = schemas.Role{{Endpoint: "teacher", Fallback: []string{"spare"}}}
			spec.Tripwires.Off = true
			w := newWorld(t, spec, options{models: models, endpoints: []string{"spare"}, tries: 1}).stages(schemas.StagePrompts)
			_, err := w.does(schemas.StageSynthesize, w.plans(schemas.StageSynthesize), 0)
			f := failure(t, err)
			var told schemas.TaskFailure
			if err := f.Details(&told); err != nil {
				t.Fatal(err)
			}
			names := append([]string{told.Endpoint}, told.Or...)
			slices.Sort(names)
			if !told.Account || !f.NonRetryable() || !slices.Equal(names, []string{"spare", "teacher"}) {
				t.Errorf("the failure tells %+v: %v", told, err)
			}
			for _, want := range []string{"ask endpoint teacher: ", "no upstream", "ask endpoint spare: ", "no such key"} {
				if !strings.Contains(f.Message(), want) {
					t.Errorf("it doesn't say %q: %s", want, f.Message())
				}
			}
			if calls := models.calls(); calls["teacher"]+calls["spare"] > 40 {
				t.Errorf("asked %v", calls)
			}
			last := w.lastTold(schemas.TaskTeller(schemas.StageSynthesize, 0))
			if last == nil || len(last.Outages) != 2 || last.Outages[0].Endpoint != "spare" || last.Outages[1].Instead != "spare" {
				t.Errorf("the run is told %+v", last)
			}
		})
	}
}
