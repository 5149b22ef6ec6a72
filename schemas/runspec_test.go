package schemas

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNameAloneIsValid(t *testing.T) {
	var s RunSpec
	if err := json.Unmarshal([]byte(`{"name":"x"}`), &s); err != nil {
		t.Fatal(err)
	}
	s = s.WithDefaults()
	if err := s.Validate(); err != nil {
		t.Errorf("defaults are not valid: %v", err)
	}
	if d := cmp.Diff(Arms, s.Evaluate.Arms); d != "" {
		t.Errorf("arms (-want +got):\n%s", d)
	}
	if d := cmp.Diff(s, s.WithDefaults()); d != "" {
		t.Errorf("defaults filled in twice differ:\n%s", d)
	}
}

func TestSpecSurvivesJSON(t *testing.T) {
	s := RunSpec{Name: "x", Gates: GatesSpec{Timeout: Duration(90 * time.Minute)}}.WithDefaults()
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), `"1h30m0s"`) {
		t.Errorf("timeout is not a string: %s", raw)
	}
	var back RunSpec
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(s, back); d != "" {
		t.Error(d)
	}
}

// TestMisfitsSayNothingOfGo: whatever stands in a field, the error names it, and no type of Go.
func TestMisfitsSayNothingOfGo(t *testing.T) {
	raw, err := json.Marshal(RunSpec{Name: "x", Synthesize: SynthesizeSpec{Teacher: Role{{Endpoint: "a", Fallback: []string{"b"}}}}}.WithDefaults())
	if err != nil {
		t.Fatal(err)
	}
	var whole map[string]any
	if err := json.Unmarshal(raw, &whole); err != nil {
		t.Fatal(err)
	}
	bad := 0
	for name := range whole {
		for _, value := range []any{true, 1.5, "word", []any{3}, map[string]any{"odd": 1}} {
			changed := maps.Clone(whole)
			changed[name] = value
			raw, err := json.Marshal(changed)
			if err != nil {
				t.Fatal(err)
			}
			var s RunSpec
			if err = json.Unmarshal(raw, &s); err == nil {
				continue
			}
			bad++
			if text := err.Error(); !strings.Contains(text, name) || strings.Contains(text, "Go ") || strings.Contains(text, "schemas.") && !strings.Contains(text, "schema.json") || strings.Contains(text, "json: ") {
				t.Errorf("%s as %v: %s", name, value, text)
			}
		}
	}
	if bad < len(whole) {
		t.Errorf("only %d misfits", bad)
	}
}

func TestBadSpecs(t *testing.T) {
	tests := []struct{ name, spec, want string }{
		{"typo", `{"name":"x","synthesise":{}}`, `unknown field "synthesise"`},
		{"nested typo", `{"name":"x","filter":{"treshold":1}}`, `unknown field "filter.treshold"`},
		{"wrong type", `{"name":"x","filter":{"votes":"three"}}`, `read run spec: filter.votes: want a whole number, got "three"`},
		{"a fraction", `{"name":"x","synthesize":{"samples":1.5}}`, `synthesize.samples: want a whole number, got 1.5`},
		{"a number as text", `{"name":"x","filter":{"threshold":"high"}}`, `filter.threshold: want a number, got "high"`},
		{"a text as number", `{"name":7}`, `name: want a text, got 7`},
		{"a word for true", `{"name":"x","sft":{"skip":"yes"}}`, `sft.skip: want true or false, got "yes"`},
		{"one for a list", `{"name":"x","evaluate":{"arms":"rl"}}`, `evaluate.arms: want a list, got "rl"`},
		{"deep in a list", `{"name":"x","prompts":{"imports":[{"path":"a"},{"path":["b"]}]}}`, `prompts.imports[1].path: want a text, got a list`},
		{"deep in a map", `{"name":"x","refresh":{"filter":true}}`, `refresh.filter: want a text, got true`},
		{"a list for an object", `{"name":"x","filter":[1]}`, `filter: want an object, got a list`},
		{"a list for all", `[1]`, `read run spec: want an object, got a list`},
		{"a role's route", `{"name":"x","filter":{"judge":[{"endpoint":"a"},{"endpoint":3}]}}`, `filter.judge[1].endpoint: want a text, got 3`},
		{"a role's typo", `{"name":"x","filter":{"judge":[{"endpont":"a"}]}}`, `unknown field "filter.judge[0].endpont"; a route has`},
		{"no role", `{"name":"x","filter":{"judge":7}}`, `filter.judge: want an endpoint's name or a list of routes`},
		{"a role without routes", `{"name":"x","filter":{"judge":[]}}`, `filter.judge: it needs a route; the list is empty`},
		{"duration as number", `{"name":"x","gates":{"timeout":3}}`, `gates.timeout: a duration is a string such as "90m", not 3`},
		{"two objects", `{"name":"x"} {}`, `after top-level value`},
		{"no name", `{}`, "name is missing"},
		{"negative votes", `{"name":"x","filter":{"votes":-1}}`, "filter.votes is -1"},
		{"threshold over 1", `{"name":"x","filter":{"threshold":1.5}}`, "filter.threshold is 1.5"},
		{"unknown arm", `{"name":"x","evaluate":{"arms":["bse"]}}`, `evaluate.arms has "bse"`},
		{"arm without its stage", `{"name":"x","rl":{"skip":true},"evaluate":{"arms":["rl"]}}`, "whose stage is not passed"},
		{"refreshes what asks nobody", `{"name":"x","refresh":{"curate":"today"}}`, `refresh has "curate"`},
		{"a refresh without a name", `{"name":"x","refresh":{"filter":""}}`, "refresh.filter is empty"},
		{"begins at no stage", `{"name":"x","from":{"run":"y"}}`, "from.stage is missing"},
		{"begins at the first", `{"name":"x","from":{"stage":"prompts","run":"y"}}`, `from.stage is "prompts"`},
		{"begins with nothing", `{"name":"x","from":{"stage":"sft"}}`, "from names neither a run nor"},
		{"begins with two", `{"name":"x","from":{"stage":"sft","run":"y","model":"z"}}`, "from names both"},
		{"begins behind its end", `{"name":"x","from":{"stage":"sft","run":"y"},"until":"filter"}`, "behind the last stage filter"},
		{"begins with what is skipped", `{"name":"x","from":{"stage":"rl","run":"y"},"rl":{"skip":true}}`, "which is skipped"},
		{"curates one's own", `{"name":"x","from":{"stage":"curate","dataset":[{"path":"a.jsonl"}]}}`, "which needs a run"},
		{"rl without a model", `{"name":"x","from":{"stage":"rl","dataset":[{"path":"a.jsonl"}]}}`, "from.model is missing"},
		{"sft with a model", `{"name":"x","from":{"stage":"sft","dataset":[{"path":"a.jsonl"}],"model":"m"}}`, "from.model is of no use to sft"},
		{"a quota without prompts", `{"name":"x","from":{"stage":"filter","run":"y"},"quota":{"accepted":3}}`, "quota needs the run to begin"},
		{"an arm that nothing trains", `{"name":"x","from":{"stage":"sample","model":"m"},"evaluate":{"arms":["rl"]}}`, `evaluate.arms has "rl"`},
		{"unknown column", `{"name":"x","prompts":{"imports":[{"path":"a.csv","columns":{"txt":"q"}}]}}`, `prompts.imports[0].columns maps "txt"`},
		{"unknown intent", `{"name":"x","prompts":{"imports":[{"path":"a.csv","intent":"bad"}]}}`, `prompts.imports[0].intent is "bad"`},
		{"a path of no data set", `{"name":"x","prompts":{"imports":[{"path":"hf://datasets/a/b/c.csv"}]}}`, "it has no revision"},
		{"a suite without labels", `{"name":"x","evaluate":{"suites":[{"path":"a.csv","classify":true}]}}`, "evaluate.suites[0].classify is for prompts.imports alone"},
		{"a data set without labels", `{"name":"x","from":{"stage":"sft","dataset":[{"path":"a.jsonl","classify":true}]}}`, "from.dataset[0].classify"},
		{"a data set that is cut", `{"name":"x","from":{"stage":"sft","dataset":[{"path":"a.jsonl","max_turns":1}]}}`, "from.dataset[0] cuts conversations"},
		{"nothing to classify", `{"name":"x","prompts":{"classify":{"votes":5}}}`, "prompts.classify is of no use"},
		{"classifies by what it is to tell", `{"name":"x","prompts":{"classify":{"check":5,"judge":[{"endpoint":"a","intents":["harmful"]},{"endpoint":"b"}]}}}`, "prompts.classify.judge goes by intents or categories"},
		{"nobody to ask for harmful prompts", `{"name":"x","prompts":{"generate":{"per":5,"teacher":[{"endpoint":"a","intents":["benign","borderline"]}]}}}`, "prompts.generate.teacher has no route for harmful prompts"},
		{"generates no number", `{"name":"x","prompts":{"generate":{"languages":["de"]}}}`, "prompts.generate.per is missing"},
		{"generates an unknown style", `{"name":"x","prompts":{"generate":{"per":1,"styles":["rude"]}}}`, `prompts.generate.styles has "rude"`},
		{"generates an intent twice", `{"name":"x","prompts":{"generate":{"per":1,"intents":["benign","benign"]}}}`, `prompts.generate.intents has "benign" twice`},
		{"begins where prompts are classified", `{"name":"x","from":{"stage":"classify","run":"y"}}`, `from.stage is "classify"`},
		{"no such last stage", `{"name":"x","until":"report"}`, `until is "report"`},
		{"an arm twice", `{"name":"x","evaluate":{"arms":["base","base"]}}`, `evaluate.arms has "base" twice`},
		{"a timeout that decides nothing", `{"name":"x","gates":{"timeout":"1h"}}`, "gates needs both timeout and on_timeout"},
		{"a decision at no time", `{"name":"x","gates":{"on_timeout":"reject"}}`, "gates needs both timeout and on_timeout"},
		{"an unknown reward", `{"name":"x","rl":{"rewards":["compliance","length"]}}`, `rl.rewards has "length"`},
		{"a reward that punishes", `{"name":"x","rl":{"rewards":{"compliance":1,"style":-1}}}`, "rl.rewards.style is -1"},
		{"a reward without a judge", `{"name":"x","rl":{"rewards":{"compliance":0,"format":1}}}`, "rl.rewards gives no weight to what the judge says"},
		{"a reward of another form", `{"name":"x","rl":{"rewards":"compliance"}}`, "rewards are weights such as"},
		{"missing more than all", `{"name":"x","rl":{"max_missing":2}}`, "rl.max_missing is 2"},
		{"all at once", `{"window":-3,"sft":{"epochs":-1}}`, "name is missing; give the run a name; sft.epochs is -1; it must be at least 1; window is -3"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s RunSpec
			err := json.Unmarshal([]byte(tt.spec), &s)
			if err == nil {
				err = s.WithDefaults().Validate()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want an error with %q", err, tt.want)
			}
			if !strings.Contains(tt.name, "two") && KindOf(err) != InvalidInput {
				t.Errorf("kind is %q", KindOf(err))
			}
		})
	}
}

func TestZeroIsSaid(t *testing.T) {
	var s RunSpec
	if err := json.Unmarshal([]byte(`{"name":"x","filter":{"threshold":0},"synthesize":{"temperature":0}}`), &s); err != nil {
		t.Fatal(err)
	}
	if s = s.WithDefaults(); *s.Filter.Threshold != 0 || *s.Synthesize.Temperature != 0 {
		t.Errorf("threshold %v, temperature %v", *s.Filter.Threshold, *s.Synthesize.Temperature)
	}
	// A workflow hands the spec on as JSON.
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var again RunSpec
	if err := json.Unmarshal(raw, &again); err != nil {
		t.Fatal(err)
	}
	if again = again.WithDefaults(); *again.Filter.Threshold != 0 {
		t.Errorf("threshold %v after a round trip", *again.Filter.Threshold)
	}
}

func TestARunMayBeginAnywhere(t *testing.T) {
	for _, spec := range []string{
		`{"name":"x","from":{"stage":"filter","run":"y"}}`,
		`{"name":"x","from":{"stage":"filter","dataset":[{"path":"a.jsonl"}]},"until":"curate"}`,
		`{"name":"x","from":{"stage":"sft","dataset":[{"path":"a.jsonl"}]}}`,
		`{"name":"x","from":{"stage":"rl","dataset":[{"path":"a.jsonl"}],"model":"m"}}`,
		`{"name":"x","from":{"stage":"rl","dataset":[{"path":"a.jsonl"}]},"sft":{"skip":true}}`,
		`{"name":"x","from":{"stage":"sample","model":"m"}}`,
		`{"name":"x","from":{"stage":"grade","run":"y"}}`,
	} {
		var s RunSpec
		if err := json.Unmarshal([]byte(spec), &s); err != nil {
			t.Fatal(err)
		}
		if err := s.WithDefaults().Validate(); err != nil {
			t.Errorf("%s: %v", spec, err)
		}
	}
}

func FuzzRunSpec(f *testing.F) {
	f.Add([]byte(`{"name":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s RunSpec
		if json.Unmarshal(b, &s) == nil {
			_ = s.WithDefaults().Validate()
		}
	})
}

func TestTripwiresPast(t *testing.T) {
	spec := RunSpec{Name: "x", Tripwires: TripwiresSpec{MaxCost: 0.01}}.WithDefaults().Tripwires
	rejected := func(kept, below, cut int64) Ledger {
		return Ledger{Kept: kept, Rejected: map[Reason]int64{ReasonBelowThreshold: below, ReasonTruncated: cut}}
	}
	for _, tt := range []struct {
		name string
		l    Ledger
		usd  float64
		want string
	}{
		{"too few to tell", rejected(0, 199, 0), 0, ""},
		{"well", rejected(150, 50, 0), 1, ""},
		{"one reason", rejected(60, 140, 0), 0, `70% were rejected as "below threshold"`},
		{"cut", rejected(150, 0, 50), 0, "25% of the answers were cut by length"},
		{"few kept", Ledger{Kept: 30, Rejected: map[Reason]int64{ReasonNoCoT: 90, ReasonEmpty: 80}}, 0, "15% were kept, less than min_kept 20%"},
		{"failed", Ledger{Kept: 80, Failed: map[Reason]int64{ReasonTimedOut: 120}}, 0, "60% failed, more than max_failed 50%"},
		{"dear", rejected(150, 50, 0), 3, "a kept row costs $0.02, more than max_cost $0.01"},
	} {
		if got := spec.Past(tt.l, Usage{USD: tt.usd}); !strings.HasPrefix(got, tt.want) || (tt.want == "") != (got == "") {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestWhatIsPassedToMakePrompts(t *testing.T) {
	for _, tt := range []struct {
		spec     string
		generate bool
		classify bool
		imports  int
	}{
		{`{"name":"x"}`, false, false, 1},
		{`{"name":"x","prompts":{"classify":{"check":10}}}`, false, true, 1},
		{`{"name":"x","prompts":{"imports":[{"path":"a.csv"},{"path":"b.csv","classify":true}]}}`, false, true, 2},
		{`{"name":"x","prompts":{"generate":{"per":3}}}`, true, true, 0},
		{`{"name":"x","prompts":{"generate":{"per":3},"imports":[{"path":"builtin"}]}}`, true, true, 1},
		{`{"name":"x","prompts":{"generate":{"per":3}},"from":{"stage":"filter","run":"y"}}`, false, false, 0},
		{`{"name":"x","prompts":{"generate":{"per":3}},"until":"generate"}`, true, false, 0},
	} {
		var s RunSpec
		if err := json.Unmarshal([]byte(tt.spec), &s); err != nil {
			t.Fatal(err)
		}
		s = s.WithDefaults()
		if err := s.Validate(); err != nil {
			t.Errorf("%s: %v", tt.spec, err)
		}
		if s.Passes(StageGenerate) != tt.generate || s.Passes(StageClassify) != tt.classify || len(s.Prompts.Imports) != tt.imports {
			t.Errorf("%s: generate %v, classify %v, %d imports", tt.spec, s.Passes(StageGenerate), s.Passes(StageClassify), len(s.Prompts.Imports))
		}
		if d := cmp.Diff(s, s.WithDefaults()); d != "" {
			t.Errorf("%s: defaults filled in twice differ:\n%s", tt.spec, d)
		}
	}
}
