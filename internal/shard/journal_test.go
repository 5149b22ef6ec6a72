package shard_test

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"precept/internal/shard"
	"precept/internal/shard/shardtest"
	"precept/schemas"
)

// manual is the options of a journal that does nothing by itself.
func manual() shard.JournalOptions {
	return shard.JournalOptions{FlushEvery: time.Hour, CompactEvery: -1}
}

func open(t testing.TB, s shard.Store, options shard.JournalOptions) *shard.Journal {
	j := shard.OpenJournal(s, options)
	t.Cleanup(func() {
		if err := j.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return j
}

func request(i int) schemas.Key { return schemas.DigestOf(i) }

func wantValue(t testing.TB, j *shard.Journal, key schemas.Key, want string) {
	t.Helper()
	got, ok, err := j.Lookup(t.Context(), key)
	if err != nil || !ok || string(got) != want {
		t.Fatalf("Lookup(%s) = %q, %v, %v, want %q", key.Short(), got, ok, err, want)
	}
}

func wantNothing(t testing.TB, j *shard.Journal, key schemas.Key) {
	t.Helper()
	if got, ok, err := j.Lookup(t.Context(), key); err != nil || ok {
		t.Fatalf("Lookup(%s) = %q, %v, %v, want nothing", key.Short(), got, ok, err)
	}
}

func TestJournal(t *testing.T) {
	for name, s := range map[string]shard.Store{"memory": shard.NewMemory(), "s3": shardtest.S3(t)} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			j := open(t, s, manual())
			wantNothing(t, j, request(0))
			for i := range 40 {
				if err := j.Append(request(i), fmt.Append(nil, `{"n":`, i, `}`)); err != nil {
					t.Fatal(err)
				}
			}
			if err := j.Append(request(7), []byte("late")); err != nil {
				t.Fatal(err)
			}
			wantValue(t, j, request(7), `{"n":7}`)
			other := open(t, s, manual())
			wantNothing(t, other, request(7))
			if err := j.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			if err := other.Refresh(ctx, time.Now()); err != nil {
				t.Fatal(err)
			}
			// One that holds no values reads them again.
			options := manual()
			options.MaxValues = 1
			for _, j := range []*shard.Journal{j, other, open(t, s, manual()), open(t, s, options)} {
				for i := range 40 {
					wantValue(t, j, request(i), fmt.Sprintf(`{"n":%d}`, i))
				}
				wantNothing(t, j, request(40))
			}
			for info, err := range s.List(ctx, "") {
				if err != nil || !strings.HasPrefix(info.Key, "journal/") || !strings.HasSuffix(info.Key, ".jsonl.zst") {
					t.Errorf("object %s, %v", info.Key, err)
				}
			}
		})
	}
}

// TestJournalProperty runs writers that append, flush, die and come back. A fresh
// reader finds all that was flushed, the first value of each key, and nothing else.
func TestJournalProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ctx := t.Context()
		s := shard.NewMemory()
		writers := make([]*shard.Journal, 3)
		appended := make([]map[int]string, 3) // not flushed
		flushed := map[int]string{}
		start := func(w int) {
			options := manual()
			options.Writer = fmt.Sprint("writer ", w)
			options.RefreshEvery = time.Nanosecond
			options.MaxValues = rapid.Int64Range(1, 100).Draw(rt, "max values")
			writers[w], appended[w] = shard.OpenJournal(s, options), map[int]string{}
		}
		for w := range writers {
			start(w)
		}
		writer := rapid.IntRange(0, 2)
		key := rapid.IntRange(0, 30)
		n := 0
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				w, k := writer.Draw(rt, "writer"), key.Draw(rt, "key")
				n++
				value := fmt.Sprintf(`"%d by %d"`, n, w)
				if _, ok, err := writers[w].Lookup(ctx, request(k)); err != nil {
					rt.Fatal(err)
				} else if !ok {
					appended[w][k] = value
				}
				if err := writers[w].Append(request(k), []byte(value)); err != nil {
					rt.Fatal(err)
				}
			},
			"flush": func(rt *rapid.T) {
				w := writer.Draw(rt, "writer")
				if err := writers[w].Flush(ctx); err != nil {
					rt.Fatal(err)
				}
				for k, value := range appended[w] {
					if _, ok := flushed[k]; !ok {
						flushed[k] = value
					}
				}
				clear(appended[w])
			},
			"crash": func(rt *rapid.T) {
				w := writer.Draw(rt, "writer")
				shard.Crash(writers[w])
				start(w)
			},
			"read": func(rt *rapid.T) {
				reader := shard.OpenJournal(s, manual())
				defer shard.Crash(reader)
				for k := range 31 {
					got, ok, err := reader.Lookup(ctx, request(k))
					if err != nil {
						rt.Fatal(err)
					}
					if want, there := flushed[k]; ok != there || string(got) != want {
						rt.Fatalf("Lookup(%d) = %q, %v, want %q, %v", k, got, ok, want, there)
					}
				}
			},
		})
		for _, w := range writers {
			shard.Crash(w)
		}
	})
}

func TestJournalBrokenSegment(t *testing.T) {
	ctx, s := t.Context(), shard.NewMemory()
	for i := range 2 {
		j := shard.OpenJournal(s, manual())
		j.Append(schemas.Key(strings.Repeat("a", 63)+fmt.Sprint(i)), []byte("1"))
		if err := j.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for info := range s.List(ctx, "journal/a/") {
		names = append(names, info.Key)
	}
	body, _, _ := s.Get(ctx, names[0])
	s.Put(ctx, names[0], body[:len(body)-3], shard.PutOptions{})

	var log bytes.Buffer
	options := manual()
	options.Log = slog.New(slog.NewTextHandler(&log, nil))
	j := open(t, s, options)
	wantNothing(t, j, schemas.Key(strings.Repeat("a", 63)+"0"))
	wantValue(t, j, schemas.Key(strings.Repeat("a", 63)+"1"), "1")
	if err := j.Refresh(ctx, time.Now()); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), names[0]); n != 1 {
		t.Errorf("the broken segment is named %d times in the log, want once:\n%s", n, log.String())
	}
}

// listed counts the listings of a store.
type listed struct {
	shard.Store
	times int
}

func (l *listed) ListAfter(ctx context.Context, prefix, after string) iter.Seq2[shard.Info, error] {
	l.times++
	return l.Store.ListAfter(ctx, prefix, after)
}

// TestJournalRefresh finds what another process flushed, and lists nothing that a listing
// of before holds for sure.
func TestJournalRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, s := t.Context(), &listed{Store: shard.NewMemory()}
		other, j := open(t, s, manual()), open(t, s, manual())
		for i, ago := range []time.Duration{0, time.Second, time.Hour} { // from the flush to the refresh
			if err := other.Append(request(i), []byte("1")); err != nil {
				t.Fatal(err)
			}
			if err := other.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			flushed := time.Now()
			time.Sleep(ago)
			if err := j.Refresh(ctx, flushed); err != nil {
				t.Fatal(err)
			}
			wantValue(t, j, request(i), "1")
			before := s.times
			time.Sleep(time.Millisecond)
			if err := j.Refresh(ctx, flushed); err != nil {
				t.Fatal(err)
			}
			if again := s.times > before; again != (ago == 0) {
				t.Errorf("a second refresh %s after the flush: listed again is %v", ago, again)
			}
		}
	})
}

func TestJournalKeys(t *testing.T) {
	j := open(t, shard.NewMemory(), manual())
	for _, key := range []schemas.Key{"", "abc", schemas.Key(strings.Repeat("A", 64)), schemas.Key(strings.Repeat("x", 64))} {
		if err := j.Append(key, nil); schemas.KindOf(err) != schemas.InvalidInput {
			t.Errorf("Append(%q): %v, want InvalidInput", key, err)
		}
		if _, _, err := j.Lookup(t.Context(), key); schemas.KindOf(err) != schemas.InvalidInput {
			t.Errorf("Lookup(%q): %v, want InvalidInput", key, err)
		}
	}
}

// outage is a store whose writes can be made to fail.
type outage struct {
	shard.Store
	err atomic.Pointer[schemas.Error]
}

func (o *outage) Put(ctx context.Context, key string, body []byte, opts shard.PutOptions) (shard.Info, error) {
	if err := o.err.Load(); err != nil {
		return shard.Info{}, err
	}
	return o.Store.Put(ctx, key, body, opts)
}

// TestJournalReady passes time in a bubble: answers are written within a second,
// and callers are held back while they can't be.
func TestJournalReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s := &outage{Store: shard.NewMemory()}
		j := shard.OpenJournal(s, shard.JournalOptions{Log: slog.New(slog.DiscardHandler)})
		defer j.Close(context.Background())
		ready := func() (time.Duration, error) {
			start := time.Now()
			err := j.Ready(ctx)
			return time.Since(start), err
		}
		j.Append(request(1), []byte("1"))
		time.Sleep(1500 * time.Millisecond)
		other := shard.OpenJournal(s, manual())
		wantValue(t, other, request(1), "1")
		shard.Crash(other)

		s.err.Store(schemas.E("put", "", schemas.Unavailable, nil))
		j.Append(request(2), []byte("2")) // at 1.5 s
		if wait, err := ready(); wait != 0 || err != nil {
			t.Errorf("Ready with a fresh answer waits %v, %v", wait, err)
		}
		time.Sleep(2100 * time.Millisecond) // 3.6 s; flushes failed at 2 and 3
		go func() {
			time.Sleep(300 * time.Millisecond) // heals before the third try
			s.err.Store(nil)
		}()
		if wait, err := ready(); wait != 400*time.Millisecond || err != nil {
			t.Errorf("Ready in a short outage waits %v, %v, want 400ms", wait, err)
		}

		s.err.Store(schemas.E("put", "", schemas.Unavailable, nil))
		j.Append(request(3), []byte("3"))
		for i := range 40 { // in many partitions
			j.Append(request(100+i), []byte("3"))
		}
		time.Sleep(2500 * time.Millisecond)
		if wait, err := ready(); wait > 2*time.Second || schemas.KindOf(err) != schemas.Unavailable {
			t.Errorf("Ready in a long outage waits %v, %v, want Unavailable soon", wait, err)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("the outage is told more than once: %v", err)
		}
		if err := j.Flush(ctx); schemas.KindOf(err) != schemas.Unavailable {
			t.Errorf("Flush in an outage: %v", err)
		}
		wantValue(t, j, request(3), "3")
		s.err.Store(nil)
		if err := j.Flush(ctx); err != nil {
			t.Error(err)
		}
		if _, err := ready(); err != nil {
			t.Errorf("Ready after an outage: %v", err)
		}

		s.err.Store(schemas.E("put", "", schemas.InvalidInput, nil))
		j.Append(request(4), []byte("4"))
		time.Sleep(2500 * time.Millisecond)
		if wait, err := ready(); wait != 0 || schemas.KindOf(err) != schemas.InvalidInput {
			t.Errorf("Ready without access waits %v, %v, want InvalidInput at once", wait, err)
		}
		s.err.Store(nil)
	})
}

// TestJournalLostReply repeats a write that had been done: it is no second answer.
func TestJournalLostReply(t *testing.T) {
	ctx := t.Context()
	s := &lossy{Store: shard.NewMemory()}
	s.lose.Store(true)
	j := open(t, s, manual())
	j.Append(request(1), []byte("1"))
	if err := j.Flush(ctx); schemas.KindOf(err) != schemas.Unavailable {
		t.Fatalf("Flush: %v, want Unavailable", err)
	}
	s.lose.Store(false)
	if err := j.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	n := 0
	for range s.List(ctx, "journal/") {
		n++
	}
	if n != 1 {
		t.Errorf("%d segments, want 1", n)
	}
}

// lossy is a store whose replies to writes can get lost.
type lossy struct {
	shard.Store
	lose atomic.Bool
}

func (l *lossy) Put(ctx context.Context, key string, body []byte, opts shard.PutOptions) (shard.Info, error) {
	info, err := l.Store.Put(ctx, key, body, opts)
	if l.lose.Load() {
		return shard.Info{}, schemas.Errorf("put", key, schemas.Unavailable, "connection reset")
	}
	return info, err
}

func TestJournalCompact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, s := t.Context(), shard.NewMemory()
		count := func() (n int) {
			for range s.List(ctx, "journal/") {
				n++
			}
			return n
		}
		key := func(i int) schemas.Key { return schemas.Key(fmt.Sprintf("%064x", i)) } // all in partition 0
		j := shard.OpenJournal(s, manual())
		defer j.Close(context.Background())
		for i := range 200 {
			j.Append(key(i), []byte("first"))
			if err := j.Flush(ctx); err != nil {
				t.Fatal(err)
			}
		}
		options := manual()
		options.MaxValues = 1 // its index names segments
		reader := shard.OpenJournal(s, options)
		defer shard.Crash(reader)
		wantValue(t, reader, key(5), "first")

		time.Sleep(time.Second)
		// Another process didn't know of the first value.
		late := shard.OpenJournal(s, manual())
		late.Append(key(3), []byte("late"))
		if err := late.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if err := j.Compact(ctx); err != nil || count() != 201 {
			t.Fatalf("fresh segments are compacted to %d, %v", count(), err)
		}
		time.Sleep(6 * time.Minute)
		if err := j.Compact(ctx); err != nil || count() != 1 {
			t.Fatalf("old segments are compacted to %d, %v, want 1", count(), err)
		}
		fresh := shard.OpenJournal(s, manual())
		defer shard.Crash(fresh)
		for i := range 200 {
			wantValue(t, fresh, key(i), "first")
			wantValue(t, reader, key(i), "first")
			wantValue(t, j, key(i), "first")
		}
	})
}

// failing is a store whose Delete fails from the nth call on.
type failing struct {
	shard.Store
	left int
}

func (f *failing) Delete(ctx context.Context, key string) error {
	if f.left == 0 {
		return schemas.Errorf("delete", key, schemas.Unavailable, "connection reset")
	}
	f.left--
	return f.Store.Delete(ctx, key)
}

// TestLeftBehind: what a compaction that died has left can go, and no answer with it.
func TestLeftBehind(t *testing.T) {
	for _, removed := range []int{0, 1, 40} {
		synctest.Test(t, func(t *testing.T) {
			ctx, s := t.Context(), shard.NewMemory()
			key := func(i int) schemas.Key { return schemas.Key(fmt.Sprintf("%064x", i)) } // all in partition 0
			j := shard.OpenJournal(&failing{s, removed}, manual())
			defer shard.Crash(j)
			write := func(from, to int, value string) {
				t.Helper()
				for i := from; i < to; i++ {
					// What another process has answered too isn't looked up first.
					j.Append(key(i), []byte(value))
					if err := j.Flush(ctx); err != nil {
						t.Fatal(err)
					}
				}
			}
			leftBehind := func() []string {
				t.Helper()
				names, err := shard.LeftBehind(ctx, s, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				return names
			}
			write(0, 100, "first")
			time.Sleep(time.Second)
			write(50, 60, "late")
			time.Sleep(6 * time.Minute)
			if got := leftBehind(); len(got) != 0 {
				t.Errorf("before a compaction, %v", got)
			}
			if err := j.Compact(ctx); schemas.KindOf(err) != schemas.Unavailable {
				t.Fatalf("Compact: %v, want Unavailable", err)
			}
			write(200, 210, "fresh")
			time.Sleep(6 * time.Minute)
			write(210, 220, "fresh")
			if got, err := shard.LeftBehind(ctx, s, time.Now().Add(-time.Hour)); err != nil || len(got) != 0 {
				t.Errorf("of an hour ago, %v, %v", got, err)
			}
			time.Sleep(time.Nanosecond) // all is older than now
			got := leftBehind()
			if len(got) != 110-removed {
				t.Fatalf("%d segments are found, want %d", len(got), 110-removed)
			}
			for _, name := range got {
				if err := s.Delete(ctx, name); err != nil {
					t.Fatal(err)
				}
			}
			fresh := shard.OpenJournal(s, manual())
			defer shard.Crash(fresh)
			for i := range 100 {
				wantValue(t, fresh, key(i), "first")
			}
			for i := 200; i < 220; i++ {
				wantValue(t, fresh, key(i), "fresh")
			}
		})
	}
}

// TestBrokenIsNotLeftBehind: a segment that can't be read stays for people to look at,
// and proves nothing about others.
func TestBrokenIsNotLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, s := t.Context(), shard.NewMemory()
		j := shard.OpenJournal(s, manual())
		j.Append(request(0), []byte("first"))
		if err := j.Close(ctx); err != nil {
			t.Fatal(err)
		}
		var segment shard.Info
		for info := range s.List(ctx, "journal/") {
			segment = info
		}
		body, _, err := s.Get(ctx, segment.Key)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		folder, name, _ := strings.Cut(segment.Key, "Z-")
		for _, broken := range []string{folder + "Z-compacted-00.jsonl.zst", strings.Replace(segment.Key, name, "broken-00.jsonl.zst", 1)} {
			if _, err := s.Put(ctx, broken, body[:len(body)-3], shard.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour)
		if got, err := shard.LeftBehind(ctx, s, time.Now()); err != nil || len(got) != 0 {
			t.Errorf("%v, %v", got, err)
		}
		time.Sleep(time.Hour)
		if _, err := s.Put(ctx, folder+"Z-compacted-01.jsonl.zst", body, shard.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if got, err := shard.LeftBehind(ctx, s, time.Now()); err != nil || len(got) != 1 || got[0] != segment.Key {
			t.Errorf("with a whole one: %v, %v", got, err)
		}
	})
}

func TestSegmentTime(t *testing.T) {
	ctx, s := t.Context(), shard.NewMemory()
	options := manual()
	options.Writer = "a-writer/of some host"
	j := open(t, s, options)
	before := time.Now()
	for i := range 40 {
		j.Append(request(i), []byte("x"))
	}
	if err := j.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	for info := range s.List(ctx, "") {
		if at, ok := shard.SegmentTime(info.Key); !ok || at.Before(before) || at.After(time.Now()) {
			t.Errorf("the time of %s is %s, %v", info.Key, at, ok)
		}
	}
	for _, key := range []string{
		"", "journal/", "journal/0/x-w-00.jsonl.zst", "journal/g/20260301T120000.000000000Z-w-00.jsonl.zst", "journal/00/20260301T120000.000000000Z-w-00.jsonl.zst",
		"other/0/20260301T120000.000000000Z-w-00.jsonl.zst", "0/20260301T120000.000000000Z-w-00.jsonl.zst",
		"journal/0/20260301T120000.000000000Z-w-00.jsonl", "journal/0/20260301T120000.000000000Z-w/00.jsonl.zst", "journal/0/20260301T120000.000000000Z",
	} {
		if at, ok := shard.SegmentTime(key); ok {
			t.Errorf("the time of %q is %s", key, at)
		}
	}
}
