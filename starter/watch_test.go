package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"precept/schemas"
)

// watched follows scripted sights on a clock that only pauses move.
func watched(t *testing.T, untilGate bool, seen ...sight) (out string, err error) {
	t.Helper()
	var b bytes.Buffer
	now := at(30)
	w := &watch{
		run: "first", untilGate: untilGate, screen: &lines{out: &b}, out: &b,
		observer: observer{now: func() time.Time { return now }},
		look: func(context.Context, schemas.RunID) (sight, error) {
			if len(seen) == 0 {
				return sight{}, errors.New("the script has ended")
			}
			s := seen[0]
			seen = seen[1:]
			return s, nil
		},
		pause: func(_ context.Context, d time.Duration) error { now = now.Add(d); return nil },
	}
	err = w.follow(context.Background())
	if len(seen) > 0 {
		t.Errorf("the watch ended with %d sights unseen", len(seen))
	}
	return b.String(), err
}

func TestWatchUntilTheEnd(t *testing.T) {
	for _, test := range []struct {
		name string
		end  *end
		code int
		say  string
	}{
		{"completed", completed(schemas.StateCompleted), exitOK, ""},
		{"rejected", completed(schemas.StateRejected), exitEnded, "run first ended rejected"},
		{"aborted", completed(schemas.StateAborted), exitEnded, "run first ended aborted"},
		{"failed", &end{Failure: "it was terminated"}, exitError, "with the same spec"},
		{"bad input", &end{Failure: "no such endpoint", Kind: schemas.InvalidInput}, exitError, "Mend what it names"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := watched(t, true, sight{Ended: test.end})
			var e exit
			if errors.As(err, &e); e.code != test.code {
				t.Errorf("exit code %d, want %d (%v)", e.code, test.code, err)
			}
			if err != nil && !strings.Contains(err.Error(), test.say) {
				t.Errorf("error %q doesn't say %q", err, test.say)
			}
			if test.end.Report != nil && !strings.Contains(out, "synthesize  8/8    320   0         328         3       $0.50  1m12s") {
				t.Errorf("no time split in\n%s", out)
			}
		})
	}
}

func TestWatchUntilGate(t *testing.T) {
	out, err := watched(t, true, sight{Progress: synthesizing(8)}, sight{Progress: gated()})
	if diff := cmp.Diff(error(exit{code: exitGate}), err, cmp.AllowUnexported(exit{})); diff != "" {
		t.Error(diff)
	}
	text := strings.TrimSuffix(out, "\n")
	last := text[strings.LastIndex(text, "\n")+1:]
	const want = `{"gate":"dataset","opening":"dataset-1-0123456789ab","digest":"0123456789abcdef"}`
	if last != want {
		t.Errorf("last line %s, want %s", last, want)
	}
	for _, part := range []string{"Is the dataset good to train on?", "temporal workflow signal --workflow-id first",
		`starter approve first dataset --opening dataset-1-0123456789ab --by "YOUR NAME"`} {
		if !strings.Contains(out, part) {
			t.Errorf("no %q in\n%s", part, out)
		}
	}
}

func TestWatchGoesOnPastAGate(t *testing.T) {
	again := gated()
	again.Waiting.ID = "dataset-2-0123456789ab"
	out, err := watched(t, false,
		sight{Progress: gated()}, sight{Progress: gated()}, sight{Progress: again},
		sight{Ended: completed(schemas.StateCompleted)})
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out, "The run waits for a person"); n != 2 {
		t.Errorf("%d gates shown, want each opening once:\n%s", n, out)
	}
}

func TestWatchWaitsForWhoIsAway(t *testing.T) {
	gone := sight{Away: "server", Why: "connection refused"}
	idle := sight{Away: "worker", Why: "no poller seen", Tasks: []openTask{{ID: "5", Activity: "Synthesize", Attempt: 1}}}
	out, err := watched(t, false, gone, gone, idle, sight{Progress: synthesizing(2)}, gone,
		sight{Ended: completed(schemas.StateCompleted)})
	if err != nil {
		t.Fatal(err)
	}
	want := `         waiting for the server: connection refused
         waiting for the worker for 2.0s: no poller seen; waiting for a worker to take Synthesize
Simulated, not real models: sim-teacher, sim-judge
    33s  prompts     done: 3 tasks, kept 182, duplicate 4, 2.1s
    33s  synthesize  2/8 tasks, kept 80, rejected 2, calls 82 paid, 3 cached, over 0.0s
    34s  waiting for the server for 1.0s: connection refused
`
	if diff := cmp.Diff(want, out[:strings.Index(out, "\nRun first")]); diff != "" {
		t.Error(diff)
	}
}

// TestWatchShowsLife checks that a run whose counts stand still is still seen to
// live.
func TestWatchShowsLife(t *testing.T) {
	var seen []sight
	for range 21 {
		seen = append(seen, sight{Progress: synthesizing(2)})
	}
	out, err := watched(t, false, append(seen, sight{Ended: completed(schemas.StateCompleted)})...)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out, "synthesize  2/8"); n != 6 {
		t.Errorf("%d lines in 20 seconds, want one every 4:\n%s", n, out)
	}
}

func TestWatchEndsAtAnError(t *testing.T) {
	want := errors.New("no such run")
	w := &watch{
		run: "first", screen: &lines{out: &bytes.Buffer{}}, observer: observer{now: time.Now},
		look: func(context.Context, schemas.RunID) (sight, error) { return sight{}, want },
	}
	if err := w.follow(context.Background()); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
}

func TestWatchIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watch{
		run: "first", screen: &lines{out: &bytes.Buffer{}}, observer: observer{now: time.Now}, pause: pause,
		look: func(context.Context, schemas.RunID) (sight, error) {
			cancel()
			return sight{Progress: synthesizing(1)}, nil
		},
	}
	var e exit
	if err := w.follow(ctx); !errors.As(err, &e) || e.code != exitInterrupted || !strings.Contains(e.message, "goes on") {
		t.Errorf("got %v", err)
	}
}
