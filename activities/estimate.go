package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"precept/internal/config"
	"precept/internal/judge"
	"precept/internal/llm"
	"precept/internal/policy"
	"precept/internal/shard"
	"precept/schemas"
)

// Range is from the least that a figure can be to the most.
type Range struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

func (r *Range) add(o Range) { r.Low, r.High = r.Low+o.Low, r.High+o.High }

// widen makes f lie in the range.
func (r *Range) widen(f float64) { r.Low, r.High = min(r.Low, f), max(r.High, f) }

// StageEstimate is what a stage's calls to models take. Likely is nil where no recorded
// answer tells it; Untold says why.
type StageEstimate struct {
	Stage      schemas.Stage `json:"stage"`
	Endpoints  string        `json:"endpoints"`
	Answered   int64         `json:"answered"` // by the journal: recorded earlier
	Calls      Range         `json:"calls"`
	Prompt     Range         `json:"prompt_tokens"`
	Completion Range         `json:"completion_tokens"`
	USD        Range         `json:"usd"`
	Likely     *Likely       `json:"likely,omitempty"`
	Untold     string        `json:"untold,omitempty"`
}

// Estimate is what a run takes.
type Estimate struct {
	Stages []StageEstimate `json:"stages"`
	// Total is the sum; its Likely is that of the stages that have one.
	Total   StageEstimate `json:"total"`
	Budget  *Outlook      `json:"budget,omitempty"` // nil where the spec has none
	Assumes []string      `json:"assumes"`          // what the figures rest on
}

// Outlook holds an estimate against the spec's budget.
type Outlook struct {
	Budget schemas.Cost `json:"budget"`
	Spent  schemas.Cost `json:"spent,omitzero"` // under the run's ID so far
	// Passes is the first of low, likely and high that passes the budget with what is
	// spent; empty where none does. The run pauses at its gate then.
	Passes string `json:"passes,omitempty"`
}

// The ends of what a token is, in bytes. Tokenizers differ, and so do texts.
const (
	longToken, longWide   = 6.0, 8.0 // wide is beyond ASCII
	shortToken, shortWide = 2.0, 1.0
	perMessage            = 16 // tokens that a template adds, at the high end
	answerBytes           = 4  // of a token of an answer that stands for others
	rendered              = 48 // prompts that requests are rendered for
	standIn               = 400
)

// tokens is how many tokens a request is read as.
func tokens(r llm.Request) (n Range) {
	for _, m := range r.Messages {
		wide := 0
		for i := range len(m.Content) {
			wide += int(m.Content[i] >> 7)
		}
		ascii := float64(len(m.Content) - wide)
		n.add(Range{ascii/longToken + float64(wide)/longWide, ascii/shortToken + float64(wide)/shortWide + perMessage})
	}
	if r.JSONSchema != nil {
		// Some servers have the model read it. It was encoded for the request already.
		raw, _ := json.Marshal(r.JSONSchema)
		n.High += float64(len(raw)) / shortToken
	}
	return n
}

// EstimateRun tells what a run would take before it is started: its requests are rendered
// as it would send them, as far as what they ask about is there. The low end holds only
// what is asked for sure, the high end all that may be.
func EstimateRun(ctx context.Context, c config.Config, store shard.Store, journal *shard.Journal, run schemas.RunID, spec schemas.RunSpec) (e Estimate, err error) {
	p, err := newPreview(ctx, c, store, journal, PreviewRequest{Run: run, Spec: spec})
	if err != nil {
		return e, err
	}
	x := &estimator{preview: p, estimate: &e, stored: store, expects: true, standIn: standIn}
	spent, err := x.spent(ctx, run) // before the preview writes manifests of its own
	if err != nil {
		return e, err
	}
	if spec.Generates() {
		x.standIn = max(x.standIn, answerBytes*spec.Prompts.Generate.MaxTokens)
	}
	x.assume("low end: a token is %v bytes (%v beyond ASCII), all that models read is in their cache, an answer is one token, voting ends as early as it can, "+
		"and what follows from answers that aren't there yet comes to nothing", longToken, longWide)
	x.assume("high end: a token is %v bytes (%v beyond ASCII), nothing is in a cache, every answer is as long as it may be, and every vote is asked for and has to be repaired", shortToken, shortWide)
	x.assume("requests that are sent again after time-outs and outages come on top")
	hosts := hosted(p.usedEndpoints(spec))
	if len(hosts) > 0 {
		x.assume("so does what the run asks before its first stage, to see what the endpoints can do: a request or two to each of %s", strings.Join(hosts, ", "))
	}
	for _, stage := range schemas.Stages {
		if stage == schemas.StageReport || !p.passes(stage) {
			continue
		}
		if err := x.stage(ctx, stage); err != nil {
			return e, fmt.Errorf("stage %s: %w", stage, err)
		}
	}
	x.sum()
	if p.stale != "" {
		x.assume("%s", p.stale)
	}
	x.budget(spent)
	return e, nil
}

type estimator struct {
	*preview
	estimate *Estimate
	stored   shard.Store                    // without what the preview writes
	recorded map[schemas.Stage][]shard.Info // the plans there
	standIn  int                            // bytes of a prompt that isn't there

	// expected is how many units the next stage likely has beside those that are there;
	// expects says whether that can be told.
	expected float64
	expects  bool
}

func (x *estimator) assume(format string, args ...any) {
	x.estimate.Assumes = append(x.estimate.Assumes, fmt.Sprintf(format, args...))
}

// sum adds the stages up.
func (x *estimator) sum() {
	e := x.estimate
	e.Total = StageEstimate{Stage: "all"}
	for _, s := range e.Stages {
		e.Total.Answered += s.Answered
		e.Total.Calls.add(s.Calls)
		e.Total.Prompt.add(s.Prompt)
		e.Total.Completion.add(s.Completion)
		e.Total.USD.add(s.USD)
		if s.Likely == nil {
			continue
		}
		if e.Total.Likely == nil {
			e.Total.Likely = &Likely{}
		}
		e.Total.Likely.add(*s.Likely)
	}
}

// budget holds the figures against the spec's budget.
func (x *estimator) budget(spent map[schemas.Stage]schemas.Usage) {
	o := Outlook{Budget: schemas.Cost(x.Spec.Budget)}
	if o.Budget == (schemas.Cost{}) {
		return
	}
	for _, u := range spent {
		o.Spent = o.Spent.Plus(u.AtMost())
	}
	t := x.estimate.Total
	figures := []struct {
		name string
		cost *schemas.Cost
	}{
		{"low", &schemas.Cost{USD: t.USD.Low, Tokens: int64(t.Prompt.Low + t.Completion.Low)}},
		{"likely", t.Likely.cost()},
		{"high", &schemas.Cost{USD: t.USD.High, Tokens: int64(math.Ceil(t.Prompt.High + t.Completion.High))}},
	}
	for _, f := range figures {
		if f.cost != nil && !o.Spent.Plus(*f.cost).Within(o.Budget) {
			o.Passes = f.name
			break
		}
	}
	x.estimate.Budget = &o
}

// asking is how a stage asks its model.
type asking struct {
	who   schemas.Role
	votes int // 0: it writes, and doesn't vote
	limit int
}

func (x *estimator) asking(stage schemas.Stage) (k asking, ok bool) {
	s := x.Spec
	switch stage.Work() {
	case schemas.StageGenerate:
		return asking{s.Prompts.Generate.Teacher, 0, s.Prompts.Generate.MaxTokens}, true
	case schemas.StageClassify:
		return asking{s.Prompts.Classify.Judge, s.Prompts.Classify.Votes, s.Prompts.Classify.MaxTokens}, true
	case schemas.StageSynthesize:
		return asking{s.Synthesize.Teacher, 0, s.Synthesize.MaxTokens}, true
	case schemas.StageFilter:
		return asking{s.Filter.Judge, s.Filter.Votes, s.Filter.MaxTokens}, true
	case schemas.StageRL:
		return asking{s.RL.Judge, s.RL.Votes, s.Filter.MaxTokens}, true
	case schemas.StageGrade:
		votes := s.Evaluate.Votes
		if stage.Trained() != "" {
			votes *= 2 // the chain of thought is judged by itself
		}
		return asking{s.Evaluate.Grader, votes, judge.DefaultMaxTokens}, true
	}
	return k, false
}

// requests is how many requests a unit takes at most, but for repairs.
func (k asking) requests() float64 { return float64(max(1, k.votes)) }

// repairs is how often a request may be made, for a reply that can be read.
func (k asking) repairs() float64 {
	if k.votes == 0 {
		return 1
	}
	return 2
}

// calls is how many requests a stage takes.
type calls struct {
	Range
	absent float64 // those of High that are about what isn't there yet
}

func (x *estimator) stage(ctx context.Context, stage schemas.Stage) error {
	x.sizes, x.looked = newSizes(x.Spec.ByBatch(stage)), looked{}
	k, asks := x.asking(stage)
	var before *observed
	var err error
	if asks {
		if before, err = x.earlier(ctx, stage, k.who); err != nil {
			return err
		}
	}
	absent, passed := x.absent, len(x.sums)
	s, err := x.preview.stage(ctx, stage)
	if err != nil {
		return err
	}
	if !asks {
		x.expect(stage, passed, nil)
		return nil
	}
	e := StageEstimate{Stage: stage, Endpoints: k.who.String(), Answered: s.Answered}
	n := calls{}
	switch {
	case x.lost && s.Found == 0 && (stage == schemas.StageRL || stage.Work() == schemas.StageGrade):
		n.absent = float64(x.planned(stage)) * k.requests()
		n.High = n.absent
	default:
		n.absent = math.Round(absent * k.requests())
		n.Range = Range{x.least(s, k, n.absent), float64(s.Most)}
	}
	if strings.HasPrefix(s.Estimated, "the quota") || strings.HasPrefix(s.Estimated, "by ") && !x.lost {
		x.assume("%s: %s, so that low and high are no bounds", stage, s.Estimated)
	}
	if stage == schemas.StageClassify && x.sizes.missing > 0 {
		x.standIn = max(x.standIn, int(x.sizes.turns/x.sizes.missing))
	}
	o := x.sizes.observed(k, x.looked)
	if o == nil {
		o = before
	}
	if n.High == 0 {
		e.Likely = &Likely{}
	} else {
		if err := x.tokens(ctx, k, n, &e); err != nil {
			return err
		}
		x.likely(k, n, o, &e)
	}
	x.expect(stage, passed, o)
	x.estimate.Stages = append(x.estimate.Stages, e)
	return nil
}

// least is how many requests are sent for sure. Equal ones, such as votes on equal answers,
// are sent once.
func (x *estimator) least(s StagePreview, k asking, absent float64) float64 {
	twice := float64(x.sizes.asked-x.sizes.missing) * x.scale
	if s.Stage == schemas.StageClassify {
		twice *= float64(judge.FewestLabels(k.votes))
	}
	return max(math.Floor(float64(x.sizes.missing)*x.scale), float64(s.Least)-absent-twice)
}

// planned is how many units a stage has that follows training.
func (x *estimator) planned(stage schemas.Stage) (n int64) {
	s := x.Spec
	if stage == schemas.StageRL {
		return int64(s.RL.Steps * s.RL.PromptsPerStep * s.RL.Generations)
	}
	if stage.Trained() != "" {
		return int64(s.Dev.Milestones+1) * schemas.HeldOut(x.sums)
	}
	for _, arm := range s.Evaluate.Arms {
		n += x.preview.inputs.Sampled[arm]
	}
	return n
}

// tokens fills in what n calls take, by the requests as they are rendered.
func (x *estimator) tokens(ctx context.Context, k asking, n calls, e *StageEstimate) error {
	there, absent := Range{}, 0.0 // tokens of a request
	if x.sizes.missing > 0 {
		there = Range{x.sizes.prompt.Low / float64(x.sizes.missing), x.sizes.prompt.High / float64(x.sizes.missing)}
	}
	if n.absent > 0 {
		var err error
		if absent, err = x.longest(ctx, e.Stage); err != nil {
			return err
		}
	}
	limit := int64(0)
	endpoints, err := x.endpointsOf(k.who)
	if err != nil {
		return err
	}
	for _, endpoint := range endpoints {
		limit = max(limit, endpoint.Limit(k.limit))
	}
	high := (n.High-n.absent)*there.High + n.absent*absent
	if again := k.repairs(); again > 1 {
		high = again*high + n.High*min(float64(limit)+judge.RepairBytes-judge.EchoBytes, judge.RepairBytes)
		n.High *= again
	}
	e.Calls = n.Range
	e.Prompt = Range{n.Low * there.Low, high}
	e.Completion = Range{n.Low, n.High * float64(limit)}
	for i, endpoint := range endpoints {
		low := endsOf(endpoint, math.Floor(e.Prompt.Low), math.Floor(e.Completion.Low), x.Spec.ByBatch(e.Stage)).Low
		high := endsOf(endpoint, math.Ceil(e.Prompt.High), math.Ceil(e.Completion.High), x.Spec.ByBatch(e.Stage)).High
		if i == 0 {
			e.USD = Range{low, high}
		}
		e.USD = Range{min(e.USD.Low, low), max(e.USD.High, high)}
	}
	if len(endpoints) > 1 {
		x.assume("%s: between all calls at the cheapest and at the dearest endpoint of its routes", e.Stage)
	}
	return nil
}

// endsOf is what tokens cost where all that is read is in the cache, and where nothing is:
// some endpoints charge more for what enters it.
func endsOf(e llm.Endpoint, prompt, completion float64, batch bool) Range {
	u := llm.Usage{PromptTokens: int64(prompt), CompletionTokens: int64(completion)}
	plain := e.Price(u, batch)
	u.CachedTokens = u.PromptTokens
	cached := e.Price(u, batch)
	return Range{min(plain, cached), max(plain, cached)}
}

func (x *estimator) endpointsOf(role schemas.Role) (out []llm.Endpoint, err error) {
	for _, name := range role.Endpoints() {
		e, err := x.endpoint(name)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// longest is how many tokens a stage's request has at most that is about what isn't there
// yet.
func (x *estimator) longest(ctx context.Context, stage schemas.Stage) (most float64, err error) {
	pol, err := x.policyOf(ctx, x.preview.inputs.Policy)
	if err != nil {
		return 0, err
	}
	prompts, answer, err := x.askedAbout(ctx, stage)
	if err != nil {
		return 0, err
	}
	text := strings.Repeat("word ", answer*answerBytes/5)
	for _, prompt := range prompts {
		cp, err := pol.For(prompt.Category)
		if err != nil {
			return 0, err
		}
		most = max(most, measured(ctx, stage, pol, cp, prompt, text))
	}
	return most, nil
}

// askedAbout are prompts that a stage asks about, or such as stand for them, and how many
// tokens of answers to them it reads at most.
func (x *estimator) askedAbout(ctx context.Context, stage schemas.Stage) (prompts []schemas.Prompt, longest int, err error) {
	inputs, err := x.Activities.inputs(ctx, x.preview.inputs)
	if err != nil {
		return nil, 0, err
	}
	var refs []schemas.ShardRef
	switch stage {
	case schemas.StageSFTGrade, schemas.StageRLGrade:
		longest = x.Spec.Evaluate.MaxTokens
	case schemas.StageGrade:
		longest = x.Spec.Evaluate.MaxTokens
		for _, suite := range inputs.Suites {
			refs = append(refs, *suite.Shard)
		}
	case schemas.StageRL:
		longest = x.Spec.RL.MaxTokens
	case schemas.StageFilter:
		longest = x.Spec.Synthesize.MaxTokens
	}
	for _, s := range x.sums {
		if s.Stage == schemas.StagePrompts && stage != schemas.StageGrade {
			m, err := x.Activities.manifest(ctx, x.sums, schemas.StagePrompts)
			if err != nil {
				return nil, 0, err
			}
			refs = m.Outputs[schemas.OutputPrompts]
		}
	}
	if prompts, err = spread[schemas.Prompt](ctx, x.store, refs, max(rendered, len(refs))); err != nil || len(prompts) > 0 {
		return prompts, longest, err
	}
	for _, category := range inputs.Categories {
		prompts = append(prompts, schemas.Prompt{Category: category, Messages: []schemas.Message{{Role: "user", Content: strings.Repeat("word ", x.standIn/5)}}})
	}
	x.assume("%s: prompts that aren't there yet have at most %d bytes", stage, x.standIn)
	return prompts, longest, nil
}

var errRendered = errors.New("this request is only measured")

// measured is how many tokens a stage's request about an answer has at most.
func measured(ctx context.Context, stage schemas.Stage, pol *policy.Policy, cp policy.CategoryPolicy, prompt schemas.Prompt, answer string) (most float64) {
	asker := ask(func(r llm.Request) { most = tokens(r).High })
	judged := func(role judge.Role) {
		// Its error is errRendered.
		_, _ = judge.New(asker, role, judge.Options{}).Verdict(ctx, judge.Item{Policy: cp, Prompt: prompt, Answer: answer})
	}
	switch stage.Work() {
	case schemas.StageClassify:
		_, _ = judge.NewClassifier(asker, pol.Summaries(), judge.Options{}).Classify(ctx, prompt)
	case schemas.StageFilter:
		judged(judge.RoleFilter)
	case schemas.StageRL:
		judged(judge.RoleReward)
	case schemas.StageGrade:
		role := judge.RoleGrade
		if stage.Trained() != "" {
			role = judge.RoleFilter // the longer one, which reads the chain of thought
		}
		judged(role)
	default:
		most = tokens(llm.Request{Messages: policy.TeacherMessages(cp, prompt)}).High
	}
	return most
}

// ask is a judge.Asker that sees what is asked.
type ask func(llm.Request)

func (a ask) Ask(_ context.Context, r llm.Request) (llm.Answer, llm.Meta, error) {
	a(r)
	return llm.Answer{}, llm.Meta{}, errRendered
}
