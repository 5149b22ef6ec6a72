package schemas

import (
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/invopop/jsonschema"
)

var update = flag.Bool("update", false, "write the published JSON Schema anew")

// TestPublishedSchema keeps runspec.schema.json, which editors check run specs
// by, true to RunSpec.
func TestPublishedSchema(t *testing.T) {
	r := jsonschema.Reflector{Anonymous: true, DoNotReference: true, RequiredFromJSONSchemaTags: true}
	r.Mapper = func(t reflect.Type) *jsonschema.Schema {
		switch t {
		case reflect.TypeFor[Duration]():
			return &jsonschema.Schema{Type: "string", Pattern: `^([0-9.]+(ns|us|ms|s|m|h))+$`}
		case reflect.TypeFor[Role]():
			route := r.Reflect(Route{})
			route.Version, route.Required = "", []string{"endpoint"}
			return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "string"}, {Type: "array", Items: route, MinItems: new(uint64(1))}}}
		case reflect.TypeFor[RewardWeights]():
			object := &jsonschema.Schema{Type: "object", AdditionalProperties: jsonschema.FalseSchema, Properties: jsonschema.NewProperties()}
			list := &jsonschema.Schema{Type: "array", Items: &jsonschema.Schema{Type: "string"}, MinItems: new(uint64(1))}
			for _, term := range RewardTerms {
				object.Properties.Set(string(term), &jsonschema.Schema{Type: "number", Minimum: "0"})
				list.Items.Enum = append(list.Items.Enum, term)
			}
			return &jsonschema.Schema{OneOf: []*jsonschema.Schema{object, list}}
		}
		return nil
	}
	s := r.Reflect(RunSpec{})
	s.Title = "Precept run specification"
	s.Required = []string{"name"}
	got, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	const file = "runspec.schema.json"
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s is out of date; run go test ./schemas -update\n%s", file, d)
	}
}
