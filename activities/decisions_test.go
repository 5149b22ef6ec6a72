package activities

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"precept/internal/shard"
	"precept/schemas"
)

// reversed lists its objects from the last to the first, as a store may.
type reversed struct{ shard.Store }

func (r reversed) List(ctx context.Context, prefix string) iter.Seq2[shard.Info, error] {
	return func(yield func(shard.Info, error) bool) {
		var all []shard.Info
		for info, err := range r.Store.List(ctx, prefix) {
			if err != nil {
				yield(info, err)
				return
			}
			all = append(all, info)
		}
		for _, info := range slices.Backward(all) {
			if !yield(info, nil) {
				return
			}
		}
	}
}

func TestDecisions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, schemas.RunSpec{}, options{store: reversed{shard.NewMemory()}})
	made := func(number int, note string) schemas.DecisionRecord {
		return schemas.DecisionRecord{
			Number: number, Verdict: schemas.DecisionApprove,
			Decision: schemas.Decision{Gate: schemas.GateDataset, By: "a person", Note: note},
			At:       time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		}
	}
	record := func(run schemas.RunID, d schemas.DecisionRecord) {
		t.Helper()
		if _, err := call[any](w, w.RecordDecision, run, d); err != nil {
			t.Fatal(err)
		}
	}
	notes := func(run schemas.RunID) string {
		t.Helper()
		all, err := call[[]schemas.DecisionRecord](w, w.Decisions, run)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, d := range all {
			out = append(out, d.Decision.Note)
		}
		return strings.Join(out, " ")
	}
	if got := notes("run"); got != "" {
		t.Fatalf("before any decision there is %q", got)
	}

	record("run", made(1, "first"))
	record("run", made(2, "second"))
	record("run", made(3, "third"))
	record("run", made(2, "second")) // the activity is retried
	if d := cmp.Diff("first second third", notes("run")); d != "" {
		t.Errorf("(- want, + got)\n%s", d)
	}

	// A reset goes back before the second: what is decided anew comes after all
	// that was decided before.
	record("run", made(2, "anew"))
	record("run", made(3, "onward"))
	record("run", made(2, "anew"))
	if d := cmp.Diff("first second third anew onward", notes("run")); d != "" {
		t.Errorf("after a reset (- want, + got)\n%s", d)
	}

	if got := notes("ru"); got != "" {
		t.Errorf("another run's decisions show: %q", got)
	}
	var want []string
	for i := range 12 {
		record("long", made(i+1, fmt.Sprint(i)))
		want = append(want, fmt.Sprint(i))
	}
	if d := cmp.Diff(strings.Join(want, " "), notes("long")); d != "" {
		t.Errorf("(- want, + got)\n%s", d)
	}
}
