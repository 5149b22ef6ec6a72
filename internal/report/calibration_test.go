package report

import (
	"bytes"
	"strings"
	"testing"

	"precept/internal/calibrate"
	"precept/schemas"
)

func TestRenderCalibration(t *testing.T) {
	one := calibrate.Judge([]calibrate.Rated{{Score: 0.7, Good: true}}, 0.7, 0.95)
	many := calibrate.Judge([]calibrate.Rated{{Score: 0, Good: false}, {Score: 0.9, Good: true}, {Score: 1, Good: true}, {Score: 1, Good: false}}, 0.7, 0.5)
	label, other := 1.0, 0.2
	rows := []calibrate.Row{{Number: 3, Category: "self-harm", Label: &label, Score: 0.1, Other: &other, Why: "It <b>lectures</b>.", OtherWhy: "Cold.", Prompt: "<script>", Answer: "a"}}
	against := &calibrate.Against{Judge: calibrate.Rater{Endpoint: "other"}, N: 1, Rows: rows,
		Agreement: calibrate.Agree([]calibrate.Pair{{A: 0.1, B: 0.2}}, 0.7, 0.7)}
	for _, tt := range []struct {
		name  string
		r     calibrate.Report
		plots int
		want  []string
	}{
		{"one answer", calibrate.Report{Result: &one}, 2, []string{"No threshold is shown to reach a precision of 0.95"}},
		{"many", calibrate.Report{Result: &many, Misjudged: rows, Simulated: []string{"sim"}}, 2, []string{"Simulated models took part", "It &lt;b&gt;lectures", "&lt;script&gt;", `<td class="n">1.00</td><td class="n">0.10</td><td class="n">0.20</td>`}},
		{"another judge alone", calibrate.Report{Against: against}, 0, []string{"Against other", "kappa not defined", "Cold."}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.r.Judge.Endpoint, tt.r.Policy, tt.r.Votes = "judge", schemas.DigestOf("p"), 1
			var b bytes.Buffer
			if err := RenderCalibration(&b, tt.r); err != nil {
				t.Fatal(err)
			}
			page := b.String()
			if n := strings.Count(page, "<svg"); n != tt.plots || strings.Contains(page, "<script") || strings.Contains(page, "ZgotmplZ") || strings.Contains(page, "NaN") {
				t.Errorf("%d plots in\n%s", n, page)
			}
			for _, want := range tt.want {
				if !strings.Contains(page, want) {
					t.Errorf("no %q in\n%s", want, page)
				}
			}
		})
	}
}

func TestTargetText(t *testing.T) {
	good := func(n int) (out []calibrate.Rated) {
		for range n {
			out = append(out, calibrate.Rated{Score: 1, Good: true})
		}
		return out
	}
	for _, tt := range []struct {
		rated []calibrate.Rated
		want  string
	}{
		{good(100), "Threshold 1.00 reaches a precision of 0.95: at 1.00 it is 1.00 (0.96 to 1.00) of 100 kept, recall 1.00."},
		{good(10), "No threshold is shown to reach a precision of 0.95: at 1.00 it is 1.00 (0.72 to 1.00) of 10 kept. About 63 more"},
		{[]calibrate.Rated{{Score: 1}}, "No threshold reaches a precision of 0.95: at 1.00 it is 0.00"},
		{nil, ""},
	} {
		if got := TargetText(*calibrate.Judge(tt.rated, 0.7, 0.95).Target); !strings.HasPrefix(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}
