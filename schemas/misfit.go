package schemas

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// misfit is a value of a JSON text that isn't what its field takes, in words that say
// nothing of Go.
type misfit struct {
	path    string // such as "filter.judge[1].endpoint"; relative to who reads it
	text    string
	unknown bool // there is no such field
}

func (m *misfit) Error() string {
	switch {
	case m.unknown:
		return fmt.Sprintf("unknown field %q%s", m.path, m.text)
	case m.path == "":
		return m.text
	}
	return m.path + ": " + m.text
}

// Explain says of a text that couldn't be decoded strictly into a value of into's type, for
// the reason err, which field doesn't fit, what it takes and what was found. Where the text
// is no JSON it is err.
func Explain(raw []byte, into any, err error) error {
	if !json.Valid(raw) {
		return err
	}
	if m := misfitOf("", raw, reflect.TypeOf(into)); m != nil {
		return m
	}
	return err
}

// hinted adds to an unknown field what to do about it.
func hinted(err error, hint string) error {
	if m := (*misfit)(nil); errors.As(err, &m) && m.unknown && m.text == "" {
		m.text = "; " + hint
	}
	return err
}

// misfitOf is the first misfit of a value, nil where it fits.
func misfitOf(path string, raw json.RawMessage, t reflect.Type) *misfit {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if string(raw) == "null" {
		return nil
	}
	err := json.Unmarshal(raw, reflect.New(t).Interface())
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		if m := (*misfit)(nil); errors.As(err, &m) {
			return &misfit{under(path, m.path), m.text, m.unknown}
		}
		if err != nil {
			return &misfit{path: path, text: err.Error()}
		}
		return nil
	}
	wrong := func(want string) *misfit {
		return &misfit{path: path, text: fmt.Sprintf("want %s, got %s", want, found(raw))}
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		var values map[string]json.RawMessage
		if json.Unmarshal(raw, &values) != nil {
			return wrong("an object")
		}
		for _, name := range slices.Sorted(maps.Keys(values)) {
			at := under(path, name)
			of, ok := member(t, name)
			if !ok {
				return &misfit{path: at, unknown: true}
			}
			if m := misfitOf(at, values[name], of); m != nil {
				return m
			}
		}
	case reflect.Slice:
		var values []json.RawMessage
		if json.Unmarshal(raw, &values) != nil {
			return wrong("a list")
		}
		for i, v := range values {
			if m := misfitOf(fmt.Sprintf("%s[%d]", path, i), v, t.Elem()); m != nil {
				return m
			}
		}
	case reflect.String:
		if err != nil {
			return wrong("a text")
		}
	case reflect.Bool:
		if err != nil {
			return wrong("true or false")
		}
	case reflect.Float32, reflect.Float64:
		if err != nil {
			return wrong("a number")
		}
	default:
		if err != nil {
			return wrong("a whole number")
		}
	}
	return nil
}

// under is a path below another one.
func under(path, name string) string {
	if path == "" || name == "" || strings.HasPrefix(name, "[") {
		return path + name
	}
	return path + "." + name
}

// member is the type of an object's member, if it may have one of this name.
func member(t reflect.Type, name string) (reflect.Type, bool) {
	if t.Kind() == reflect.Map {
		return t.Elem(), true
	}
	for _, f := range reflect.VisibleFields(t) {
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if tag == "" {
			tag = f.Name
		}
		if f.IsExported() && tag != "-" && strings.EqualFold(tag, name) && !(f.Anonymous && f.Tag.Get("json") == "") {
			return f.Type, true
		}
	}
	return nil, false
}

// mostFound is how much of a value is shown.
const mostFound = 60

// found is a value as people are shown it.
func found(raw json.RawMessage) string {
	switch text := []rune(string(raw)); {
	case raw[0] == '{':
		return "an object"
	case raw[0] == '[':
		return "a list"
	case len(text) > mostFound:
		return string(text[:mostFound]) + "…"
	default:
		return string(text)
	}
}
