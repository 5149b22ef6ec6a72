package schemas

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// The names of signals, updates and queries of a Factory run. Each signal has an
// update of the same name, whose validator answers at once when the message
// makes no sense.
const (
	SignalApprove = "approve"
	SignalReject  = "reject"
	SignalResume  = "resume"
	SignalAbort   = "abort"
	SignalRetry   = "retry"
	QueryProgress = "progress"
)

// Decision is a person's answer to a gate: the payload of approve, reject, resume,
// abort and retry. Opening and Digest bind it to one opening of the gate; a bare
// decision binds to the opening that waits. Stage and Reason are retry's: which rows
// that failed are asked again; without them all are.
type Decision struct {
	Gate    Gate   `json:"gate"`
	By      string `json:"by"`
	Opening string `json:"opening,omitempty"`
	Digest  Digest `json:"digest,omitempty"`
	Note    string `json:"note,omitempty"`
	Stage   Stage  `json:"stage,omitempty"`
	Reason  Reason `json:"reason,omitempty"`
}

// UnmarshalJSON refuses unknown fields: a decision whose gate or opening is misspelt
// must not pass for one that names none.
func (d *Decision) UnmarshalJSON(b []byte) error {
	type plain Decision
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var p plain
	if err := dec.Decode(&p); err != nil {
		if m := unknownField.FindStringSubmatch(err.Error()); m != nil {
			err = fmt.Errorf("unknown field %q; a decision has gate, by, opening, digest, note, and for retry stage and reason", m[1])
		}
		return E("read decision", "", InvalidInput, err)
	}
	*d = Decision(p)
	return nil
}

// The verdicts of a decision.
const (
	DecisionApprove = "approve"
	DecisionReject  = "reject"
	DecisionResume  = "resume"
	DecisionAbort   = "abort"
	DecisionRetry   = "retry"
)

// DecisionRecord is a decision as it is stored, runs/<run>/decisions/<n>.json.
type DecisionRecord struct {
	Number   int       `json:"number"`
	Verdict  string    `json:"verdict"`
	Decision Decision  `json:"decision"`
	Stale    bool      `json:"stale,omitempty"`
	At       time.Time `json:"at"`
}

// Opening is one opening of a gate. ID is made of gate, number and the digest of
// what is judged.
type Opening struct {
	ID       string    `json:"id"`
	Gate     Gate      `json:"gate"`
	Number   int       `json:"number"`
	Digest   Digest    `json:"digest"`
	Question string    `json:"question"`
	Takes    []string  `json:"takes"` // the verdicts
	Command  string    `json:"command"`
	Since    time.Time `json:"since"`
}

// The states of a run.
const (
	StateRunning   = "running"
	StateWaiting   = "waiting"
	StateCompleted = "completed"
	StateRejected  = "rejected"
	StateAborted   = "aborted"
	StateFailed    = "failed" // bad input, or counts that don't add up
)

// StageProgress is one stage's part of Progress.
type StageProgress struct {
	Stage   Stage   `json:"stage"`
	Tasks   int     `json:"tasks"`
	Done    int     `json:"done"`
	Found   int     `json:"found,omitempty"` // tasks whose outputs were there already
	Ledger  Ledger  `json:"ledger"`
	Usage   Usage   `json:"usage"`
	Seconds float64 `json:"seconds"`
	Closed  bool    `json:"closed"`
	// ByCategory parts the ledger, where there are not too many.
	ByCategory Categories `json:"by_category,omitempty"`
	Adopted    bool       `json:"adopted,omitempty"` // the run began behind it
}

// Progress answers the query "progress".
type Progress struct {
	Run       RunID            `json:"run"`
	Name      string           `json:"name"`
	State     string           `json:"state"`
	Stage     Stage            `json:"stage"`
	Stages    []StageProgress  `json:"stages"`
	Waiting   *Opening         `json:"waiting,omitempty"`
	Decisions []DecisionRecord `json:"decisions,omitempty"`
	Simulated []string         `json:"simulated,omitempty"`
	Notes     []string         `json:"notes,omitempty"` // for people to know
	Started   time.Time        `json:"started"`
}

// TaskFailure is in the details of a task's failure.
type TaskFailure struct {
	// Usage is what the task's calls took: their answers are kept, but nobody else
	// tells what they cost.
	Usage Usage `json:"usage"`
	// Tripwire says that a tripwire ended it.
	Tripwire bool `json:"tripwire,omitempty"`
	// Rows is how many rows failed, where all others have an outcome: the task could
	// end without them.
	Rows int64 `json:"rows,omitempty"`
}

// TaskProgress is the heartbeat of a running task: a hint for people.
type TaskProgress struct {
	Done    int64              `json:"done"`
	Total   int64              `json:"total"`
	Unit    string             `json:"unit"`
	Note    string             `json:"note,omitempty"`
	Metrics map[string]float64 `json:"metrics,omitempty"`
	// Usage is what the task's calls took so far, earlier attempts included.
	Usage Usage `json:"usage,omitzero"`
}

// Served is what has changed about who answers under a model identity, since answers were
// recorded under it.
type Served struct {
	Changed []string `json:"changed,omitempty"` // another model: people are asked
	Notes   []string `json:"notes,omitempty"`   // another fingerprint of the same
}

// Carried is what a run hands to its continuation. It stays under 64 KB.
type Carried struct {
	Started   time.Time        `json:"started"`
	Inputs    *InputsRef       `json:"inputs,omitempty"`
	Sums      []StageSum       `json:"sums"`
	Open      *OpenStage       `json:"open,omitempty"`
	Notes     []string         `json:"notes,omitempty"`
	Openings  int              `json:"openings"`
	Decisions []DecisionRecord `json:"decisions,omitempty"`
	// Draws is how far the quota's rounds are, and Drawn that they have ended.
	Draws []Draw `json:"draws,omitempty"`
	Drawn bool   `json:"drawn,omitempty"`
	// Retry says in which stages rows that failed are asked again, and for which reason
	// they failed; an empty reason stands for all.
	Retry map[Stage]Reason `json:"retry,omitempty"`
}

// OpenStage is where an unfinished stage stands: every task before Next is done,
// but those in Failed.
type OpenStage struct {
	Stage  Stage        `json:"stage"`
	Plan   *PlanRef     `json:"plan,omitempty"`
	Next   int          `json:"next"`
	Failed []FailedTask `json:"failed,omitempty"`
	// Checked and CheckedUsage are the rows that the tripwires see: those that this run
	// had done, not those that it found.
	Checked      Ledger `json:"checked"`
	CheckedUsage Usage  `json:"checked_usage"`
	// Unchecked says that a person has seen a tripwire of this stage and resumed.
	Unchecked  bool       `json:"unchecked,omitempty"`
	Ledger     Ledger     `json:"ledger"`
	ByCategory Categories `json:"by_category,omitempty"`
	Usage      Usage      `json:"usage"`
	Started    time.Time  `json:"started"`
}

// FailedTask is a task that has exhausted its retries. Rows is how many of its rows
// failed, 0 where it was not a matter of rows.
type FailedTask struct {
	Index int   `json:"index"`
	Rows  int64 `json:"rows,omitempty"`
}

// Draw is where the quota of a category, or of an intent of it, stands. Of Pool prompts
// the first Taken are used: a number for every round, that includes the rounds before.
type Draw struct {
	Category Category `json:"category"`
	Intent   Intent   `json:"intent,omitempty"`
	Pool     int64    `json:"pool"`
	Taken    []int64  `json:"taken"`
	Accepted int64    `json:"accepted"`
}

// Last is how many prompts are used so far.
func (d Draw) Last() int64 {
	if len(d.Taken) == 0 {
		return 0
	}
	return d.Taken[len(d.Taken)-1]
}
