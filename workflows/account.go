package workflows

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"precept/activities"
	"precept/schemas"
)

// An account that is refused, without money, or whose model is gone, is no row's fault and
// not mended by a retry: the run waits at its failure gate, as it does when an endpoint is
// out for longer than tasks try. Meanwhile the endpoint is asked for a word from time to
// time, and the run goes on by itself when it answers.

// prober is who decides then.
const prober = "probe"

// The time between two probes doubles from the first to the second of these; that before
// the first one up to the third, where probes are answered in vain.
const (
	firstProbe   = time.Minute
	lastProbe    = 15 * time.Minute
	longestProbe = 12 * time.Hour
)

// probing looks after the endpoint that a failure names, or those of which any would do, while
// opening waits, until the function that it returns is called.
func (f *factory) probing(ctx workflow.Context, opening *schemas.Opening, failure schemas.TaskFailure) (stop func()) {
	if failure.Endpoint == "" {
		return func() {}
	}
	endpoint := strings.Join(append([]string{failure.Endpoint}, failure.Or...), " or ")
	opening.Question = then(opening.Question, fmt.Sprintf("Endpoint %s is asked for a word from time to time, and the run goes on when it answers; to try at once, resume", endpoint))
	pause := f.probePause(workflow.Now(ctx))
	looking, cancel := workflow.WithCancel(ctx)
	ended := workflow.NewWaitGroup(ctx)
	ended.Add(1)
	workflow.GoNamed(looking, prober, func(ctx workflow.Context) {
		defer ended.Done()
		if workflow.Sleep(ctx, pause) != nil {
			return // decided
		}
		var usage schemas.Usage
		err := workflow.ExecuteActivity(probes(ctx, pause, endpoint), act.Probe,
			activities.ProbeRequest{Spec: f.spec, Endpoint: failure.Endpoint, Or: failure.Or}).Get(ctx, &usage)
		f.carried.Probed.Add(usage)
		if err != nil || f.answer != nil {
			return // decided, or nothing that could be asked
		}
		f.decide(ctx, schemas.DecisionResume, schemas.Decision{
			Gate: schemas.GateFailure, By: prober, Note: fmt.Sprintf("endpoint %s answers", endpoint),
		})
	})
	return func() {
		cancel()
		ended.Wait(ctx) // the chain must not go on with an activity pending
	}
}

// probePause is how long the first probe waits. It doubles where endpoints answer probes and
// soon refuse the run again: each time takes room in what the run carries.
func (f *factory) probePause(now time.Time) time.Duration {
	pause := firstProbe
	var last time.Time
	for _, d := range f.carried.Decisions {
		switch {
		case d.Decision.By != prober:
			pause, last = firstProbe, time.Time{}
			continue
		case !last.IsZero() && d.At.Sub(last) > pause+lastProbe:
			pause = firstProbe
		}
		pause, last = min(2*pause, longestProbe), d.At
	}
	if last.IsZero() || now.Sub(last) > lastProbe {
		return firstProbe
	}
	return pause
}

// probes lets the server repeat the probe until it succeeds: that takes no room in the
// history, however long the account is refused.
func probes(ctx workflow.Context, pause time.Duration, endpoint string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue:           schemas.QueueLLM,
		StartToCloseTimeout: time.Hour,
		HeartbeatTimeout:    heartbeat,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: min(2*pause, lastProbe), BackoffCoefficient: 2, MaximumInterval: lastProbe,
			NonRetryableErrorTypes: []string{string(schemas.InvalidInput)},
		},
		Summary: "probe endpoint " + endpoint,
	})
}

// unfit asks people what to do where endpoints can't do what the run asks of them. It
// reports whether to look again.
func (f *factory) unfit(ctx workflow.Context, why []string) (again bool, err error) {
	digest := schemas.DigestOf(why)
	agreed := func(d schemas.DecisionRecord) bool {
		return !d.Stale && d.Verdict == schemas.DecisionApprove && d.Decision.Gate == schemas.GateFailure && d.Decision.Digest == digest
	}
	if len(why) == 0 || slices.ContainsFunc(f.carried.Decisions, agreed) {
		return false, nil
	}
	got, err := f.wait(ctx, schemas.Opening{
		Gate: schemas.GateFailure, Digest: digest, Takes: []string{schemas.DecisionResume, schemas.DecisionApprove, schemas.DecisionAbort},
		Question: then(listed(why), "Nothing was spent but on this look. To look again when it is mended, resume; to go on all the same, approve"),
	})
	if err != nil {
		return false, err
	}
	if got.verdict == schemas.DecisionAbort {
		return false, &endedError{schemas.StateAborted, fmt.Sprintf("aborted by %s: %s", got.decision.By, listed(why))}
	}
	return got.verdict == schemas.DecisionResume, nil
}
