package fleet_test

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"precept/internal/fleet"
	"precept/internal/shard"
	"precept/schemas"
)

const endpoint = "api.teacher/1"

// process is a worker with a member, over a line of its own to the store.
type process struct {
	*fleet.Member
	*line
	name string
}

// world is a store and the processes that meet in it, within a bubble of synctest.
type world struct {
	*testing.T
	store     *shard.Memory
	processes []*process
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, store: shard.NewMemory()}
	t.Cleanup(func() {
		for _, p := range w.processes {
			p.thaw()
			p.cutOff(false)
			p.Close()
		}
	})
	return w
}

func (w *world) process(name string, o fleet.Options) *process {
	o.Log = slog.New(slog.DiscardHandler)
	l := &line{Store: w.store, frozen: make(chan struct{}, 1)}
	p := &process{fleet.New(l, endpoint, name, o), l, name}
	l.watch(func(key string, body []byte) {
		var lease struct {
			Claim  float64
			Buried bool // somebody else's, of the same name
		}
		if strings.Contains(key, "/"+name+"-") && (json.Unmarshal(body, &lease) != nil || !lease.Buried && p.Has() > lease.Claim+1e-9) {
			w.Errorf("%s uses %v and writes %s", name, p.Has(), body)
		}
	})
	w.processes = append(w.processes, p)
	return p
}

// shares asks all that run, as their pacers would before every request.
func (w *world) shares() (shares []float64) {
	sum := 0.0
	for _, p := range w.processes {
		share := 0.0
		if !p.isFrozen() && !p.isDead() {
			share = p.Share()
		}
		shares = append(shares, share)
		sum += share
	}
	if sum > 1+1e-9 {
		w.Fatalf("the shares are %v, more than all", shares)
	}
	return shares
}

// sampleEvery is how often shares are asked for.
const sampleEvery = 20 * time.Millisecond

// until asks for shares until they are these, and returns how long that took.
func (w *world) until(limit time.Duration, want ...float64) time.Duration {
	w.Helper()
	start := time.Now()
	for {
		got := w.shares()
		if slices.EqualFunc(got, want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }) {
			return time.Since(start)
		}
		if time.Since(start) > limit {
			w.Fatalf("the shares are %v after %v, want %v", got, limit, want)
		}
		time.Sleep(sampleEvery)
	}
}

// stay asks for shares for some time, in which they must be these.
func (w *world) stay(d time.Duration, want ...float64) {
	w.Helper()
	for start := time.Now(); time.Since(start) < d; time.Sleep(sampleEvery) {
		w.until(0, want...)
	}
}

// leases are the keys of the objects that are there.
func (w *world) leases() (keys []string) {
	for info, err := range w.store.List(w.Context(), "") {
		if err != nil {
			w.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

// line is a process's connection to the store.
type line struct {
	shard.Store
	frozen chan struct{} // holds something while calls neither begin nor end

	mu      sync.Mutex
	stopped bool
	cut     bool
	dead    bool
	random  *rand.Rand // where calls are slow and get lost
	calls   int

	before []func(key string, body []byte) // before an object is written
}

// freeze stops the process as SIGSTOP does.
func (l *line) freeze() {
	if !l.isFrozen() {
		l.frozen <- struct{}{}
		l.stops(true)
	}
}

func (l *line) thaw() {
	if l.isFrozen() {
		l.stops(false)
		<-l.frozen
	}
}

func (l *line) stops(stopped bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = stopped
}

func (l *line) isFrozen() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopped
}

func (l *line) cutOff(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
}

// die cuts the process off for good.
func (l *line) die() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
}

func (l *line) isDead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

// pass waits as long as a frozen process does, and fails where nothing gets through.
func (l *line) pass(key string) (lost bool, err error) {
	l.frozen <- struct{}{}
	<-l.frozen
	l.mu.Lock()
	failed := l.cut || l.dead
	var pause time.Duration
	if l.random != nil {
		pause = time.Duration(l.random.Int64N(int64(100 * time.Millisecond)))
		switch l.random.IntN(20) {
		case 0:
			pause = time.Duration(l.random.Int64N(int64(2 * fleet.TTL)))
		case 1:
			failed = true
		}
		lost = l.random.IntN(10) == 0
	}
	l.calls++
	l.mu.Unlock()
	time.Sleep(pause)
	l.frozen <- struct{}{}
	<-l.frozen
	if failed {
		return false, schemas.Errorf("ask the store", key, schemas.Unavailable, "no route to host")
	}
	return lost, nil
}

// A call that has begun ends in the store, whether or not its caller still waits.
func (l *line) ended(ctx context.Context, key string, lost bool) error {
	_, err := l.pass(key)
	if err == nil && lost {
		err = schemas.Errorf("ask the store", key, schemas.Unavailable, "connection reset")
	}
	if err == nil && ctx.Err() != nil {
		err = schemas.E("ask the store", key, schemas.Unavailable, ctx.Err())
	}
	return err
}

func (l *line) Get(ctx context.Context, key string) ([]byte, shard.Info, error) {
	lost, err := l.pass(key)
	if err != nil {
		return nil, shard.Info{}, err
	}
	body, info, err := l.Store.Get(context.WithoutCancel(ctx), key)
	if end := l.ended(ctx, key, lost); end != nil {
		return nil, shard.Info{}, end
	}
	return body, info, err
}

func (l *line) Put(ctx context.Context, key string, body []byte, opts shard.PutOptions) (shard.Info, error) {
	lost, err := l.pass(key)
	if err != nil {
		return shard.Info{}, err
	}
	l.mu.Lock()
	before := l.before
	l.mu.Unlock()
	for _, f := range before {
		f(key, body)
	}
	info, err := l.Store.Put(context.WithoutCancel(ctx), key, body, opts)
	if lost && len(body)%2 == 0 {
		// The SDK tries again by itself, and hears of its own write.
		lost, info = false, shard.Info{}
		info, err = l.Store.Put(context.WithoutCancel(ctx), key, body, opts)
	}
	if end := l.ended(ctx, key, lost); end != nil {
		return shard.Info{}, end
	}
	return info, err
}

func (l *line) Delete(ctx context.Context, key string) error {
	lost, err := l.pass(key)
	if err != nil {
		return err
	}
	err = l.Store.Delete(context.WithoutCancel(ctx), key)
	if end := l.ended(ctx, key, lost); end != nil {
		return end
	}
	return err
}

func (l *line) List(ctx context.Context, prefix string) iter.Seq2[shard.Info, error] {
	return func(yield func(shard.Info, error) bool) {
		lost, err := l.pass(prefix)
		if err != nil {
			yield(shard.Info{}, err)
			return
		}
		var found []shard.Info
		for info, err := range l.Store.List(context.WithoutCancel(ctx), prefix) {
			if err != nil {
				yield(shard.Info{}, err)
				return
			}
			// No two clocks are ever compared.
			info.Modified, info.Age = info.Modified.Add(time.Duration(len(info.Key))*1000*time.Hour), 0
			found = append(found, info)
		}
		if err := l.ended(ctx, prefix, lost); err != nil {
			yield(shard.Info{}, err)
			return
		}
		for _, info := range found {
			if !yield(info, nil) {
				return
			}
		}
	}
}

// watch calls f before an object is written.
func (l *line) watch(f func(key string, body []byte)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.before = append(l.before, f)
}

func (l *line) count() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, l.calls = l.calls/2, 0 // each passes twice
	return n
}

func named(i int) string { return fmt.Sprintf("worker-%d", i) }

// calm ends the noise on the line.
func (l *line) calm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.random = nil
}
