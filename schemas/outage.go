package schemas

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// SignalOutages tells a run which endpoints answer nobody: workers send it, with an
// OutagesTold, when that changes for the calls of an activity.
const SignalOutages = "outages"

// Teller names an activity that asks endpoints, among those of a run that are open at a time.
type Teller string

// The tellers that are no tasks.
const (
	TellerServed  Teller = "look who answers"
	TellerBatches Teller = "look whether endpoints take batches"
	TellerPoll    Teller = "look at batches"
)

// TaskTeller is the teller of a stage's task.
func TaskTeller(stage Stage, index int) Teller { return Teller(fmt.Sprintf("%s %d", stage, index)) }

// OutagesTold is all that a teller finds, in place of what it told before.
type OutagesTold struct {
	By      Teller   `json:"by"`
	Outages []Outage `json:"outages"`
}

// Outage is an endpoint that answers nobody now: it is out, or refuses the account.
type Outage struct {
	Endpoint string    `json:"endpoint"`
	Says     string    `json:"says"` // the endpoint, or what came in place of its words
	Since    time.Time `json:"since"`
	Instead  string    `json:"instead,omitempty"` // the endpoint that is asked in its place
}

func (o Outage) String() string {
	s := fmt.Sprintf("endpoint %s answers nobody since %s: %s", o.Endpoint, o.Since.UTC().Format(time.DateTime+" UTC"), o.Says)
	if o.Instead != "" {
		s += fmt.Sprintf("; %s is asked in its place", o.Instead)
	}
	return s
}

// Outages is one outage an endpoint, of what all tellers find: as the one that saw it begin
// tells of it.
func Outages(told map[Teller][]Outage) (all []Outage) {
	for _, by := range slices.Sorted(maps.Keys(told)) {
		all = append(all, told[by]...)
	}
	slices.SortStableFunc(all, func(a, b Outage) int {
		return cmp.Or(cmp.Compare(a.Endpoint, b.Endpoint), a.Since.Compare(b.Since))
	})
	return slices.CompactFunc(all, func(a, b Outage) bool { return a.Endpoint == b.Endpoint })
}
