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
	Openings  int              `json:"openings"`
	Decisions []DecisionRecord `json:"decisions,omitempty"`
	// Draws is how far the quota's rounds are, and Drawn that they have ended.
	Draws []Draw `json:"draws,omitempty"`
	Drawn bool   `json:"drawn,omitempty"`
	// Retry says in which stages rows that failed are asked again, and for which reason
	// they failed; an empty reason stands for all.
	Retry map[Stage]Reason `json:"retry,omitempty"`
	// Probed is what it took to ask endpoints who answers, and Spent what stages are known
	// to have spent that are neither in Sums nor open.
	Probed Usage           `json:"probed,omitzero"`
	Spent  map[Stage]Usage `json:"spent,omitempty"`
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
	// Grants is what those may spend, where there is a budget.
	Grants map[int]Cost `json:"grants,omitempty"`
	// Unchecked says that a person has seen a tripwire of this stage and resumed.
	Unchecked  bool       `json:"unchecked,omitempty"`
	Ledger     Ledger     `json:"ledger"`
	ByCategory Categories `json:"by_category,omitempty"`
	Usage      Usage      `json:"usage"` // of tasks that are done
	Costs      Costs      `json:"costs,omitempty"`
	Started    time.Time  `json:"started"`
}

// FailedTask is a task that has exhausted its retries, or its grant. Rows is how many of
// its rows failed, 0 where it was not a matter of rows.
type FailedTask struct {
	Index int   `json:"index"`
	Rows  int64 `json:"rows,omitempty"`
	// Usage and Costs are what it has taken so far. When it is called again it tells them
	// anew.
	Usage Usage `json:"usage,omitzero"`
	Costs Costs `json:"costs,omitempty"`
	// Granted is what it may have spent, where it could not tell.
	Granted Cost `json:"granted,omitzero"`
	// Unfinished says that nothing went wrong: its grant is spent. Needs is the least one with
	// which it could have gone on.
	Unfinished bool `json:"unfinished,omitempty"`
	Needs      Cost `json:"needs,omitzero"`
}

// AtMost is what the task can have spent so far.
func (t FailedTask) AtMost() Cost { return t.Usage.AtMost().Max(t.Granted) }

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
