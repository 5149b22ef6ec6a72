package activities

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"precept/schemas"
)

// TestLimitsAreShared: a worker has a lease on the limits of an endpoint that has some, from
// its first request to its end. A preview has none.
func TestLimitsAreShared(t *testing.T) {
	t.Parallel()
	w := newWorld(t, imported(t, fivePrompts()...), options{holder: "host-1"})
	e := w.config.Endpoints["teacher"]
	e.RPM = 60_000
	w.config.Endpoints["teacher"] = e
	leases := func() []string {
		return slices.Collect(maps.Keys(objects(t, w.store, "limits/")))
	}
	w.stages(schemas.StagePrompts)
	w.previewed(w.spec) // which fails where anything is written
	if got := leases(); len(got) > 0 {
		t.Errorf("before anything was asked there are %v", got)
	}
	w.stage(schemas.StageSynthesize)
	w.stage(schemas.StageFilter)
	if got := leases(); len(got) != 1 || !strings.HasPrefix(got[0], schemas.LimitPrefix("teacher")+"host-1-") {
		t.Errorf("the leases are %v", got)
	}
	Close(w.Activities)
	if got := leases(); len(got) > 0 {
		t.Errorf("when the worker has stopped there are %v", got)
	}
}
