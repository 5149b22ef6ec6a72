package activities

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"precept/schemas"
)

// TestABatchesProviderThatIsOut: whatever of a run by batch asks it tells so.
func TestABatchesProviderThatIsOut(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	p.held = true
	w, plan := synthesizing(t, byBatchSpec(t, fivePrompts()...), options{models: p.models, tries: 1})
	if _, err := w.does(schemas.StageSynthesize, plan, 0); err != nil {
		t.Fatal(err)
	}
	asks := map[schemas.Teller]func() error{
		schemas.TaskTeller(schemas.StageSynthesize, 0): func() error { _, err := w.does(schemas.StageSynthesize, plan, 0); return err },
		schemas.TaskTeller(schemas.StageSynthesize, 1): func() error { _, err := w.does(schemas.StageSynthesize, plan, 1); return err },
		schemas.TellerBatches:                          func() error { _, err := call[any](w, w.CheckBatches, w.spec); return err },
		schemas.TellerPoll: func() error {
			_, err := call[PollResult](w, w.Poll, PollRequest{Run: w.run, Stage: schemas.StageSynthesize, Plan: plan, Tasks: []int{0}})
			return err
		},
	}
	if w.told != nil {
		t.Errorf("while all is well it tells %+v", w.told)
	}
	p.models.Close()
	for by, ask := range asks {
		for tries := 1; w.lastTold(by) == nil; tries++ {
			if err := ask(); err == nil || tries > 100 {
				t.Fatalf("%s: nothing told after %d attempts: %v", by, tries, err)
			}
		}
		told := w.lastTold(by).Outages
		if len(told) == 0 || told[0].Endpoint != "teacher" && told[0].Endpoint != "judge" || !strings.Contains(told[0].Says, "connection refused") || time.Since(told[0].Since) > time.Minute {
			t.Errorf("%s tells %+v", by, told)
		}
	}
}

// TestLookout: an endpoint that is away is told once, and once more when it answers; of what
// an earlier attempt told, the next one takes back what is over.
func TestLookout(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	away := reply{status: 401, text: "no such key"}
	models.says(func(question) *reply { return &away })
	w := newWorld(t, imported(t, fivePrompts()...), options{models: models, tries: 1})
	client, err := w.Activities.client("teacher")
	if err != nil {
		t.Fatal(err)
	}
	ask := func() {
		t.Helper()
		if _, err := w.probe(t.Context(), w.spec, "teacher"); (err == nil) != (away == reply{}) {
			t.Fatal(err)
		}
	}
	begin := func(attempt int) *lookout {
		l := &lookout{by: "test", tell: w.tell, sure: attempt == 1}
		l.watch(client)
		return l
	}
	says := func(when string, want int, outages ...string) {
		t.Helper()
		var got []string
		if len(w.told) > 0 {
			for _, o := range w.told[len(w.told)-1].Outages {
				got = append(got, o.Endpoint+": "+o.Says+" "+o.Instead)
			}
		}
		if len(w.told) != want || len(got) != len(outages) || len(got) > 0 && !strings.HasPrefix(got[0], outages[0]) {
			t.Errorf("%s: told %d times, last %q", when, len(w.told), got)
		}
	}
	l := begin(1)
	look := func() { l.last = time.Now().Add(-max(l.gap, firstGap)); l.look(t.Context(), false) }
	look()
	says("before anything is asked", 0)
	ask()
	look()
	says("refused", 1, "teacher: HTTP 401: no such key. Check the access")
	ask()
	look()
	says("refused again", 1, "teacher: HTTP 401")
	l.replaced("teacher", "spare")
	look()
	says("another one is asked", 2, "teacher: HTTP 401")
	if told := w.told[1].Outages[0]; told.Instead != "spare" {
		t.Errorf("told %+v", told)
	}
	if l.gap != 2*firstGap {
		t.Errorf("it waits %s after having told twice", l.gap)
	}
	away = reply{}
	models.says(nil)
	ask()
	l.last = time.Now()
	l.look(t.Context(), false)
	says("it answers, so soon", 2, "teacher: HTTP 401")
	l.gap, l.last = lastGap, time.Now().Add(-firstGap)
	l.look(t.Context(), false)
	says("it answers: that is told without the long pause", 3)

	// A run that can't be told is not tried again at every look.
	told := l.tell
	tries := 0
	l.tell = func(context.Context, schemas.OutagesTold) error { tries++; return errors.New("no frontend") }
	away = reply{status: 401, text: "no such key"}
	models.says(func(question) *reply { return &away })
	ask()
	l.last = time.Now().Add(-2 * lastGap)
	for range 3 {
		l.look(t.Context(), false)
	}
	if tries != 1 || l.gap != firstGap {
		t.Errorf("tried %d times at once, and waits %s", tries, l.gap)
	}
	away, l.tell = reply{}, told
	models.says(nil)
	ask()

	l = begin(2)
	look()
	says("the next attempt, before it asks", 3)
	ask()
	look()
	look()
	says("the next attempt, when it has an answer", 4)
	l = begin(2)
	ask()
	l.look(t.Context(), true)
	says("an attempt that ends, when all is well", 4)
}
