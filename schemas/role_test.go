package schemas

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestRoleInJSON(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     Role
		out      string // in, where it is empty
		err      string
	}{
		{"a name", `"local"`, RoleOf("local"), "", ""},
		{"no name", `""`, nil, "", ""},
		{"one route for all is its endpoint's name", `[{"endpoint":"local"}]`, RoleOf("local"), `"local"`, ""},
		{
			"routes", `[{"endpoint":"local","intents":["harmful","borderline"],"fallback":["local2"]},{"endpoint":"hosted","categories":["privacy"]},{"endpoint":"local"}]`,
			Role{
				{Endpoint: "local", Intents: []Intent{IntentHarmful, IntentBorderline}, Fallback: []string{"local2"}},
				{Endpoint: "hosted", Categories: []Category{"privacy"}},
				{Endpoint: "local"},
			}, "", "",
		},
		{"a fallback is no plain name", `[{"endpoint":"local","fallback":["other"]}]`, Role{{Endpoint: "local", Fallback: []string{"other"}}}, "", ""},
		{"no routes", `[]`, nil, "", "the list is empty"},
		{"a misspelt key", `[{"endpoint":"local","intent":["harmful"]}]`, nil, "", `unknown field "[0].intent"; a route has endpoint, intents, categories and fallback`},
		{"a number", `7`, nil, "", "want an endpoint's name or a list of routes"},
		{"a list of names", `["local"]`, nil, "", `[0]: want an object, got "local"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got Role
			err := json.Unmarshal([]byte(tt.in), &got)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, %v, want an error that contains %q", got, err, tt.err)
				}
				return
			}
			if d := cmp.Diff(tt.want, got); err != nil || d != "" {
				t.Fatalf("%v %s", err, d)
			}
			out, err := json.Marshal(got)
			if want := tt.out; err != nil || want == "" && string(out) != tt.in || want != "" && string(out) != want {
				t.Errorf("written as %s, %v", out, err)
			}
		})
	}
}

// TestPlainNamesKeepDigests: a spec with names is what it was before there were routes.
func TestPlainNamesKeepDigests(t *testing.T) {
	var s RunSpec
	if err := json.Unmarshal([]byte(`{"name":"x","synthesize":{"teacher":"a"},"filter":{"judge":"b"},"evaluate":{"grader":"c"}}`), &s); err != nil {
		t.Fatal(err)
	}
	raw, err := CanonicalJSON(s)
	if want := `{"evaluate":{"grader":"c"},"filter":{"judge":"b"},"name":"x","synthesize":{"teacher":"a"}}`; err != nil || string(raw) != want {
		t.Errorf("got %s, %v\nwant %s", raw, err, want)
	}
	raw, err = CanonicalJSON(RunSpec{Name: "x"}.WithDefaults().RL)
	if err != nil || !strings.Contains(string(raw), `"judge":"sim-judge"`) {
		t.Errorf("got %s, %v", raw, err)
	}
}

func TestRoutesAreChecked(t *testing.T) {
	const harmful, borderline, benign = IntentHarmful, IntentBorderline, IntentBenign
	for _, tt := range []struct {
		name string
		role Role
		want string // empty for nothing wrong
	}{
		{"a name", RoleOf("local"), ""},
		{"all intents", Role{{Endpoint: "a", Intents: []Intent{harmful}}, {Endpoint: "b", Intents: []Intent{borderline, benign}}}, ""},
		{"an intent is left out", Role{{Endpoint: "a", Intents: []Intent{harmful}}, {Endpoint: "b", Intents: []Intent{benign}}}, "synthesize.teacher has no route for borderline prompts"},
		{"no such intent", Role{{Endpoint: "a", Intents: []Intent{"evil"}}, {Endpoint: "b"}}, `synthesize.teacher[0].intents has "evil"`},
		{"an intent twice", Role{{Endpoint: "a", Intents: []Intent{harmful, harmful}}, {Endpoint: "b"}}, `intents has "harmful" twice`},
		{"a category twice", Role{{Endpoint: "a", Categories: []Category{"privacy", "privacy"}}, {Endpoint: "b"}}, `categories has "privacy" twice`},
		{"no endpoint", Role{{Intents: []Intent{harmful}}, {Endpoint: "b"}}, "synthesize.teacher[0].endpoint is missing"},
		{"a fallback to itself", Role{{Endpoint: "a", Fallback: []string{"a"}}}, `synthesize.teacher[0].fallback[0] is "a", which the route has already`},
		{"an empty fallback", Role{{Endpoint: "a", Fallback: []string{""}}}, "synthesize.teacher[0].fallback[0] is missing"},
		{"what stands behind a route for all", Role{{Endpoint: "a"}, {Endpoint: "b", Intents: []Intent{harmful}}}, "synthesize.teacher[1] is never used: route 0"},
		{"what stands behind a wider route", Role{{Endpoint: "a", Intents: []Intent{harmful, benign}}, {Endpoint: "b", Intents: []Intent{harmful}, Categories: []Category{"privacy"}}, {Endpoint: "c"}}, "synthesize.teacher[1] is never used"},
		{"what stands behind a narrower route", Role{{Endpoint: "a", Intents: []Intent{harmful}, Categories: []Category{"privacy"}}, {Endpoint: "b", Intents: []Intent{harmful}}, {Endpoint: "c"}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := RunSpec{Name: "x"}.WithDefaults()
			s.Synthesize.Teacher = tt.role
			err := s.Validate()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestRoutesFitThePolicy(t *testing.T) {
	categories := []Category{"privacy", "violence"}
	s := RunSpec{Name: "x"}.WithDefaults()
	if err := s.CheckCategories(categories); err != nil {
		t.Error(err)
	}
	s.Filter.Judge = Role{{Endpoint: "a", Categories: []Category{"privacy"}}, {Endpoint: "b", Intents: []Intent{IntentBenign}}}
	s.Evaluate.Grader = Role{{Endpoint: "a", Categories: []Category{"privcy"}}, {Endpoint: "b"}}
	err := s.CheckCategories(categories)
	for _, want := range []string{
		`filter.judge has no route for harmful and borderline prompts of category "violence"`,
		`evaluate.grader[0].categories has "privcy"; the policy's are [privacy violence]`,
	} {
		if err == nil || KindOf(err) != InvalidInput || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestAnUnknownLabelGoesNowhereElse: a prompt whose intent or category isn't known may be
// one of those that a route keeps from the others.
func TestAnUnknownLabelGoesNowhereElse(t *testing.T) {
	role := Role{{Endpoint: "local", Intents: []Intent{IntentHarmful}, Categories: []Category{"privacy"}}, {Endpoint: "hosted"}}
	for _, tt := range []struct {
		category Category
		intent   Intent
		want     string // empty: nowhere
	}{
		{"privacy", IntentHarmful, "local"},
		{"privacy", IntentBenign, "hosted"},
		{"privacy", "", ""},
		{"", IntentHarmful, ""},
		{"", IntentBenign, "hosted"},
		{"violence", "", "hosted"},
		{"", "", ""},
	} {
		got, err := role.For(tt.category, tt.intent)
		if got.Endpoint != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("category %q, intent %q: %q, %v", tt.category, tt.intent, got.Endpoint, err)
		}
	}
	if got, err := RoleOf("any").For("", ""); err != nil || got.Endpoint != "any" {
		t.Errorf("a role that goes by nothing: %v, %v", got, err)
	}
}

// anyRole draws routes over few endpoints, categories and intents, the last for all.
func anyRole(t *rapid.T) Role {
	endpoint := rapid.SampledFrom([]string{"a", "b", "c"})
	role := Role{}
	for range rapid.IntRange(0, 3).Draw(t, "routes") {
		role = append(role, Route{
			Endpoint:   endpoint.Draw(t, "endpoint"),
			Intents:    rapid.SliceOfNDistinct(rapid.SampledFrom(Intents), 0, 3, rapid.ID).Draw(t, "intents"),
			Categories: rapid.SliceOfNDistinct(rapid.SampledFrom([]Category{"x", "y"}), 0, 2, rapid.ID).Draw(t, "categories"),
			Fallback:   rapid.SliceOfNDistinct(endpoint, 0, 2, rapid.ID).Draw(t, "fallback"),
		})
	}
	return append(role, Route{Endpoint: endpoint.Draw(t, "last")})
}

// A role is read as it was written, and written in one form.
func TestRoleSurvivesJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		role := anyRole(t)
		raw, err := json.Marshal(role)
		if err != nil {
			t.Fatal(err)
		}
		var again Role
		if err := json.Unmarshal(raw, &again); err != nil {
			t.Fatal(err)
		}
		if DigestOf(again) != DigestOf(role) {
			t.Errorf("%s becomes %v", raw, again)
		}
		for _, category := range []Category{"x", "y"} {
			for _, intent := range Intents {
				x, errX := role.For(category, intent)
				y, errY := again.For(category, intent)
				if errX != nil || errY != nil || DigestOf(x) != DigestOf(y) || !x.fits(category, intent) {
					t.Errorf("%s %s goes to %v and %v", category, intent, x, y)
				}
			}
		}
	})
}
