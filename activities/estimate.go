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
	rendered      = 24 // requests that are rendered for a category, or a suite
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
		if stage == schemas.StageReport || !spec.Passes(stage) {
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
	role  judge.Role // empty for the teacher
}

func (x *estimator) asking(stage schemas.Stage) (k asking, ok bool) {
	s := x.Spec
	switch stage {
	case schemas.StageSynthesize:
		return asking{s.Synthesize.Teacher, 1, s.Synthesize.MaxTokens, ""}, true
	case schemas.StageFilter:
		return asking{s.Filter.Judge, s.Filter.Votes, s.Filter.MaxTokens, judge.RoleFilter}, true
	case schemas.StageRL:
		return asking{s.RL.Judge, s.RL.Votes, s.Filter.MaxTokens, judge.RoleReward}, true
	case schemas.StageGrade:
		return asking{s.Evaluate.Grader, s.Evaluate.Votes, judge.DefaultMaxTokens, judge.RoleGrade}, true
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
			if bytes, err = x.render(ctx, k); err != nil {
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
			return endpoint.Price(llm.Usage{PromptTokens: int64(prompt), CompletionTokens: int64(completion)})
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

// render measures the judge's requests about answers that aren't there yet, from short to
// as long as they can be.
func (x *estimator) render(ctx context.Context, k asking) (mean Range, err error) {
	pol, err := x.policyOf(ctx, x.preview.inputs.Policy)
	if err != nil {
		return mean, err
	}
	prompts, longest, err := x.askedAbout(ctx, k.role)
	if err != nil || len(prompts) == 0 {
		return mean, err
	}
	measure := func(prompt schemas.Prompt, answer int) (float64, error) {
		cp, err := pol.For(prompt.Category)
		if err != nil {
			return 0, err
		}
		return measured(ctx, k.role, cp, prompt, answer), nil
	}
	for _, prompt := range prompts {
		low, err := measure(prompt, int(float64(longest)*shortAnswer*bytesPerToken))
		if err != nil {
			return mean, err
		}
		high, err := measure(prompt, int(float64(longest)*bytesPerToken))
		if err != nil {
			return mean, err
		}
		mean.add(Range{low, high})
	}
	n := float64(len(prompts))
	return Range{mean.Low / n, mean.High / n}, nil
}

// askedAbout are prompts that a judge's role is asked about, and how many tokens their
// answers have at most.
func (x *estimator) askedAbout(ctx context.Context, role judge.Role) (prompts []schemas.Prompt, longest int, err error) {
	if role == judge.RoleGrade {
		inputs, err := x.Activities.inputs(ctx, x.preview.inputs)
		if err != nil {
			return nil, 0, err
		}
		var refs []schemas.ShardRef
		for _, suite := range inputs.Suites {
			refs = append(refs, *suite.Shard)
		}
		prompts, err = spread[schemas.Prompt](ctx, x.store, refs, rendered)
		return prompts, x.Spec.Evaluate.MaxTokens, err
	}
	longest = x.Spec.Synthesize.MaxTokens
	if role == judge.RoleReward {
		longest = x.Spec.RL.MaxTokens
	}
	for _, s := range x.sums {
		if s.Stage != schemas.StagePrompts {
			continue
		}
		m, err := x.Activities.manifest(ctx, x.sums, schemas.StagePrompts)
		if err != nil {
			return nil, 0, err
		}
		prompts, err = spread[schemas.Prompt](ctx, x.store, m.Outputs[schemas.OutputPrompts], rendered*len(m.Outputs[schemas.OutputPrompts]))
		return prompts, longest, err
	}
	return nil, longest, nil
}

var errRendered = errors.New("this request is only measured")

// measured is the size of a judge's request about an answer of a length.
func measured(ctx context.Context, role judge.Role, cp policy.CategoryPolicy, prompt schemas.Prompt, answer int) (bytes float64) {
	text := strings.Repeat("word ", answer/5)
	j := judge.New(ask(func(r llm.Request) {
		for _, m := range r.Messages {
			bytes += float64(len(m.Content))
		}
	}), role, judge.Options{})
	_, _ = j.Verdict(ctx, judge.Item{Policy: cp, Prompt: prompt, Answer: text}) // errRendered
	return bytes
}

// ask is a judge.Asker that sees what is asked.
type ask func(llm.Request)

func (a ask) Ask(_ context.Context, r llm.Request) (llm.Answer, llm.Meta, error) {
	a(r)
	return llm.Answer{}, llm.Meta{}, errRendered
}
