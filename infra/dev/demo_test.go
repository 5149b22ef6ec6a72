package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// script plays starter and temporal: watch gives one answer after the other.
type script struct {
	watches []string // "dataset 1" for a gate that waits, "" for done, "exit 3"
	calls   []string
}

func (s *script) tools() tools {
	return tools{
		temporal: func(_ context.Context, _ func(string) bool, args ...string) (int, error) {
			call := "temporal " + args[1]
			if args[1] == "signal" {
				call += " " + args[len(args)-1]
			}
			s.calls = append(s.calls, call)
			return 0, nil
		},
		starter: func(_ context.Context, keep func(string) bool, args ...string) (int, error) {
			s.calls = append(s.calls, "starter "+args[0])
			if args[0] != "watch" {
				return 0, nil
			}
			if len(s.watches) == 0 {
				return 0, errors.New("watched too often")
			}
			answer := s.watches[0]
			s.watches = s.watches[1:]
			var gate string
			var opening string
			var exit int
			if n, _ := fmt.Sscanf(answer, "exit %d", &exit); n == 1 {
				return exit, nil
			}
			if n, _ := fmt.Sscanf(answer, "%s %s", &gate, &opening); n == 2 {
				keep("synthesize 10/20")
				if keep(fmt.Sprintf(`{"gate":%q,"opening":%q}`, gate, opening)) {
					return 0, errors.New("the gate's line would be shown")
				}
				return gateWaits, nil
			}
			return 0, nil
		},
	}
}

func TestDrive(t *testing.T) {
	approve := func(gate string) string {
		return `temporal signal {"gate":"` + gate + `","by":"make demo"}`
	}
	for _, test := range []struct {
		name    string
		watches []string
		calls   []string
		err     string
	}{
		{"done before", []string{""}, []string{"temporal start", "starter watch", "starter report"}, ""},
		{"two gates", []string{"dataset 1", "release 1", ""},
			[]string{"temporal start", "starter watch", approve("dataset"), "starter watch", approve("release"), "starter watch", "starter report"}, ""},
		{"a signal that takes a while is sent once", []string{"dataset 1", "dataset 1", ""},
			[]string{"temporal start", "starter watch", approve("dataset"), "starter watch", "starter watch", "starter report"}, ""},
		{"a gate that opens again", []string{"dataset 1", "dataset 2", ""},
			[]string{"temporal start", "starter watch", approve("dataset"), "starter watch", approve("dataset"), "starter watch", "starter report"}, ""},
		{"a failure is a person's to judge", []string{"failure 1"}, []string{"temporal start", "starter watch"}, "failure gate"},
		{"watch fails", []string{"exit 3"}, []string{"temporal start", "starter watch"}, "exit code 3"},
		{"a gate without a name", []string{"exit 10"}, []string{"temporal start", "starter watch"}, "not which"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &script{watches: test.watches}
			var out bytes.Buffer
			err := (&driver{out: &out, run: "quickstart", tools: s.tools()}).drive(t.Context())
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("error %v, want %q", err, test.err)
			}
			if diff := cmp.Diff(test.calls, s.calls); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			for _, call := range test.calls {
				if input, ok := strings.CutPrefix(call, "temporal signal "); ok && !strings.Contains(out.String(), "--input '"+input+"'") {
					t.Errorf("the command is not shown as a person would type it:\n%s", out.String())
				}
			}
		})
	}
}

func TestQuoted(t *testing.T) {
	got := quoted([]string{"signal", "--input", `{"by":"it's me"}`, ""})
	if want := `signal --input '{"by":"it'\''s me"}' ''`; got != want {
		t.Errorf("quoted = %s, want %s", got, want)
	}
}

func TestLineFilter(t *testing.T) {
	for _, test := range []struct {
		name   string
		writes []string
		want   string
	}{
		{"lines", []string{"a\nb\n"}, "a\nb\n"},
		{"a bar is shown as it grows", []string{"12%", "\r13%"}, "12%\r13%"},
		{"a dropped line in two parts", []string{"a\n{\"ga", "te\":1}\n"}, "a\n"},
		{"a dropped line without an end", []string{"a\n", "{\"gate\":1}"}, "a\n"},
		{"JSON that is kept", []string{"{1}\n"}, "{1}\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			f := &lineFilter{out: &out, keep: func(line string) bool { return !strings.Contains(line, "gate") }}
			for _, w := range test.writes {
				if _, err := f.Write([]byte(w)); err != nil {
					t.Fatal(err)
				}
			}
			f.flush()
			if out.String() != test.want {
				t.Errorf("shown %q, want %q", out.String(), test.want)
			}
		})
	}
}
