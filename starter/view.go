package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"precept/schemas"
)

// view is a sight made ready to be shown.
type view struct {
	sight
	now     time.Time
	elapsed time.Duration // since the run started
	inStage string        // since the current stage was first seen
	left    time.Duration // of the one open task; 0 where nothing is known of it
	missing time.Duration // since server or worker answered last
}

// observer makes views of sights: it remembers what came before.
type observer struct {
	now      func() time.Time
	stage    schemas.Stage
	since    time.Time // the stage was first seen
	late     bool      // it was under way by then
	answered time.Time
	known    *schemas.Progress // the last one
	pace     map[string]pace   // by open task
}

// pace is where a task stood when it was first seen to move.
type pace struct {
	done int64
	at   time.Time
}

func (o *observer) view(s sight) view {
	now := o.now()
	v := view{sight: s, now: now}
	switch {
	case s.Away == "":
		o.answered = now
	case o.answered.IsZero():
		o.answered = now
		fallthrough
	default:
		v.missing = now.Sub(o.answered)
	}
	if s.Progress == nil {
		v.Progress = o.known
	} else {
		o.enter(*s.Progress, now)
		o.known = s.Progress
	}
	if v.Progress != nil {
		if !v.Progress.Started.IsZero() {
			v.elapsed = now.Sub(v.Progress.Started)
		}
		v.inStage = clock(now.Sub(o.since))
		if o.late {
			v.inStage = "over " + v.inStage
		}
	}
	if s.Away != "server" {
		v.left = o.left(s.Tasks, now)
	}
	return v
}

// enter notes when a stage begins.
func (o *observer) enter(p schemas.Progress, now time.Time) {
	if o.known != nil && o.stage == p.Stage {
		return
	}
	o.late = o.known == nil && len(p.Stages) > 0
	o.stage, o.since = p.Stage, now
}

// left estimates how long the one open task still takes, by its pace since it was
// first seen: an attempt that resumed from a checkpoint did not do its first steps
// itself.
func (o *observer) left(tasks []openTask, now time.Time) (left time.Duration) {
	before := o.pace
	o.pace = map[string]pace{}
	for _, t := range tasks {
		if t.Progress == nil {
			continue
		}
		id := fmt.Sprintf("%s/%d", t.ID, t.Attempt)
		first, ok := before[id]
		if !ok || first.done > t.Progress.Done {
			first = pace{t.Progress.Done, now}
		}
		o.pace[id] = first
		moved := t.Progress.Done - first.done
		if len(tasks) == 1 && moved > 0 && t.Progress.Total > t.Progress.Done {
			left = time.Duration(float64(now.Sub(first.at)) * float64(t.Progress.Total-t.Progress.Done) / float64(moved))
		}
	}
	return left
}

// current is the stage that is open, if any.
func (v view) current() *schemas.StageProgress {
	if v.Progress == nil || len(v.Progress.Stages) == 0 {
		return nil
	}
	if s := &v.Progress.Stages[len(v.Progress.Stages)-1]; !s.Closed {
		return s
	}
	return nil
}

// share is how much of a stage's work is done, from 0 to 1: whole tasks, and what
// the open ones say of themselves.
func (v view) share(s schemas.StageProgress) float64 {
	if s.Closed {
		return 1
	}
	if s.Tasks == 0 {
		return 0
	}
	done := float64(s.Done)
	for _, t := range v.Tasks {
		if p := t.Progress; p != nil && p.Total > 0 {
			done += min(float64(p.Done)/float64(p.Total), 1)
		}
	}
	return min(done/float64(s.Tasks), 1)
}

// work says in a few words what the open tasks do; empty when there is none.
func (v view) work() string {
	if len(v.Tasks) == 0 {
		return ""
	}
	var parts []string
	if len(v.Tasks) > 1 {
		parts = append(parts, fmt.Sprintf("%d tasks open", len(v.Tasks)))
	}
	if waits := v.untaken(); waits == len(v.Tasks) && v.Tasks[0].Failure == "" {
		parts = append(parts, "waiting for a worker to take "+strings.Join(v.activities(), ", "))
	}
	parts = append(parts, v.counts()...)
	if len(v.Tasks) == 1 && v.Tasks[0].Progress != nil {
		if note := oneLine(v.Tasks[0].Progress.Note); note != "" {
			parts = append(parts, note)
		}
	}
	if v.left > 0 {
		parts = append(parts, clock(v.left)+" to go")
	}
	if t := v.troubled(); t != nil {
		parts = append(parts, fmt.Sprintf("%s tried again (attempt %d) after: %s", t.Activity, t.Attempt, clip(t.Failure, 160)))
	}
	if len(parts) == 0 {
		parts = v.activities()
	}
	return strings.Join(parts, ", ")
}

func (v view) untaken() (n int) {
	for _, t := range v.Tasks {
		if !t.Taken {
			n++
		}
	}
	return n
}

func (v view) activities() (names []string) {
	for _, t := range v.Tasks {
		names = append(names, t.Activity)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// counts sums up what the open tasks have done, by unit, and shows the metrics of
// a single one.
func (v view) counts() (parts []string) {
	type sum struct {
		unit        string
		done, total int64
	}
	var sums []sum
	for _, t := range v.Tasks {
		p := t.Progress
		if p == nil || p.Total == 0 && p.Done == 0 {
			continue
		}
		i := slices.IndexFunc(sums, func(s sum) bool { return s.unit == p.Unit })
		if i < 0 {
			i = len(sums)
			sums = append(sums, sum{unit: p.Unit})
		}
		sums[i].done += p.Done
		sums[i].total += p.Total
	}
	slices.SortFunc(sums, func(a, b sum) int { return cmp.Compare(a.unit, b.unit) })
	for _, s := range sums {
		if s.total == 0 {
			parts = append(parts, strings.TrimSpace(fmt.Sprintf("%d %s", s.done, oneLine(s.unit))))
			continue
		}
		parts = append(parts, strings.TrimSpace(fmt.Sprintf("%d/%d %s", s.done, s.total, oneLine(s.unit))))
	}
	if len(v.Tasks) == 1 && v.Tasks[0].Progress != nil {
		parts = append(parts, metrics(v.Tasks[0].Progress.Metrics)...)
	}
	return parts
}

// metrics are those of a training job that a person watches.
func metrics(values map[string]float64) (parts []string) {
	show := func(name, format string) {
		if value, ok := values[name]; ok {
			parts = append(parts, fmt.Sprintf(format, value))
		}
	}
	show("loss", "loss %.3f")
	if reward, ok := values["reward"]; ok {
		parts = append(parts, rewarded(reward, values))
	}
	show("tokens_per_second", "%.0f tokens/s")
	return parts
}

// rewarded is a step's mean reward with its spread and by category.
func rewarded(reward float64, values map[string]float64) string {
	text := fmt.Sprintf("reward %.3f", reward)
	if spread, ok := values["reward_std"]; ok {
		text += fmt.Sprintf(" ± %.3f", spread)
	}
	var by []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if category, ok := strings.CutPrefix(name, schemas.MetricRewardOf); ok {
			by = append(by, fmt.Sprintf("%s %.2f", oneLine(category), values[name]))
		}
	}
	if len(by) > 0 {
		text += " (" + strings.Join(by, ", ") + ")"
	}
	return text
}

// troubled is the task with the most attempts, where one has failed before.
func (v view) troubled() (worst *openTask) {
	for i, t := range v.Tasks {
		if t.Attempt > 1 && t.Failure != "" && (worst == nil || t.Attempt > worst.Attempt) {
			worst = &v.Tasks[i]
		}
	}
	return worst
}
