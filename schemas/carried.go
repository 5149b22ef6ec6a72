package schemas

import "time"

// Served is what has changed about who answers under a model identity, since answers were
// recorded under it, and whether they can do what is asked of them.
type Served struct {
	Changed []string `json:"changed,omitempty"` // another model: people are asked
	Notes   []string `json:"notes,omitempty"`   // such as another fingerprint of the same
	Unfit   []string `json:"unfit,omitempty"`   // what endpoints can't do for the run: people are asked
	Usage   Usage    `json:"usage,omitzero"`    // of looking
}

// Carried is what a run hands to its continuation. It stays under 64 KB.
type Carried struct {
	Started   time.Time        `json:"started"`
	Inputs    *InputsRef       `json:"inputs,omitempty"`
	Sums      []StageSum       `json:"sums"`
	Open      *OpenStage       `json:"open,omitempty"`
	Notes     []string         `json:"notes,omitempty"`
	Probed    Usage            `json:"probed,omitzero"` // of probes that no stage has counted yet
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
// but those in Failed and Pending.
type OpenStage struct {
	Stage  Stage        `json:"stage"`
	Plan   *PlanRef     `json:"plan,omitempty"`
	Next   int          `json:"next"`
	Failed []FailedTask `json:"failed,omitempty"`
	// Pending are the tasks whose batches are under way.
	Pending []int `json:"pending,omitempty"`
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
