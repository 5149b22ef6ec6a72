package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"precept/schemas"
)

// Text writes the evaluation as a table for a terminal: arms as columns, measures
// as rows, each figure with its 95% interval.
func Text(w io.Writer, r schemas.RunReport) error {
	var b strings.Builder
	all := suites(r.Evaluation)
	if len(all) == 0 {
		fmt.Fprintln(&b, "No answer was graded.")
	}
	for i, s := range all {
		if i > 0 {
			fmt.Fprintln(&b)
		}
		fmt.Fprintf(&b, "Evaluation on %s (95%% intervals), graded by %s\n", s.name, r.Evaluation.Grader)
		table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, a := range s.arms {
			fmt.Fprintf(table, "\t%s", armName(a))
		}
		fmt.Fprintln(table, "\tanswers")
		for _, row := range s.rows {
			fmt.Fprint(table, row.short)
			for _, a := range s.arms {
				cell := "-"
				if m, ok := row.arms[a]; ok {
					cell = Value(m)
				}
				fmt.Fprintf(table, "\t%s", cell)
			}
			fmt.Fprintf(table, "\t%s\n", row.sizes(s.arms))
		}
		if err := table.Flush(); err != nil {
			return err
		}
		for _, a := range s.agreement {
			fmt.Fprintf(&b, "The grader reads the policy as the labels do for %d of %d %s prompts.\n", a.Agree, a.N, a.Intent)
		}
	}
	for _, s := range r.Selections {
		fmt.Fprintf(&b, "%s\n", sentence(s.Note()))
	}
	for _, c := range caveats(r) {
		fmt.Fprintf(&b, "! %s\n", c)
	}
	_, err := io.WriteString(w, printable(b.String()))
	return err
}

// sizes is the number of answers behind a row: one number where the arms have
// the same, else one an arm.
func (r row) sizes(arms []schemas.Arm) string {
	var each []string
	same := true
	for _, a := range arms {
		n := "-"
		if m, ok := r.arms[a]; ok {
			n = fmt.Sprint(m.N)
		}
		each = append(each, n)
		same = same && n == each[0]
	}
	if same {
		return each[0]
	}
	return strings.Join(each, "/")
}

// printable drops control characters: names come from outside, and a terminal
// obeys them.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0) {
			return -1
		}
		return r
	}, s)
}
