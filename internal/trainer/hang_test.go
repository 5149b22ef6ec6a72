package trainer

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"precept/schemas"
)

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		busyUntil := begun.Add(30 * time.Minute)
		ctx, heard, end := Watch(t.Context(), 10*time.Minute, func() bool { return time.Now().Before(busyUntil) })
		defer end()
		for range 5 {
			time.Sleep(9 * time.Minute)
			heard()
			synctest.Wait()
		}
		<-ctx.Done()
		if took := time.Since(begun); took != 55*time.Minute {
			t.Errorf("it took %s to be noticed, want 55m: ten minutes after it was last heard of", took)
		}
		if err := context.Cause(ctx); schemas.KindOf(err) != schemas.Unavailable {
			t.Errorf("got %v of kind %s", err, schemas.KindOf(err))
		}
	})
}

func TestWatchWaitsForWhoIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		ctx, _, end := Watch(t.Context(), 10*time.Minute, func() bool { return time.Since(begun) < time.Hour })
		defer end()
		<-ctx.Done()
		if took := time.Since(begun); took != time.Hour {
			t.Errorf("it took %s, want an hour", took)
		}
	})
}

// A process that lives and says nothing is ended, whatever it does with signals.
func TestRunEndsWhatHangs(t *testing.T) {
	c := python(t, `trap "" TERM; echo '{"event":"start","total_steps":2}'; while :; do sleep 0.05; done`)
	c.Grace = schemas.Duration(50 * time.Millisecond)
	ctx, heard, end := Watch(t.Context(), 100*time.Millisecond, nil)
	defer end()
	_, err := Run(ctx, c, "sft", t.TempDir(), SFT{Kind: "sft"}, func(Event) error { heard(); return nil })
	var hinted *schemas.Error
	if schemas.KindOf(err) != schemas.Unavailable || !errors.As(err, &hinted) {
		t.Errorf("got %v of kind %q", err, schemas.KindOf(err))
	}
}
