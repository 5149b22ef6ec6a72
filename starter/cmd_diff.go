package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"precept/internal/report"
	"precept/schemas"
)

func (a *app) diffCommand() *cobra.Command {
	var list int
	cmd := &cobra.Command{
		Use:   "diff RUN RUN",
		Short: "Compare two runs: specs, stages, rows and measures",
		Long: `Compare two runs by what the store has of them: their specs, what their stages kept and
cost, the rows of their SFT sets, their measures. Runs that go on are compared as far as
they have come. Rows are told apart by their IDs; texts are never shown.

` + exitCodes,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if list < 0 {
				return usage("--rows is %d; it must be at least 0", list)
			}
			store, err := a.open(cmd.Context(), a.config)
			if err != nil {
				return err
			}
			c, err := compare(cmd.Context(), store, schemas.RunID(args[0]), schemas.RunID(args[1]), list)
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(a.out, c)
			}
			fmt.Fprint(a.out, runLines(c), specLines(c), stageLines(c), rowLines(c), measureLines(c))
			return nil
		},
	}
	cmd.Flags().IntVar(&list, "rows", 0, "list up to so many prompt IDs of each class that differs")
	return cmd
}

// sheet is the text of a part of the comparison.
type sheet struct{ strings.Builder }

func (l *sheet) add(format string, args ...any) {
	l.WriteString(printable(fmt.Sprintf(format, args...)))
	l.WriteByte('\n')
}

// warn is a line that a reader must not miss.
func (l *sheet) warn(format string, args ...any) { l.add("! "+format, args...) }

// table adds rows of cells in columns.
func (l *sheet) table(rows ...[]any) {
	w := tabwriter.NewWriter(l, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = oneLine(fmt.Sprint(cell))
		}
		fmt.Fprintln(w, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
	}
	w.Flush() // A strings.Builder takes all.
}

// width is what a line of a terminal holds.
const width = 100

// lettered is a run with the letter that stands for it.
type lettered struct {
	name string
	side
}

func (c comparison) sides() []lettered { return []lettered{{"A", c.A}, {"B", c.B}} }

func runLines(c comparison) string {
	var l sheet
	l.table([]any{"A", c.A.Run, c.A.Name}, []any{"B", c.B.Run, c.B.Name})
	return l.String()
}

func specLines(c comparison) string {
	var l sheet
	l.WriteString("\nSpec\n")
	if c.A.Planned && c.B.Planned && len(c.Spec) == 0 {
		l.add("the specs are equal")
	}
	all := slices.Concat(c.Spec, c.Inputs)
	long := 0
	for _, ch := range all {
		long = max(long, utf8.RuneCountInString(ch.Field))
	}
	long = min(long, width/2) // a path may be as long as it likes
	for _, ch := range all {
		line := fmt.Sprintf("%-*s  %s -> %s", long, ch.Field, value(ch.A), value(ch.B))
		if utf8.RuneCountInString(line) <= width {
			l.add("%s", line)
			continue
		}
		l.add("%s", ch.Field)
		l.add("  A  %s", value(ch.A))
		l.add("  B  %s", value(ch.B))
	}
	for _, s := range c.sides() {
		if !s.Planned {
			l.warn("%s has planned nothing yet: its spec is not known", s.name)
		}
		for _, t := range s.Taken {
			l.warn("%s has taken over from run %s: %s", s.name, t.From, stageNames(t.Stages))
		}
		for _, o := range s.OtherSpecs {
			fields := "which is no longer stored"
			if o.Known {
				var names []string
				for _, ch := range o.Fields {
					names = append(names, ch.Field)
				}
				fields = "with another " + strings.Join(names, ", ")
			}
			l.warn("%s was started again: of an earlier spec, %s, are %s", s.name, fields, stageNames(o.Stages))
		}
		if len(s.OtherInputs) > 0 {
			l.warn("%s was started again: of earlier inputs are %s", s.name, stageNames(s.OtherInputs))
		}
		if len(s.Replanned) > 0 {
			l.warn("%s goes on: planned anew since they ended, and shown as they were, are %s", s.name, stageNames(s.Replanned))
		}
	}
	return l.String()
}

func stageNames(stages []schemas.Stage) string {
	names := make([]string, len(stages))
	for i, s := range stages {
		names[i] = string(s)
	}
	return strings.Join(names, ", ")
}

// value writes a field's value as it stands in JSON, plain strings without quotes.
func value(v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case string:
		return v
	case schemas.Digest:
		return v.Short()
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(raw)
}

func stageLines(c comparison) string {
	var l sheet
	l.WriteString("\nStages\n")
	if len(c.Stages) == 0 {
		l.add("neither run has come to a stage")
		return l.String()
	}
	rows := [][]any{{"stage", "kept A", "kept B", "diff", "shards shared", "paid/cached A", "paid/cached B", "USD A", "USD B"}}
	var reasons [][]any
	var models []string
	var sumA, sumB schemas.Usage
	for _, s := range c.Stages {
		difference, shared := "-", "-"
		if s.ended() {
			difference = fmt.Sprintf("%+d", s.B.Ledger.Kept-s.A.Ledger.Kept)
			shared = sharedOf(s)
			if s.A.Model != s.B.Model {
				models = append(models, fmt.Sprintf("the models of %s differ: %s -> %s", s.Stage, s.A.Model.Short(), s.B.Model.Short()))
			}
		}
		rows = append(rows, []any{s.Stage, kept(s.A), kept(s.B), difference, shared, calls(s.A), calls(s.B), dollars(s.A), dollars(s.B)})
		sumA.Add(s.A.Usage)
		sumB.Add(s.B.Usage)
		for _, r := range s.Reasons {
			what := "rejected: "
			if r.Failed {
				what = "failed: "
			}
			reasons = append(reasons, []any{s.Stage, what + string(r.Reason), r.A, r.B, fmt.Sprintf("%+d", r.B-r.A)})
		}
	}
	all := func(u schemas.Usage) passage { return passage{State: stageEnded, Usage: u} }
	rows = append(rows, []any{"all", "", "", "", "", calls(all(sumA)), calls(all(sumB)), dollars(all(sumA)), dollars(all(sumB))})
	l.table(rows...)
	for _, m := range models {
		l.add("%s", m)
	}
	if len(reasons) > 0 {
		l.WriteString("\nWhat became of the rest, where it differs\n")
		l.table(append([][]any{{"stage", "outcome", "A", "B", "diff"}}, reasons...)...)
	}
	return l.String()
}

// sharedOf is "3 of 4", or "3 of 4, 5" where the runs have different numbers of shards.
func sharedOf(s stageDiff) string {
	switch {
	case s.A.Shards+s.B.Shards == 0:
		return "-"
	case s.A.Shards == s.B.Shards:
		return fmt.Sprintf("%d of %d", s.Shared, s.A.Shards)
	}
	return fmt.Sprintf("%d of %d, %d", s.Shared, s.A.Shards, s.B.Shards)
}

func kept(p passage) string {
	if p.State != stageEnded {
		return p.State
	}
	return fmt.Sprint(p.Ledger.Kept)
}

func calls(p passage) string {
	if p.State != stageEnded {
		return "-"
	}
	return fmt.Sprintf("%d/%d", p.Usage.Paid, p.Usage.Cached)
}

func dollars(p passage) string {
	if p.State != stageEnded {
		return "-"
	}
	return schemas.FormatDollars(p.Usage.USD)
}

func rowLines(c comparison) string {
	var l sheet
	l.WriteString("\nRows of the SFT set, by prompt\n")
	d := c.Rows
	if d == nil {
		l.add("not compared: stage %s has not ended in %s", schemas.StageCurate, strings.Join(lacking(c), " and "))
		return l.String()
	}
	rows := [][]any{{"category", "in both, equal", "in both, another completion", "only in A", "only in B"}}
	row := func(name any, n rowCounts) { rows = append(rows, []any{name, n.Same, n.Other, n.OnlyA, n.OnlyB}) }
	for _, category := range slices.Sorted(maps.Keys(d.ByCategory)) {
		row(category, d.ByCategory[category])
	}
	row("all", d.rowCounts)
	l.table(rows...)
	for _, only := range []struct {
		in, other string
		counts    map[string]int64
	}{{"A", "B", d.WhyOnlyA}, {"B", "A", d.WhyOnlyB}} {
		if len(only.counts) == 0 {
			continue
		}
		l.add("")
		l.add("Only in %s: what became of them in %s", only.in, only.other)
		rows = nil
		for _, reason := range byCount(only.counts) {
			rows = append(rows, []any{reason, only.counts[reason]})
		}
		l.table(rows...)
	}
	for _, class := range []struct {
		name string
		ids  []listed
		all  int64
	}{{"In both, another completion", d.OtherIDs, d.Other}, {"Only in A", d.OnlyAIDs, d.OnlyA}, {"Only in B", d.OnlyBIDs, d.OnlyB}} {
		if len(class.ids) == 0 {
			continue
		}
		l.add("")
		l.add("%s, %d of %d (their stories: starter explain RUN ID)", class.name, len(class.ids), class.all)
		rows = nil
		for _, p := range class.ids {
			rows = append(rows, []any{p.ID, p.Why})
		}
		l.table(rows...)
	}
	return l.String()
}

// lacking names the runs that have no SFT set.
func lacking(c comparison) (names []string) {
	i := slices.IndexFunc(c.Stages, func(s stageDiff) bool { return s.Stage == schemas.StageCurate })
	if i < 0 || c.Stages[i].A.State != stageEnded {
		names = append(names, "A")
	}
	if i < 0 || c.Stages[i].B.State != stageEnded {
		names = append(names, "B")
	}
	return names
}

func measureLines(c comparison) string {
	var l sheet
	l.WriteString("\nMeasures, with their 95% intervals\n")
	rows := [][]any{{"measure", "suite", "intent", "arm", "A", "B", "diff"}}
	both := false
	for _, m := range c.Measures {
		intent := m.Intent
		if intent == "" {
			intent = "all"
		}
		rows = append(rows, []any{m.Name, clip(m.Suite, 20), intent, m.Arm, figure(m.A), figure(m.B), points(m)})
		both = both || m.Difference != nil
	}
	if len(c.Measures) > 0 {
		l.table(rows...)
	}
	if both {
		l.add("* the intervals don't overlap: a conservative sign of a difference, nothing more")
	}
	for _, caveat := range caveats(c, both) {
		l.warn("%s", caveat)
	}
	return l.String()
}

func figure(m *schemas.Measure) string {
	if m == nil {
		return "-"
	}
	return report.Value(*m)
}

// points is the difference in percentage points.
func points(m measureDiff) string {
	if m.Difference == nil {
		return "-"
	}
	s := fmt.Sprintf("%+.1f", 100**m.Difference)
	if m.Apart {
		s += " *"
	}
	return s
}

// caveats says what a reader of the figures must know; both says that some stand in both
// runs.
func caveats(c comparison, both bool) (out []string) {
	for _, s := range c.sides() {
		switch {
		case !s.Reported:
			out = append(out, s.name+" has no report yet")
		case s.Grader == "":
			out = append(out, "in "+s.name+" no answer was graded")
		case s.SameJudge:
			out = append(out, fmt.Sprintf("in %s the grader's model (%s) also filtered or rewarded", s.name, s.Grader))
		}
	}
	if both && c.A.Grader != c.B.Grader {
		out = append(out, fmt.Sprintf("the graders differ (%s, %s): the figures are not comparable", c.A.Grader, c.B.Grader))
	}
	if both && slices.ContainsFunc(c.Inputs, func(ch change) bool { return ch.Field == inputPolicy }) {
		out = append(out, "the policies differ, and each run's answers were graded by its own")
	}
	for _, suite := range c.OtherSuites {
		out = append(out, fmt.Sprintf("suite %s is not the same in both runs: its figures are not comparable", suite))
	}
	for _, s := range c.sides() {
		if len(s.Simulated) > 0 {
			out = append(out, fmt.Sprintf("simulated in %s, not real models: %s", s.name, strings.Join(s.Simulated, ", ")))
		}
	}
	return out
}
