package schemas

import "testing"

func TestFormatDollars(t *testing.T) {
	for usd, want := range map[float64]string{
		0: "$0.00", 12: "$12.00", 1234.567: "$1234.57", 1.5: "$1.50", 0.6: "$0.60", 0.129: "$0.13", 0.0999: "$0.10",
		0.049: "$0.049", 0.0493: "$0.049", 0.02: "$0.02", 0.01: "$0.01", 0.0052: "$0.0052", 0.000031: "$0.000031", 1e-12: "$0.000000000001",
		-0.25: "-$0.25", -0.0031: "-$0.0031",
	} {
		if got := FormatDollars(usd); got != want {
			t.Errorf("%v is %q, want %q", usd, got, want)
		}
	}
}

func TestADecisionSetsALimitAtATime(t *testing.T) {
	before := Cost{USD: 20, Tokens: 1000}
	for _, tt := range []struct {
		d    Decision
		want Cost
		says string
	}{
		{Decision{}, before, ""},
		{Decision{USD: new(50.0)}, Cost{USD: 50, Tokens: 1000}, "$50.00"},
		{Decision{Tokens: new(int64(70))}, Cost{USD: 20, Tokens: 70}, "70 tokens"},
		{Decision{USD: new(0.0)}, Cost{Tokens: 1000}, "no limit of dollars"},
		{Decision{USD: new(80.0), Tokens: new(int64(0))}, Cost{USD: 80}, "$80.00 and no limit of tokens"},
	} {
		if got := tt.d.Budget(before); got != tt.want || tt.d.Limits() != tt.says {
			t.Errorf("sets %+v and says %q, want %+v and %q", got, tt.d.Limits(), tt.want, tt.says)
		}
	}
}
