package activities

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"precept/internal/llm"
	"precept/internal/shard"
	"precept/schemas"
)

// What a stage likely takes is told by answers that are recorded: to some of its own
// requests, of a pilot, a trial or a run before, or else of the latest run that has asked the
// same endpoints in the same stage.

// Likely is what a stage's calls likely take. Without From nothing is left to be asked.
type Likely struct {
	From       string     `json:"from,omitempty"` // which answers tell it, for people
	Answers    int64      `json:"answers"`        // how many these are
	Calls      float64    `json:"calls"`
	Prompt     float64    `json:"prompt_tokens"`
	Cached     float64    `json:"cached_tokens"` // of those
	Completion float64    `json:"completion_tokens"`
	USD        float64    `json:"usd"`
	PerAnswer  *PerAnswer `json:"per_answer,omitempty"`
}

func (l *Likely) add(o Likely) {
	l.Answers += o.Answers
	l.Calls, l.Prompt, l.Cached, l.Completion = l.Calls+o.Calls, l.Prompt+o.Prompt, l.Cached+o.Cached, l.Completion+o.Completion
	l.USD = schemas.Dollars(l.USD + o.USD)
}

// cost is what is likely paid; nil where nothing tells it.
func (l *Likely) cost() *schemas.Cost {
	if l == nil {
		return nil
	}
	return &schemas.Cost{USD: l.USD, Tokens: int64(math.Round(l.Prompt + l.Completion))}
}

// PerAnswer is what recorded answers took.
type PerAnswer struct {
	Prompt     Spread `json:"prompt_tokens"`
	Cached     Spread `json:"cached_tokens"`
	Completion Spread `json:"completion_tokens"`
}

// Spread is a mean with its standard deviation, which is nil where only the mean is known.
type Spread struct {
	Mean      float64  `json:"mean"`
	Deviation *float64 `json:"deviation,omitempty"`
}

// observed is what recorded answers tell of a stage.
type observed struct {
	from    string
	answers int64
	PerAnswer
	usd      float64 // of an answer, by today's prices
	requests float64 // of a unit
	kept     float64 // share of units
}

// sizes is what requests of a stage, each counted once, were found to be.
type sizes struct {
	batch   bool
	known   map[schemas.Key]bool
	asked   int64 // that are missing, however often
	missing int64
	prompt  Range // tokens of all that are missing
	turns   int64 // bytes of their messages behind the first

	there                       int64 // that are answered
	answers                     int64 // of those, such as tell what they took
	read, cached, written, paid moments
}

// moments sums figures and their squares.
type moments struct{ sum, squares float64 }

func (m *moments) add(f float64) { m.sum, m.squares = m.sum+f, m.squares+f*f }

func (m moments) spread(n int64) Spread {
	mean := m.sum / float64(n)
	deviation := math.Sqrt(max(0, m.squares/float64(n)-mean*mean))
	return Spread{mean, &deviation}
}

func newSizes(batch bool) *sizes { return &sizes{batch: batch, known: map[schemas.Key]bool{}} }

// first reports whether a request is come across for the first time.
func (s *sizes) first(key schemas.Key) bool {
	known := s.known[key]
	s.known[key] = true
	return !known
}

// found takes an answer.
func (s *sizes) found(bill llm.Bill, took schemas.Usage) {
	if !s.first(bill.Key) {
		return
	}
	if s.there++; took.PromptTokens+took.CompletionTokens == 0 {
		return // a refusal, or of an endpoint that doesn't tell
	}
	s.answers++
	s.read.add(float64(took.PromptTokens))
	s.cached.add(float64(took.CachedTokens))
	s.written.add(float64(took.CompletionTokens))
	s.paid.add(bill.Endpoint.Price(usageOf(took), s.batch))
}

// lacking takes a request without an answer.
func (s *sizes) lacking(bill llm.Bill, r llm.Request) {
	s.asked++
	if !s.first(bill.Key) {
		return
	}
	s.missing++
	s.prompt.add(tokens(r))
	for _, m := range r.Messages[1:] {
		s.turns += int64(len(m.Content))
	}
}

func usageOf(u schemas.Usage) llm.Usage {
	return llm.Usage{PromptTokens: u.PromptTokens, CachedTokens: u.CachedTokens, CompletionTokens: u.CompletionTokens}
}

// observed is what the stage's own answers tell; nil where there are none.
func (s *sizes) observed(k asking, l looked) *observed {
	if s.answers == 0 {
		return nil
	}
	o := &observed{
		from: fmt.Sprintf("from %s to its own requests", recordedAnswers(s.answers)), answers: s.answers,
		PerAnswer: PerAnswer{s.read.spread(s.answers), s.cached.spread(s.answers), s.written.spread(s.answers)},
		usd:       s.paid.sum / float64(s.answers), requests: k.requests(), kept: math.NaN(),
	}
	if l.done > 0 && k.votes > 0 {
		o.requests = float64(max(0, s.there-l.begun)) / float64(l.done)
	}
	return o
}

func recordedAnswers(n int64) string {
	if n == 1 {
		return "1 recorded answer"
	}
	return fmt.Sprintf("%d recorded answers", n)
}

// likely fills in what is likely taken.
func (x *estimator) likely(k asking, n calls, o *observed, e *StageEstimate) {
	switch {
	case !x.lost && x.expects && x.expected == 0 && n.High == n.absent:
		e.Likely = &Likely{From: "since nothing that was recorded comes to it"}
		return
	case o == nil:
		e.Untold = "no answer of these endpoints in this stage is recorded"
		return
	case !x.lost && !x.expects && n.absent > 0:
		e.Untold = "what comes to it follows from answers that nothing recorded tells of"
		return
	}
	// Rows that lack all of their answers take as many as others did. Those that lack some
	// were not settled by what they have.
	there := n.High - n.absent
	fresh := min(float64(x.looked.fresh)*x.scale, there/k.requests())
	units := x.expected
	if x.lost {
		units = n.absent / k.requests()
	}
	sent := (fresh+units)*o.requests + there - fresh*k.requests()
	sent = min(max(sent, e.Calls.Low), e.Calls.High)
	l := &Likely{
		From: o.from, Answers: o.answers, Calls: math.Round(sent), Prompt: math.Round(sent * o.Prompt.Mean), Cached: math.Round(sent * o.Cached.Mean),
		Completion: math.Round(sent * o.Completion.Mean), USD: schemas.Dollars(sent * o.usd), PerAnswer: &o.PerAnswer,
	}
	e.Likely = l
	// What was seen outweighs what is assumed.
	e.Prompt.widen(l.Prompt)
	e.Completion.widen(l.Completion)
	e.USD.widen(l.USD)
}

// String is the mean with its deviation.
func (s Spread) String() string {
	if s.Deviation == nil {
		return fmt.Sprintf("%.0f", s.Mean)
	}
	return fmt.Sprintf("%.0f ± %.0f", s.Mean, *s.Deviation)
}

// expect hands on how many units the next stage likely has beside those that are there.
func (x *estimator) expect(stage schemas.Stage, passed int, o *observed) {
	if len(x.sums) == passed {
		return // nothing is known of it
	}
	ledger := x.sums[passed].Ledger
	units := x.expected + float64(ledger.Missing())*x.scale
	if units == 0 {
		return
	}
	kept := math.NaN()
	if decided := ledger.Planned - ledger.Missing(); decided > 0 {
		kept = float64(ledger.Kept) / float64(decided)
	} else if o != nil {
		kept = o.kept
	}
	if math.IsNaN(kept) {
		x.expects = false
		return
	}
	if stage == schemas.StagePrompts {
		kept *= float64(x.Spec.Synthesize.Samples)
	}
	x.expected = units * kept
}

// lookBack is how many plans of a stage are read, the latest first, for one that asked the
// same endpoints.
const lookBack = 16

// earlier is what the latest run tells that has asked the role's endpoints in a stage; nil
// where there is none.
func (x *estimator) earlier(ctx context.Context, stage schemas.Stage, role schemas.Role) (*observed, error) {
	if x.recorded == nil {
		x.recorded = map[schemas.Stage][]shard.Info{}
		for info, err := range x.stored.List(ctx, "plans/") {
			if err != nil {
				return nil, err
			}
			name := info.Key[strings.LastIndex(info.Key, "/")+1:]
			of := schemas.Stage(strings.TrimSuffix(name, ".json"))
			x.recorded[of] = append(x.recorded[of], info)
		}
	}
	plans := x.recorded[stage]
	slices.SortFunc(plans, func(a, b shard.Info) int { return b.Modified.Compare(a.Modified) })
	endpoints, err := x.endpointsOf(role)
	if err != nil {
		return nil, err
	}
	for _, info := range plans[:min(lookBack, len(plans))] {
		o, err := x.told(ctx, info.Key, stage, endpoints)
		if o != nil || err != nil {
			return o, err
		}
	}
	return nil, nil
}

// told is what the run of a plan tells; nil where it has asked other models, or nothing.
func (x *estimator) told(ctx context.Context, plan string, stage schemas.Stage, endpoints []llm.Endpoint) (*observed, error) {
	var p schemas.Plan
	if err := shard.GetJSON(ctx, x.stored, plan, &p); schemas.KindOf(err) == schemas.NotFound || err == nil && len(p.Tasks) == 0 {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	for _, t := range p.Tasks {
		models, err := modelsOf(t)
		if err != nil {
			return nil, err
		}
		if stage == schemas.StageRL && len(models) > 0 {
			models = models[1:] // the first one is trained
		}
		for _, m := range models {
			if !slices.ContainsFunc(endpoints, func(e llm.Endpoint) bool { return schemas.DigestOf(asked(e)) == schemas.DigestOf(m) }) {
				return nil, nil
			}
		}
	}
	var m schemas.Manifest
	err := shard.GetJSON(ctx, x.stored, schemas.ManifestObject(p.Run, stage), &m)
	if schemas.KindOf(err) == schemas.NotFound {
		return nil, nil
	}
	units := m.Ledger.Planned - m.Ledger.Missing()
	u := m.Usage
	if err != nil || u.Paid == 0 || units <= 0 || u.PromptTokens+u.CompletionTokens == 0 {
		return nil, err
	}
	n := float64(u.Paid)
	o := &observed{
		from: fmt.Sprintf("from %s of run %s", recordedAnswers(u.Paid), p.Run), answers: u.Paid,
		PerAnswer: PerAnswer{Spread{Mean: float64(u.PromptTokens) / n}, Spread{Mean: float64(u.CachedTokens) / n}, Spread{Mean: float64(u.CompletionTokens) / n}},
		usd:       u.USD / n, requests: float64((&past{manifest: m}).requests()) / float64(units), kept: float64(m.Ledger.Kept) / float64(units),
	}
	if len(endpoints) == 1 {
		o.usd = endpoints[0].Price(usageOf(u), x.Spec.ByBatch(stage)) / n
	}
	return o, nil
}
