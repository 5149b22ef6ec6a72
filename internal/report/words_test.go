package report

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/schemas"
)

func TestCompare(t *testing.T) {
	m := func(low, high float64) schemas.Measure { return schemas.Measure{Low: low, High: high} }
	tests := []struct {
		name  string
		a, b  schemas.Measure
		lower bool
		want  string
	}{
		{"above", m(0.6, 0.8), m(0.1, 0.5), false, better},
		{"below", m(0.1, 0.5), m(0.6, 0.8), false, worse},
		{"overlap", m(0.4, 0.8), m(0.1, 0.5), false, noShown},
		{"touch", m(0.5, 0.8), m(0.1, 0.5), false, noShown},
		{"inside", m(0.3, 0.4), m(0.1, 0.9), false, noShown},
		{"above where less is better", m(0.6, 0.8), m(0.1, 0.5), true, worse},
		{"below where less is better", m(0.1, 0.5), m(0.6, 0.8), true, better},
	}
	for _, tt := range tests {
		if got := (figure{lower: tt.lower}).compare(tt.a, tt.b); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestInterval(t *testing.T) {
	for want, m := range map[string]schemas.Measure{
		"0–28":   {Low: 0, High: 0.2775},
		"72–100": {Low: 0.7225, High: 1},
		"28–29":  {Low: 0.28, High: 0.29}, // 100·0.28 is a hair above 28, 100·0.29 a hair under 29
	} {
		if got := interval(m); got != want {
			t.Errorf("interval(%v, %v) = %q, want %q", m.Low, m.High, got, want)
		}
	}
}

func TestClip(t *testing.T) {
	if got := clip("short"); got != "short" {
		t.Errorf("clip = %q", got)
	}
	got := clip(strings.Repeat("ä", maxText))
	if !strings.HasSuffix(got, "ä … (8,000 more bytes, not shown)") {
		t.Errorf("clip ends in %q", got[len(got)-60:])
	}
}

func TestText(t *testing.T) {
	d := fixture(asIs)
	d.Report.Simulated = append(d.Report.Simulated, "\x1b[31mred")
	var b strings.Builder
	if err := Text(&b, d.Report); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/table.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Error(diff)
	}

	b.Reset()
	if err := Text(&b, schemas.RunReport{}); err != nil || b.String() != "No answer was graded.\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}
