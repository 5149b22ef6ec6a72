package reward

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"net/http"
	"slices"
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
	// InFlight bounds the judge calls at a time.
	InFlight int
	// Ends reports whether an error of the judge that may pass ends the job all the same;
	// one that can't pass always does. Nil is never.
	Ends func(error) bool
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
	// rollouts are by step: a step that is asked for again replaces what it gave.
	rollouts map[int32][]schemas.Rollout
}

// Serve starts a server, which ends with Close.
func Serve(ctx context.Context, o Options) (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, schemas.E("serve rewards", "", schemas.Unavailable, err)
	}
	s := &Server{Options: o, listener: listener, token: rand.Text(), context: ctx, rollouts: map[int32][]schemas.Rollout{}}
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

// Rollouts returns what was rewarded so far, in the order of steps.
func (s *Server) Rollouts() (all []schemas.Rollout) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, step := range slices.Sorted(maps.Keys(s.rollouts)) {
		all = append(all, s.rollouts[step]...)
	}
	return all
}

// Rewind forgets the rollouts of step and later ones.
func (s *Server) Rewind(step int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.rollouts, func(at int32, _ []schemas.Rollout) bool { return int(at) >= step })
}

// MarshalJSON writes the rollouts, for a checkpoint.
func (s *Server) MarshalJSON() ([]byte, error) { return json.Marshal(s.Rollouts()) }

// UnmarshalJSON brings back a checkpoint's rollouts in place of all others.
func (s *Server) UnmarshalJSON(b []byte) error {
	var rollouts []schemas.Rollout
	if err := json.Unmarshal(b, &rollouts); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.rollouts)
	for _, r := range rollouts {
		s.rollouts[r.Step] = append(s.rollouts[r.Step], r)
	}
	return nil
}

// request asks for the rewards of one step's completions.
type request struct {
	Step  int32  `json:"step"`
	Items []item `json:"items"`
}

type item struct {
	PromptID   string            `json:"prompt_id"`
	Category   schemas.Category  `json:"category"`
	Intent     schemas.Intent    `json:"intent"`
	Language   string            `json:"language"`
	Source     string            `json:"source"`
	Prompt     []schemas.Message `json:"prompt"`
	Completion string            `json:"completion"`
}

// response has one reward an item, null where the judge gave none.
type response struct {
	Rewards []*float64 `json:"rewards"`
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
	rollouts := make([]schemas.Rollout, len(req.Items))
	p := pool.New().WithMaxGoroutines(max(1, s.InFlight)).WithErrors().WithContext(s.context)
	for i, it := range req.Items {
		p.Go(func(ctx context.Context) (err error) {
			if s.hasEnded() {
				return errEnded
			}
			if rollouts[i], err = s.judge(ctx, req.Step, int32(i), it); err != nil {
				s.end(err)
			}
			return err
		})
	}
	if err := p.Wait(); err != nil {
		http.Error(w, "the job is to end: "+err.Error(), http.StatusGone)
		return
	}
	out := response{Rewards: make([]*float64, len(rollouts))}
	for i, ro := range rollouts {
		out.Rewards[i] = ro.Reward
	}
	s.mu.Lock()
	s.rollouts[req.Step] = rollouts
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // the job hears of a broken connection itself
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

// judge rewards one completion. Anything but one closed chain of thought at the
// start is malformed and earns 0: what a reader would see must not hide from the
// judge behind tags.
func (s *Server) judge(ctx context.Context, step, index int32, it item) (schemas.Rollout, error) {
	cot, answer, ok := llm.SplitCoT(it.Completion, "")
	out := schemas.Rollout{
		Step: step, Index: index, PromptID: it.PromptID, Category: it.Category, Intent: it.Intent,
		CoT: cot, Answer: answer,
	}
	if !ok || answer == "" {
		zero := 0.0
		out.Reward = &zero
		return out, nil
	}
	cp, err := s.Policy(it.Category)
	if err != nil {
		return out, err
	}
	prompt := schemas.Prompt{ID: it.PromptID, Messages: it.Prompt, Category: it.Category, Intent: it.Intent, Language: it.Language, Source: it.Source}
	result, err := s.Judge.Verdict(llm.InCategory(ctx, it.Category), judge.Item{Policy: cp, Prompt: prompt, Answer: answer})
	if err != nil && s.unavailable(ctx, err) {
		return out, nil // null
	}
	if err != nil {
		return out, err
	}
	out.Votes = result.Votes
	if len(result.Votes) > 0 {
		out.Reward = &result.Score
	}
	out.Lost = out.Reward == nil
	return out, nil
}
