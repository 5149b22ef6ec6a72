package workflows

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"precept/schemas"
)

// A stage may end without rows that failed. A retry asks for them again: it takes the run
// back to the first stage concerned, whose other rows, and those of the stages behind it,
// are found in the store as far as they don't change.

// rewindError takes a run back to a stage.
type rewindError struct{ stage schemas.Stage }

func (e *rewindError) Error() string { return "back to stage " + string(e.stage) }

// checkRetry tells why a retry makes no sense now; nil when it does.
func (f *factory) checkRetry(d schemas.Decision) error {
	if d.By == "" {
		return errors.New(`say who decides: {"by":"YOUR NAME"}`)
	}
	if d.Stage != "" && !slices.Contains(schemas.Stages, d.Stage) {
		return fmt.Errorf("there is no stage %q; the stages are %v", d.Stage, schemas.Stages)
	}
	if f.carried.Inputs == nil {
		return nil // before the first stage, every retry is in time
	}
	if f.waiting == nil || f.answer != nil {
		return fmt.Errorf("the run is busy in stage %s; retry when it waits at a gate or has ended", f.current())
	}
	if d.Opening != "" && d.Opening != f.waiting.ID {
		return fmt.Errorf("opening %q is closed; the one that waits is %q", d.Opening, f.waiting.ID)
	}
	rowsFailed := f.waiting.Gate == schemas.GateFailure && slices.Contains(f.waiting.Takes, schemas.DecisionApprove)
	if open := f.carried.Open; open != nil && rowsFailed && (d.Stage == "" || d.Stage == open.Stage) {
		return nil // what has just failed
	}
	if len(f.missed(d)) == 0 {
		return errors.New("no stage has ended without such rows; see the ledger: starter progress")
	}
	return nil
}

// missed lists the stages that ended without rows that a retry asks for.
func (f *factory) missed(d schemas.Decision) (stages []schemas.Stage) {
	for _, s := range f.carried.Sums {
		if !s.Adopted && (d.Stage == "" || d.Stage == s.Stage) && s.Ledger.Retriable(d.Reason) > 0 {
			stages = append(stages, s.Stage)
		}
	}
	return stages
}

// retried remembers what is asked again, and returns the stage to go back to.
func (f *factory) retried(d schemas.Decision) schemas.Stage {
	stages := f.missed(d)
	if f.carried.Inputs == nil {
		stages = schemas.Stages
		if d.Stage != "" {
			stages = []schemas.Stage{d.Stage}
		}
	}
	if open := f.carried.Open; open != nil && (d.Stage == "" || d.Stage == open.Stage) && !slices.Contains(stages, open.Stage) {
		stages = append(stages, open.Stage) // what has just failed
	}
	f.carried.Retry = maps.Clone(f.carried.Retry)
	if f.carried.Retry == nil {
		f.carried.Retry = map[schemas.Stage]schemas.Reason{}
	}
	for _, s := range stages {
		f.carried.Retry[s] = d.Reason
	}
	return stages[0]
}

// retries is which rows that failed a stage asks again for; nil for none.
func (f *factory) retries(stage schemas.Stage) *schemas.Reason {
	if reason, ok := f.carried.Retry[stage]; ok {
		return &reason
	}
	return nil
}

// rewind takes the run back to where a stage has not begun.
func (f *factory) rewind(stage schemas.Stage) {
	if part := f.carried.Open; part != nil {
		f.leave(part.Stage, took(part))
	}
	for _, s := range f.carried.Sums {
		if !s.Stage.Before(stage) {
			f.leave(s.Stage, s.Usage)
			// What it came to may be something else now.
			f.carried.Notes = slices.DeleteFunc(slices.Clone(f.carried.Notes), func(n string) bool { return n == s.Note })
		}
	}
	f.carried.Open = nil
	f.carried.Drawn = false
	if !schemas.StagePrompts.Before(stage) {
		f.carried.Draws = nil
	}
	f.carried.Sums = slices.DeleteFunc(slices.Clone(f.carried.Sums), func(s schemas.StageSum) bool { return !s.Stage.Before(stage) })
	f.stages = slices.DeleteFunc(slices.Clone(f.stages), func(s schemas.StageProgress) bool { return !s.Stage.Before(stage) })
}
