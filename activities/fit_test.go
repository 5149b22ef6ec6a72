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

// TestUnfitEndpoints: what an endpoint can't do for its role is told before anything large
// is sent, with the setting to change; what is only worth knowing is a note.
func TestUnfitEndpoints(t *testing.T) {
	t.Parallel()
	const lost = "gives no vote that can be read"
	tests := []struct {
		name  string
		model string
		says  reply
		set   func(*llm.Endpoint)
		unfit string // empty for fit
		note  string
	}{
		{"a fit one", "", reply{}, nil, "", ""},
		{"a hidden chain of thought", "teacher", reply{text: "Water it."}, nil, "endpoint teacher as synthesize.teacher hides its chain of thought", ""},
		{"a long unseen one", "teacher", reply{text: "", finish: "length"}, nil, "within synthesize.max_tokens (1024). Raise it", ""},
		{"a cut answer", "teacher", reply{text: "<think>Policy, rule V2: comply.</think> Water", finish: "length"}, nil, "", "needs more than synthesize.max_tokens (1024)"},
		{"a context that is too short", "teacher", reply{status: 400, code: "context_length_exceeded", text: "maximum context length is 4096 tokens"}, nil, "endpoint teacher as synthesize.teacher can't read the policy of category", ""},
		{"a limit that is too large", "teacher", reply{status: 400, text: "max_tokens is too large: 1024. This model supports at most 512 completion tokens"}, nil, "refuses synthesize.max_tokens (1024)", ""},
		{"another name of the limit", "teacher", reply{status: 400, code: "unsupported_parameter", text: "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."}, nil, "Set max_tokens_field: max_completion_tokens in its configuration", ""},
		{"no temperature", "teacher", reply{status: 400, text: "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is supported."}, nil, `Set extra: {"temperature": null}`, ""},
		{"no seed", "teacher", reply{status: 422, text: "seed: Extra inputs are not permitted"}, nil, `Set extra: {"seed": null}`, ""},
		{"something else", "teacher", reply{status: 400, text: "messages: the role system is not known"}, nil, "Mend its configuration", ""},
		{"a harmless prompt is refused", "teacher", reply{status: 400, code: "content_filter"}, nil, "", "refuses the content of a harmless prompt"},
		{"no response_format", "judge", reply{status: 400, text: "response_format json_schema is not supported"}, nil, "Set json_mode: none in its configuration", ""},
		{"no JSON", "judge", reply{text: "It seems fine."}, nil, lost + ": its replies hold no JSON object as it is asked for. Set json_mode: none", ""},
		{"no JSON without response_format", "judge", reply{text: "It seems fine."}, func(e *llm.Endpoint) { e.JSONMode = llm.JSONNone }, lost + ": its replies hold no JSON object as it is asked for. Where its server takes response_format, set json_mode: schema", ""},
		{"a vote that is cut", "judge", reply{text: `{"expected":`, finish: "length"}, nil, "gives no whole vote within filter.max_tokens (512)", ""},
		{"a refused account", "judge", reply{status: 401, text: "no such key"}, nil, "", "endpoint judge as filter.judge could not be probed: ask endpoint judge: HTTP 401: no such key"},
		{"too many requests", "judge", reply{status: 429, text: "slow down"}, nil, "", "could not be probed"},
		{"a price that is never met", "judge", reply{}, func(e *llm.Endpoint) { e.CachedUSD = 0.5 }, "", "endpoint judge as filter.judge tells no cached tokens"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			models := newModels(t)
			models.hosted = true
			models.says(func(q question) *reply {
				if q.Model == tt.model && (tt.says != reply{}) {
					return &tt.says
				}
				return nil
			})
			spec := imported(t, fivePrompts()[0])
			spec.Until = schemas.StageFilter
			w := newWorld(t, spec, options{models: models, tries: 1}).imports()
			if tt.set != nil {
				e := w.config.Endpoints[tt.model]
				tt.set(&e)
				w.config.Endpoints[tt.model] = e
				delete(w.clients, tt.model)
			}
			s, err := call[schemas.Served](w, w.Served, ServedRequest{Spec: w.spec, Policy: w.inputs.Policy})
			if err != nil {
				t.Fatal(err)
			}
			for kind, x := range map[string]struct {
				got  []string
				want string
			}{"unfit": {s.Unfit, tt.unfit}, "notes": {s.Notes, tt.note}} {
				if x.want == "" && len(x.got) > 0 || x.want != "" && (len(x.got) != 1 || !strings.Contains(x.got[0], x.want)) {
					t.Errorf("%s: got %q, want %q", kind, x.got, x.want)
				}
			}
			for _, q := range models.take() {
				if q.has("neighbour") {
					t.Errorf("%s was sent a prompt of the run: %s", q.Model, q.last())
				}
			}
		})
	}
}

// TestProbesAreCounted: each role is asked once, as it will be asked, with the longest
// policy that it may be given; and not again for a day.
func TestProbesAreCounted(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	models.hosted = true
	spec := imported(t, fivePrompts()...)
	spec.Until = schemas.StageFilter
	// What self-harm asks goes elsewhere.
	spec.Filter.Judge = schemas.Role{{Endpoint: "judge", Categories: []schemas.Category{"self-harm"}}, {Endpoint: "grader"}}
	w := newWorld(t, spec, options{models: models}).imports()
	served := func() schemas.Served {
		t.Helper()
		s, err := call[schemas.Served](w, w.Served, ServedRequest{Spec: w.spec, Policy: w.inputs.Policy})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := served()
	asked := models.take()
	if s.Usage.Paid != 3 || s.Usage.PromptTokens != 30 || len(asked) != 3 {
		t.Errorf("%d requests took %+v", len(asked), s.Usage)
	}
	policies := map[string]string{}
	for _, q := range asked {
		policies[q.Model] = q.policy()
	}
	pol, err := w.policyOf(t.Context(), w.inputs.Policy)
	if err != nil {
		t.Fatal(err)
	}
	most := slices.MaxFunc(pol.Categories(), func(x, y schemas.Category) int {
		a, errA := pol.For(x)
		b, errB := pol.For(y)
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		return len(a.Text) - len(b.Text)
	})
	if policies["teacher"] != string(most) || policies["judge"] != "self-harm" {
		t.Errorf("asked with the policies %v; the longest is %s", policies, most)
	}
	w.flush()
	if kept := objects(t, w.store, "journal/"); len(kept) != 0 {
		t.Errorf("%d segments of the journal hold probes", len(kept))
	}
	if s = served(); s.Usage.Paid != 0 || len(models.take()) != 0 {
		t.Errorf("asked again within the day: %+v", s.Usage)
	}
	// Another parameter is another question.
	w.spec.Synthesize.MaxTokens = 2000
	if s = served(); s.Usage.Paid != 1 {
		t.Errorf("with another limit it took %+v", s.Usage)
	}
	for key := range objects(t, w.store, "probes/") {
		var f fit
		if err := shard.GetJSON(t.Context(), w.store, key, &f); err != nil {
			t.Fatal(err)
		}
		f.At = time.Now().Add(-25 * time.Hour)
		if err := shard.PutJSON(t.Context(), w.store, key, f, shard.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if s = served(); s.Usage.Paid != 3 {
		t.Errorf("a day later it took %+v", s.Usage)
	}
	// What is unfit is asked again, since it may be mended elsewhere.
	w.spec.Synthesize.MaxTokens = 3000
	models.says(func(q question) *reply {
		if q.Model == "teacher" {
			return &reply{text: "Water it."}
		}
		return nil
	})
	for range 2 {
		if s = served(); s.Usage.Paid != 1 || len(s.Unfit) != 1 {
			t.Errorf("an unfit teacher: %+v", s)
		}
	}
}

// TestProbesOfPrompts: who classifies is asked for a label, who writes prompts for a word.
func TestProbesOfPrompts(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	models.hosted = true
	models.says(func(q question) *reply {
		if q.Model == "judge" {
			return &reply{text: "It seems fine."}
		}
		return nil
	})
	spec := imported(t, fivePrompts()...)
	spec.Prompts.Imports[0].Classify = true
	spec.Prompts.Classify.Judge = schemas.RoleOf("judge")
	spec.Prompts.Generate = schemas.GenerateSpec{Teacher: schemas.RoleOf("grader"), Per: 1}
	spec.Until = schemas.StagePrompts
	w := newWorld(t, spec, options{models: models}).imports()
	look := func() (s schemas.Served, asked map[string]int) {
		t.Helper()
		models.take()
		s, err := call[schemas.Served](w, w.Served, ServedRequest{Spec: w.spec, Policy: w.inputs.Policy})
		if err != nil {
			t.Fatal(err)
		}
		return s, models.calls()
	}
	s, asked := look()
	if len(s.Unfit) != 1 || !strings.HasPrefix(s.Unfit[0], "endpoint judge as prompts.classify.judge gives no vote that can be read") {
		t.Errorf("unfit: %q", s.Unfit)
	}
	if asked["judge"] != 2 || asked["grader"] != 1 {
		t.Errorf("asked %v", asked)
	}
	models.says(func(q question) *reply {
		if q.Model == "judge" {
			return &reply{text: `{"category":"none","second":"none","intent":"benign","reason":"plants"}`}
		}
		return nil
	})
	if s, asked = look(); len(s.Unfit)+len(s.Notes) != 0 || asked["judge"] != 1 || asked["grader"] != 0 {
		t.Errorf("a fit one: %+v, asked %v", s, asked)
	}
}
