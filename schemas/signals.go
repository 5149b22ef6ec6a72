package schemas

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
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
	SignalBudget  = "set-budget"
	QueryProgress = "progress"
)

// Decision is a person's answer to a gate: the payload of approve, reject, resume,
// abort, retry and set-budget. Opening and Digest bind it to one opening of the gate; a bare
// decision binds to the opening that waits. Stage and Reason are retry's: which rows
// that failed are asked again; without them all are. USD and Tokens are set-budget's: what
// the run may spend in all. A limit that is not named stays as it is; 0 lifts it.
type Decision struct {
	Gate    Gate   `json:"gate"`
	By      string `json:"by"`
	Opening string `json:"opening,omitempty"`
	Digest  Digest `json:"digest,omitempty"`
	Note    string `json:"note,omitempty"`
	Stage   Stage  `json:"stage,omitempty"`
	Reason  Reason `json:"reason,omitempty"`

	USD    *float64 `json:"usd,omitempty"`
	Tokens *int64   `json:"tokens,omitempty"`
}

// Budget is what the run may spend after the decision, where it might spend before until then.
func (d Decision) Budget(before Cost) Cost {
	if d.USD != nil {
		before.USD = *d.USD
	}
	if d.Tokens != nil {
		before.Tokens = *d.Tokens
	}
	return before
}

// Limits says what the decision sets, such as "$80.00 and no limit of tokens".
func (d Decision) Limits() string {
	var parts []string
	for _, unit := range []struct {
		named bool
		limit Cost
		none  string
	}{
		{d.USD != nil, Decision{USD: d.USD}.Budget(Cost{}), "no limit of dollars"},
		{d.Tokens != nil, Decision{Tokens: d.Tokens}.Budget(Cost{}), "no limit of tokens"},
	} {
		switch {
		case unit.named && unit.limit == (Cost{}):
			parts = append(parts, unit.none)
		case unit.named:
			parts = append(parts, unit.limit.String())
		}
	}
	return strings.Join(parts, " and ")
}

// UnmarshalJSON refuses unknown fields: a decision whose gate or opening is misspelt
// must not pass for one that names none.
func (d *Decision) UnmarshalJSON(b []byte) error {
	type plain Decision
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var p plain
	if err := dec.Decode(&p); err != nil {
		return E("read decision", "", InvalidInput,
			hinted(Explain(b, p, err), "a decision has gate, by, opening, digest, note, for retry stage and reason, and for set-budget usd and tokens"))
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
	DecisionBudget  = "set-budget"
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
	ID       string   `json:"id"`
	Gate     Gate     `json:"gate"`
	Number   int      `json:"number"`
	Digest   Digest   `json:"digest"`
	Question string   `json:"question"`
	Takes    []string `json:"takes"` // the verdicts
	// Raise is, at the budget gate, a budget of the limits that were reached that lets the run
	// go on.
	Raise   *Cost     `json:"raise,omitempty"`
	Command string    `json:"command"`
	Since   time.Time `json:"since"`
}

// The states of a run.
const (
	StateRunning   = "running"
	StateWaiting   = "waiting"
	StateCompleted = "completed"
	StateRejected  = "rejected"
	StateAborted   = "aborted"
	StateCancelled = "cancelled"
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
	// Costs parts the cost.
	Costs   Costs `json:"costs,omitempty"`
	Adopted bool  `json:"adopted,omitempty"` // the run began behind it
	// Projected is what the open stage will have cost, by what its rows so far did.
	Projected float64 `json:"projected_usd,omitempty"`
	// Waiting is how many tasks wait for their batches, and Pending what is in these.
	Waiting int      `json:"waiting,omitempty"`
	Pending *Pending `json:"pending,omitempty"`
}

// WaitsFor says what the stage's tasks wait for; it is empty where none waits.
func (s StageProgress) WaitsFor() string {
	if s.Pending == nil {
		return ""
	}
	return fmt.Sprintf("%d tasks wait for batches: %d of %d requests answered", s.Waiting, s.Pending.Answered, s.Pending.Requests)
}

// Progress is a finished stage as people see it.
func (s StageSum) Progress() StageProgress {
	return StageProgress{
		Stage: s.Stage, Tasks: s.Tasks, Done: s.Tasks, Ledger: s.Ledger, Usage: s.Usage, Seconds: s.Seconds, Closed: true,
		ByCategory: s.ByCategory, Costs: s.Costs, Adopted: s.Adopted,
	}
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
	// Outages are the endpoints that what is under way asks in vain.
	Outages []Outage  `json:"outages,omitempty"`
	Started time.Time `json:"started"`
	// Probed is what it took to ask endpoints who answers, and Spent what no stage that is
	// shown has taken: stages that the run has gone back behind.
	Probed Usage `json:"probed,omitzero"`
	Spent  Usage `json:"spent,omitzero"`
	// Budget is what may be spent; nil for no limit.
	Budget *Cost `json:"budget,omitempty"`
}

// Usage is what the run has taken in all.
func (p Progress) Usage() Usage {
	u := p.Probed
	u.Add(p.Spent)
	for _, s := range p.Stages {
		u.Add(s.Usage)
	}
	return u
}

// TaskFailure is in the details of a task's failure.
type TaskFailure struct {
	// Usage is what the task's calls took: their answers are kept, but nobody else
	// tells what they cost.
	Usage Usage `json:"usage"`
	Costs Costs `json:"costs,omitempty"`
	// Tripwire says that a tripwire ended it.
	Tripwire bool `json:"tripwire,omitempty"`
	// Rows is how many rows failed, where all others have an outcome: the task could
	// end without them.
	Rows int64 `json:"rows,omitempty"`
	// Account says that an endpoint refuses the account, or has no such model any more: no
	// row's fault. Endpoint is the one to look after, where it is the configuration's: of
	// an account that is refused, or of an outage. Or names the others of its route, each of
	// which would do.
	Account  bool     `json:"account,omitempty"`
	Endpoint string   `json:"endpoint,omitempty"`
	Or       []string `json:"or,omitempty"`
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
