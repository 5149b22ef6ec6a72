package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"precept/schemas"
)

// screen is where a watch shows a run.
type screen interface {
	// show shows where the run stands; it may leave out a view that says nothing new.
	show(v view)
	// say shows text that stays.
	say(text string)
	// leave ends the showing; what is on the screen stays.
	leave()
}

// screen chooses how a watch is shown.
func (a *app) screen() screen {
	if a.json {
		return &jsonScreen{out: a.out}
	}
	if f, ok := a.out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return &bars{out: f, size: func() (int, int) {
			width, height, err := term.GetSize(int(f.Fd()))
			if err != nil {
				return 80, 24
			}
			return width, height
		}}
	}
	return &lines{out: a.out}
}

// How long a line stands before the next one comes, though nothing but counts has
// changed: while the run works, and while it waits for a person.
const (
	working = 4 * time.Second
	waiting = time.Minute
)

// lines shows a run as lines of text: one for every change, and one every few
// seconds as a sign of life.
type lines struct {
	out    io.Writer
	closed map[schemas.Stage]bool
	named  bool // the simulated endpoints
	noted  int
	away   []schemas.Outage // those of the last view
	mark   string
	at     time.Time
}

func (l *lines) say(text string) { fmt.Fprint(l.out, text) }
func (l *lines) leave()          {}

func (l *lines) show(v view) {
	if p := v.Progress; p != nil {
		if !l.named && len(p.Simulated) > 0 {
			l.named = true
			fmt.Fprint(l.out, simulatedLine(p.Simulated))
		}
		if n := len(p.Notes); n > l.noted {
			fmt.Fprint(l.out, noteLines(p.Notes[l.noted:]))
			l.noted = n
		}
		for _, o := range p.Outages {
			if !slices.Contains(l.away, o) {
				fmt.Fprint(l.out, outageLines([]schemas.Outage{o}))
			}
		}
		l.away = p.Outages
		for _, s := range p.Stages {
			if s.Closed && !l.closed[s.Stage] {
				if l.closed == nil {
					l.closed = map[schemas.Stage]bool{}
				}
				l.closed[s.Stage] = true
				l.line(v, fmt.Sprintf("%-11s %s", s.Stage, stageLine(s, clock(seconds(s.Seconds)))))
			}
		}
	}
	text, mark := l.text(v)
	patience := working
	if v.Away == "" && v.Progress != nil && v.Progress.Waiting != nil {
		patience = waiting
	}
	if mark == l.mark && v.now.Sub(l.at) < patience {
		return
	}
	l.mark = mark
	l.line(v, text)
}

func (l *lines) line(v view, text string) {
	l.at = v.now
	stamp := ""
	if v.elapsed > 0 {
		stamp = clock(v.elapsed)
	}
	fmt.Fprintf(l.out, "%7s  %s\n", stamp, text)
}

// text is the line for a view, and a mark that changes when the line should come
// at once.
func (l *lines) text(v view) (text, mark string) {
	if v.Away != "" {
		return awayLine(v), "away " + v.Away
	}
	if w := v.Progress.Waiting; w != nil {
		return fmt.Sprintf("waiting for a person at gate %s (opening %s) for %s", w.Gate, w.ID, clock(v.now.Sub(w.Since))), "gate " + w.ID
	}
	s := v.current()
	if s == nil {
		text = "between stages"
		if len(v.Progress.Stages) == 0 {
			text = "taking in policy and prompts"
		}
		if work := v.work(); work != "" {
			text += ": " + work
		}
		return text, fmt.Sprintf("%s after %d", v.Progress.State, len(v.Progress.Stages))
	}
	text = fmt.Sprintf("%-11s %s", s.Stage, stageLine(*s, v.inStage))
	if work := v.work(); work != "" {
		text += "; " + work
	}
	return text, fmt.Sprintf("%s %d/%d", s.Stage, s.Done, s.Tasks)
}

// awayLine says who does not answer.
func awayLine(v view) string {
	s := fmt.Sprintf("waiting for the %s", v.Away)
	if v.missing > 0 {
		s += " for " + clock(v.missing)
	}
	s += ": " + clip(v.Why, 160)
	if v.Away == "worker" {
		if work := v.work(); work != "" {
			s += "; " + work
		}
	}
	return s
}

// bars shows a run as progress bars that are drawn again and again.
type bars struct {
	out   io.Writer
	size  func() (width, height int)
	drawn int // lines on the screen that the next drawing replaces
}

func (b *bars) show(v view) {
	width, height := b.size()
	text := drawing(v)
	// A drawing higher than the screen could not be replaced: its end matters most.
	if most := max(height-1, 1); len(text) > most {
		text = text[len(text)-most:]
	}
	var out strings.Builder
	b.erase(&out)
	for _, line := range text {
		out.WriteString(clip(line, width-1) + "\n")
	}
	b.drawn = len(text)
	io.WriteString(b.out, out.String())
}

func (b *bars) say(text string) {
	fmt.Fprint(b.out, text)
	b.drawn = 0
}

func (b *bars) leave() { b.drawn = 0 }

func (b *bars) erase(out *strings.Builder) {
	if b.drawn > 0 {
		fmt.Fprintf(out, "\x1b[%dA\x1b[J", b.drawn)
	}
}

const barWidth = 20

// drawing is a view as lines with a bar for every stage.
func drawing(v view) (out []string) {
	p := v.Progress
	if p == nil {
		return []string{awayLine(v)}
	}
	head := fmt.Sprintf("%s  %s  %s", oneLine(p.Name), p.State, clock(v.elapsed))
	if len(p.Simulated) > 0 {
		head += "  " + strings.TrimSpace(simulatedLine(p.Simulated))
	}
	out = append(out, head)
	for _, n := range p.Notes {
		out = append(out, "  Note: "+oneLine(n))
	}
	for _, o := range p.Outages {
		out = append(out, "  Outage: "+oneLine(o.String()))
	}
	for _, s := range p.Stages {
		took := v.inStage
		if s.Closed {
			took = clock(seconds(s.Seconds))
		}
		line := []string{fmt.Sprintf("  %-11s [%s] %3d/%-3d", s.Stage, bar(v.share(s), barWidth), s.Done, s.Tasks)}
		if s.Tasks == 0 {
			line = append(line, "planning")
		} else {
			line = append(line, counted(s.Ledger))
		}
		if c := called(s.Usage); c != "" {
			line = append(line, c)
		}
		out = append(out, strings.Join(append(line, took), "  "))
		if waits := s.WaitsFor(); waits != "" {
			out = append(out, "    "+waits)
		}
	}
	switch {
	case v.Away != "":
		out = append(out, "  "+awayLine(v))
	case p.Waiting != nil:
		out = append(out, fmt.Sprintf("  waiting for a person at gate %s for %s", p.Waiting.Gate, clock(v.now.Sub(p.Waiting.Since))))
	default:
		if work := v.work(); work != "" {
			out = append(out, "  "+work)
		}
	}
	return out
}

// bar draws a share from 0 to 1.
func bar(share float64, width int) string {
	full := int(share * float64(width))
	switch {
	case full >= width:
		return strings.Repeat("=", width)
	case share <= 0:
		return strings.Repeat(" ", width)
	}
	return strings.Repeat("=", full) + ">" + strings.Repeat(" ", width-full-1)
}

// jsonScreen shows every sight that differs from the one before as a line of
// JSON. What is said to people is left out.
type jsonScreen struct {
	out  io.Writer
	last string
}

func (j *jsonScreen) say(string) {}
func (j *jsonScreen) leave()     {}

func (j *jsonScreen) show(v view) {
	raw, err := json.Marshal(v.sight)
	if err != nil || string(raw) == j.last {
		return // A sight is plain data: it can always be encoded.
	}
	j.last = string(raw)
	fmt.Fprintf(j.out, "%s\n", raw)
}
