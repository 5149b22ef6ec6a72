package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/sourcegraph/conc/pool"

	"precept/internal/llm"
	"precept/schemas"
)

// rowFailure is a row that got no outcome.
type rowFailure struct {
	index int
	err   error
}

// rowsError is that rows failed where all others have an outcome.
type rowsError struct {
	rows, of int
	first    error
	failures []rowFailure
	object   string // where they are listed
}

func (e *rowsError) Error() string {
	return fmt.Sprintf("%d of %d rows failed, listed in %s, such as: %v", e.rows, e.of, e.object, e.first)
}

func (e *rowsError) Unwrap() error { return e.first }

// each does n rows with many in flight. A row's error doesn't void its neighbours: they
// are asked and journaled. The rows that failed are returned where the task may end
// without as many, else they are its error. No further row is begun after an error that
// concerns more than a row, or when so many rows have failed in a row that the others
// would fail too; those in flight are waited for, since they are paid for.
func each(ctx context.Context, w *work, n, inFlight int, do func(ctx context.Context, i int) error) ([]rowFailure, error) {
	inFlight = max(1, inFlight)
	w.beat.total(int64(n), "rows")
	var (
		mu       sync.Mutex
		failures []rowFailure
		first    error // of a row
		other    error // the first that is not about a request
		end      error // of the task
		failed   int   // rows since the last one that succeeded
		left     int   // rows that were not to be asked
		waiting  bool  // for answers by batch
	)
	note := func(i int, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			failed = 0
			return
		}
		if llm.IsPending(err) {
			// What is asked of it so far went well, and it may be kept yet.
			waiting, failed = true, 0
			if err = w.trip.count("", nil); err == nil {
				return
			}
		}
		failures = append(failures, rowFailure{i, err})
		if out := (*leftOut)(nil); errors.As(err, &out) || llm.IsMissing(err) {
			left++
			return
		}
		failed++
		if first == nil || !schemas.KindOf(first).Retryable() && schemas.KindOf(err).Retryable() {
			first = err // one that trying again may mend stands for all
		}
		if !stopsAll(err) { // else it is no row's failure
			if tripped := w.trip.fail(err); tripped != nil {
				err = tripped
			}
		}
		if !llm.IsRequest(err) {
			other = cmp.Or(other, err)
		}
		if end == nil && (stopsAll(err) || failed >= max(outage, inFlight)) {
			end = err
		}
	}
	ended := func() error {
		mu.Lock()
		defer mu.Unlock()
		return cmp.Or(end, context.Cause(ctx))
	}
	p := pool.New().WithMaxGoroutines(inFlight)
	for i := range n {
		if ended() != nil {
			break
		}
		p.Go(func() {
			if ended() != nil {
				return
			}
			err := do(ctx, i)
			w.beat.add(1)
			note(i, err)
		})
	}
	p.Wait()
	if err := cmp.Or(ended(), other); err != nil {
		return nil, err // what ended the task outweighs a row's error
	}
	if waiting {
		return nil, errAwaited // those that failed do so again when all others have ended
	}
	slices.SortFunc(failures, func(x, y rowFailure) int { return cmp.Compare(x.index, y.index) })
	if int64(len(failures)-left) > w.mayMiss {
		return nil, &rowsError{rows: len(failures) - left, of: n, first: first, failures: failures}
	}
	return failures, nil
}

// outage is how many rows must fail in a row, at least, to be taken for an outage.
const outage = 16

// stopsAll reports whether an error concerns the account, the grant, the lease, the worker
// or many rows, not one.
func stopsAll(err error) bool {
	tripped := (*trippedError)(nil)
	return llm.IsAccount(err) || schemas.KindOf(err) == schemas.Conflict || errors.Is(err, errStopping) || errors.Is(err, errGrant) || errors.As(err, &tripped)
}

// failureReason says in the ledger's words why a row failed.
func failureReason(err error) schemas.Reason {
	switch kind := schemas.KindOf(err); {
	case llm.IsLate(err):
		return schemas.ReasonTimedOut
	case kind == schemas.RateLimited:
		return schemas.ReasonRateLimited
	case kind == schemas.Unavailable:
		return schemas.ReasonUnavailable
	case kind == schemas.InvalidInput:
		return schemas.ReasonBadRequest
	}
	return schemas.ReasonInternal
}
