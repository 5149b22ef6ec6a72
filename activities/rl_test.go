package activities

import (
	"testing"
	"time"
)

func TestRewardedWithin(t *testing.T) {
	for _, tt := range []struct {
		completions, atOnce int
		want                time.Duration
	}{{8, 8, 5 * time.Minute}, {9, 8, 10 * time.Minute}, {64, 8, 40 * time.Minute}, {2, 64, 5 * time.Minute}} {
		if got := rewardedWithin(tt.completions, tt.atOnce); got != tt.want {
			t.Errorf("%d, %d at once: %s, want %s", tt.completions, tt.atOnce, got, tt.want)
		}
	}
}
