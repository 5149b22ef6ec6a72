package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseVersion(t *testing.T) {
	for _, test := range []struct {
		text string
		want version
		good bool // at least leastTemporal
	}{
		{"temporal version 1.5.1 (Server 1.29.1, UI 2.42.1)", version{1, 5, 1}, true},
		{"temporal version 1.10.0 (Server 1.32.0, UI 2.54.1)\n", version{1, 10, 0}, true},
		{"temporal version v2.0.0", version{2, 0, 0}, true},
		{"temporal version 1.5.0 (Server 1.29.1, UI 2.42.1)", version{1, 5, 0}, false},
		{"temporal version 0.0.0-DEV (Server 1.29.1)", version{0, 0, 0}, false},
	} {
		got, err := parseVersion(test.text)
		if err != nil || got != test.want {
			t.Errorf("parseVersion(%q) = %v, %v", test.text, got, err)
		}
		if good := !got.less(leastTemporal); good != test.good {
			t.Errorf("%q is new enough: %v, want %v", test.text, good, test.good)
		}
	}
	for _, text := range []string{"", "tctl version 1.18.0", "temporal version x.y.z", "temporal version 99999999999999999999.0.0"} {
		if v, err := parseVersion(text); err == nil {
			t.Errorf("parseVersion(%q) = %v, want an error", text, v)
		}
	}
}

func TestInstalledTemporal(t *testing.T) {
	install := func(text string) string {
		dir := t.TempDir()
		script := fmt.Sprintf("#!/bin/sh\necho '%s'\n", text)
		if err := os.WriteFile(filepath.Join(dir, "temporal"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	old, good := install("temporal version 1.4.1 (Server 1.28.0)"), install("temporal version 1.9.1 (Server 1.32.0)")
	list := strings.Join([]string{t.TempDir(), old, good}, string(filepath.ListSeparator))
	if got, err := installedTemporal(list); err != nil || got != filepath.Join(good, "temporal") {
		t.Errorf("installedTemporal = %q, %v", got, err)
	}
	if got, err := installedTemporal(old); err == nil {
		t.Errorf("installedTemporal takes %q, which is too old", got)
	}
	own := filepath.Join(t.TempDir(), binDir)
	if err := os.MkdirAll(filepath.Dir(own), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(good, own); err != nil {
		t.Fatal(err)
	}
	if got, err := installedTemporal(own); err == nil {
		t.Errorf("installedTemporal takes the checkout's own %q", got)
	}
}

// The attributes are named in three places, for three ways to start Temporal.
func TestSearchAttributesAgree(t *testing.T) {
	want := []string{}
	for name, kind := range searchAttributes {
		want = append(want, name+" "+kind.String())
	}
	slices.Sort(want)
	for path, pattern := range map[string]string{
		"process-compose.yaml":        `--search-attribute=(\w+)=(\w+)`,
		"../compose/temporal/init.sh": `\b(\w+):(Keyword|Double|Text|Int|Bool|Datetime|KeywordList)\b`,
	} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
			got = append(got, m[1]+" "+m[2])
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

func TestDynamicConfigurationAgrees(t *testing.T) {
	find := func(path, pattern string) (keys []string) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
			keys = append(keys, m[1])
		}
		return keys
	}
	dev := find("process-compose.yaml", `--dynamic-config-value=(\S+)=true`)
	compose := find("../compose/temporal/dynamicconfig/dynamicconfig.yaml", `(?m)^(\S+):\n  - value: true$`)
	if diff := cmp.Diff(dev, compose); diff != "" || len(dev) == 0 {
		t.Errorf("embedded stack and compose differ (-embedded +compose):\n%s", diff)
	}
}
