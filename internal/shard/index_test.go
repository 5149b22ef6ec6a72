package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"precept/schemas"
)

func keyOf(i int) requestKey {
	k, err := parseRequestKey(schemas.DigestOf(i))
	if err != nil {
		panic(err)
	}
	return k
}

// TestTable adds keys to a table and to a map: what the map has the table finds, and
// hardly anything else.
func TestTable(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var tab table
		want := map[int][]uint64{}
		n := rapid.IntRange(1, 5*tailLength).Draw(rt, "keys")
		spread := rapid.IntRange(1, n).Draw(rt, "spread")
		for i := range n {
			key, segment := i%spread, uint64(i/7)
			tab.add(keyOf(key), segment)
			want[key] = append(want[key], segment)
		}
		for key, segments := range want {
			got := tab.find(keyOf(key))
			slices.Sort(got)
			if !slices.Equal(got, segments) {
				rt.Fatalf("key %d is in segments %v, want %v", key, got, segments)
			}
		}
		for i := range 100 {
			if got := tab.find(keyOf(-1 - i)); len(got) != 0 {
				rt.Fatalf("a key that was never added is in segments %v", got)
			}
		}
		for i := 1; i < len(tab.runs); i++ {
			if len(tab.runs[i]) > len(tab.runs[i-1]) {
				rt.Fatalf("run %d is longer than the one before it", i)
			}
		}
	})
}

func TestUnpacked(t *testing.T) {
	segment := func(i int) []record { return []record{{keyOf(i), []byte("value")}, {keyOf(i), []byte("later")}} }
	u := newUnpacked(3 * (recordBytes + 5))
	reads := 0
	get := func(i int) string {
		values, err := u.get(t.Context(), fmt.Sprint(i), func(context.Context) ([]record, error) { reads++; return segment(i), nil })
		if err != nil {
			t.Fatal(err)
		}
		return string(values[keyOf(i)])
	}
	for _, i := range []int{1, 2, 3, 1, 4, 1} { // 2 was used longest ago
		if got := get(i); got != "value" {
			t.Errorf("segment %d has %q", i, got)
		}
	}
	if reads != 4 {
		t.Errorf("%d reads, want 4", reads)
	}
	if get(2); reads != 5 {
		t.Errorf("%d reads after one of what was dropped, want 5", reads)
	}
	if get(1); reads != 5 {
		t.Errorf("%d reads after one of what was used lately, want 5", reads)
	}
	if _, err := u.get(t.Context(), "bad", func(context.Context) ([]record, error) { return nil, errors.New("gone") }); err == nil {
		t.Error("a segment that can't be read was read")
	}

	// Those who need the same at the same time wait for one read.
	var together atomic.Int32
	var wg sync.WaitGroup
	begun, proceed := make(chan struct{}), make(chan struct{})
	read := func(context.Context) ([]record, error) {
		if together.Add(1) == 1 {
			close(begun)
		}
		<-proceed
		return segment(9), nil
	}
	for range 8 {
		wg.Go(func() {
			if values, err := u.get(t.Context(), "9", read); err != nil || string(values[keyOf(9)]) != "value" {
				t.Errorf("got %q, %v", values[keyOf(9)], err)
			}
		})
	}
	<-begun
	close(proceed)
	wg.Wait()
	if together.Load() != 1 {
		t.Errorf("%d reads at the same time, want 1", together.Load())
	}
}
