package schemas

import (
	"strings"
	"testing"
)

func TestParseHubPath(t *testing.T) {
	for path, want := range map[string]HubPath{
		"hf://datasets/a/b@main/c.csv":                   {"a/b", "main", "c.csv"},
		"hf://datasets/a/b@v1.0/data/":                   {"a/b", "v1.0", "data"},
		"hf://datasets/a/b@refs/convert/parquet/d/*.csv": {"a/b", "refs/convert/parquet", "d/*.csv"},
		"hf://datasets/a/b@refs/pr/3/c.csv":              {"a/b", "refs/pr/3", "c.csv"},
		"hf://datasets/a/b@feature%2Fx/c.csv":            {"a/b", "feature/x", "c.csv"},
	} {
		if got, err := ParseHubPath(path); err != nil || got != want {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
	for path, want := range map[string]string{
		"hf://a/b@main/c.csv":            "no data set",
		"hf://datasets/a/b/c.csv":        "no revision",
		"hf://datasets/a/b@main":         "no file",
		"hf://datasets/a/b@main/":        "no file",
		"hf://datasets/a/b@/c.csv":       "revision",
		"hf://datasets/a/b@refs/pr/3":    "no file",
		"hf://datasets/../b@main/c.csv":  "OWNER/NAME",
		"hf://datasets/a@main/c.csv":     "OWNER/NAME",
		"hf://datasets/a/b/c@main/d.csv": "OWNER/NAME",
		"hf://datasets/a/b@%zz/c.csv":    "revision",
	} {
		if _, err := ParseHubPath(path); KindOf(err) != InvalidInput || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

func TestParseHubModel(t *testing.T) {
	for name, want := range map[string]HubModel{
		"gpt2":             {"gpt2", ""},
		"a/b":              {"a/b", ""},
		"a/b@v1.0":         {"a/b", "v1.0"},
		"a/b@refs/pr/3":    {"a/b", "refs/pr/3"},
		"a/b-c_d.e@c0ffee": {"a/b-c_d.e", "c0ffee"},
	} {
		if got, err := ParseHubModel(name); err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "/a/b", "./a", "a/b/c", "a/b@", "a/b@../c", "a/b@x/", "a/b@x//y", "a/b@-x", "a/..", "a b"} {
		if got, err := ParseHubModel(name); KindOf(err) != InvalidInput {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}
