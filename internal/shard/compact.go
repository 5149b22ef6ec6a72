package shard

import (
	"context"
	"slices"
	"strings"
	"time"

	"precept/schemas"
)

const (
	// compactFrom is how many small segments of a partition are worth compacting.
	compactFrom = 64
	// settled is the age from which a segment is compacted.
	settled = 5 * time.Minute
	// fullSegment is the size from which a segment is left alone, and roughly the
	// size of the text that a compacted one is made of.
	fullSegment = 1 << 20
)

// Compact merges old small segments into larger ones, so that a journal is read
// with few requests. Any number of processes may do it, and die doing it: what is
// merged is written before what it was made of is removed, and a record that stands
// twice is read once.
func (j *Journal) Compact(ctx context.Context) error {
	for i := range partitions {
		if err := j.compact(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (j *Journal) compact(ctx context.Context, partition int) error {
	var names []string
	for info, err := range j.store.List(ctx, partitionPrefix(partition)) {
		if err != nil {
			return err
		}
		if isSmall(info) && time.Since(info.Modified) > settled {
			names = append(names, info.Key)
		}
	}
	if len(names) < compactFrom {
		return nil
	}
	slices.Sort(names)

	var merged []record
	var size int
	var done []string // segments that merged stands for
	seen := map[requestKey]bool{}
	replace := func() error {
		if len(done) < 2 {
			return nil
		}
		// A compacted segment takes the place of its first one in the order of time.
		s := &segment{buffer: buffer{records: merged}, partition: partition, name: compactedName(partition, done[0])}
		if err := j.write(ctx, s); err != nil {
			return err
		}
		for _, name := range done {
			if err := j.store.Delete(ctx, name); err != nil {
				return err
			}
		}
		return nil
	}
	for _, name := range names {
		body, _, err := j.store.Get(ctx, name)
		if schemas.KindOf(err) == schemas.NotFound {
			return nil // somebody else compacts this partition
		}
		if err != nil {
			return err
		}
		records, err := decodeSegment(body)
		if err != nil {
			continue // it stays for people to look at; who reads it logs it
		}
		for _, r := range records {
			if !seen[r.key] {
				seen[r.key] = true
				merged = append(merged, r)
				size += len(r.value)
			}
		}
		done = append(done, name)
		if size >= fullSegment {
			if err := replace(); err != nil {
				return err
			}
			merged, size, done = nil, 0, nil
		}
	}
	return replace()
}

// isSmall reports whether a segment is worth compacting.
func isSmall(info Info) bool { return info.Size < fullSegment/4 }

// compacted stands in the names of compacted segments for the writer.
const compacted = "compacted"

func compactedName(partition int, first string) string {
	at, ok := SegmentTime(first)
	if !ok {
		at = time.Unix(0, 0) // not a name of ours: the oldest
	}
	return segmentName(partition, at, compacted)
}

// LeftBehind finds segments, written before a time, that a compaction has merged but
// not removed, since its process died. A name proves nothing: all answers of such a
// segment were found in compacted ones that were written later.
func LeftBehind(ctx context.Context, s Store, before time.Time) (names []string, err error) {
	for i := range partitions {
		var small, merged []Info
		for info, err := range s.List(ctx, partitionPrefix(i)) {
			if err != nil {
				return nil, err
			}
			if _, ok := SegmentTime(info.Key); !ok {
				continue
			}
			if isSmall(info) && info.Modified.Before(before) {
				small = append(small, info)
			}
			if strings.Contains(info.Key, "-"+compacted+"-") {
				merged = append(merged, info)
			}
		}
		for _, info := range small {
			ok, err := isLeftBehind(ctx, s, info, merged)
			if err != nil {
				return nil, err
			}
			if ok {
				names = append(names, info.Key)
			}
		}
	}
	return names, nil
}

// isLeftBehind reports whether compacted segments hold all that a segment does. They
// begin no later than it, so that for each key the answer that counts stays the same.
func isLeftBehind(ctx context.Context, s Store, left Info, merged []Info) (bool, error) {
	at, _ := SegmentTime(left.Key)
	var open map[requestKey]bool // answers not yet found elsewhere
	for _, info := range merged {
		first, _ := SegmentTime(info.Key)
		// A compaction that ended leaves one segment at most: hardly anything is read here.
		if first.After(at) || !info.Modified.After(left.Modified.Add(settled)) {
			continue
		}
		if open == nil {
			records, ok, err := openSegment(ctx, s, left.Key)
			if err != nil || !ok {
				return false, err
			}
			open = map[requestKey]bool{}
			for _, r := range records {
				open[r.key] = true
			}
		}
		records, _, err := openSegment(ctx, s, info.Key)
		if err != nil {
			return false, err
		}
		for _, r := range records {
			delete(open, r.key)
		}
		if len(open) == 0 {
			return true, nil
		}
	}
	return false, nil
}

// openSegment reads a segment. It is not ok where it is gone, or broken: then it stays
// for people to look at.
func openSegment(ctx context.Context, s Store, name string) (records []record, ok bool, err error) {
	body, _, err := s.Get(ctx, name)
	if schemas.KindOf(err) == schemas.NotFound {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	records, err = decodeSegment(body)
	return records, err == nil, nil
}
