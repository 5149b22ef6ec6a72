package activities

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	"precept/internal/llm"
	"precept/schemas"
)

// lookout tells a run when endpoints that an activity asks answer nobody, and when they do
// again: an activity that waits for them would else be silent. It is a hint for people,
// which nothing follows from; each takes room in the run's history.
type lookout struct {
	by   schemas.Teller
	tell func(context.Context, schemas.OutagesTold) error

	mu      sync.Mutex
	watched []watched
	told    []schemas.Outage
	// sure says that told is what the run knows; an attempt doesn't know what the one before
	// it told.
	sure bool
	last time.Time // when something was told last, or could not be
	gap  time.Duration
}

// watched is an endpoint that the activity asks.
type watched struct {
	client  *llm.Client
	name    string
	instead string // who was asked in its place
	answers int64  // before the activity asked
}

// The pause after something was told doubles from the first to the second of these: an
// endpoint that comes and goes must not fill the history.
const (
	firstGap = 10 * time.Second
	lastGap  = 5 * time.Minute
)

// signalRun tells the run that an activity is of.
func signalRun(ctx context.Context, told schemas.OutagesTold) error {
	run := activity.GetInfo(ctx).WorkflowExecution
	return activity.GetClient(ctx).SignalWorkflow(ctx, run.ID, run.RunID, schemas.SignalOutages, told)
}

// looking is a beat that looks out for endpoints, too.
func (a *Activities) looking(ctx context.Context, b *beat, by schemas.Teller) *beat {
	l := &lookout{by: by, tell: a.tell, sure: activity.GetInfo(ctx).Attempt == 1}
	b.lookout = l
	go func() {
		defer close(b.looked)
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-b.quit:
				l.look(ctx, true)
				return
			case <-tick.C:
				l.look(ctx, false)
			}
		}
	}()
	return b
}

// watch has the lookout look after an endpoint, where there is one.
func (b *beat) watch(c *llm.Client) {
	if b != nil {
		b.lookout.watch(c)
	}
}

// watch has the lookout look after an endpoint.
func (l *lookout) watch(c *llm.Client) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	name := c.Endpoint().Name
	if !slices.ContainsFunc(l.watched, func(w watched) bool { return w.name == name }) {
		l.watched = append(l.watched, watched{client: c, name: name, answers: c.Answers()})
		slices.SortFunc(l.watched, func(a, b watched) int { return strings.Compare(a.name, b.name) })
	}
}

// replaced notes which endpoint is asked in place of another one.
func (l *lookout) replaced(name, instead string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.watched {
		if l.watched[i].name == name {
			l.watched[i].instead = instead
		}
	}
}

// tellWithin bounds how long the run is told.
const tellWithin = 5 * time.Second

// look tells the run what it doesn't know yet. At the end of an attempt that is only what is
// wrong, since another one may follow; when the activity ends, so does what it told.
func (l *lookout) look(ctx context.Context, last bool) {
	now := time.Now()
	outages, news := l.news()
	since := now.Sub(l.last)
	gap := l.gap
	if len(outages) == 0 {
		gap = firstGap // what is over is not to be shown for long
	}
	if !news || last && len(outages) == 0 || !last && since < gap {
		return
	}
	if since > lastGap {
		l.gap = 0 // that was another time
	}
	l.last, l.gap = now, max(firstGap, min(2*l.gap, lastGap))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellWithin)
	defer cancel()
	if err := l.tell(ctx, schemas.OutagesTold{By: l.by, Outages: outages}); err != nil {
		slog.WarnContext(ctx, "the run is not told of outages yet", "outages", outages, "error", err)
		return
	}
	l.told, l.sure = outages, true
}

// news is what is wrong now, and whether the run doesn't know it.
func (l *lookout) news() (outages []schemas.Outage, news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	answered := false
	for _, w := range l.watched {
		if t := w.client.Trouble(); t != nil {
			outages = append(outages, schemas.Outage{Endpoint: w.name, Says: t.Says, Since: t.Since.UTC(), Instead: w.instead})
		} else {
			answered = answered || w.client.Answers() > w.answers
		}
	}
	// Their words may differ from time to time.
	same := func(a, b schemas.Outage) bool {
		return a.Endpoint == b.Endpoint && a.Since.Equal(b.Since) && a.Instead == b.Instead
	}
	return outages, !slices.EqualFunc(outages, l.told, same) || !l.sure && (len(outages) > 0 || answered)
}
