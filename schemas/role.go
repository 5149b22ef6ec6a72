package schemas

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Role says which endpoints play a part in a run, such as the teacher's: the first route
// that fits a prompt. In JSON it is the name of one endpoint for all prompts, or a list of
// routes.
type Role []Route

// Route is whom prompts go to.
type Route struct {
	Endpoint   string     `json:"endpoint" jsonschema:"description=An endpoint of the worker's configuration"`
	Intents    []Intent   `json:"intents,omitempty" jsonschema:"enum=harmful,enum=borderline,enum=benign,description=Of the prompts that it fits; by default all"`
	Categories []Category `json:"categories,omitempty" jsonschema:"description=Of the prompts that it fits; by default all"`
	Fallback   []string   `json:"fallback,omitempty" jsonschema:"description=Endpoints that are asked\\, in this order\\, where those before can't answer: the account is refused\\, or there is an outage. Never where the content is refused"`
}

// RoleOf is the role that one endpoint plays for all prompts.
func RoleOf(endpoint string) Role { return Role{{Endpoint: endpoint}} }

// plain reports whether r is one endpoint for all prompts.
func (r Role) plain() bool {
	return len(r) == 1 && len(r[0].Intents) == 0 && len(r[0].Categories) == 0 && len(r[0].Fallback) == 0
}

// fits reports whether a prompt of this category and intent goes this way.
func (t Route) fits(category Category, intent Intent) bool {
	return t.fitsIntent(intent) && t.FitsCategory(category)
}

// FitsCategory reports whether prompts of this category may go this way.
func (t Route) FitsCategory(category Category) bool {
	return len(t.Categories) == 0 || slices.Contains(t.Categories, category)
}

func (t Route) fitsIntent(intent Intent) bool {
	return len(t.Intents) == 0 || slices.Contains(t.Intents, intent)
}

// Endpoints are the endpoints of the route in the order in which they are asked.
func (t Route) Endpoints() []string { return append([]string{t.Endpoint}, t.Fallback...) }

// For is the route of prompts of this category and intent. It fails where there is none,
// and where one of them is unknown ("") and a route may be meant for just such prompts.
func (r Role) For(category Category, intent Intent) (Route, error) {
	for _, t := range r {
		if t.fits(category, intent) {
			return t, nil
		}
		if (category == "" || t.FitsCategory(category)) && (intent == "" || t.fitsIntent(intent)) {
			return Route{}, Errorf("find route", r.String(), InvalidInput, "a prompt of category %q with intent %q has to have both: the routes go by them", category, intent)
		}
	}
	return Route{}, Errorf("find route", r.String(), InvalidInput, "no route fits a prompt of category %q with intent %q", category, intent)
}

// Endpoints are all endpoints of the role, each once.
func (r Role) Endpoints() (names []string) {
	for _, t := range r {
		for _, name := range t.Endpoints() {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// Field is where the role, which is the field named role, first names an endpoint.
func (r Role) Field(role, endpoint string) string {
	for i, t := range r {
		k := slices.Index(t.Endpoints(), endpoint)
		switch {
		case k < 0 || r.plain():
		case k == 0:
			return fmt.Sprintf("%s[%d].endpoint", role, i)
		default:
			return fmt.Sprintf("%s[%d].fallback[%d]", role, i, k-1)
		}
	}
	return role
}

// String is the role for people.
func (r Role) String() string {
	routes := make([]string, len(r))
	for i, t := range r {
		var only []string
		for _, intent := range t.Intents {
			only = append(only, string(intent))
		}
		for _, category := range t.Categories {
			only = append(only, string(category))
		}
		routes[i] = strings.Join(t.Endpoints(), ", else ")
		if len(only) > 0 {
			routes[i] += " (" + strings.Join(only, ", ") + ")"
		}
	}
	return strings.Join(routes, "; ")
}

// MarshalJSON writes one endpoint for all prompts as its name, so that it has one form
// and one digest.
func (r Role) MarshalJSON() ([]byte, error) {
	switch {
	case len(r) == 0:
		return []byte(`""`), nil
	case r.plain():
		return json.Marshal(r[0].Endpoint)
	}
	return json.Marshal([]Route(r))
}

// UnmarshalJSON reads a name or a list of routes, and refuses unknown keys.
func (r *Role) UnmarshalJSON(b []byte) error {
	if b = bytes.TrimSpace(b); bytes.HasPrefix(b, []byte(`"`)) {
		var name string
		if err := json.Unmarshal(b, &name); err != nil {
			return err
		}
		if *r = nil; name != "" {
			*r = RoleOf(name)
		}
		return nil
	}
	if string(b) == "null" {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var routes []Route
	if err := dec.Decode(&routes); err != nil {
		if m, ok := Explain(b, routes, err).(*misfit); ok && m.path != "" {
			return hinted(m, "a route has endpoint, intents, categories and fallback")
		}
		return &misfit{text: fmt.Sprintf("want an endpoint's name or a list of routes, such as [{\"endpoint\":\"local\",\"intents\":[\"harmful\"]},{\"endpoint\":\"hosted\"}], got %s", found(b))}
	}
	if len(routes) == 0 {
		return &misfit{text: "it needs a route; the list is empty"}
	}
	*r = routes
	return nil
}

// part is a role with its field in the spec.
type part struct {
	field string
	role  Role
}

// roles are the spec's roles with their fields.
func (s RunSpec) roles() []part {
	all := []part{
		{"synthesize.teacher", s.Synthesize.Teacher},
		{"filter.judge", s.Filter.Judge},
		{"rl.judge", s.RL.Judge},
		{"evaluate.grader", s.Evaluate.Grader},
	}
	if s.Generates() {
		all = append(all, part{"prompts.generate.teacher", s.Prompts.Generate.Teacher})
	}
	if s.Classifies() {
		all = append(all, part{"prompts.classify.judge", s.Prompts.Classify.Judge})
	}
	return all
}

// validate reports what of a role is wrong whatever categories the policy has.
func (r Role) validate(v *violations, field string) {
	for i, t := range r {
		at := field
		if !r.plain() {
			at = fmt.Sprintf("%s[%d]", field, i)
		}
		t.validate(v, at)
		for k, before := range r[:i] {
			if before.covers(t) {
				v.add(at, "is never used: route %d before it takes all that it fits", k)
				break
			}
		}
	}
	for _, intent := range Intents {
		if !slices.ContainsFunc(r, func(t Route) bool { return t.fitsIntent(intent) }) {
			v.add(field, "has no route for %s prompts", intent)
		}
	}
}

func (t Route) validate(v *violations, field string) {
	for i, name := range t.Endpoints() {
		at := field + ".endpoint"
		if i > 0 {
			at = fmt.Sprintf("%s.fallback[%d]", field, i-1)
		}
		switch {
		case name == "":
			v.add(at, "is missing; name an endpoint of the worker's configuration")
		case slices.Contains(t.Endpoints()[:i], name):
			v.add(at, "is %q, which the route has already", name)
		}
	}
	for i, intent := range t.Intents {
		switch {
		case !slices.Contains(Intents, intent):
			v.add(field+".intents", "has %q; use harmful, borderline or benign", intent)
		case slices.Contains(t.Intents[:i], intent):
			v.add(field+".intents", "has %q twice", intent)
		}
	}
	for i, category := range t.Categories {
		if slices.Contains(t.Categories[:i], category) {
			v.add(field+".categories", "has %q twice", category)
		}
	}
}

// covers reports whether t fits all that other fits.
func (t Route) covers(other Route) bool {
	return covers(t.Intents, other.Intents) && covers(t.Categories, other.Categories)
}

// covers reports whether all of y stand in x, where an empty list stands for everything.
func covers[T comparable](x, y []T) bool {
	if len(x) == 0 {
		return true
	}
	return len(y) > 0 && !slices.ContainsFunc(y, func(e T) bool { return !slices.Contains(x, e) })
}

// CheckCategories reports the routes that name a category that isn't there, and the
// prompts that no route fits. Nobody else could tell before they are asked.
func (s RunSpec) CheckCategories(categories []Category) error {
	var v violations
	for _, part := range s.roles() {
		for i, t := range part.role {
			for _, c := range t.Categories {
				if !slices.Contains(categories, c) {
					v.add(fmt.Sprintf("%s[%d].categories", part.field, i), "has %q; the policy's are %v", c, categories)
				}
			}
		}
		for _, c := range categories {
			var without []string
			for _, intent := range Intents {
				if _, err := part.role.For(c, intent); err != nil {
					without = append(without, string(intent))
				}
			}
			if len(without) > 0 {
				v.add(part.field, "has no route for %s prompts of category %q", strings.Join(without, " and "), c)
			}
		}
	}
	return v.err()
}
