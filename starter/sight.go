package main

import (
	"fmt"
	"slices"
	"strings"

	"precept/schemas"
)

// sight is what one look at a run saw.
type sight struct {
	// Progress is nil where no worker answered, and where Ended has a report.
	Progress *schemas.Progress `json:"progress,omitempty"`
	Tasks    []openTask        `json:"tasks,omitempty"`
	Ended    *end              `json:"ended,omitempty"`
	// Away names who did not answer, "server" or "worker"; Why is the cause.
	Away string `json:"away,omitempty"`
	Why  string `json:"why,omitempty"`
}

// openTask is an activity that has not ended.
type openTask struct {
	ID       string                `json:"id"`
	Activity string                `json:"activity"`
	Taken    bool                  `json:"taken"` // a worker has it
	Attempt  int32                 `json:"attempt"`
	Progress *schemas.TaskProgress `json:"progress,omitempty"`
	Failure  string                `json:"failure,omitempty"` // of the attempt before
}

// end is how a run ended: with a report, or by a failure.
type end struct {
	Report  *schemas.RunReport `json:"report,omitempty"`
	Failure string             `json:"failure,omitempty"`
	// Kind is the failure's, where the workflow named one.
	Kind schemas.Kind `json:"kind,omitempty"`
}

// decided is what became of a decision: recorded, or left as a signal.
type decided struct {
	Record    *schemas.DecisionRecord `json:"record,omitempty"`
	Signalled bool                    `json:"signalled,omitempty"`
	Why       string                  `json:"why,omitempty"`
	// Started says that the run had ended and was started again.
	Started bool `json:"started,omitempty"`
}

// progress is where the run stands, or has ended; nil where nobody tells.
func (s sight) progress() *schemas.Progress {
	if s.Ended == nil {
		return s.Progress
	}
	if s.Ended.Report != nil {
		p := s.Ended.Report.Progress()
		return &p
	}
	if s.Progress == nil || s.Progress.State == schemas.StateFailed || s.Progress.State == schemas.StateCancelled {
		return s.Progress
	}
	p := *s.Progress
	p.State, p.Waiting = "stopped", nil
	p.Notes = append(slices.Clone(p.Notes), "the run was stopped from outside: what its open tasks took is told when it is started again")
	return &p
}

// failed is a run's failure as an error that says what to do.
func failed(run schemas.RunID, e end) error {
	message := fmt.Sprintf("run %s failed: %s. ", run, strings.TrimRight(e.Failure, "."))
	if e.Kind == schemas.InvalidInput {
		message += fmt.Sprintf("Mend what it names, then: starter start SPEC.json --run %s", schemas.ShellWord(string(run)))
	} else {
		message += fmt.Sprintf("Start it again with the same spec, which finds its finished work: starter start SPEC.json --run %s", schemas.ShellWord(string(run)))
	}
	return exit{exitError, message}
}
