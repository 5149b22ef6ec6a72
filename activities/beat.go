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
	took func() schemas.Usage // nil where nothing is paid for
	quit chan struct{}
	done chan struct{}

	lookout *lookout // nil where no endpoint is looked after
	looked  chan struct{}
}

func startBeat(ctx context.Context) *beat { return startPaying(ctx, nil) }

// startPaying is startBeat for what takes money.
func startPaying(ctx context.Context, took func() schemas.Usage) *beat {
	b := &beat{took: took, quit: make(chan struct{}), done: make(chan struct{}), looked: make(chan struct{})}
	activity.RecordHeartbeat(ctx, b.progress())
	go func() {
		defer close(b.done)
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-b.quit:
				return
			case <-tick.C:
				activity.RecordHeartbeat(ctx, b.progress())
			}
		}
	}()
	return b
}

func (b *beat) progress() schemas.TaskProgress {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now
	if b.took != nil {
		now.Usage = b.took()
	}
	return now
}

func (b *beat) stop() {
	close(b.quit)
	<-b.done
	if b.lookout != nil {
		<-b.looked
	}
}

func (b *beat) set(p schemas.TaskProgress) {
	b.mu.Lock()
	b.now = p
	b.mu.Unlock()
}

func (b *beat) say(note string) { b.mu.Lock(); b.now.Note = note; b.mu.Unlock() }

func (b *beat) total(n int64, unit string) {
	b.mu.Lock()
	b.now.Done, b.now.Total, b.now.Unit = 0, n, unit
	b.mu.Unlock()
}

func (b *beat) add(n int64) { b.mu.Lock(); b.now.Done += n; b.mu.Unlock() }
