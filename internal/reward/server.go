package reward

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sourcegraph/conc/pool"

	"precept/internal/judge"
	"precept/internal/llm"
	"precept/internal/policy"
	"precept/schemas"
)

// TokenEnv is the environment variable in which a job finds its token.
const TokenEnv = "PRECEPT_REWARD_TOKEN"

// Judge votes on items; *judge.Judge is one.
type Judge interface {
	Verdict(context.Context, judge.Item) (judge.Result, error)
}

// Options say how a server rewards.
type Options struct {
	Judge Judge
	// Policy gives the category policy that the judge reads.
	Policy func(schemas.Category) (policy.CategoryPolicy, error)
	// Weights are those of the reward's terms; they sum up to 1.
	Weights schemas.RewardWeights
	// InFlight bounds the judge calls at a time.
	InFlight int
	// Group is how many completions of one prompt, one after the other, are compared with
	// each other.
	Group int
	// Ends reports whether an error of the judge that may pass ends the job all the same;
	// one that can't pass always does. Nil is never.
	Ends func(error) bool
	// MaxMissing is the share of a step's rewards that may be missing. Where more are, a
	// *MissingError ends the job.
	MaxMissing float64
	// FlatSteps is after how many flat steps in a row a *FlatError ends the job; 0 is never.
	FlatSteps int
	// End is told the error that ends the job. No reward is given from then on, not even
	// null, and the job is told that it is to end.
	End func(error)
}

// Server rewards the completions of one job and remembers them as rollouts.
type Server struct {
	Options
	listener net.Listener
	http     http.Server
	token    string
	context  context.Context

	asked atomic.Int32 // requests under way

	mu    sync.Mutex
	ended bool
	steps steps
}

// Serve starts a server, which ends with Close.
func Serve(ctx context.Context, o Options) (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, schemas.E("serve rewards", "", schemas.Unavailable, err)
	}
	s := &Server{Options: o, listener: listener, token: rand.Text(), context: ctx, steps: steps{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /reward", s.reward)
	s.http = http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go s.http.Serve(listener) // ends with Close
	return s, nil
}

// URL is where rewards are asked for.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() + "/reward" }

// Token is what the job must show.
func (s *Server) Token() string { return s.token }

// Close ends the server, once the judge's answers in flight are there: they are paid for.
func (s *Server) Close() error { return s.http.Shutdown(context.Background()) }

// Busy reports whether the job waits for rewards.
func (s *Server) Busy() bool { return s.asked.Load() > 0 }

// request asks for the rewards of the completions that one of several processes drew for a
// step. Each has as many as the others.
type request struct {
	Step  int32  `json:"step"`
	Rank  int32  `json:"rank"`
	Ranks int32  `json:"ranks"` // how many processes there are; 0 stands for one
	Items []item `json:"items"`
}

// all is how many completions the step has.
func (r request) all() int { return int(max(1, r.Ranks)) * len(r.Items) }

// index is the place of an item among the completions of the step.
func (r request) index(i int) int32 { return r.Rank*int32(len(r.Items)) + int32(i) }

type item struct {
	PromptID   string            `json:"prompt_id"`
	Category   schemas.Category  `json:"category"`
	Intent     schemas.Intent    `json:"intent"`
	Language   string            `json:"language"`
	Source     string            `json:"source"`
	Prompt     []schemas.Message `json:"prompt"`
	Completion string            `json:"completion"`
	Cut        bool              `json:"cut"` // by the length
}

// response has one reward an item, null where there is none, and its terms, which are null
// then, too: in a sum over those that are there, an outage would count as a bad score.
type response struct {
	Rewards []*float64                        `json:"rewards"`
	Terms   map[schemas.RewardTerm][]*float64 `json:"terms"`
}

func respond(rollouts []schemas.Rollout) response {
	out := response{Rewards: make([]*float64, len(rollouts)), Terms: map[schemas.RewardTerm][]*float64{}}
	for _, t := range schemas.RewardTerms {
		out.Terms[t] = make([]*float64, len(rollouts))
	}
	for i, ro := range rollouts {
		if out.Rewards[i] = ro.Reward; ro.Reward == nil {
			continue
		}
		for _, t := range schemas.RewardTerms {
			out.Terms[t][i] = ro.Terms.Of(t)
		}
	}
	return out
}

func (s *Server) reward(w http.ResponseWriter, r *http.Request) {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+s.token)) != 1 {
		http.Error(w, "wrong token", http.StatusUnauthorized)
		return
	}
	var req request
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<20)).Decode(&req); err != nil {
		http.Error(w, "can't read the request: "+err.Error(), http.StatusBadRequest)
		return
	}
	if s.hasEnded() {
		http.Error(w, "the job is to end", http.StatusGone)
		return
	}
	s.asked.Add(1)
	defer s.asked.Add(-1)
	rollouts, err := s.judgeAll(req)
	if err != nil {
		http.Error(w, "the job is to end: "+err.Error(), http.StatusGone)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(respond(rollouts)) // the job hears of a broken connection itself
}

// judgeAll rewards the completions of a request, or tells why the job is to end.
func (s *Server) judgeAll(req request) ([]schemas.Rollout, error) {
	s.mu.Lock()
	missing := s.steps.missing(req.Step, req.Rank, len(req.Items)) // those of other processes
	s.mu.Unlock()
	rollouts := make([]schemas.Rollout, len(req.Items))
	p := pool.New().WithMaxGoroutines(max(1, s.InFlight)).WithErrors().WithContext(s.context)
	for i, it := range req.Items {
		p.Go(func(ctx context.Context) error {
			if s.hasEnded() {
				return errEnded
			}
			ro, err := s.judge(ctx, it)
			ro.Step, ro.Index = req.Step, req.index(i)
			rollouts[i] = ro
			if err != nil && s.unavailable(ctx, err) { // null
				s.mu.Lock()
				missing++
				n := missing
				s.mu.Unlock()
				if float64(n) <= s.MaxMissing*float64(req.all()) {
					return nil
				}
				err = &MissingError{Step: req.Step, Missing: n, Of: req.all(), Max: s.MaxMissing, Cause: err}
			}
			if err != nil {
				s.end(err)
			}
			return err
		})
	}
	if err := p.Wait(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.steps.put(rollouts)
	flat, step := s.steps.flat(req.Step, req.all(), s.Group), s.steps.all(req.Step)
	s.mu.Unlock()
	if s.FlatSteps > 0 && flat >= s.FlatSteps {
		err := &FlatError{Step: req.Step, Steps: flat, Last: step}
		s.end(err)
		return nil, err
	}
	return rollouts, nil
}

var errEnded = errors.New("another completion has ended it")

func (s *Server) hasEnded() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.ended }

// end tells the first error that ends the job.
func (s *Server) end(err error) {
	s.mu.Lock()
	first := !s.ended
	s.ended = true
	s.mu.Unlock()
	if first && s.End != nil {
		s.End(err)
	}
}

// unavailable reports whether an error leaves a completion without a reward, and no more.
func (s *Server) unavailable(ctx context.Context, err error) bool {
	passes := schemas.KindOf(err).Retryable() && !llm.IsAccount(err)
	return passes && ctx.Err() == nil && (s.Ends == nil || !s.Ends(err))
}

// judge rewards one completion. A malformed one earns 0: what a reader would see must not
// hide from the judge behind tags. A rollout that comes with an error has no reward.
func (s *Server) judge(ctx context.Context, it item) (schemas.Rollout, error) {
	cot, answer, ok := part(it.Completion)
	out := schemas.Rollout{PromptID: it.PromptID, Category: it.Category, Intent: it.Intent, CoT: cot, Answer: answer}
	zero, one := 0.0, 1.0
	out.Terms.Format = &zero
	if !ok {
		out.Terms.Compliance, out.Terms.Helpfulness, out.Terms.Style = &zero, &zero, &zero
		out.Reward = s.Weights.Reward(out.Terms)
		return out, nil
	}
	if !it.Cut {
		out.Terms.Format = &one
	}
	cp, err := s.Policy(it.Category)
	if err != nil {
		return out, err
	}
	prompt := schemas.Prompt{ID: it.PromptID, Messages: it.Prompt, Category: it.Category, Intent: it.Intent, Language: it.Language, Source: it.Source}
	result, err := s.Judge.Verdict(llm.InCategory(ctx, it.Category), judge.Item{Policy: cp, Prompt: prompt, Answer: answer})
	if err != nil {
		return out, err
	}
	out.Votes = result.Votes
	if len(result.Votes) > 0 {
		scores := result.Scores()
		out.Terms.Compliance, out.Terms.Helpfulness, out.Terms.Style = &scores.Compliance, &scores.Helpfulness, &scores.Style
	}
	out.Reward = s.Weights.Reward(out.Terms)
	out.Lost = out.Reward == nil
	return out, nil
}

// tag is what some model opens or closes a chain of thought with, or a control token. The
// form that is trained has one pair of tags, exactly so written (llm.SplitCoT): another may
// hide a thought in the answer or an answer in the thought, and who leaves control tokens
// out reads another text than the judge.
var tag = regexp.MustCompile(`(?i)<[\s|/]*(begin_of_|end_of_)?(think|thinking|thoughts?|reasoning|scratchpad)\b[^<>]{0,40}>|\[/?think\]|<\|\w{1,40}\|>`)

// part parts a completion strictly into chain of thought and answer. It is not ok for
// anything but one closed chain of thought at the start with an answer behind it.
func part(completion string) (cot, answer string, ok bool) {
	cot, answer, ok = llm.SplitCoT(completion, "")
	return cot, answer, ok && answer != "" && !tag.MatchString(cot) && !tag.MatchString(answer)
}
