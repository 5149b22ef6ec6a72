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

// index says in which segments of the journal a key's value is. It holds eight bytes
// a key, so that its memory hardly grows with a run; values are read from their
// segments, of which the latest used stay unpacked. A partition's segments are read
// when a key of it is first looked up, each once; those that come later, or go with a
// compaction, are found by listing again.
type index struct {
	store      Store
	options    JournalOptions
	partitions [partitions]*partition
	unpacked   *unpacked
}

type partition struct {
	reading chan struct{} // held by the one who lists and reads

	mu     sync.RWMutex // guards what follows
	listed time.Time
	whole  time.Time // when all of it was listed
	// names are the segments by number, in the order in which they were found; the
	// name of one that is gone is empty. numbers is the reverse, without those.
	names   []string
	numbers map[string]uint64
	keys    table
}

// chunk is how many segments are read before they are put into the index.
const chunk = 64

func newIndex(store Store, options JournalOptions) *index {
	x := &index{store: store, options: options, unpacked: newUnpacked(options.MaxValues)}
	for i := range x.partitions {
		x.partitions[i] = &partition{reading: make(chan struct{}, 1), numbers: map[string]uint64{}}
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

// segments are those that may hold k, the earliest first.
func (p *partition) segments(k requestKey) (names []string) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, number := range p.keys.find(k) {
		if name := p.names[number]; name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// add takes the keys of a segment.
func (p *partition) add(name string, records []record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.numbers[name]; ok {
		return
	}
	number := uint64(len(p.names))
	p.names = append(p.names, name)
	p.numbers[name] = number
	for _, r := range records {
		p.keys.add(r.key, number)
	}
}

// add takes a segment that was just written. Its values are let go: who asked for them
// has them, and they are seldom looked up.
func (x *index) add(partition int, name string, records []record) {
	x.partitions[partition].add(name, records)
}

func (x *index) lookup(ctx context.Context, k requestKey) (value []byte, ok bool, err error) {
	p := x.partitions[k.partition()]
	for range 3 {
		names := p.segments(k)
		if len(names) == 0 {
			if err := x.refresh(ctx, k.partition(), time.Now().Add(-x.options.RefreshEvery), false); err != nil {
				return nil, false, err
			}
			if names = p.segments(k); len(names) == 0 {
				return nil, false, nil
			}
		}
		begun := time.Now()
		value, ok, err := x.read(ctx, k, names)
		if schemas.KindOf(err) != schemas.NotFound {
			return value, ok, err
		}
		// A compaction has moved the value elsewhere.
		if err := x.refresh(ctx, k.partition(), begun, true); err != nil {
			return nil, false, err
		}
	}
	return nil, false, schemas.Errorf("look up in the journal", k.String(), schemas.Unavailable, "its segments keep moving")
}

// read gets the first value of k in segments, any of which may be without it.
func (x *index) read(ctx context.Context, k requestKey, names []string) (value []byte, ok bool, err error) {
	for _, name := range names {
		values, err := x.unpacked.get(ctx, name, func(ctx context.Context) ([]record, error) {
			return readSegment(ctx, x.store, x.options, name)
		})
		if err != nil {
			return nil, false, err
		}
		if value, ok := values[k]; ok {
			return bytes.Clone(value), true, nil
		}
	}
	return nil, false, nil
}

// skew is how much clocks of processes may differ, and a write may take, for a segment
// to be found among the latest.
const skew = time.Minute

// wholeEvery is how often a partition is listed as a whole, not only its latest
// segments.
const wholeEvery = 10 * time.Minute

// refresh lists a partition, or its latest segments, unless that was done after a
// time, and reads the segments that are new.
func (x *index) refresh(ctx context.Context, partition int, after time.Time, whole bool) error {
	p := x.partitions[partition]
	if err := p.lock(ctx); err != nil {
		return err
	}
	defer p.unlock()
	p.mu.RLock()
	listed, all := p.listed, p.whole
	p.mu.RUnlock()
	if whole && all.After(after) || !whole && listed.After(after) {
		return nil
	}
	// A segment that was compacted stands under an old name: between two listings of
	// the latest ones it must not have become old enough for that.
	whole = whole || time.Since(all) > wholeEvery || time.Since(listed) > settled-2*skew
	for {
		start := time.Now()
		from := ""
		if !whole {
			from = partitionPrefix(partition) + listed.Add(-skew).UTC().Format(segmentTime)
		}
		added, err := x.list(ctx, partition, from)
		if err != nil {
			return err
		}
		gone, err := x.readAll(ctx, p, added)
		if err != nil {
			return err
		}
		if !gone {
			p.mu.Lock()
			p.listed = start
			if whole {
				p.whole = start
			}
			p.mu.Unlock()
			return nil
		}
	}
}

// list returns the unknown segments of a partition whose names come after one, in the
// order of their names, which is the order of time. It drops those that are gone.
func (x *index) list(ctx context.Context, partition int, after string) (added []string, err error) {
	p := x.partitions[partition]
	p.mu.RLock()
	before := uint64(len(p.names))
	p.mu.RUnlock()
	there := map[string]bool{}
	for info, err := range x.store.ListAfter(ctx, partitionPrefix(partition), after) {
		if err != nil {
			return nil, err
		}
		there[info.Key] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range there {
		if _, ok := p.numbers[name]; !ok {
			added = append(added, name)
		}
	}
	slices.Sort(added)
	for name, number := range p.numbers {
		// One that came after the listing had begun need not be in it.
		if number < before && name > after && !there[name] {
			p.names[number] = ""
			delete(p.numbers, name)
		}
	}
	return added, nil
}

// readAll puts segments into the index. Gone says that a compaction removed some
// since they were listed.
func (x *index) readAll(ctx context.Context, p *partition, names []string) (gone bool, err error) {
	for names := range slices.Chunk(names, chunk) {
		contents := make([][]record, len(names))
		missing := make([]bool, len(names))
		readers := pool.New().WithErrors().WithFirstError().WithMaxGoroutines(8)
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
			p.add(name, contents[i])
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

// table maps keys to segment numbers: 40 bits of a key above 24 bits of a number, in
// sorted runs. Who finds a key must compare the whole of it with the segment's.
type table struct {
	tail []uint64   // not sorted yet
	runs [][]uint64 // each at least as long as the next
}

const (
	tailLength = 1 << 7
	numberBits = 24
)

// mark is the upper part of k's entries.
func (t *table) mark(k requestKey) uint64 {
	var h uint64
	for word := range slices.Chunk(k[:], 8) {
		for _, b := range word {
			h = h<<8 | uint64(b)
		}
		h *= 0x9e3779b97f4a7c15
		h ^= h >> 29
	}
	return h &^ (1<<numberBits - 1)
}

// find lists the segments that may hold k.
func (t *table) find(k requestKey) (numbers []uint64) {
	low := t.mark(k)
	high := low | (1<<numberBits - 1)
	for _, e := range t.tail {
		if low <= e && e <= high {
			numbers = append(numbers, e-low)
		}
	}
	for _, run := range t.runs {
		i, _ := slices.BinarySearch(run, low)
		for ; i < len(run) && run[i] <= high; i++ {
			numbers = append(numbers, run[i]-low)
		}
	}
	return numbers
}

func (t *table) add(k requestKey, number uint64) {
	if number >= 1<<numberBits {
		// Sixteen million segments: more than a listing of a partition can bear.
		number = 1<<numberBits - 1
	}
	t.tail = append(t.tail, t.mark(k)|number)
	if len(t.tail) < tailLength {
		return
	}
	run := slices.Clone(t.tail)
	slices.Sort(run)
	t.tail = t.tail[:0]
	for n := len(t.runs); n > 0 && len(t.runs[n-1]) <= len(run); n = len(t.runs) {
		run = merge(t.runs[n-1], run)
		t.runs = t.runs[:n-1]
	}
	t.runs = append(t.runs, run)
}

func merge(a, b []uint64) []uint64 {
	out := make([]uint64, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0] <= b[0] {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}
