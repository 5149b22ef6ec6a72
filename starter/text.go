package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"precept/schemas"
)

// clock writes a duration for people: "4.2s", "3m05s", "1h02m".
func clock(d time.Duration) string {
	switch {
	case d < 0:
		return "0.0s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	default:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// clip cuts s to n characters and shows that it did.
func clip(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:max(n-1, 0)]) + "…"
}

// wrap writes a text indented, in lines that fit a terminal of 100 columns.
func wrap(s string) string {
	const indented, columns = "    ", 100
	var b strings.Builder
	line := indented
	for _, word := range strings.Fields(oneLine(s)) {
		if line != indented && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > columns {
			b.WriteString(line + "\n")
			line = indented
		}
		if line != indented {
			line += " "
		}
		line += word
	}
	b.WriteString(line + "\n")
	return b.String()
}

// sized writes a number of bytes for people: "512 B", "1.5 kB", "23 GB".
func sized(n int64) string {
	size, unit := float64(n), "B"
	for _, larger := range []string{"kB", "MB", "GB", "TB"} {
		if size < 1000 {
			break
		}
		size, unit = size/1000, larger
	}
	if unit == "B" || size >= 10 {
		return fmt.Sprintf("%.0f %s", size, unit)
	}
	return fmt.Sprintf("%.1f %s", size, unit)
}

func outcomes(m map[schemas.Reason]int64) (n int64) {
	for _, v := range m {
		n += v
	}
	return n
}

// counted is what became of a stage's units, in short.
func counted(l schemas.Ledger) string {
	s := fmt.Sprintf("kept %d, rejected %d", l.Kept, outcomes(l.Rejected))
	if l.Checked > 0 {
		s += fmt.Sprintf(", checked %d", l.Checked)
	}
	if n := l.Missing(); n > 0 {
		s += fmt.Sprintf(", failed %d", n)
	}
	return s
}

// called is what the calls to models came to; empty where there were none.
func called(u schemas.Usage) string {
	if u.Paid+u.Cached == 0 {
		return ""
	}
	s := fmt.Sprintf("calls %d paid, %d cached", u.Paid, u.Cached)
	if u.USD > 0 {
		s += ", " + schemas.FormatDollars(u.USD)
	}
	return s
}

// stageLine says where a stage stands.
func stageLine(s schemas.StageProgress, took string) string {
	var parts []string
	switch {
	case s.Adopted:
		parts = append(parts, "taken over", s.Ledger.String())
	case s.Closed && s.Found > 0:
		parts = append(parts, fmt.Sprintf("done: %d tasks (%d found done)", s.Tasks, s.Found), s.Ledger.String())
	case s.Closed:
		parts = append(parts, fmt.Sprintf("done: %d tasks", s.Tasks), s.Ledger.String())
	case s.Tasks == 0:
		parts = append(parts, "planning")
	default:
		parts = append(parts, fmt.Sprintf("%d/%d tasks", s.Done, s.Tasks), counted(s.Ledger))
	}
	if waits := s.WaitsFor(); waits != "" {
		parts = append(parts, waits)
	}
	if c := called(s.Usage); c != "" {
		parts = append(parts, c)
	}
	if took != "" {
		parts = append(parts, took)
	}
	return strings.Join(parts, ", ")
}

// simulatedLine names the endpoints that are simulations.
func simulatedLine(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("Simulated, not real models: %s\n", oneLine(strings.Join(names, ", ")))
}

func noteLines(notes []string) string {
	var b strings.Builder
	for _, n := range notes {
		fmt.Fprintf(&b, "Note: %s\n", oneLine(n))
	}
	return b.String()
}

// outageLines names the endpoints that answer nobody.
func outageLines(outages []schemas.Outage) string {
	var b strings.Builder
	for _, o := range outages {
		fmt.Fprintf(&b, "Outage: %s\n", oneLine(o.String()))
	}
	return b.String()
}

// stageTable shows stages with their counts and the time each took.
func stageTable(stages []schemas.StageProgress) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	// A column stands there where there is something to say.
	column := func(says func(schemas.Ledger) int64) func(what any) string {
		if !slices.ContainsFunc(stages, func(s schemas.StageProgress) bool { return says(s.Ledger) > 0 }) {
			return func(any) string { return "" }
		}
		return func(what any) string { return fmt.Sprintf("%v\t", what) }
	}
	failed := column(schemas.Ledger.Missing)
	checked := column(func(l schemas.Ledger) int64 { return l.Checked })
	fmt.Fprintf(w, "stage\ttasks\tkept\trejected\t%s%scalls paid\tcached\tUSD\ttime\n", checked("checked"), failed("failed"))
	var (
		usage schemas.Usage
		took  float64
	)
	for _, s := range stages {
		time := "-"
		if s.Closed {
			time = clock(seconds(s.Seconds))
		}
		tasks := fmt.Sprintf("%d/%d", s.Done, s.Tasks)
		switch {
		case s.Adopted:
			tasks = "taken"
		case s.Tasks == 0 && !s.Closed:
			tasks = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s%s%d\t%d\t%s\t%s\n", s.Stage, tasks, s.Ledger.Kept,
			outcomes(s.Ledger.Rejected), checked(s.Ledger.Checked), failed(s.Ledger.Missing()), s.Usage.Paid, s.Usage.Cached, schemas.FormatDollars(s.Usage.USD), time)
		usage.Add(s.Usage)
		took += s.Seconds
	}
	fmt.Fprintf(w, "all\t\t\t\t%s%s%d\t%d\t%s\t%s\n", checked(""), failed(""), usage.Paid, usage.Cached, schemas.FormatDollars(usage.USD), clock(seconds(took)))
	w.Flush() // A strings.Builder takes all.
	return b.String()
}

// moneyLines say what the table of stages doesn't: what nobody knows, what is to come, and
// what may be spent.
func moneyLines(p schemas.Progress) string {
	var b strings.Builder
	if c := called(p.Probed); c != "" {
		fmt.Fprintf(&b, "Asking endpoints who answers: %s\n", c)
	}
	if c := called(p.Spent); c != "" {
		fmt.Fprintf(&b, "Before the stages were done again: %s\n", c)
	}
	u := p.Usage()
	if u.Unanswered > 0 || u.UnansweredUSD > 0 {
		fmt.Fprintf(&b, "Unaccounted: at most %d calls, at most %s\n", u.Unanswered, schemas.FormatDollars(u.UnansweredUSD))
	}
	for _, s := range p.Stages {
		if s.Projected > 0 && !s.Closed {
			fmt.Fprintf(&b, "Projected by its rows so far: %s %s, the run %s when that ends; %s are spent\n",
				s.Stage, schemas.FormatDollars(s.Projected), schemas.FormatDollars(u.USD-s.Usage.USD+s.Projected), schemas.FormatDollars(u.USD))
		}
	}
	if p.Budget != nil {
		fmt.Fprintf(&b, "Budget: %s\n", p.Budget)
	}
	return b.String()
}

// categoryTables shows what became of each category's units, a table for a stage.
func categoryTables(stages []schemas.StageProgress) string {
	var b strings.Builder
	for _, s := range stages {
		names := map[schemas.Category]bool{}
		for c := range s.ByCategory {
			names[c] = true
		}
		for c := range s.Costs {
			names[c] = true
		}
		if len(names) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n%s by category\n", s.Stage)
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, c := range slices.Sorted(maps.Keys(names)) {
			cost := ""
			if spent := s.Costs[c]; spent != (schemas.Cost{}) {
				cost = fmt.Sprintf("\t%s\t%d tokens", schemas.FormatDollars(spent.USD), spent.Tokens)
			}
			fmt.Fprintf(w, "%s\t%s%s\n", c, s.ByCategory[c], cost)
		}
		w.Flush() // A strings.Builder takes all.
	}
	return b.String()
}

func decisionLines(records []schemas.DecisionRecord) string {
	var b strings.Builder
	for _, r := range records {
		stale := ""
		if r.Stale {
			stale = " (stale: changed nothing)"
		}
		what := r.Verdict
		if r.Verdict == schemas.DecisionBudget {
			what += " to " + cmp.Or(r.Decision.Limits(), "no limit")
		}
		if r.Decision.Opening != "" {
			what += " " + r.Decision.Opening
		}
		fmt.Fprintf(&b, "decision %d: %s by %s%s\n", r.Number, what, oneLine(r.Decision.By), stale)
	}
	return b.String()
}

// gateBlock says what a run waits for and what moves it on.
func gateBlock(run schemas.RunID, o schemas.Opening) string {
	verdict, look := schemas.DecisionApprove, ""
	switch o.Gate {
	case schemas.GateBudget:
		var larger []string
		if o.Raise != nil && o.Raise.USD > 0 {
			larger = append(larger, "--usd "+strconv.FormatFloat(o.Raise.USD, 'f', -1, 64))
		}
		if o.Raise != nil && o.Raise.Tokens > 0 {
			larger = append(larger, fmt.Sprintf("--tokens %d", o.Raise.Tokens))
		}
		return fmt.Sprintf(`
The run waits for a person at its %s gate (opening %s):
  %s
  %-13s starter %s %s %s --opening %s --by "YOUR NAME"
  or            %s

`, o.Gate, o.ID, oneLine(o.Question), schemas.DecisionBudget, schemas.DecisionBudget, schemas.ShellWord(string(run)), strings.Join(larger, " "), o.ID, oneLine(o.Command))
	case schemas.GateFailure:
		verdict = schemas.DecisionResume
	case schemas.GateDataset:
		look = fmt.Sprintf("  look at it    starter peek %s %s --show-text   (may be harmful to read)\n", schemas.ShellWord(string(run)), schemas.StageCurate)
	case schemas.GateRelease:
		look = fmt.Sprintf("  look at it    starter report %s\n", schemas.ShellWord(string(run)))
	}
	return fmt.Sprintf(`
The run waits for a person at its %s gate (opening %s):
  %s
  digest        %s
%s  %-13s starter %s %s %s --opening %s --by "YOUR NAME"
  or            %s

`, o.Gate, o.ID, oneLine(o.Question), o.Digest, look, verdict, verdict, schemas.ShellWord(string(run)), o.Gate, o.ID, oneLine(o.Command))
}

// emptyLines names the first stage that kept nothing of what came to it.
func emptyLines(r schemas.RunReport) string {
	for _, s := range r.Stages {
		if s.Ledger.Planned > 0 && s.Ledger.Kept == 0 {
			return fmt.Sprintf("Stage %s kept NONE of %d (%s): starter peek %s %s\n", s.Stage, s.Ledger.Planned, s.Ledger.Rest(), schemas.ShellWord(string(r.Run)), s.Stage)
		}
	}
	return ""
}

// endBlock says how a run ended and how long its stages took.
func endBlock(r schemas.RunReport) string {
	note := ""
	if r.Note != "" {
		note = ": " + oneLine(r.Note)
	}
	return fmt.Sprintf("\nRun %s is %s%s.\n%s\n%s%s%sReport: starter report %s\n", r.Run, r.State, note,
		simulatedLine(r.Simulated), stageTable(r.Progress().Stages), moneyLines(r.Progress()), emptyLines(r), schemas.ShellWord(string(r.Run)))
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
