package schemas

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Reason says why a unit was rejected or failed.
type Reason string

// The reasons of rejection: final outcomes, asking again would not change them. ReasonCheck
// is none: its units are counted apart.
const (
	ReasonDuplicate        Reason = "duplicate"
	ReasonNearDuplicate    Reason = "near duplicate"
	ReasonContaminated     Reason = "contaminated"
	ReasonRefused          Reason = "refused"   // the provider refused the content, or the teacher to write a prompt
	ReasonTruncated        Reason = "truncated" // cut by length
	ReasonTooLong          Reason = "too long"  // the prompt exceeds the model's context
	ReasonEmpty            Reason = "empty"
	ReasonNoCoT            Reason = "no CoT"
	ReasonMalformed        Reason = "malformed"
	ReasonNoCitation       Reason = "no citation"
	ReasonBelowThreshold   Reason = "below threshold"
	ReasonMalformedVerdict Reason = "malformed verdict" // the judge's reply could not be read
	ReasonNotBest          Reason = "not best"
	ReasonOverQuota        Reason = "over quota"
	ReasonHeldOut          Reason = "held out"      // of training, to measure its loss
	ReasonNoneOfThese      Reason = "none of these" // of no category of the policy
	ReasonUnclear          Reason = "unclear"       // no majority of the votes agrees
	ReasonOffCategory      Reason = "off category"  // a generated prompt that is of another
	ReasonOffIntent        Reason = "off intent"
	ReasonCheck            Reason = "check"            // classified for comparison only: its label stays
	ReasonDev              Reason = "held out for dev" // never trained on: milestones are chosen by it
)

// The reasons of failure: asking again may help.
const (
	ReasonRateLimited      Reason = "rate limited"
	ReasonTimedOut         Reason = "timed out"
	ReasonUnavailable      Reason = "endpoint unavailable"
	ReasonBadRequest       Reason = "bad request" // refused for what it is, not for its content
	ReasonInternal         Reason = "internal error"
	ReasonJudgeUnavailable Reason = "judge unavailable" // of a rollout; it stays so
)

// FailureReasons lists why a row may have failed that can be asked for again.
var FailureReasons = []Reason{
	ReasonRateLimited, ReasonTimedOut, ReasonUnavailable, ReasonBadRequest, ReasonInternal,
}

// Ledger accounts for the units of a stage or a task: every planned unit is kept,
// rejected for a reason, failed for a reason, or was only there to check the judge by.
type Ledger struct {
	Planned  int64            `json:"planned"`
	Kept     int64            `json:"kept"`
	Checked  int64            `json:"checked,omitempty"`
	Rejected map[Reason]int64 `json:"rejected,omitempty"`
	Failed   map[Reason]int64 `json:"failed,omitempty"`
}

// Count adds one unit with its outcome; an empty reason is a kept unit. It
// doesn't change Planned.
func (l *Ledger) Count(reason Reason) {
	switch reason {
	case "":
		l.Kept++
		return
	case ReasonCheck:
		l.Checked++
		return
	}
	if l.Rejected == nil {
		l.Rejected = map[Reason]int64{}
	}
	l.Rejected[reason]++
}

// Fail adds one unit that failed.
func (l *Ledger) Fail(reason Reason) {
	if l.Failed == nil {
		l.Failed = map[Reason]int64{}
	}
	l.Failed[reason]++
}

// Add adds o's units to l.
func (l *Ledger) Add(o Ledger) {
	l.Planned += o.Planned
	l.Kept += o.Kept
	l.Checked += o.Checked
	addAll(&l.Rejected, o.Rejected)
	addAll(&l.Failed, o.Failed)
}

func addAll(dst *map[Reason]int64, src map[Reason]int64) {
	if len(src) == 0 {
		return
	}
	if *dst == nil {
		*dst = map[Reason]int64{}
	}
	for r, n := range src {
		(*dst)[r] += n
	}
}

// Categories is a ledger for each category.
type Categories map[Category]Ledger

// AddAll adds o's ledgers.
func (c *Categories) AddAll(o Categories) {
	for _, category := range slices.Sorted(maps.Keys(o)) {
		c.Add(category, o[category])
	}
}

// CarriedCategories is up to how many categories are told to people by a run itself.
const CarriedCategories = 16

// Add adds a ledger to a category's.
func (c *Categories) Add(category Category, l Ledger) {
	if category == "" {
		return
	}
	if *c == nil {
		*c = Categories{}
	}
	sum := (*c)[category]
	sum.Rejected, sum.Failed = maps.Clone(sum.Rejected), maps.Clone(sum.Failed)
	sum.Add(l)
	(*c)[category] = sum
}

// Outcomes is the number of units with an outcome.
func (l Ledger) Outcomes() int64 { return l.Kept + l.Checked + sum(l.Rejected) + sum(l.Failed) }

// Retriable is the number of units that failed for a reason, or for any, and can be asked
// for again.
func (l Ledger) Retriable(reason Reason) (n int64) {
	for _, r := range FailureReasons {
		if reason == "" || r == reason {
			n += l.Failed[r]
		}
	}
	return n
}

// Missing is the number of units that failed.
func (l Ledger) Missing() int64 { return sum(l.Failed) }

func sum(m map[Reason]int64) (n int64) {
	for _, v := range m {
		n += v
	}
	return n
}

// Check reports whether l adds up to planned.
func (l Ledger) Check(planned int64) error {
	if got := l.Outcomes(); got != planned {
		return fmt.Errorf("ledger does not add up: %d units planned, %d have an outcome (%s)", planned, got, l)
	}
	return nil
}

func (l Ledger) String() string {
	s := fmt.Sprintf("kept %d", l.Kept)
	if l.Checked > 0 {
		s += fmt.Sprintf(", checked %d", l.Checked)
	}
	for _, r := range slices.Sorted(maps.Keys(l.Rejected)) {
		s += fmt.Sprintf(", %s %d", r, l.Rejected[r])
	}
	for _, r := range slices.Sorted(maps.Keys(l.Failed)) {
		s += fmt.Sprintf(", failed (%s) %d", r, l.Failed[r])
	}
	return s
}

// Rest is what became of the units that weren't kept.
func (l Ledger) Rest() string {
	return strings.TrimPrefix(strings.TrimPrefix(l.String(), fmt.Sprintf("kept %d", l.Kept)), ", ")
}

// Usage is what calls to models took. Cached calls were answered from the journal
// and cost nothing; Paid calls were sent. Unanswered calls were sent too, or may have
// been, and no answer to them is known: their provider may bill up to UnansweredUSD.
type Usage struct {
	Paid             int64   `json:"paid"`
	Cached           int64   `json:"cached"`
	PromptTokens     int64   `json:"prompt_tokens"`
	CachedTokens     int64   `json:"cached_tokens"`
	CompletionTokens int64   `json:"completion_tokens"`
	USD              float64 `json:"usd"`
	Seconds          float64 `json:"seconds"`

	Unanswered       int64   `json:"unanswered,omitempty"`
	UnansweredTokens int64   `json:"unanswered_tokens,omitempty"`
	UnansweredUSD    float64 `json:"unanswered_usd,omitempty"`
}

// Add adds o to u.
func (u *Usage) Add(o Usage) {
	u.Paid += o.Paid
	u.Cached += o.Cached
	u.PromptTokens += o.PromptTokens
	u.CachedTokens += o.CachedTokens
	u.CompletionTokens += o.CompletionTokens
	u.USD = Dollars(u.USD + o.USD)
	u.Seconds += o.Seconds
	u.Unanswered += o.Unanswered
	u.UnansweredTokens += o.UnansweredTokens
	u.UnansweredUSD = Dollars(u.UnansweredUSD + o.UnansweredUSD)
}
