package shard

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sourcegraph/conc/pool"

	"precept/schemas"
)

// index says where in the journal's segments each key's value is. Small values,
// up to a sum, it holds itself. A partition's segments are read when a key of it is
// first looked up, each once; segments that come later are found by listing again.
type index struct {
	store      Store
	options    JournalOptions
	partitions [partitions]*partition

	mu     sync.Mutex // guards what follows, and the partitions
	values int64      // bytes of values held
	recent []opened   // segments read again, the latest last
}

type partition struct {
	reading chan struct{} // held by the one who lists and reads
	listed  time.Time
	known   map[string]bool // segments
	entries map[requestKey]entry
}

type entry struct {
	value   []byte // nil when it is not held
	segment string
	ordinal int
}

type opened struct {
	segment string
	records []record
}

const (
	// chunk is how many segments are read before they are put into the index.
	chunk = 64
	// maxRecent is how many segments stay unpacked for lookups of values not held.
	maxRecent = 4
)

func newIndex(store Store, options JournalOptions) *index {
	x := &index{store: store, options: options}
	for i := range x.partitions {
		x.partitions[i] = &partition{reading: make(chan struct{}, 1)}
		x.partitions[i].forget()
	}
	return x
}

// lock waits for the right to list and read the partition.
func (p *partition) lock(ctx context.Context) error {
	select {
	case p.reading <- struct{}{}:
		return nil
	case <-ctx.Done():
		return schemas.E("read the journal", "", schemas.Unavailable, ctx.Err())
	}
}

func (p *partition) unlock() { <-p.reading }

func (p *partition) forget() {
	p.listed, p.known, p.entries = time.Time{}, map[string]bool{}, map[requestKey]entry{}
}

func (x *index) find(k requestKey) (entry, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e, ok := x.partitions[k.partition()].entries[k]
	return e, ok
}

func (x *index) has(k requestKey) bool {
	_, ok := x.find(k)
	return ok
}

// add takes the records of a segment.
func (x *index) add(partition int, name string, records []record) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.partitions[partition]
	p.known[name] = true
	for i, r := range records {
		if _, ok := p.entries[r.key]; ok {
			continue
		}
		e := entry{segment: name, ordinal: i}
		if size := int64(len(r.value)); x.values+size <= x.options.MaxValues {
			x.values += size
			e.value = append([]byte{}, r.value...)
		}
		p.entries[r.key] = e
	}
}

func (x *index) lookup(ctx context.Context, k requestKey) (value []byte, ok bool, err error) {
	for range 3 {
		e, ok := x.find(k)
		if !ok {
			if err := x.refresh(ctx, k.partition(), x.options.RefreshEvery); err != nil {
				return nil, false, err
			}
			if e, ok = x.find(k); !ok {
				return nil, false, nil
			}
		}
		if e.value != nil {
			return bytes.Clone(e.value), true, nil
		}
		value, err := x.read(ctx, k, e)
		if schemas.KindOf(err) != schemas.NotFound {
			return value, err == nil, err
		}
		// A compaction has moved the value elsewhere.
		if err := x.forget(ctx, k.partition(), e.segment); err != nil {
			return nil, false, err
		}
	}
	return nil, false, schemas.Errorf("look up in the journal", k.String(), schemas.Unavailable, "its segments keep moving")
}

// read gets a value that is not held in memory.
func (x *index) read(ctx context.Context, k requestKey, e entry) ([]byte, error) {
	records, ok := x.reopen(e.segment)
	if !ok {
		body, _, err := x.store.Get(ctx, e.segment)
		if err != nil {
			return nil, err
		}
		if records, err = decodeSegment(body); err != nil {
			return nil, schemas.E("read journal segment", e.segment, schemas.Internal, err)
		}
		x.mu.Lock()
		x.recent = append(x.recent, opened{e.segment, records})
		x.recent = x.recent[max(0, len(x.recent)-maxRecent):]
		x.mu.Unlock()
	}
	if e.ordinal >= len(records) || records[e.ordinal].key != k {
		return nil, schemas.Errorf("read journal segment", e.segment, schemas.Internal, "it has changed")
	}
	return bytes.Clone(records[e.ordinal].value), nil
}

func (x *index) reopen(segment string) ([]record, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, o := range x.recent {
		if o.segment == segment {
			return o.records, true
		}
	}
	return nil, false
}

// forget drops what is known of a partition, because a segment of it is gone. It has
// no effect when somebody else has done it since.
func (x *index) forget(ctx context.Context, partition int, gone string) error {
	p := x.partitions[partition]
	if err := p.lock(ctx); err != nil {
		return err
	}
	defer p.unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	if !p.known[gone] {
		return nil
	}
	for _, e := range p.entries {
		x.values -= int64(len(e.value))
	}
	p.forget()
	return nil
}

// refresh lists a partition, unless it was listed within maxAge, and reads the
// segments that are new.
func (x *index) refresh(ctx context.Context, partition int, maxAge time.Duration) error {
	p := x.partitions[partition]
	if err := p.lock(ctx); err != nil {
		return err
	}
	defer p.unlock()
	x.mu.Lock()
	listed := p.listed
	x.mu.Unlock()
	if !listed.IsZero() && time.Since(listed) < maxAge {
		return nil
	}
	for {
		start := time.Now()
		fresh, err := x.list(ctx, partition)
		if err != nil {
			return err
		}
		gone, err := x.readAll(ctx, partition, fresh)
		if err != nil {
			return err
		}
		if !gone {
			x.mu.Lock()
			p.listed = start
			x.mu.Unlock()
			return nil
		}
	}
}

// list returns the unknown segments of a partition in the order of their names,
// which is the order of time.
func (x *index) list(ctx context.Context, partition int) (fresh []string, err error) {
	var all []string
	for info, err := range x.store.List(ctx, partitionPrefix(partition)) {
		if err != nil {
			return nil, err
		}
		all = append(all, info.Key)
	}
	slices.Sort(all)
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, name := range all {
		if !x.partitions[partition].known[name] {
			fresh = append(fresh, name)
		}
	}
	return fresh, nil
}

// readAll puts segments into the index. Gone says that a compaction removed some
// since they were listed.
func (x *index) readAll(ctx context.Context, partition int, names []string) (gone bool, err error) {
	for names := range slices.Chunk(names, chunk) {
		contents := make([][]record, len(names))
		missing := make([]bool, len(names))
		readers := pool.New().WithErrors().WithMaxGoroutines(8)
		for i, name := range names {
			readers.Go(func() (err error) {
				contents[i], err = readSegment(ctx, x.store, x.options, name)
				if schemas.KindOf(err) == schemas.NotFound {
					missing[i] = true
					return nil
				}
				return err
			})
		}
		if err := readers.Wait(); err != nil {
			return false, err
		}
		for i, name := range names {
			if missing[i] {
				gone = true
				continue
			}
			x.add(partition, name, contents[i])
		}
	}
	return gone, nil
}

// readSegment reads a segment. One that can't be decoded is logged and taken for
// empty: its answers are asked for again.
func readSegment(ctx context.Context, s Store, options JournalOptions, name string) ([]record, error) {
	body, _, err := s.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	records, err := decodeSegment(body)
	if err != nil {
		options.Log.Error("journal: a segment is broken; the answers in it will be asked for again", "segment", name, "error", err)
		return nil, nil
	}
	return records, nil
}
