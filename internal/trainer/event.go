package trainer

import (
	"encoding/json"
	"fmt"
)

// The events of a process.
const (
	EventStart       = "start"
	EventProgress    = "progress"
	EventEvaluation  = "evaluation"
	EventCheckpoint  = "checkpoint"
	EventMilestone   = "milestone"
	EventReady       = "ready"
	EventDone        = "done"
	EventInterrupted = "interrupted"
	EventError       = "error"
)

// Event is one line of progress. Which fields are set depends on Event.
type Event struct {
	Event           string             `json:"event"`
	Step            int                `json:"step"`
	TotalSteps      int                `json:"total_steps"`
	Steps           int                `json:"steps"` // of a job that is done
	Rows            int64              `json:"rows"`
	HeldOut         int64              `json:"held_out"`
	TooLong         int64              `json:"too_long"`
	Loss            float64            `json:"loss"`
	Metrics         map[string]float64 `json:"metrics"`
	TokensPerSecond float64            `json:"tokens_per_second"`
	Path            string             `json:"path"`
	Commit          string             `json:"commit"`
	URL             string             `json:"url"`
	Model           string             `json:"model"`
	Kind            string             `json:"kind"`
	Message         string             `json:"message"`
}

// parseEvent reads one line.
func parseEvent(line []byte) (Event, error) {
	var e Event
	if err := json.Unmarshal(line, &e); err != nil {
		return Event{}, fmt.Errorf("read trainer's event: %w", err)
	}
	if e.Event == "" {
		return Event{}, fmt.Errorf("read trainer's event: no event in %.80q", line)
	}
	return e, nil
}
