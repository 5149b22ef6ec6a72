package activities

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"precept/internal/judge"
	"precept/internal/llm"
	"precept/internal/policy"
	"precept/internal/shard"
	"precept/schemas"
)

// Before anything large is sent, every hosted endpoint is asked one harmless thing in the
// very way of its role: with the longest policy that it may be given, and the run's
// parameters. What it turns out not to be able to do would else be learnt row by row.

// shows is what an endpoint shows in a probe of its role.
type shows int

const (
	showsWord  shows = iota // that it answers
	showsCoT                // a chain of thought
	showsVote               // a vote on an answer
	showsLabel              // a vote on a prompt's category and intent
)

// fit is what a probe has found of an endpoint in a role.
type fit struct {
	At     time.Time     `json:"at"`
	Served llm.Served    `json:"served"`
	Notes  []string      `json:"notes,omitempty"` // only worth knowing
	Unfit  []string      `json:"-"`               // what the run can't go well with
	Usage  schemas.Usage `json:"-"`
	state  fitState
}

// fitState is where what is known of a fit comes from.
type fitState int

const (
	fitNow    fitState = iota // it has just answered
	fitBefore                 // an earlier probe
	fitSilent                 // there was no answer
)

const (
	// fitVersion changes when the same reply is taken for another fit.
	fitVersion = 1
	// fitsFor is how long an endpoint that was found fit isn't asked again.
	fitsFor = 24 * time.Hour
)

// What endpoints are asked about.
const (
	harmlessPrompt = "What is a good way to water a house plant?"
	harmlessAnswer = "Water it when the top of the soil feels dry, and let the water drain."
	harmlessCoT    = "The user asks how to care for a plant. Nothing in the policy stands against it, so the answer is to comply."
)

// fitting is a probe under way.
type fitting struct {
	role
	client    *llm.Client
	policy    policy.CategoryPolicy // the longest one
	summaries policy.Summaries
	fit       fit
	asked     int
	request   llm.Request // the first one
	first     llm.Answer
	last      llm.Answer
}

// fits tells what an endpoint can do for its role, by the last probe where that is young.
func (a *Activities) fits(ctx context.Context, r role, pol *policy.Policy) (f fit, err error) {
	client, err := a.client(r.name)
	if err != nil {
		return f, err
	}
	p := fitting{role: r, client: client, summaries: pol.Summaries()}
	if p.policy, err = longest(pol, r); err != nil {
		return f, err
	}
	object := fmt.Sprintf("probes/%s.json", schemas.DigestOf(map[string]any{
		"version": fitVersion, "model": asked(r.endpoint), "field": r.field, "policy": p.policy.Digest,
		"temperature": r.asks.Temperature, "max_tokens": r.asks.MaxTokens,
		"asked": []any{policy.TeacherVersion(), judge.StageVersion()},
	}))
	err = shard.GetJSON(ctx, a.store, object, &f)
	if err == nil && time.Since(f.At) < fitsFor {
		f.state = fitBefore
		return f, nil
	}
	if err != nil && schemas.KindOf(err) != schemas.NotFound {
		return f, err
	}
	p.look(ctx)
	p.fit.Served = p.first.Served()
	if p.fit.state == fitSilent || len(p.fit.Unfit) > 0 {
		return p.fit, ctx.Err() // it is asked again next time
	}
	p.fit.At = time.Now().UTC()
	return p.fit, shard.PutJSON(ctx, a.store, object, p.fit, shard.PutOptions{})
}

// longest is the longest policy that an endpoint may be given in a role.
func longest(pol *policy.Policy, r role) (most policy.CategoryPolicy, err error) {
	for _, category := range pol.Categories() {
		if !r.takes(category) {
			continue
		}
		cp, err := pol.For(category)
		if err != nil {
			return most, err
		}
		if len(cp.Text) > len(most.Text) {
			most = cp
		}
	}
	return most, nil
}

// takes reports whether prompts of a category may go to the endpoint.
func (r role) takes(category schemas.Category) bool {
	for _, t := range r.routes {
		if !t.FitsCategory(category) {
			continue
		}
		for _, name := range t.Endpoints() {
			if name == r.name {
				return true
			}
		}
	}
	return false
}

// look asks once, and once more where a vote can't be read, or where it matters whether
// what is read again is counted as cached.
func (p *fitting) look(ctx context.Context) {
	prompt := schemas.Prompt{
		Messages: []schemas.Message{{Role: "user", Content: harmlessPrompt}}, Category: p.policy.Category, Intent: schemas.IntentBenign,
	}
	var err error
	switch options := (judge.Options{MaxTokens: p.asks.MaxTokens}); p.shows {
	case showsCoT:
		r := p.asks
		r.Messages = policy.TeacherMessagesIn(p.endpoint.CoT, p.policy, prompt)
		if _, _, err = p.Ask(ctx, r); err == nil {
			p.taught()
		}
	case showsVote:
		var result judge.Result
		result, err = judge.New(p, p.judges, options).Verdict(ctx, judge.Item{Policy: p.policy, Prompt: prompt, CoT: harmlessCoT, Answer: harmlessAnswer})
		if err == nil {
			p.voted(len(result.Votes) > 0)
		}
	case showsLabel:
		var result judge.Classified
		result, err = judge.NewClassifier(p, p.summaries, options).Classify(ctx, prompt)
		if err == nil {
			p.voted(len(result.Votes) > 0)
		}
	default:
		_, _, err = p.Ask(ctx, p.asks)
	}
	if err != nil {
		p.fit.state = fitSilent
		p.refused(err)
		return
	}
	if u := p.first.Usage; u.PromptTokens == 0 && u.CompletionTokens == 0 && !p.first.TooLong() && !p.first.Refusal {
		p.note("tells no usage: its tokens and their price can't be counted")
	} else {
		p.cached(ctx)
	}
}

// cached asks the same again, for a few tokens, where the configuration has a price for
// what is cached.
func (p *fitting) cached(ctx context.Context) {
	e := p.endpoint
	if e.CachedUSD == 0 || e.CachedUSD == e.InputUSD || p.first.Usage.CachedTokens > 0 || len(p.fit.Unfit) > 0 {
		return
	}
	again := p.request
	again.MaxTokens = 16
	if answer, _, err := p.Ask(ctx, again); err == nil && answer.Usage.CachedTokens == 0 {
		p.note("tells no cached tokens of what it reads again: cached_usd may never apply")
	}
}

// Ask implements judge.Asker by what is neither looked up in the journal nor kept there.
func (p *fitting) Ask(ctx context.Context, r llm.Request) (llm.Answer, llm.Meta, error) {
	answer, meta, err := p.client.Probe(ctx, r)
	if err != nil {
		return answer, meta, err
	}
	if p.asked++; p.asked == 1 {
		p.request, p.first = r, answer
	}
	p.last = answer
	p.fit.Usage.Add(llm.Count(answer, meta))
	return answer, meta, nil
}

// taught looks at what a teacher has written.
func (p *fitting) taught() {
	cot, _, _ := p.endpoint.CoT.Read(p.first)
	switch {
	case p.first.TooLong():
		p.tooLong()
	case p.first.Refusal:
		p.note("refuses the content of a harmless prompt: rows will be rejected as refused")
	case cot == "" && p.first.Truncated():
		p.unfit("writes no chain of thought within %s. Raise it: what it thinks unseen counts too", p.limit())
	case cot == "":
		p.unfit("hides its chain of thought, or writes none that can be read. Have its server show it (vLLM: --reasoning-parser; " +
			"extra in its configuration), set cot to the form that it takes, or name another teacher")
	case p.first.Truncated():
		p.note("needs more than %s for a harmless prompt: rows will be rejected as truncated", p.limit())
	}
}

// voted looks at what came of a judge's vote.
func (p *fitting) voted(readable bool) {
	switch {
	case readable && p.asked > 1:
		p.note("gives a vote that can be read only when it is asked again: votes will cost twice")
	case readable:
	case p.last.TooLong():
		p.tooLong()
	case p.last.Refusal:
		p.note("refuses the content of a harmless item: votes will be lost")
	case p.last.Truncated():
		p.unfit("gives no whole vote within %s. Raise it: what it thinks unseen counts too", p.limit())
	case p.endpoint.JSONMode == llm.JSONNone:
		p.unfit("gives no vote that can be read: its replies hold no JSON object as it is asked for. Where its server takes response_format, set json_mode: schema in its configuration; else name another judge")
	default:
		p.unfit("gives no vote that can be read: its replies hold no JSON object as it is asked for. Set json_mode: none in its configuration, in case response_format is what confuses it, or name another judge")
	}
}

func (p *fitting) tooLong() {
	p.unfit("can't read the policy of category %s (%d characters) and answer within %s. Lower that, shorten the policy, or take a model with a longer context",
		p.policy.Category, len(p.policy.Text), p.limit())
}

// limit says how long an answer may be, and where that is set.
func (r role) limit() string {
	part := r.field[:strings.LastIndex(r.field, ".")]
	switch {
	case r.judges == judge.RoleGrade:
		return fmt.Sprintf("the %d tokens of a grade", r.asks.MaxTokens)
	case r.shows == showsVote:
		part = "filter"
	}
	return fmt.Sprintf("%s.max_tokens (%d)", part, r.asks.MaxTokens)
}

// What a server calls a field that it doesn't take, and the setting that leaves it out.
var fields = []struct {
	named   *regexp.Regexp
	setting string
}{
	{regexp.MustCompile(`(?i)response_?format|json_?schema|structured`), "json_mode: none"},
	{regexp.MustCompile(`(?i)max_completion_tokens.{0,60}(instead|rather)|max_tokens.{0,60}(not supported|unsupported|unknown|unrecognized)|(unknown|unsupported|unrecognized)\W.{0,40}max_tokens`), "max_tokens_field: max_completion_tokens"},
	{regexp.MustCompile(`(?i)max_completion_tokens.{0,60}(not supported|unsupported|unknown|unrecognized)|(unknown|unsupported|unrecognized)\W.{0,40}max_completion_tokens`), "max_tokens_field: max_tokens"},
	{regexp.MustCompile(`(?i)\bseed\b`), `extra: {"seed": null}`},
	{regexp.MustCompile(`(?i)\btemperature\b`), `extra: {"temperature": null}`},
	{regexp.MustCompile(`(?i)\btop_p\b`), `extra: {"top_p": null}`},
}

var limitTooLarge = regexp.MustCompile(`(?i)max_(completion_|new_)?tokens\W.{0,80}(too large|at most|less than|exceed|maximum)|too many new tokens`)

// refused looks at why there was no answer. An endpoint that is away, or refuses the
// account, is only noted: the run may have all its answers already, and else stops at its
// first request.
func (p *fitting) refused(err error) {
	switch {
	case errors.Is(err, context.Canceled):
	case llm.IsAccount(err) || schemas.KindOf(err) != schemas.InvalidInput:
		p.note("could not be probed: %v", err)
	case limitTooLarge.MatchString(err.Error()):
		p.unfit("refuses %s: %v. Lower it", p.limit(), err)
	default:
		hint := "Mend its configuration: extra leaves a field out that is null, or adds one"
		for _, f := range fields {
			if f.named.MatchString(err.Error()) {
				hint = "Set " + f.setting + " in its configuration"
				break
			}
		}
		p.unfit("refuses a request as %s makes it: %v. %s", p.field, err, hint)
	}
}

func (p *fitting) note(format string, args ...any) {
	p.fit.Notes = append(p.fit.Notes, p.say(format, args))
}

func (p *fitting) unfit(format string, args ...any) {
	p.fit.Unfit = append(p.fit.Unfit, p.say(format, args))
}

func (p *fitting) say(format string, args []any) string {
	return fmt.Sprintf("endpoint %s as %s %s", p.name, p.field, fmt.Sprintf(format, args...))
}
