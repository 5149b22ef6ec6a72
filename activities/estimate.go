package activities

import (
	"context"
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

// Range is where a figure is expected to lie.
type Range struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

func (r *Range) add(o Range) { r.Low, r.High = r.Low+o.Low, r.High+o.High }

func (r Range) times(o Range) Range { return Range{r.Low * o.Low, r.High * o.High} }

// StageEstimate is what a stage's calls to models are expected to take.
type StageEstimate struct {
	Stage      schemas.Stage `json:"stage"`
	Endpoints  string        `json:"endpoints"`
	Answered   int64         `json:"answered"` // by the journal
	Calls      Range         `json:"calls"`
	Prompt     Range         `json:"prompt_tokens"`
	Completion Range         `json:"completion_tokens"`
	USD        Range         `json:"usd"`
}

// Estimate is what a run is expected to take.
type Estimate struct {
	Stages  []StageEstimate `json:"stages"`
	Total   StageEstimate   `json:"total"`
	Assumes []string        `json:"assumes"` // what the figures rest on
}

// What is assumed where no recorded answer tells.
const (
	bytesPerToken = 4.0 // of a request
	tightest      = 3.0 // likewise, at the expensive end
	shortAnswer   = 0.25
	enoughAnswers = 20 // that a stage must have for its mean to count
	rendered      = 48 // requests that are rendered
	standIn       = 400
)

// EstimateRun tells what a run would take before it is started: its requests are rendered
// as it would send them, as far as what they ask about is there.
func EstimateRun(ctx context.Context, c config.Config, store shard.Store, journal *shard.Journal, run schemas.RunID, spec schemas.RunSpec) (e Estimate, err error) {
	p, err := newPreview(ctx, c, store, journal, PreviewRequest{Run: run, Spec: spec})
	if err != nil {
		return e, err
	}
	x := &estimator{preview: p, estimate: &e}
	x.assume("a token is %v bytes of a request, or %v at the high end", bytesPerToken, tightest)
	for _, stage := range schemas.Stages {
		if stage == schemas.StageReport || !p.passes(stage) {
			continue
		}
		if err := x.stage(ctx, stage); err != nil {
			return e, fmt.Errorf("stage %s: %w", stage, err)
		}
	}
	e.Total.Stage = "all"
	for _, s := range e.Stages {
		e.Total.Answered += s.Answered
		e.Total.Calls.add(s.Calls)
		e.Total.Prompt.add(s.Prompt)
		e.Total.Completion.add(s.Completion)
		e.Total.USD.add(s.USD)
	}
	if p.stale != "" {
		x.assume("%s", p.stale)
	}
	return e, nil
}

type estimator struct {
	*preview
	estimate *Estimate
}

func (x *estimator) assume(format string, args ...any) {
	x.estimate.Assumes = append(x.estimate.Assumes, fmt.Sprintf(format, args...))
}

// sizes are what requests and answers of a stage were found to be.
type sizes struct {
	missing, bytes     int64 // of requests that would be sent
	found              int64
	prompt, completion int64 // tokens of answers that were found
}

// asking is how a stage asks its model.
type asking struct {
	who   schemas.Role
	votes int
	limit int
}

func (x *estimator) asking(stage schemas.Stage) (k asking, ok bool) {
	s := x.Spec
	switch stage.Work() {
	case schemas.StageGenerate:
		return asking{s.Prompts.Generate.Teacher, 1, s.Prompts.Generate.MaxTokens}, true
	case schemas.StageClassify:
		return asking{s.Prompts.Classify.Judge, s.Prompts.Classify.Votes, s.Prompts.Classify.MaxTokens}, true
	case schemas.StageSynthesize:
		return asking{s.Synthesize.Teacher, 1, s.Synthesize.MaxTokens}, true
	case schemas.StageFilter:
		return asking{s.Filter.Judge, s.Filter.Votes, s.Filter.MaxTokens}, true
	case schemas.StageRL:
		return asking{s.RL.Judge, s.RL.Votes, s.Filter.MaxTokens}, true
	case schemas.StageGrade:
		return asking{s.Evaluate.Grader, s.Evaluate.Votes, judge.DefaultMaxTokens}, true
	}
	return k, false
}

func (x *estimator) stage(ctx context.Context, stage schemas.Stage) error {
	x.sizes = sizes{}
	absent := x.absent
	s, err := x.preview.stage(ctx, stage)
	if err != nil {
		return err
	}
	k, asks := x.asking(stage)
	if !asks {
		return nil
	}
	e := StageEstimate{Stage: stage, Endpoints: k.who.String(), Answered: s.Answered, Calls: Range{float64(s.Least), float64(s.Most)}}
	switch {
	case x.lost && stage == schemas.StageRL && s.Found == 0:
		n := float64(x.planned(stage)) * float64(k.votes)
		e.Calls = Range{0, n}
		x.assume("rl: between none and all of its rollouts have the form that is judged")
	case x.lost && stage.Trained() != "" && stage.Work() == schemas.StageGrade:
		n := float64(x.planned(stage)) * float64(k.votes)
		e.Calls = Range{n, 2 * n}
		x.assume("%s: between none and all of the milestones' answers have a chain of thought, which takes as many calls again", stage)
	case x.lost && stage == schemas.StageGrade:
		n := float64(x.planned(stage)) * float64(k.votes)
		e.Calls = Range{n, n}
	case stage == schemas.StageFilter && absent > 0:
		e.Calls.Low -= math.Round(absent * float64(k.votes-1)) // a vote under the threshold ends the voting
		x.assume("filter: all completions that are to be written reach it, and take 1 to %d votes", k.votes)
	}
	if strings.HasPrefix(s.Estimated, "the quota") || strings.HasPrefix(s.Estimated, "by ") && !x.lost {
		x.assume("%s: %s", stage, s.Estimated)
	}
	if e.Calls.High > 0 {
		if err := x.tokens(ctx, k, &e); err != nil {
			return err
		}
	}
	x.estimate.Stages = append(x.estimate.Stages, e)
	return nil
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

// tokens fills in what calls take, by recorded answers of the stage where there are enough,
// else by the requests as they are rendered.
func (x *estimator) tokens(ctx context.Context, k asking, e *StageEstimate) error {
	limit := float64(k.limit)
	prompt, completion := Range{}, Range{limit * shortAnswer, limit}
	if x.sizes.found >= enoughAnswers {
		n := float64(x.sizes.found)
		prompt = Range{float64(x.sizes.prompt) / n, float64(x.sizes.prompt) / n}
		completion = Range{float64(x.sizes.completion) / n, float64(x.sizes.completion) / n}
		x.assume("%s: as the %d recorded answers took, %.0f and %.0f tokens a call", e.Stage, x.sizes.found, prompt.Low, completion.Low)
	} else {
		bytes := Range{}
		if x.sizes.missing > 0 {
			mean := float64(x.sizes.bytes) / float64(x.sizes.missing)
			bytes = Range{mean, mean}
		} else {
			var err error
			if bytes, err = x.render(ctx, e.Stage); err != nil {
				return err
			}
		}
		prompt = Range{bytes.Low / bytesPerToken, bytes.High / tightest}
		x.assume("%s: answers of %.0f to %.0f tokens, the most that is asked for", e.Stage, completion.Low, completion.High)
	}
	e.Prompt, e.Completion = e.Calls.times(prompt), e.Calls.times(completion)
	for i, name := range k.who.Endpoints() {
		endpoint, err := x.endpoint(name)
		if err != nil {
			return err
		}
		price := func(prompt, completion float64) float64 {
			return endpoint.Price(llm.Usage{PromptTokens: int64(prompt), CompletionTokens: int64(completion)}, x.Spec.ByBatch(e.Stage))
		}
		low, high := price(e.Prompt.Low, e.Completion.Low), price(e.Prompt.High, e.Completion.High)
		if i == 0 {
			e.USD = Range{low, high}
		}
		e.USD = Range{min(e.USD.Low, low), max(e.USD.High, high)}
	}
	if len(k.who.Endpoints()) > 1 {
		x.assume("%s: between all calls at the cheapest and at the dearest endpoint of its routes", e.Stage)
	}
	return nil
}

// render measures requests about what isn't there yet, from short to as long as it can be.
func (x *estimator) render(ctx context.Context, stage schemas.Stage) (mean Range, err error) {
	pol, err := x.policyOf(ctx, x.preview.inputs.Policy)
	if err != nil {
		return mean, err
	}
	prompts, longest, err := x.askedAbout(ctx, stage)
	if err != nil {
		return mean, err
	}
	for _, prompt := range prompts {
		cp, err := pol.For(prompt.Category)
		if err != nil {
			return mean, err
		}
		measure := func(share float64) float64 {
			answer := strings.Repeat("word ", int(float64(longest)*share*bytesPerToken/5))
			return measured(ctx, stage, pol, cp, prompt, answer)
		}
		mean.add(Range{measure(shortAnswer), measure(1)})
	}
	n := float64(len(prompts))
	return Range{mean.Low / n, mean.High / n}, nil
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
		prompts = append(prompts, schemas.Prompt{Category: category, Messages: []schemas.Message{{Role: "user", Content: strings.Repeat("word ", standIn/5)}}})
	}
	x.assume("%s: prompts that aren't there yet have %d bytes", stage, standIn)
	return prompts, longest, nil
}

var errRendered = errors.New("this request is only measured")

// measured is the size of a stage's request about an answer.
func measured(ctx context.Context, stage schemas.Stage, pol *policy.Policy, cp policy.CategoryPolicy, prompt schemas.Prompt, answer string) (bytes float64) {
	count := func(messages []schemas.Message) {
		for _, m := range messages {
			bytes += float64(len(m.Content))
		}
	}
	asker := ask(func(r llm.Request) { count(r.Messages) })
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
		judged(judge.RoleGrade)
	default:
		count(policy.TeacherMessages(cp, prompt))
	}
	return bytes
}

// ask is a judge.Asker that sees what is asked.
type ask func(llm.Request)

func (a ask) Ask(_ context.Context, r llm.Request) (llm.Answer, llm.Meta, error) {
	a(r)
	return llm.Answer{}, llm.Meta{}, errRendered
}
