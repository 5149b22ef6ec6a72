package gpu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"precept/schemas"
)

func quiet(string) {}

func take(t *testing.T, dir string, devices ...Device) *Lease {
	t.Helper()
	l, err := Take(t.Context(), dir, devices, "a test", quiet)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func release(t *testing.T, l *Lease) {
	t.Helper()
	if err := l.Release(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

// Sets that share a device exclude each other, others don't.
func TestLeasesExcludeEachOther(t *testing.T) {
	dir := t.TempDir()
	d := cards(9, 80, 80, 80)
	first := take(t, dir, d[0], d[1])
	release(t, take(t, dir, d[2]))

	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	var told string
	_, err := Take(ctx, dir, []Device{d[2], d[1]}, "another", func(holder string) {
		told = holder
		cancel(stop)
	})
	if !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	if want := fmt.Sprintf("process %d: a test", os.Getpid()); told != want {
		t.Errorf("it waits for %q, want %q", told, want)
	}
	// What it had taken before it gave up is free.
	release(t, take(t, dir, d[2]))

	second := make(chan *Lease)
	waits := make(chan struct{})
	go func() {
		var once bool
		l, err := Take(t.Context(), dir, d[1:], "another", func(string) {
			if !once {
				once = true
				close(waits)
			}
		})
		if err != nil {
			t.Error(err)
		}
		second <- l
	}()
	<-waits
	release(t, first)
	if l := <-second; l != nil {
		release(t, l)
	}
}

// Parts of one GPU have one lock, which must not be waited for twice.
func TestLeaseOfPartsOfOneDevice(t *testing.T) {
	part := Device{UUID: "GPU-a", Name: "NVIDIA H100 MIG 1g.10gb"}
	other := part
	other.Index = 1
	release(t, take(t, t.TempDir(), part, other))
}

func TestLeaseEnv(t *testing.T) {
	d := cards(9, 80, 80)
	l := take(t, t.TempDir(), d...)
	defer release(t, l)
	if got, want := l.Env(d[1:]), []string{markEnv + "=" + l.Mark, "CUDA_VISIBLE_DEVICES=GPU-b"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTakeWhereNothingCanBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Take(t.Context(), file, cards(9, 80), "a test", quiet); schemas.KindOf(err) != schemas.Unavailable {
		t.Errorf("got %v", err)
	}
}
