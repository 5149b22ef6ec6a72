package shard

import (
	"container/list"
	"context"
	"sync"

	"precept/schemas"
)

// unpacked holds the values of the segments that were used last, up to a sum of
// bytes. Answers that were journaled together are looked up together.
type unpacked struct {
	max int64

	mu     sync.Mutex
	bytes  int64
	latest *list.List // of *values, the latest used first
	byName map[string]*list.Element
	loads  map[string]*load
}

type values struct {
	segment string
	byKey   map[requestKey][]byte
	bytes   int64
}

// load is a segment being read: others that need it wait.
type load struct {
	done  chan struct{}
	byKey map[requestKey][]byte
	err   error
}

// recordBytes is about what a record takes beside its value.
const recordBytes = 128

func newUnpacked(max int64) *unpacked {
	return &unpacked{max: max, latest: list.New(), byName: map[string]*list.Element{}, loads: map[string]*load{}}
}

// get returns the values of a segment, read once for all that ask at the same time.
func (u *unpacked) get(ctx context.Context, segment string, read func(context.Context) ([]record, error)) (map[requestKey][]byte, error) {
	u.mu.Lock()
	if e, ok := u.byName[segment]; ok {
		u.latest.MoveToFront(e)
		u.mu.Unlock()
		return e.Value.(*values).byKey, nil
	}
	if l, ok := u.loads[segment]; ok {
		u.mu.Unlock()
		select {
		case <-l.done:
			return l.byKey, l.err
		case <-ctx.Done():
			return nil, schemas.E("read the journal", segment, schemas.Unavailable, ctx.Err())
		}
	}
	l := &load{done: make(chan struct{}), err: schemas.Errorf("read the journal", segment, schemas.Internal, "the reading ended in a panic")}
	u.loads[segment] = l
	u.mu.Unlock()
	defer func() {
		u.mu.Lock()
		delete(u.loads, segment)
		u.mu.Unlock()
		close(l.done)
	}()
	// It is read for all that wait, not for the first alone.
	records, err := read(context.WithoutCancel(ctx))
	if l.err = err; err == nil {
		l.byKey = u.keep(segment, records)
	}
	return l.byKey, l.err
}

// keep holds the values of a segment in place of those that were used longest ago.
// Of a key that stands twice the first value counts.
func (u *unpacked) keep(segment string, records []record) map[requestKey][]byte {
	v := &values{segment: segment, byKey: make(map[requestKey][]byte, len(records))}
	for _, r := range records {
		if _, ok := v.byKey[r.key]; !ok {
			v.byKey[r.key] = r.value
			v.bytes += int64(len(r.value)) + recordBytes
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.byName[segment]; ok {
		return v.byKey
	}
	u.byName[segment] = u.latest.PushFront(v)
	u.bytes += v.bytes
	for u.bytes > u.max && u.latest.Len() > 1 {
		oldest := u.latest.Remove(u.latest.Back()).(*values)
		delete(u.byName, oldest.segment)
		u.bytes -= oldest.bytes
	}
	return v.byKey
}
