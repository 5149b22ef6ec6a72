package activities

import (
	"context"
	"errors"
	"os"
	"slices"

	"github.com/sourcegraph/conc/pool"

	"precept/examples"
	"precept/internal/config"
	"precept/internal/judge"
	"precept/internal/llm"
	"precept/internal/policy"
	"precept/internal/shard"
	"precept/schemas"
)

// TryRequest asks for a few rows of a run before it is started.
type TryRequest struct {
	Spec    schemas.RunSpec  // with its defaults
	Prompts []schemas.Prompt // where there are none, the first ones of the spec's files
	Most    int              // of those
}

// Trial is one prompt on its way through teacher and judge.
type Trial struct {
	Prompt   schemas.Prompt    `json:"prompt"`
	Policy   schemas.Digest    `json:"policy"`        // of the category policy
	Tokens   int               `json:"policy_tokens"` // estimated
	Messages []schemas.Message `json:"messages"`      // as the teacher is asked
	Samples  []TriedSample     `json:"samples"`
}

// TriedSample is one completion, and what the judge makes of it. There is no verdict on
// one that was rejected before.
type TriedSample struct {
	Completion schemas.Completion `json:"completion"`
	Judged     []schemas.Message  `json:"judge_messages,omitempty"` // as the judge is asked
	Verdict    *schemas.Verdict   `json:"verdict,omitempty"`
}

// Try does to a few prompts what the stages synthesize and filter would do. It asks what
// they would ask, so that the run finds the answers in the journal.
func Try(ctx context.Context, c config.Config, store shard.Store, journal *shard.Journal, req TryRequest) (trials []Trial, usage schemas.Usage, err error) {
	a := New(c, store, journal, "try")
	defer Close(a)
	pol, err := a.readPolicy(ctx, req.Spec.Policy.Source)
	if err != nil {
		return nil, usage, err
	}
	if len(req.Prompts) == 0 {
		if req.Prompts, err = a.firstPrompts(ctx, req.Spec, req.Most); err != nil {
			return nil, usage, err
		}
	}
	w := &work{Activities: a, spec: req.Spec, account: newAccount(""), beat: &beat{}}
	teacher, err := w.open(req.Spec.Synthesize.Teacher)
	if err != nil {
		return nil, usage, err
	}
	judging, err := w.open(req.Spec.Filter.Judge)
	if err != nil {
		return nil, usage, err
	}
	try := trier{
		teacher: teacher, ask: asker{w: w, request: teacherRequest(req.Spec)},
		judge: routedJudge{router: judging, judge: judge.New(nil, judge.RoleFilter, filterOptions(req.Spec))},
	}
	trials = make([]Trial, len(req.Prompts))
	policies := make([]policy.CategoryPolicy, len(req.Prompts))
	// Nobody is asked before all prompts are known to be fit to be asked about.
	for i, prompt := range req.Prompts {
		if policies[i], err = pol.For(prompt.Category); err != nil {
			return nil, usage, err
		}
		first, err := teacher.to(prompt)
		if err != nil {
			return nil, usage, err
		}
		if _, err := judging.to(prompt); err != nil {
			return nil, usage, err
		}
		trials[i] = Trial{
			Prompt: prompt, Policy: policies[i].Digest, Tokens: policy.Tokens(policies[i].Text),
			Messages: policy.TeacherMessagesIn(first.clients[0].Endpoint().CoT, policies[i], prompt),
			Samples:  make([]TriedSample, req.Spec.Synthesize.Samples),
		}
	}
	p := pool.New().WithMaxGoroutines(teacher.inFlight()).WithErrors().WithContext(ctx).WithCancelOnError().WithFirstError()
	for i := range trials {
		for k := range trials[i].Samples {
			p.Go(func(ctx context.Context) (err error) {
				trials[i].Samples[k], err = try.sample(ctx, policies[i], trials[i], k)
				return err
			})
		}
	}
	err = p.Wait()
	return trials, w.account.took(), err
}

// teacherRequest is what of a spec goes into every request to the teacher.
func teacherRequest(spec schemas.RunSpec) llm.Request {
	return llm.Request{
		Temperature: *spec.Synthesize.Temperature, MaxTokens: spec.Synthesize.MaxTokens, Refresh: spec.Refresh[schemas.StageSynthesize],
	}
}

// filterOptions says how a spec's filter votes.
func filterOptions(spec schemas.RunSpec) judge.Options {
	s := spec.Filter
	return judge.Options{Votes: s.Votes, Threshold: *s.Threshold, MaxTokens: s.MaxTokens, Refresh: spec.Refresh[schemas.StageFilter]}
}

// open opens all endpoints of a role, of which no task says which may be asked.
func (w *work) open(role schemas.Role) (*router, error) {
	r := &router{w: w, role: role, clients: map[string]*llm.Client{}}
	for _, name := range role.Endpoints() {
		c, err := w.Activities.client(name)
		if err != nil {
			return nil, err
		}
		c = c.Paying(w.account)
		r.clients[name] = c
		r.first = append(r.first, c)
	}
	return r, nil
}

// trier is what all samples of a trial share.
type trier struct {
	teacher *router
	ask     asker
	judge   routedJudge
}

func (t trier) sample(ctx context.Context, cp policy.CategoryPolicy, trial Trial, k int) (s TriedSample, err error) {
	choice, err := t.teacher.to(trial.Prompt)
	if err != nil {
		return s, err
	}
	if s.Completion, err = t.ask.completion(ctx, choice.teaching(cp, trial.Prompt), trial.Prompt, nil, k); err != nil {
		return s, err
	}
	c := &s.Completion
	if c.Reason = teacherReason(*c); c.Reason != "" {
		return s, nil
	}
	item := judge.Item{Policy: cp, Prompt: c.Prompt, CoT: c.CoT, Answer: c.Answer}
	s.Judged = judge.RoleFilter.Messages(item)
	r, who, err := t.judge.verdict(ctx, item)
	if err != nil {
		return s, err
	}
	v := verdict(*c, who, r)
	s.Verdict = &v
	return s, nil
}

// errEnough ends the reading of a file of which no more is needed.
var errEnough = errors.New("enough")

// firstPrompts takes the first prompts of the spec's files that need no judge to tell what
// they are, from each in turn, so that there are some of each category where every category
// has its file.
func (a *Activities) firstPrompts(ctx context.Context, spec schemas.RunSpec, most int) (out []schemas.Prompt, err error) {
	dir, err := os.MkdirTemp("", "precept-try-*")
	if err != nil {
		return nil, schemas.E("try", "", schemas.Unavailable, err)
	}
	defer os.RemoveAll(dir)
	var perFile [][]schemas.Prompt
	for _, in := range spec.Prompts.Imports {
		files, err := a.open(ctx, in, examples.Prompts, dir)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if f.fetch != nil {
				if err := f.fetch(ctx); err != nil {
					return nil, err
				}
			}
			var rows []schemas.Prompt
			err := scanFile(f.path, f.name, f.in, spec.Prompts.Limit, func(p schemas.Prompt) error {
				if p.Reason != "" || !labelled(p) {
					return nil
				}
				p.Expected = ""
				if rows = append(rows, p); len(rows) == most {
					return errEnough
				}
				return nil
			})
			if err != nil && !errors.Is(err, errEnough) {
				return nil, err
			}
			perFile = append(perFile, rows)
		}
	}
	known := func(p schemas.Prompt) bool {
		return slices.ContainsFunc(out, func(o schemas.Prompt) bool { return o.ID == p.ID })
	}
	for i := range most {
		for _, rows := range perFile {
			if i < len(rows) && len(out) < most && !known(rows[i]) {
				out = append(out, rows[i])
			}
		}
	}
	if len(out) == 0 {
		return nil, schemas.Errorf("try", spec.Name, schemas.InvalidInput, "the specification imports no prompt with category and intent: those that are to be classified or generated are not tried").
			WithHint("Try one of your own: --prompt TEXT --category CATEGORY")
	}
	return out, nil
}

// Fate is why the sample would not be kept; empty where it would.
func (s TriedSample) Fate() schemas.Reason {
	if s.Verdict != nil {
		return s.Verdict.Reason
	}
	return s.Completion.Reason
}
