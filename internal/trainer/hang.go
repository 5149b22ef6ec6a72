package trainer

import (
	"context"
	"time"

	"precept/schemas"
)

// Watch returns a context that ends when a process is not heard of for limit: it hangs,
// though it lives. heard says that it was heard of. While busy, if not nil, it waits for
// somebody else, and nothing is to be heard. end ends the watch.
func Watch(ctx context.Context, limit time.Duration, busy func() bool) (watched context.Context, heard, end func()) {
	watched, cancel := context.WithCancelCause(ctx)
	news := make(chan struct{}, 1)
	go func() {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		for {
			select {
			case <-news:
			case <-timer.C:
				if busy == nil || !busy() {
					cancel(schemas.Errorf("run trainer", "", schemas.Unavailable, "nothing was heard of it for %s, so it hangs: it is ended, and goes on from its last checkpoint", limit).
						WithHint("If loading the model, a step or a checkpoint takes longer, raise hang_after in the run's spec."))
					return
				}
			case <-watched.Done():
				return
			}
			timer.Reset(limit)
		}
	}()
	heard = func() {
		select {
		case news <- struct{}{}:
		default: // it is being told
		}
	}
	return watched, heard, func() { cancel(nil) }
}
