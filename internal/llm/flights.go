package llm

import (
	"context"
	"sync"

	"precept/schemas"
)

// flights holds the keys of the requests that are being asked. Who asks the same
// waits for its turn, and then finds the answer in the journal.
type flights struct {
	mu   sync.Mutex
	open map[schemas.Key]chan struct{} // closed when the request has ended
}

func newFlights() *flights { return &flights{open: map[schemas.Key]chan struct{}{}} }

// enter waits until nobody else asks for key. Whoever entered must leave.
func (f *flights) enter(ctx context.Context, key schemas.Key) error {
	for {
		f.mu.Lock()
		ended, busy := f.open[key]
		if !busy {
			f.open[key] = make(chan struct{})
			f.mu.Unlock()
			return nil
		}
		f.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *flights) leave(key schemas.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.open[key])
	delete(f.open, key)
}
