package activities

import (
	"context"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	"precept/schemas"
)

// beat heartbeats a task by timer and tells people how far it is.
type beat struct {
	mu   sync.Mutex
	now  schemas.TaskProgress
	quit chan struct{}
	done chan struct{}
}

func startBeat(ctx context.Context) *beat {
	b := &beat{quit: make(chan struct{}), done: make(chan struct{})}
	// What an earlier attempt took is known by its last heartbeat. When the worker was
	// killed, that lacks what came after it.
	var before schemas.TaskProgress
	if activity.HasHeartbeatDetails(ctx) && activity.GetHeartbeatDetails(ctx, &before) == nil {
		b.now.Usage = before.Usage
	}
	activity.RecordHeartbeat(ctx, b.now)
	go func() {
		defer close(b.done)
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-b.quit:
				activity.RecordHeartbeat(ctx, b.progress()) // an attempt that failed tells the next one what it took
				return
			case <-tick.C:
				activity.RecordHeartbeat(ctx, b.progress())
			}
		}
	}()
	return b
}

func (b *beat) progress() schemas.TaskProgress { b.mu.Lock(); defer b.mu.Unlock(); return b.now }

func (b *beat) stop() { close(b.quit); <-b.done }

func (b *beat) set(p schemas.TaskProgress) {
	b.mu.Lock()
	p.Usage = b.now.Usage
	b.now = p
	b.mu.Unlock()
}

// spend sums what calls took.
func (b *beat) spend(u schemas.Usage) { b.mu.Lock(); b.now.Usage.Add(u); b.mu.Unlock() }

func (b *beat) usage() schemas.Usage { return b.progress().Usage }

func (b *beat) say(note string) { b.mu.Lock(); b.now.Note = note; b.mu.Unlock() }

func (b *beat) total(n int64, unit string) {
	b.mu.Lock()
	b.now.Done, b.now.Total, b.now.Unit = 0, n, unit
	b.mu.Unlock()
}

func (b *beat) add(n int64) { b.mu.Lock(); b.now.Done += n; b.mu.Unlock() }
