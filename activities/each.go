package activities

import (
	"cmp"
	"context"
	"errors"
	"sync"

	"github.com/sourcegraph/conc/pool"

	"precept/internal/llm"
	"precept/schemas"
)

// each does every row with many in flight. A row's error doesn't void its
// neighbours: they are asked and journaled, then the first error is returned. No
// further row is begun after an error that concerns more than a row, or when so many
// rows have failed in a row that the others would fail too; those in flight are
// waited for, since they are paid for.
func each[T any](ctx context.Context, w *work, rows []T, inFlight int, do func(ctx context.Context, i int, row T) error) error {
	inFlight = max(1, inFlight)
	w.beat.total(int64(len(rows)), "rows")
	var (
		mu     sync.Mutex
		first  error // of a row
		end    error // of the task
		failed int   // rows since the last one that succeeded
	)
	note := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			failed = 0
			return
		}
		failed++
		first = cmp.Or(first, err)
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
	for i, row := range rows {
		if ended() != nil {
			break
		}
		p.Go(func() {
			if ended() != nil {
				return
			}
			err := do(ctx, i, row)
			w.beat.add(1)
			note(err)
		})
	}
	p.Wait()
	return cmp.Or(ended(), first) // what ended the task outweighs a row's error
}

// outage is how many rows must fail in a row, at least, to be taken for an outage.
const outage = 16

// stopsAll reports whether an error concerns the account, the lease, the worker or
// many rows, not one.
func stopsAll(err error) bool {
	tripped := (*trippedError)(nil)
	return llm.IsAccount(err) || schemas.KindOf(err) == schemas.Conflict || errors.Is(err, errStopping) || errors.As(err, &tripped)
}
