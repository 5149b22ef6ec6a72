package workflows

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"precept/schemas"
)

// answer is what was decided at the gate that waits.
type answer struct {
	verdict  string
	decision schemas.Decision
}

// The verdicts that each gate takes.
var verdicts = map[schemas.Gate][]string{
	schemas.GateDataset: {schemas.DecisionApprove, schemas.DecisionReject, schemas.DecisionAbort},
	schemas.GateRelease: {schemas.DecisionApprove, schemas.DecisionReject, schemas.DecisionAbort},
	schemas.GateModels:  {schemas.DecisionApprove, schemas.DecisionReject, schemas.DecisionAbort},
	schemas.GateQuota:   {schemas.DecisionApprove, schemas.DecisionReject, schemas.DecisionAbort},
	schemas.GateFailure: {schemas.DecisionResume, schemas.DecisionAbort},
	schemas.GateBudget:  {schemas.DecisionBudget, schemas.DecisionResume, schemas.DecisionAbort},
}

// signals are the verdicts that people send.
var signals = []string{schemas.SignalApprove, schemas.SignalReject, schemas.SignalResume, schemas.SignalAbort, schemas.SignalRetry, schemas.SignalBudget}

// gate waits for a person's decision on the thing with this digest. A decision
// that was recorded for the same gate and digest counts, so that a run that is
// started again asks only where the data differ.
func (f *factory) gate(ctx workflow.Context, gate schemas.Gate, digest schemas.Digest, question string) error {
	for _, d := range f.carried.Decisions {
		if d.Stale || d.Decision.Gate != gate || d.Decision.Digest != digest {
			continue
		}
		if d.Verdict == schemas.DecisionApprove {
			return nil
		}
	}
	verdict, err := f.wait(ctx, schemas.Opening{Gate: gate, Digest: digest, Question: question, Takes: verdicts[gate]})
	if err != nil {
		return err
	}
	switch verdict.verdict {
	case schemas.DecisionApprove:
		return nil
	case schemas.DecisionReject:
		return &endedError{schemas.StateRejected, noted(fmt.Sprintf("%s gate rejected by %s", gate, verdict.decision.By), verdict.decision.Note)}
	default:
		return &endedError{schemas.StateAborted, noted(fmt.Sprintf("aborted at the %s gate by %s", gate, verdict.decision.By), verdict.decision.Note)}
	}
}

// failed opens the failure gate. Its verdict is to try again or, where all that failed
// are rows, to go on without them.
func (f *factory) failed(ctx workflow.Context, part *schemas.OpenStage, failure error, rows int64) (verdict string, err error) {
	stage := part.Stage
	if temporal.IsCanceledError(failure) || ctx.Err() != nil {
		return "", failure
	}
	message := plain(failure)
	opening := schemas.Opening{
		Gate: schemas.GateFailure, Digest: schemas.DigestOf([]string{string(stage), message}),
		Question: fmt.Sprintf("Stage %s can't go on: %s", stage, message), Takes: verdicts[schemas.GateFailure],
	}
	if taskFailure(failure).Tripwire {
		opening.Digest = tripDigest(part)
	}
	if rows > 0 {
		opening.Takes = append([]string{schemas.DecisionApprove}, opening.Takes...)
		opening.Question = then(opening.Question, fmt.Sprintf("To ask for the %d rows that failed again, resume; to go on without them, approve: retry asks for them later", rows))
	}
	defer f.probing(ctx, &opening, taskFailure(failure))()
	got, err := f.wait(ctx, opening)
	if err != nil {
		return "", err
	}
	if got.verdict == schemas.DecisionAbort {
		return "", &endedError{schemas.StateAborted, fmt.Sprintf("aborted by %s after: %s", got.decision.By, message)}
	}
	return got.verdict, nil
}

// retrying runs do until it succeeds, waiting at the failure gate after each
// failure. Bad input ends the run before anything is spent.
func (f *factory) retrying(ctx workflow.Context, stage schemas.Stage, do func() error) error {
	for {
		err := do()
		if err == nil {
			return nil
		}
		var app *temporal.ApplicationError
		if f.carried.Inputs == nil && !taskFailure(err).Account && errors.As(err, &app) && app.Type() == string(schemas.InvalidInput) {
			return invalid(errors.New(app.Message()))
		}
		if _, err := f.failed(ctx, &schemas.OpenStage{Stage: stage}, err, 0); err != nil {
			return err
		}
	}
}

// wait opens a gate and returns what was decided, recorded in the store.
func (f *factory) wait(ctx workflow.Context, opening schemas.Opening) (answer, error) {
	f.carried.Openings++
	gate, usual, more := opening.Gate, schemas.DecisionApprove, ""
	switch gate {
	case schemas.GateFailure:
		usual = schemas.DecisionResume
	case schemas.GateBudget:
		usual = schemas.DecisionBudget
		if usd := opening.Raise.USD; usd > 0 {
			more += `,"usd":` + strconv.FormatFloat(usd, 'f', -1, 64)
		}
		if tokens := opening.Raise.Tokens; tokens > 0 {
			more += fmt.Sprintf(`,"tokens":%d`, tokens)
		}
	}
	opening.ID = fmt.Sprintf("%s-%d-%s", gate, f.carried.Openings, opening.Digest.Short())
	opening.Number = f.carried.Openings
	opening.Command = fmt.Sprintf(`temporal workflow signal --workflow-id %s --name %s --input '{"gate":"%s","by":"YOUR NAME"%s}'`,
		schemas.ShellWord(string(f.id)), usual, gate, more)
	opening.Since = workflow.Now(ctx)
	f.waiting, f.answer, f.state = &opening, nil, schemas.StateWaiting
	f.show(ctx)
	decided := func() bool { return f.answer != nil && f.writing == 0 }
	timeout := time.Duration(f.spec.Gates.Timeout)
	if timeout > 0 && (gate == schemas.GateDataset || gate == schemas.GateRelease) {
		ok, err := workflow.AwaitWithTimeout(ctx, timeout, decided)
		if err != nil {
			return answer{}, err
		}
		if !ok && f.answer == nil {
			d := schemas.Decision{Gate: gate, By: "timeout policy", Note: fmt.Sprintf("nobody decided within %s", timeout)}
			f.decide(ctx, f.spec.Gates.OnTimeout, d)
		}
	}
	if err := workflow.Await(ctx, decided); err != nil {
		return answer{}, err
	}
	got := *f.answer
	f.waiting, f.answer, f.state = nil, nil, schemas.StateRunning
	f.show(ctx)
	if got.verdict == schemas.DecisionRetry {
		return got, &rewindError{f.retried(got.decision)}
	}
	return got, nil
}

// check tells why a decision makes no sense now; nil when it does.
func (f *factory) check(verdict string, d schemas.Decision) error {
	if verdict == schemas.DecisionRetry {
		return f.checkRetry(d)
	}
	if verdict == schemas.DecisionBudget {
		return f.checkBudget(d)
	}
	if d.USD != nil || d.Tokens != nil {
		return fmt.Errorf("usd and tokens are for set-budget")
	}
	if d.Stage != "" || d.Reason != "" {
		return fmt.Errorf("stage and reason are for retry")
	}
	if f.waiting == nil || f.answer != nil {
		return fmt.Errorf("the run is not waiting for a decision; it is %s in stage %s", f.state, f.current())
	}
	if d.By == "" {
		return fmt.Errorf(`say who decides: {"gate":"%s","by":"YOUR NAME"}`, f.waiting.Gate)
	}
	if d.Gate != "" && d.Gate != f.waiting.Gate {
		return fmt.Errorf("gate %q does not wait; the run waits at gate %q", d.Gate, f.waiting.Gate)
	}
	if d.Opening != "" && d.Opening != f.waiting.ID {
		return fmt.Errorf("opening %q is closed; the one that waits is %q", d.Opening, f.waiting.ID)
	}
	if d.Digest != "" && d.Digest != f.waiting.Digest {
		return fmt.Errorf("digest %s is not what waits; it is %s", d.Digest.Short(), f.waiting.Digest)
	}
	if !slices.Contains(f.waiting.Takes, verdict) {
		return fmt.Errorf("gate %q takes %v, not %q", f.waiting.Gate, f.waiting.Takes, verdict)
	}
	return nil
}

// signalled records the decision in a signal.
func (f *factory) signalled(ctx workflow.Context, verdict string, raw json.RawMessage) {
	var d schemas.Decision
	if err := json.Unmarshal(raw, &d); err != nil {
		f.record(ctx, verdict, schemas.Decision{By: "unknown"}, err)
		return
	}
	f.decide(ctx, verdict, d)
}

// decide records a decision, as stale when it makes no sense now, and lets the
// gate go on once it is stored.
func (f *factory) decide(ctx workflow.Context, verdict string, d schemas.Decision) schemas.DecisionRecord {
	return f.record(ctx, verdict, d, f.check(verdict, d))
}

// record records a decision, as stale where there is something against it.
func (f *factory) record(ctx workflow.Context, verdict string, d schemas.Decision, against error) schemas.DecisionRecord {
	record := schemas.DecisionRecord{
		Number: len(f.carried.Decisions) + 1, Verdict: verdict, Decision: d, At: workflow.Now(ctx),
	}
	if against != nil {
		record.Stale = true
		record.Decision.Note = join(d.Note, "stale: "+against.Error())
	} else if verdict == schemas.DecisionBudget && !f.atBudget() {
		record.Decision.Gate, record.Decision.Digest = schemas.GateBudget, f.budgetDigest() // it counts from now on
	} else if f.waiting == nil {
		f.retried(record.Decision) // the run is at its beginning
	} else {
		record.Decision.Gate, record.Decision.Opening, record.Decision.Digest = f.waiting.Gate, f.waiting.ID, f.waiting.Digest
		f.answer = &answer{verdict, record.Decision}
	}
	f.carried.Decisions = append(f.carried.Decisions, record)
	f.writing++
	defer func() { f.writing-- }()
	err := workflow.ExecuteActivity(light(ctx, "record decision"), act.RecordDecision, f.id, record).Get(ctx, nil)
	if err != nil {
		workflow.GetLogger(ctx).Error("decision not recorded", "number", record.Number, "error", err)
	}
	return record
}

// listen registers signals, their update twins and the progress query.
func (f *factory) listen(ctx workflow.Context) error {
	for _, verdict := range signals {
		ch := workflow.GetSignalChannelWithOptions(ctx, verdict, workflow.SignalChannelOptions{
			Description: fmt.Sprintf(`%s what the waiting gate asks: {"gate":"…","by":"…"}`, verdict),
		})
		workflow.GoNamed(ctx, "signal "+verdict, func(ctx workflow.Context) {
			for {
				// Read by hand: one that can't be read is recorded, too.
				var raw json.RawMessage
				if more := ch.Receive(ctx, &raw); !more {
					return
				}
				f.signalled(ctx, verdict, raw)
			}
		})
		err := workflow.SetUpdateHandlerWithOptions(ctx, verdict,
			func(ctx workflow.Context, d schemas.Decision) (schemas.DecisionRecord, error) {
				return f.decide(ctx, verdict, d), nil
			},
			workflow.UpdateHandlerOptions{
				Validator:   func(_ workflow.Context, d schemas.Decision) error { return f.check(verdict, d) },
				Description: fmt.Sprintf("%s, with an answer: says at once when it makes no sense", verdict),
			})
		if err != nil {
			return err
		}
	}
	f.hear(ctx)
	return workflow.SetQueryHandlerWithOptions(ctx, schemas.QueryProgress,
		func() (schemas.Progress, error) { return f.progress(), nil },
		workflow.QueryHandlerOptions{Description: "stage, counts, cost, and what the run waits for"})
}

// settle records the decisions that have come in and waits until all are stored, so
// that none is lost with this link of the chain.
func (f *factory) settle(ctx workflow.Context) error {
	for _, verdict := range signals {
		ch := workflow.GetSignalChannel(ctx, verdict)
		var raw json.RawMessage
		for ch.ReceiveAsync(&raw) {
			f.signalled(ctx, verdict, raw)
			raw = nil
		}
	}
	return workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) && f.writing == 0 })
}

// plain is the innermost message of an activity's failure.
func plain(err error) string {
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		return app.Message()
	}
	var timeout *temporal.TimeoutError
	if errors.As(err, &timeout) {
		return "timed out: " + timeout.Error()
	}
	return err.Error()
}

// then puts another sentence after a text, which may end in a full stop of its own, or in
// somebody else's.
func then(text, sentence string) string {
	text = strings.TrimSpace(text)
	if !strings.HasSuffix(text, ".") && !strings.HasSuffix(text, "!") && !strings.HasSuffix(text, "?") {
		text += "."
	}
	return text + " " + sentence
}

// listed makes one text of several, whose full stops go.
func listed(texts []string) string {
	var out []string
	for _, t := range texts {
		out = append(out, strings.TrimRight(strings.TrimSpace(t), "."))
	}
	return strings.Join(out, "; ")
}

// noted adds what a person noted, if anything.
func noted(text, note string) string {
	if note == "" {
		return text
	}
	return text + ": " + note
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + " (" + b + ")"
}
