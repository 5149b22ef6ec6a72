package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/activities"
	"precept/schemas"
)

func TestSetBudget(t *testing.T) {
	gate := schemas.DecisionRecord{Number: 2, Verdict: "set-budget", Decision: schemas.Decision{
		Gate: schemas.GateBudget, By: "Ann", Opening: "budget-1-0123456789ab", Digest: "0123456789abcdef", USD: new(80.0), Tokens: new(int64(5000)),
	}}
	early := schemas.DecisionRecord{Number: 1, Verdict: "set-budget", Decision: schemas.Decision{Gate: schemas.GateBudget, By: "Ann", USD: new(0.5)}}
	for _, test := range []struct {
		name   string
		record schemas.DecisionRecord
		args   []string
		code   int
		want   string
	}{
		{"at its gate", gate, []string{"--usd", "80", "--tokens", "5000", "--by", "Ann"}, exitOK,
			"Decision 2 recorded: set-budget to $80.00 and 5000 tokens at gate budget (opening budget-1-0123456789ab, data 0123456789ab) by Ann\n"},
		{"at any time", early, []string{"--usd", "0.5", "--by", "Ann"}, exitOK, "Decision 1 recorded: set-budget to $0.50 by Ann\n"},
		{"lifted", schemas.DecisionRecord{Number: 3, Verdict: "set-budget", Decision: schemas.Decision{By: "Ann", USD: new(0.0)}}, []string{"--usd", "none", "--by", "Ann"}, exitOK,
			"Decision 3 recorded: set-budget to no limit of dollars by Ann\n"},
		{"of nothing at all", gate, []string{"--usd", "0", "--by", "Ann"}, exitBadInput,
			"starter: read command line: invalid argument \"0\" for \"--usd\" flag: a limit is a number above 0, or none, which lifts it. See: starter set-budget --help\n"},
		{"of half a token", gate, []string{"--tokens", "1.5", "--by", "Ann"}, exitBadInput,
			"starter: read command line: invalid argument \"1.5\" for \"--tokens\" flag: there are no parts of tokens. See: starter set-budget --help\n"},
		{"by nobody", gate, []string{"--usd", "80"}, exitBadInput, "starter: read command line: nobody is named as the one who decides. Add: --by \"YOUR NAME\"\n"},
		{"of nothing", gate, []string{"--by", "Ann"}, exitBadInput, "starter: read command line: no budget is named. Add --usd, --tokens, or both; what you don't name stays as it is\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := &fakeServer{answer: decided{Record: &test.record}}
			code, out, stderr := transcript(t, f, nil, append([]string{"set-budget", "first"}, test.args...)...)
			if diff := cmp.Diff(test.want, out+stderr); diff != "" || code != test.code {
				t.Errorf("exit code %d\n%s", code, diff)
			}
			if code == exitOK && (len(f.verdicts) != 1 || f.verdicts[0] != "set-budget") {
				t.Errorf("sent %v", f.verdicts)
			}
		})
	}
}

// The command names the limits that were reached, with what lets the run go on.
func TestBudgetGateBlock(t *testing.T) {
	for raise, want := range map[schemas.Cost]string{
		{USD: 24}:                    "set-budget first --usd 24 --opening",
		{Tokens: 20000000}:           "set-budget first --tokens 20000000 --opening",
		{USD: 0.098, Tokens: 100000}: "set-budget first --usd 0.098 --tokens 100000 --opening",
	} {
		got := gateBlock("first", schemas.Opening{Gate: schemas.GateBudget, ID: "budget-1", Raise: &raise})
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
}

func TestMoneyLines(t *testing.T) {
	p := schemas.Progress{
		Probed: schemas.Usage{Paid: 2, USD: 0.01}, Budget: &schemas.Cost{USD: 20},
		Stages: []schemas.StageProgress{
			{Stage: schemas.StageSynthesize, Closed: true, Usage: schemas.Usage{Paid: 10, USD: 4, Unanswered: 3, UnansweredUSD: 0.25}},
			{Stage: schemas.StageFilter, Usage: schemas.Usage{Paid: 5, USD: 1}, Projected: 8,
				Costs: schemas.Costs{"violence": {USD: 0.75, Tokens: 900}}},
		},
	}
	want := `Asking endpoints who answers: calls 2 paid, 0 cached, $0.01
Unaccounted: at most 3 calls, at most $0.25
Projected by its rows so far: filter $8.00, the run $12.01 when that ends; $5.01 are spent
Budget: $20.00
`
	if d := cmp.Diff(want, moneyLines(p)); d != "" {
		t.Errorf("(- want, + got)\n%s", d)
	}
	want = "\nfilter by category\nviolence  kept 0  $0.75  900 tokens\n"
	if d := cmp.Diff(want, categoryTables(p.Stages)); d != "" {
		t.Errorf("(- want, + got)\n%s", d)
	}
	if got := moneyLines(schemas.Progress{Stages: []schemas.StageProgress{{Usage: schemas.Usage{Paid: 1}}}}); got != "" {
		t.Errorf("nothing is to be said, and said is %q", got)
	}
}

func TestEstimateTable(t *testing.T) {
	span := func(low, high float64) activities.Range { return activities.Range{Low: low, High: high} }
	few, many := 40.0, 110.4
	likely := activities.Likely{
		From: "from 300 recorded answers to its own requests", Answers: 300, Calls: 20, Prompt: 8100, Cached: 800, Completion: 60, USD: 0.5,
		PerAnswer: &activities.PerAnswer{
			Prompt: activities.Spread{Mean: 405.4, Deviation: &many}, Cached: activities.Spread{Mean: 40}, Completion: activities.Spread{Mean: 3, Deviation: &few},
		},
	}
	synthesize := activities.StageEstimate{
		Stage: schemas.StageSynthesize, Endpoints: "teacher", Answered: 300, Calls: span(20, 20), Prompt: span(8000, 9999.4), Completion: span(50, 12345),
		USD: span(0.125, 1.5), Likely: &likely,
	}
	total := synthesize
	total.Stage, total.Endpoints, total.Prompt, total.Completion = "all", "", span(8000, 4_567_890), span(50, 999_960)
	for _, tt := range []struct {
		name string
		e    activities.Estimate
		want string
	}{
		{"some is unknown", activities.Estimate{
			Stages:  []activities.StageEstimate{synthesize, {Stage: schemas.StageRL, Endpoints: "judge", Calls: span(0, 20), Untold: "no answer is recorded"}},
			Total:   total,
			Budget:  &activities.Outlook{Budget: schemas.Cost{USD: 0.25}, Spent: schemas.Cost{USD: 0.01, Tokens: 70}, Passes: "likely"},
			Assumes: []string{"a token is 4 bytes"},
		}, `stage       endpoints  recorded  calls    prompt tokens  completion tokens  USD             likely
synthesize  teacher    300       20       8000 to 9999   50 to 12.3k        $0.12 to $1.50  $0.50
rl          judge      0         0 to 20  0              0                  $0.00           unknown
all                    300       20       8000 to 4.6M   50 to 1.0M         $0.12 to $1.50  $0.50 and unknown
Recorded answers were paid for earlier: they cost nothing now.
Likely, synthesize: 20 calls, from 300 recorded answers to its own requests: 405 ± 110 prompt tokens (40 of them cached) and 3 ± 40 completion tokens each
Likely, rl: unknown, since no answer is recorded
A trial (starter try) or a pilot (start --set prompts.limit=20) records answers that tell it.
Budget: $0.25 ($0.01 and 70 tokens of it are spent); the likely figure passes it: the run would most likely pause at its gate budget
Assumed: a token is 4 bytes
`},
		{"nothing is left", activities.Estimate{
			Stages: []activities.StageEstimate{{Stage: schemas.StageFilter, Endpoints: "judge", Answered: 3, Likely: &activities.Likely{}}},
			Total:  activities.StageEstimate{Stage: "all", Answered: 3, Likely: &activities.Likely{}},
			Budget: &activities.Outlook{Budget: schemas.Cost{Tokens: 7}},
		}, `stage   endpoints  recorded  calls  prompt tokens  completion tokens  USD    likely
filter  judge      3         0      0              0                  $0.00  $0.00
all                3         0      0              0                  $0.00  $0.00
Recorded answers were paid for earlier: they cost nothing now.
Nothing is left to pay.
Budget: 7 tokens; the high end is within it
`},
	} {
		if d := cmp.Diff(tt.want, estimateTable(tt.e)); d != "" {
			t.Errorf("%s (- want, + got)\n%s", tt.name, d)
		}
	}
}

// A run that ended in the middle of a stage tells what that took, with a report or without.
func TestProgressOfARunThatEndedInMidStage(t *testing.T) {
	open := schemas.StageProgress{
		Stage: schemas.StageFilter, Tasks: 3, Done: 2, Ledger: schemas.Ledger{Planned: 8, Kept: 8},
		Usage: schemas.Usage{Paid: 9, USD: 2.5}, Costs: schemas.Costs{"violence": {USD: 2.5, Tokens: 900}},
	}
	report := schemas.RunReport{
		Run: "first", Name: "first", State: schemas.StateAborted, Open: &open,
		Stages: []schemas.StageSum{{Stage: schemas.StageSynthesize, Tasks: 3, Seconds: 60, Usage: schemas.Usage{Paid: 4, USD: 1}}},
		Spent:  map[schemas.Stage]schemas.Usage{schemas.StageFilter: {Paid: 1, USD: 0.6}},
	}
	asked := report.Progress()
	cancelled, running := asked, asked
	cancelled.State, running.State = schemas.StateCancelled, schemas.StateWaiting
	running.Waiting = &schemas.Opening{Gate: schemas.GateDataset}
	table := `stage       tasks  kept  rejected  calls paid  cached  USD    time
synthesize  3/3    0     0         4           0       $1.00  1m00s
filter      2/3    8     0         9           0       $2.50  -
all                                13          0       $3.50  1m00s
Before the stages were done again: calls 1 paid, 0 cached, $0.60

filter by category
violence  kept 0  $2.50  900 tokens
`
	for _, test := range []struct {
		name  string
		seen  sight
		head  string
		code  int
		error string
	}{
		{"aborted", sight{Ended: &end{Report: &report}}, "first: aborted, stage filter\n", exitOK, ""},
		{"cancelled", sight{Ended: &end{Failure: "it was cancelled"}, Progress: &cancelled}, "first: cancelled, stage filter\n", exitError, "it was cancelled"},
		{"terminated", sight{Ended: &end{Failure: "it was terminated"}, Progress: &running},
			"first: stopped, stage filter\nNote: the run was stopped from outside: what its open tasks took is told when it is started again\n", exitError, "it was terminated"},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, out, stderr := transcript(t, &fakeServer{seen: []sight{test.seen}}, nil, "progress", "first", "--by-category")
			if d := cmp.Diff(test.head+table, out); d != "" || code != test.code || !strings.Contains(stderr, test.error) {
				t.Errorf("exit code %d: %s (- want, + got)\n%s", code, stderr, d)
			}
		})
	}
}
