package shard

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"precept/schemas"
)

// LeaseOptions configure a lease. Their zero value is fit for use.
type LeaseOptions struct {
	// Holder tells people who has it. Defaults to "holder".
	Holder string
	// TTL is how long a lease that isn't renewed keeps others out. It is renewed
	// three times in that. Defaults to 30s.
	TTL time.Duration
	// Note, where it is set, is what every write of the lease tells whoever takes it over.
	// As long as it returns nil, what the former holder told stays.
	Note func() json.RawMessage
	// Log defaults to slog.Default().
	Log *slog.Logger
}

// Lease is the right to work on a key. It is an object that its holder renews; who
// waits for it takes it over when it has not changed for one TTL. Nobody compares
// clocks: each measures how much time has passed on its own.
//
// A holder can lose its lease without being told, when it is frozen or cut off. So
// it calls Check before whatever only the holder may do.
type Lease struct {
	store   Store
	key     schemas.Key
	options LeaseOptions
	stop    context.CancelFunc
	stopped sync.WaitGroup

	former time.Time       // until when somebody else may have had it
	told   json.RawMessage // by the former holder

	writing sync.Mutex // held by whoever writes the object once it is ours
	mu      sync.Mutex
	state   leaseState
	etag    string
	renewed time.Time // when the last write that succeeded began
	lost    error
}

// leaseState is the object's content. Its bytes, and so its ETag, never repeat.
type leaseState struct {
	Holder   string `json:"holder"`
	Nonce    string `json:"nonce"`
	Beat     int64  `json:"beat"`
	TTL      string `json:"ttl"`
	Released bool   `json:"released,omitempty"`

	Note json.RawMessage `json:"note,omitempty"`
}

func leaseObject(key schemas.Key) string { return fmt.Sprintf("leases/%s.json", key) }

// Acquire waits until it has the lease on key, or ctx ends. Release it.
func Acquire(ctx context.Context, s Store, key schemas.Key, options LeaseOptions) (*Lease, error) {
	options.Holder = cmp.Or(options.Holder, "holder")
	options.TTL = cmp.Or(options.TTL, 30*time.Second)
	options.Log = cmp.Or(options.Log, slog.Default())
	l := &Lease{
		store: s, key: key, options: options,
		state: leaseState{Holder: options.Holder, Nonce: rand.Text(), TTL: options.TTL.String()},
	}
	if err := l.acquire(ctx); err != nil {
		return nil, err
	}
	background, stop := context.WithCancel(context.Background())
	l.stop = stop
	l.stopped.Go(func() { every(background, options.TTL/3, func() { l.renew(background) }) })
	return l, nil
}

func (l *Lease) acquire(ctx context.Context) error {
	w := watch{lease: l}
	for {
		err := w.try(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil && w.holder != "" {
			return schemas.Errorf("acquire lease", leaseObject(l.key), schemas.Unavailable, "%w while it was held by %s", ctx.Err(), w.holder)
		}
		if kind := schemas.KindOf(err); kind != schemas.Conflict && kind != schemas.NotFound {
			return err
		}
		select {
		case <-time.After(l.options.TTL / 10):
		case <-ctx.Done():
		}
	}
}

// watch is what one who waits for a lease knows of it.
type watch struct {
	lease  *Lease
	holder string
	etag   string
	since  time.Time // when the ETag was first seen
	tried  time.Time // when the last write in the lease's name began
}

// try takes the lease if nobody has it, else fails with Conflict or NotFound.
func (w *watch) try(ctx context.Context) error {
	l := w.lease
	held, info, err := l.get(ctx)
	if schemas.KindOf(err) == schemas.NotFound {
		w.tried = time.Now()
		return l.put(ctx, w.tried, PutOptions{IfNoneMatch: true})
	}
	if err != nil {
		return err
	}
	if held.Nonce == l.state.Nonce {
		// A write of ours whose reply was lost.
		l.adopt(held, info.ETag, w.tried)
		return nil
	}
	w.holder, l.former = held.Holder, time.Now()
	if held.Released {
		l.former = l.former.Add(-info.Age)
	}
	if info.ETag != w.etag {
		w.etag, w.since = info.ETag, time.Now()
	}
	ttl, _ := time.ParseDuration(held.TTL)
	if !held.Released && time.Since(w.since) < max(ttl, l.options.TTL) {
		return schemas.Errorf("acquire lease", leaseObject(l.key), schemas.Conflict, "held by %s", held.Holder)
	}
	w.tried = time.Now()
	l.told = held.Note
	l.mu.Lock()
	l.state.Note = held.Note
	l.mu.Unlock()
	return l.put(ctx, w.tried, PutOptions{IfMatch: info.ETag})
}

// get reads the lease's object. One that can't be read counts as held by somebody
// unknown.
func (l *Lease) get(ctx context.Context) (held leaseState, info Info, err error) {
	body, info, err := l.store.Get(ctx, leaseObject(l.key))
	if err != nil {
		return leaseState{}, Info{}, err
	}
	if json.Unmarshal(body, &held) != nil {
		held = leaseState{Holder: "somebody unknown"}
	}
	return held, info, nil
}

// put writes the lease's next state. Start is a time before that.
func (l *Lease) put(ctx context.Context, start time.Time, opts PutOptions) error {
	l.mu.Lock()
	state := l.state
	l.mu.Unlock()
	state.Beat++
	if l.options.Note != nil {
		if note := l.options.Note(); note != nil {
			state.Note = note
		}
	}
	body, err := json.Marshal(state)
	if err != nil {
		return err
	}
	opts.ContentType = "application/json"
	info, err := l.store.Put(ctx, leaseObject(l.key), body, opts)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state, l.etag, l.renewed = state, info.ETag, start
	return nil
}

// adopt takes a state that was written in l's name, at or after a time.
func (l *Lease) adopt(state leaseState, etag string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state, l.etag, l.renewed = state, etag, at
}

// renew renews the lease in time.
func (l *Lease) renew(ctx context.Context) {
	if err := l.Renew(ctx); err != nil && ctx.Err() == nil && schemas.KindOf(err) != schemas.Conflict {
		l.options.Log.Warn("lease not renewed yet", "key", l.key, "error", err)
	}
}

// Renew writes the lease again, with its note, unless somebody has taken it over.
func (l *Lease) Renew(ctx context.Context) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, l.options.TTL)
	defer cancel()
	for {
		start := time.Now()
		l.mu.Lock()
		etag, renewed, lost := l.etag, l.renewed, l.lost
		l.mu.Unlock()
		if lost != nil {
			return lost
		}
		err := l.put(ctx, start, PutOptions{IfMatch: etag})
		if err == nil {
			return nil
		}
		if kind := schemas.KindOf(err); kind == schemas.Conflict || kind == schemas.NotFound {
			held, info, getErr := l.get(ctx)
			switch {
			case getErr == nil && held.Nonce == l.state.Nonce && info.ETag != etag:
				// An earlier renewal, whose reply was lost.
				l.adopt(held, info.ETag, renewed)
				continue
			case getErr == nil:
				return l.lose("taken over by %s", held.Holder)
			case schemas.KindOf(getErr) == schemas.NotFound:
				return l.lose("its object was removed")
			}
			err = getErr
		}
		return err
	}
}

func (l *Lease) lose(format string, args ...any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost = schemas.Errorf("check lease", leaseObject(l.key), schemas.Conflict, format, args...)
	return l.lost
}

// Former is until when somebody else may have had the lease. It is zero where nobody had
// it, so that nobody can have begun the work.
func (l *Lease) Former() time.Time { return l.former }

// Told is the note of the lease as its former holder wrote it last; nil where there is none.
func (l *Lease) Told() json.RawMessage { return l.told }

// Check returns nil as long as nobody else can have the lease, and a Conflict
// afterwards. It asks only the clock.
func (l *Lease) Check() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil {
		return l.lost
	}
	// A fifth is left for what the caller does next.
	if age := Elapsed(l.renewed, time.Now()); age >= l.options.TTL/5*4 {
		return schemas.Errorf("check lease", leaseObject(l.key), schemas.Conflict, "not renewed for %v", age.Round(time.Millisecond))
	}
	return nil
}

// Elapsed is the time from t to now by the clock that shows more: the monotonic one
// stands still while a machine sleeps, the other one may be set back.
func Elapsed(t, now time.Time) time.Duration {
	return max(now.Sub(t), now.Round(0).Sub(t.Round(0)))
}

// Release lets others have the lease at once. It works even when ctx has ended.
// The object stays, marked as released: to delete it could delete the next
// holder's.
func (l *Lease) Release(ctx context.Context) error {
	l.stop()
	l.stopped.Wait()
	l.writing.Lock()
	defer l.writing.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.options.TTL)
	defer cancel()
	l.mu.Lock()
	etag, lost := l.etag, l.lost
	l.state.Released = true
	l.mu.Unlock()
	if lost != nil {
		return nil
	}
	l.lose("it was released")
	err := l.put(ctx, time.Now(), PutOptions{IfMatch: etag})
	if kind := schemas.KindOf(err); kind == schemas.Conflict || kind == schemas.NotFound {
		return nil // somebody else's by now
	}
	return err
}
