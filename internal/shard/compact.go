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
		if info.Size < fullSegment/4 && time.Since(info.Modified) > settled {
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

func compactedName(partition int, first string) string {
	stamp, _, _ := strings.Cut(strings.TrimPrefix(first, partitionPrefix(partition)), "-")
	at, err := time.Parse(segmentTime, stamp)
	if err != nil {
		at = time.Unix(0, 0) // not a name of ours: the oldest
	}
	return segmentName(partition, at, "compacted")
}
