package garbage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sourcegraph/conc/pool"

	"precept/internal/shard"
	"precept/schemas"
)

// Removed is what was removed.
type Removed struct {
	Sum
	// Spared counts what was garbage when it was found, but not any more when it was to
	// be removed: it has been named, written again, or removed by somebody else.
	Spared int64 `json:"spared"`
}

// lease is the key of the lease that one removal holds at a time.
const lease = "gc"

// batch is how many objects are removed between two looks at the roots.
const batch = 500

// skew is how much the clocks of store and program may differ.
const skew = 5 * time.Minute

// Remove removes the garbage. It looks at the roots again before every few hundred
// objects, and once more at the end: what a run has come to need after it was removed
// is an error that names it. When it fails it says what was removed until then.
func (f *Found) Remove(ctx context.Context) (removed Removed, err error) {
	wait, cancel := context.WithTimeout(ctx, time.Minute) // one that died has lost it by then
	defer cancel()
	held, err := shard.Acquire(wait, f.roots.store, lease, shard.LeaseOptions{Holder: "starter gc"})
	if err != nil {
		if ctx.Err() == nil && wait.Err() != nil {
			err = schemas.Errorf(op, "", schemas.Conflict, "another starter gc removes garbage: %w", err)
		}
		return removed, err
	}
	defer func() { err = errors.Join(err, held.Release(ctx)) }()
	if err := f.checkClock(ctx); err != nil {
		return removed, err
	}
	for items := range f.batches() {
		if err := held.Check(); err != nil {
			return removed, err
		}
		if err := f.lookAgain(ctx); err != nil {
			return removed, err
		}
		if err := f.removeAll(ctx, items, &removed); err != nil {
			return removed, err
		}
	}
	if err := f.roots.look(ctx); err != nil {
		return removed, err
	}
	return removed, f.missed()
}

// checkClock refuses to go by a clock that isn't the store's: what is young is told by
// it.
func (f *Found) checkClock(ctx context.Context) error {
	info, err := f.roots.store.Head(ctx, fmt.Sprintf("leases/%s.json", lease)) // just written
	if err != nil {
		return err
	}
	if off := time.Since(info.Modified); off.Abs() > skew {
		return schemas.Errorf(op, "", schemas.Conflict, "this machine's clock and the store's differ by %s", off.Round(time.Second)).
			WithHint("Set the clock: the ages of objects are told by it")
	}
	return nil
}

// lookAgain finds what has come to be needed, and refuses to go on while that can't be
// known: a run that copies its inputs names them when it has all of them.
func (f *Found) lookAgain(ctx context.Context) error {
	if err := f.roots.look(ctx); err != nil {
		return err
	}
	if runs := f.roots.importing; len(runs) > 0 {
		return schemas.Errorf(op, "", schemas.Conflict, "run %s has not copied all its inputs yet", runs[0]).
			WithHint("Try again when it has planned its first stage; see how far it is: starter progress %s", schemas.ShellWord(string(runs[0])))
	}
	return nil
}

// batches parts the garbage, so that nothing of a kind is removed before all of the
// kinds before it.
func (f *Found) batches() func(yield func([]item) bool) {
	return func(yield func([]item) bool) {
		for start := 0; start < len(f.items); {
			end, objects := start, 0
			for end < len(f.items) && f.items[end].kind == f.items[start].kind && objects < batch {
				objects += len(f.items[end].objects)
				end++
			}
			if !yield(f.items[start:end]) {
				return
			}
			start = end
		}
	}
}

func (f *Found) removeAll(ctx context.Context, items []item, removed *Removed) error {
	var mu sync.Mutex
	p := pool.New().WithContext(ctx).WithCancelOnError().WithFirstError().WithMaxGoroutines(atOnce)
	for n := range items {
		i := &items[n]
		p.Go(func(ctx context.Context) error {
			sum, err := f.remove(ctx, *i)
			mu.Lock()
			defer mu.Unlock()
			i.removed = sum.Objects > 0
			removed.add(sum)
			if err == nil {
				removed.Spared += i.sum().Objects - sum.Objects
			}
			return err
		})
	}
	return p.Wait()
}

// remove removes an item, unless it is needed or was written again.
func (f *Found) remove(ctx context.Context, i item) (s Sum, err error) {
	store, before := f.roots.store, f.roots.cutoff
	if f.roots.has(i.name) {
		return s, nil
	}
	if i.folder != "" {
		gone, err := shard.RemoveFolder(ctx, store, i.folder, before)
		return item{objects: gone}.sum(), err
	}
	ok, err := shard.Remove(ctx, store, i.name, before)
	if err != nil || !ok {
		return s, err
	}
	return i.sum(), nil
}

// missed tells what has come to be needed after it was removed.
func (f *Found) missed() error {
	var names []string
	var by string
	for _, i := range f.items {
		if i.removed && f.roots.has(i.name) {
			names, by = append(names, i.name), f.roots.refs[i.name]
		}
	}
	e := schemas.E(op, "", schemas.Conflict, nil)
	switch runs := f.roots.importing; {
	case len(names) > 0:
		e.Err = fmt.Errorf("%s came to be needed while garbage was removed: %s has come to name it", strings.Join(names, ", "), by)
	case len(runs) > 0:
		e.Err = fmt.Errorf("run %s began to copy its inputs while garbage was removed", runs[0])
	default:
		return nil
	}
	return e.WithHint("A run makes again what it does not find. Where it stops for something that is gone, terminate it and start it again under its ID")
}
