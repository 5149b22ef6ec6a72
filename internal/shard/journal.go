package shard

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/sourcegraph/conc/pool"

	"precept/schemas"
)

// partitions is the number of parts of the journal: one a first digit of the key.
// It is no option, since all writers of a store must agree on it.
const partitions = 16

// JournalOptions configure a Journal. Their zero value is fit for use.
type JournalOptions struct {
	// Writer names this process in the names of its segments. Defaults to "writer".
	Writer string
	// FlushEvery is the time between two flushes. Defaults to 1s.
	FlushEvery time.Duration
	// MaxLag is the age of the oldest unjournaled answer at which Ready begins to
	// hold callers back. Defaults to 2s.
	MaxLag time.Duration
	// RefreshEvery is how old a partition's listing may be when a lookup misses.
	// Defaults to 10s.
	RefreshEvery time.Duration
	// CompactEvery is the time between two compactions. Defaults to 10 minutes;
	// negative means never.
	CompactEvery time.Duration
	// MaxValues bounds the bytes of values that are held in memory; the others are
	// read again when they are looked up. Defaults to 64 MiB.
	MaxValues int64
	// Log defaults to slog.Default().
	Log *slog.Logger
}

func (o *JournalOptions) init() {
	o.Writer = plainName(o.Writer, "writer")
	o.FlushEvery = cmp.Or(o.FlushEvery, time.Second)
	o.MaxLag = cmp.Or(o.MaxLag, 2*time.Second)
	o.RefreshEvery = cmp.Or(o.RefreshEvery, 10*time.Second)
	o.CompactEvery = cmp.Or(o.CompactEvery, 10*time.Minute)
	o.MaxValues = cmp.Or(o.MaxValues, 64<<20)
	if o.Log == nil {
		o.Log = slog.Default()
	}
}

// plainName makes a name fit to be part of an object's key.
func plainName(name, standard string) string {
	if name == "" {
		return standard
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		}
		return '_'
	}, name)
}

// Journal keeps the answers to requests by request key, so that no answer that
// was paid for is paid for twice, by whatever process. Appended answers are in
// memory until the next flush writes them as segments. Where two processes have
// answered one key at the same time, the answer that was written first counts.
//
//	if err := j.Ready(ctx); err != nil { ... } // before a request is sent
//	j.Append(key, answer)                      // when its answer is there
type Journal struct {
	store   Store
	options JournalOptions
	index   *index
	flush   chan struct{} // held by the one who flushes
	stop    context.CancelFunc
	stopped sync.WaitGroup

	mu      sync.Mutex
	pending map[requestKey][]byte // appended, and not yet in the index
	buffers [partitions]buffer
	cut     []*segment    // not yet written
	lastCut time.Time     // names of segments grow
	failed  int           // flushes in a row
	failure error         // of the last flush
	flushed chan struct{} // closed by the next flush that ends
	closed  bool
}

type buffer struct {
	records []record
	oldest  time.Time
}

// segment is a buffer that got its name. It keeps it until it is written, so that
// a write whose reply was lost is not done twice.
type segment struct {
	buffer
	partition int
	name      string
}

// OpenJournal opens the journal of a store. Close it.
func OpenJournal(store Store, options JournalOptions) *Journal {
	options.init()
	ctx, stop := context.WithCancel(context.Background())
	j := &Journal{
		store: store, options: options, stop: stop,
		index:   newIndex(store, options),
		flush:   make(chan struct{}, 1),
		pending: map[requestKey][]byte{},
		flushed: make(chan struct{}),
	}
	j.stopped.Go(func() {
		every(ctx, options.FlushEvery, func() {
			if err := j.Flush(ctx); err != nil && ctx.Err() == nil {
				options.Log.Warn("journal: answers are not written yet", "error", err)
			}
		})
	})
	if options.CompactEvery > 0 {
		j.stopped.Go(func() {
			every(ctx, options.CompactEvery, func() {
				if err := j.Compact(ctx); err != nil && ctx.Err() == nil {
					options.Log.Warn("journal: not compacted", "error", err)
				}
			})
		})
	}
	return j
}

func every(ctx context.Context, d time.Duration, do func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			do()
		case <-ctx.Done():
			return
		}
	}
}

// Lookup finds a key's value: appended here, or flushed by any process up to
// RefreshEvery ago.
func (j *Journal) Lookup(ctx context.Context, key schemas.Key) (value []byte, ok bool, err error) {
	k, err := parseRequestKey(key)
	if err != nil {
		return nil, false, schemas.E("look up in the journal", string(key), schemas.InvalidInput, err)
	}
	j.mu.Lock()
	value, ok = j.pending[k]
	j.mu.Unlock()
	if ok {
		return bytes.Clone(value), true, nil
	}
	return j.index.lookup(ctx, k)
}

// Refresh finds what other processes had flushed by a time. It lists nothing that was
// listed later than that.
func (j *Journal) Refresh(ctx context.Context, flushed time.Time) error {
	for i := range j.index.partitions {
		if err := j.index.refresh(ctx, i, flushed, true); err != nil {
			return err
		}
	}
	return nil
}

// Append adds an answer to a request that Lookup did not find. It is found at once,
// and written within FlushEvery.
func (j *Journal) Append(key schemas.Key, value []byte) error {
	const op = "append to the journal"
	k, err := parseRequestKey(key)
	if err != nil {
		return schemas.E(op, string(key), schemas.InvalidInput, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return schemas.Errorf(op, string(key), schemas.Unavailable, "the journal is closed")
	}
	if _, ok := j.pending[k]; ok {
		return nil
	}
	value = bytes.Clone(value)
	j.pending[k] = value
	b := &j.buffers[k.partition()]
	if len(b.records) == 0 {
		b.oldest = time.Now()
	}
	b.records = append(b.records, record{k, value})
	return nil
}

// Ready waits while the oldest unjournaled answer is older than MaxLag. Call it
// before each request that costs money. It fails when writing keeps failing.
func (j *Journal) Ready(ctx context.Context) error {
	const op = "wait for the journal"
	for {
		j.mu.Lock()
		lag, flushed, closed, failed, failure := j.lag(), j.flushed, j.closed, j.failed, j.failure
		j.mu.Unlock()
		switch {
		case closed:
			return schemas.Errorf(op, "", schemas.Unavailable, "the journal is closed")
		case lag <= j.options.MaxLag:
			return nil
		case failed >= 3, failed > 0 && !schemas.KindOf(failure).Retryable():
			return schemas.E(op, "", schemas.KindOf(failure), failure)
		}
		select {
		case <-flushed:
		case <-ctx.Done():
			return schemas.E(op, "", schemas.Unavailable, ctx.Err())
		}
	}
}

// lag is the age of the oldest answer that is not written.
func (j *Journal) lag() (lag time.Duration) {
	for _, b := range j.buffers {
		if len(b.records) > 0 {
			lag = max(lag, time.Since(b.oldest))
		}
	}
	for _, s := range j.cut {
		lag = max(lag, time.Since(s.oldest))
	}
	return lag
}

// Flush writes what was appended so far. What can't be written stays, and the
// next flush tries again.
func (j *Journal) Flush(ctx context.Context) error {
	select {
	case j.flush <- struct{}{}:
		defer func() { <-j.flush }()
	case <-ctx.Done():
		return schemas.E("flush the journal", "", schemas.Unavailable, ctx.Err())
	}
	segments := j.cutSegments()
	if len(segments) == 0 {
		return nil
	}
	writers := pool.New().WithErrors().WithFirstError().WithMaxGoroutines(partitions) // one cause is enough for people to read
	for _, s := range segments {
		writers.Go(func() error {
			if err := j.write(ctx, s); err != nil {
				return err
			}
			j.written(s)
			return nil
		})
	}
	err := writers.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	if err == nil {
		j.failed, j.failure = 0, nil
	} else if ctx.Err() == nil {
		j.failed++
		j.failure = err
	}
	close(j.flushed)
	j.flushed = make(chan struct{})
	return err
}

// cutSegments names what is in the buffers, and returns all that is to be written.
func (j *Journal) cutSegments() []*segment {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range j.buffers {
		if len(j.buffers[i].records) == 0 {
			continue
		}
		now := time.Now()
		if !now.After(j.lastCut) {
			now = j.lastCut.Add(1)
		}
		j.lastCut = now
		j.cut = append(j.cut, &segment{buffer: j.buffers[i], partition: i, name: segmentName(i, now, j.options.Writer)})
		j.buffers[i] = buffer{}
	}
	return append([]*segment(nil), j.cut...)
}

// segmentName is unique, and grows with time within a partition.
func segmentName(partition int, now time.Time, writer string) string {
	var unique [8]byte
	rand.Read(unique[:])
	return fmt.Sprintf("%s%s-%s-%x.jsonl.zst", partitionPrefix(partition), now.UTC().Format(segmentTime), writer, unique)
}

const segmentTime = "20060102T150405.000000000Z"

// SegmentTime is the time in the name of a journal's segment: when its first answer was
// written, or a little before. It is not ok for other keys.
func SegmentTime(key string) (at time.Time, ok bool) {
	partition, name, _ := strings.Cut(strings.TrimPrefix(key, "journal/"), "/")
	stamp, writer, _ := strings.Cut(name, "-")
	at, err := time.Parse(segmentTime, stamp)
	if err != nil || len(partition) != 1 || !strings.Contains("0123456789abcdef", partition) ||
		!strings.HasPrefix(key, "journal/") || strings.Contains(writer, "/") || !strings.HasSuffix(writer, ".jsonl.zst") {
		return time.Time{}, false
	}
	return at, true
}

func partitionPrefix(partition int) string { return fmt.Sprintf("journal/%x/", partition) }

func (j *Journal) write(ctx context.Context, s *segment) error {
	_, err := j.store.Put(ctx, s.name, encodeSegment(s.records), PutOptions{IfNoneMatch: true, ContentType: "application/zstd"})
	if schemas.KindOf(err) == schemas.Conflict {
		return nil // an earlier try of ours, whose reply was lost: the name is unique
	}
	return err
}

// written moves a segment's records from what is pending into the index.
func (j *Journal) written(s *segment) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.index.add(s.partition, s.name, s.records)
	for _, r := range s.records {
		delete(j.pending, r.key)
	}
	for i := range j.cut {
		if j.cut[i] == s {
			j.cut = append(j.cut[:i], j.cut[i+1:]...)
			break
		}
	}
}

// Close flushes and ends the journal's work. When it fails, Close can be called
// again.
func (j *Journal) Close(ctx context.Context) error {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.stop()
	j.stopped.Wait()
	return j.Flush(ctx)
}
