package activities

import (
	"context"
	"fmt"
	"sync"

	"precept/internal/shard"
	"precept/schemas"
)

// tripwire ends a task when its first rows show that the others would be paid for in
// vain: hardly any is kept, most are rejected for the same reason or fail, or they cost
// too much.
type tripwire struct {
	spec  schemas.TripwiresSpec
	usage func() schemas.Usage

	mu       sync.Mutex
	ledger   schemas.Ledger
	rejected []any // the first rejected rows, for people to look at
	tripped  *trippedError
}

// shownRejected is how many rejected rows are kept for people.
const shownRejected = 10

// trippedError says which limit a task's rows are past.
type trippedError struct {
	text     string
	rejected []any
}

func (e *trippedError) Error() string { return e.text }

// count takes a row's outcome. It fails, from the first time on, when the rows so far
// are past a limit.
func (t *tripwire) count(reason schemas.Reason, row any) error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ledger.Count(reason)
	if reason != "" && len(t.rejected) < shownRejected {
		t.rejected = append(t.rejected, row)
	}
	return t.check()
}

// fail takes a row that failed, as count does.
func (t *tripwire) fail(err error) error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ledger.Fail(failureReason(err))
	if len(t.rejected) < shownRejected {
		t.rejected = append(t.rejected, map[string]string{"failed": err.Error()})
	}
	return t.check()
}

func (t *tripwire) check() error {
	if t.tripped == nil {
		if limit := t.spec.Past(t.ledger, t.usage()); limit != "" {
			t.tripped = &trippedError{fmt.Sprintf("tripwire: %s, of the first %d rows (%s)", limit, t.ledger.Outcomes(), t.ledger), t.rejected}
		}
	}
	if t.tripped == nil {
		return nil // not a nil *trippedError
	}
	return t.tripped
}

// showRejected writes the rows that tripped a task to where its error says.
func (w *work) showRejected(ctx context.Context, e *trippedError) error {
	object := schemas.RunObject(w.plan.Run, fmt.Sprintf("tripwire/%s.json", w.stage))
	if err := shard.PutJSON(ctx, w.store, object, e.rejected, shard.PutOptions{}); err != nil {
		return err
	}
	return schemas.E("do task", w.Title, schemas.InvalidInput, e).WithHint(
		"Look at rejected rows in %s. To go on all the same, resume; else abort, mend the policy, the prompts or the settings, and start again: what was answered is not paid for again", object)
}
