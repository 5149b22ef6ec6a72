package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"precept/internal/llm"
	"precept/internal/trainer"
	"precept/schemas"
)

// file writes a configuration.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "worker.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	t.Setenv("PRECEPT_TEST_BUCKET", "runs")
	t.Setenv("PRECEPT_TEST_EMPTY", "")
	path := file(t, `
store:
  bucket: ${PRECEPT_TEST_BUCKET}
  prefix: ${PRECEPT_TEST_UNSET:-team/a}
  endpoint: ${PRECEPT_TEST_EMPTY:-http://127.0.0.1:7070}
  region: "${PRECEPT_TEST_UNSET:-}"
  path_style: true
endpoints:
  teacher:
    base_url: http://127.0.0.1:8000/v1
    model: m
    provider: p
    revision: "1"
    api_key_env: TEACHER_KEY
    timeout: 90s
    output_usd: 2.5
  judge:
    base_url: https://judge.example/v1
    model: ${PRECEPT_TEST_BUCKET}-judge
    weights: abc
    simulated: true
models:
  some/model: /models/some
trainer:
  python: venv/bin/python
  package: trainer
  work_dir: work
  grace: 1m30s
  threads: 2
`)
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Store: Store{Bucket: "runs", Prefix: "team/a", Endpoint: "http://127.0.0.1:7070", PathStyle: true},
		Endpoints: map[string]llm.Endpoint{
			"teacher": {
				Name: "teacher", BaseURL: "http://127.0.0.1:8000/v1", Model: "m", Provider: "p", Revision: "1",
				APIKeyEnv: "TEACHER_KEY", Timeout: 90 * time.Second, OutputUSD: 2.5,
			},
			"judge": {Name: "judge", BaseURL: "https://judge.example/v1", Model: "runs-judge", Weights: "abc", Simulated: true},
		},
		Models: map[string]string{"some/model": "/models/some"},
		Trainer: trainer.Config{
			Python: "venv/bin/python", Package: "trainer", WorkDir: "work", Grace: schemas.Duration(90 * time.Second), Threads: 2,
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(- want, + got)\n%s", d)
	}
	if d := cmp.Diff([]string{"judge", "teacher"}, got.EndpointNames()); d != "" {
		t.Errorf("endpoint names (- want, + got)\n%s", d)
	}
}

func TestLoadReadsJSON(t *testing.T) {
	got, err := Load(file(t, `{"store": {"bucket": "b"}}`))
	if err != nil || got.Store.Bucket != "b" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestLoadRefuses(t *testing.T) {
	const endpoint = "store: {bucket: b}\nendpoints: {judge: {base_url: 'http://h/v1', model: m, provider: p, revision: '1'"
	tests := []struct {
		name, text string
		want       []string
	}{
		{"an unset variable", "store: {bucket: '${PRECEPT_TEST_UNSET}', prefix: '${PRECEPT_TEST_UNSET_2}'}", []string{"PRECEPT_TEST_UNSET", "PRECEPT_TEST_UNSET_2"}},
		{"no bucket", "store: {prefix: p}", []string{"store.bucket"}},
		{"nothing", "", []string{"store.bucket"}},
		{"no YAML", "store: [", []string{"yaml"}},
		{"an unknown field", "store: {bucket: b, buckets: c}", []string{`unknown field "store.buckets"`}},
		{"a field twice", "store: {bucket: b}\nstore: {bucket: c}", []string{"store"}},
		{"the wrong type", "store: {bucket: b, path_style: perhaps}", []string{`store.path_style: want true or false, got "perhaps"`}},
		{"an unknown field of an endpoint", endpoint + ", api_key: k}}", []string{`unknown field "endpoints.judge.api_key"`}},
		{"an endpoint without a model", "store: {bucket: b}\nendpoints: {judge: {base_url: 'http://h/v1'}}", []string{"judge", "model"}},
		{"an endpoint with half a URL", "store: {bucket: b}\nendpoints: {judge: {base_url: h, model: m}}", []string{"judge", "base_url"}},
		{"a bad timeout", endpoint + ", timeout: 90}}", []string{"endpoints.judge.timeout: want a text, got 90"}},
		{"a timeout of no unit", endpoint + ", timeout: soon}}", []string{"endpoints.judge: timeout: "}},
		{"a word for a number", endpoint + ", rpm: many}}", []string{`endpoints.judge.rpm: want a whole number, got "many"`}},
		{"a number as bucket is a text", "store: {bucket: 3, path_style: perhaps}", []string{"store.path_style: want true or false"}},
		{"a bad grace", "store: {bucket: b}\ntrainer: {grace: soon}", []string{"trainer.grace: ", "soon", "90m"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := file(t, tt.text)
			_, err := Load(path)
			if schemas.KindOf(err) != schemas.InvalidInput {
				t.Fatalf("got %v, want InvalidInput", err)
			}
			for _, want := range append(tt.want, path) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q doesn't name %q", err, want)
				}
			}
		})
	}
}

func TestLoadWithoutAFile(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.yaml"))
	if schemas.KindOf(err) != schemas.NotFound || !strings.Contains(err.Error(), "none.yaml") || !strings.Contains(err.Error(), "--config") {
		t.Errorf("got %v, want it to name the file and the flag", err)
	}
}

// FuzzLoad shows that no file makes Load panic, and that what it takes is whole.
func FuzzLoad(f *testing.F) {
	f.Add("store: {bucket: b}\nendpoints: {judge: {base_url: 'http://h/v1', model: m, weights: w}}")
	f.Add("store: {bucket: '${X:-b}'}\nendpoints: {'': null}")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Load(file(t, text))
		if err != nil {
			return
		}
		for _, name := range c.EndpointNames() {
			if e := c.Endpoints[name]; e.Name != name || e.Check() != nil {
				t.Errorf("endpoint %q is taken as %+v", name, e)
			}
		}
		if c.Store.Bucket == "" || !slices.IsSorted(c.EndpointNames()) {
			t.Errorf("got %+v", c)
		}
	})
}
