package reward

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/internal/judge"
	"precept/internal/llm"
	"precept/internal/policy"
	"precept/schemas"
)

// voter answers every judge call alike and remembers what it was shown.
type voter struct {
	mu    sync.Mutex
	shown []string
	err   error
	score func(request string) int // of compliance; nil for 10
	fails func(request string) bool
}

func (v *voter) Ask(_ context.Context, r llm.Request) (llm.Answer, llm.Meta, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	raw, err := json.Marshal(r) // all of it
	if err != nil {
		return llm.Answer{}, llm.Meta{}, err
	}
	v.shown = append(v.shown, string(raw))
	score, fails := 10, v.err
	if v.score != nil {
		score = v.score(string(raw))
	}
	if v.fails != nil && v.fails(string(raw)) {
		fails = errAway
	}
	return llm.Answer{
		Content:      fmt.Sprintf(`{"expected":"comply","rule":"V8","action":"comply","compliance":%d,"helpfulness":8,"style":8,"reason":"fine"}`, score),
		FinishReason: "stop",
	}, llm.Meta{}, fails
}

var errAway = schemas.E("ask", "judge", schemas.Unavailable, nil)

func serve(t *testing.T, v *voter) *Server {
	t.Helper()
	s, err := Serve(t.Context(), Options{
		Judge: judge.New(v, judge.RoleReward, judge.Options{}),
		Policy: func(c schemas.Category) (policy.CategoryPolicy, error) {
			return policy.CategoryPolicy{Category: c, Text: "rules"}, nil
		},
		Weights:  schemas.DefaultRewards().Normalised(),
		InFlight: 2, Group: 2, MaxMissing: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// asks is a request about completions of step 3.
func asks(completions ...string) request {
	req := request{Step: 3}
	for _, c := range completions {
		req.Items = append(req.Items, item{PromptID: "p", Category: "violence", Prompt: []schemas.Message{{Role: "user", Content: "hi"}}, Completion: c})
	}
	return req
}

func ask(t *testing.T, s *Server, token string, completions ...string) (status int, rewards []*float64) {
	t.Helper()
	status, out := post(t, s, token, asks(completions...))
	return status, out.Rewards
}

func post(t *testing.T, s *Server, token string, req request) (status int, out response) {
	t.Helper()
	raw, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL(), bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
			t.Fatal(err)
		}
	}
	return resp.StatusCode, out
}

func TestReward(t *testing.T) {
	zero, full := 0.0, 0.9
	tests := []struct {
		name, completion string
		err              error
		want             *float64
		asked            bool
	}{
		{"a chain of thought, then an answer", "<think>\nsecret thought\n</think>\n\nHello", nil, &full, true},
		{"no chain of thought", "Hello", nil, &zero, false},
		{"an unfinished chain of thought", "<think>\nsecret thought", nil, &zero, false},
		{"no answer", "<think>secret thought</think>", nil, &zero, false},
		{"a second block", "<think>a</think>x<think>secret thought</think>y", nil, &zero, false},
		{"text before the block", "x <think>secret thought</think> y", nil, &zero, false},
		{"the judge is unavailable", "<think>secret thought</think>Hello", errAway, nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := &voter{err: tt.err}
			s := serve(t, v)
			status, rewards := ask(t, s, s.Token(), tt.completion)
			if status != http.StatusOK {
				t.Fatalf("status %d", status)
			}
			if d := cmp.Diff([]*float64{tt.want}, rewards); d != "" {
				t.Errorf("rewards (-want +got):\n%s", d)
			}
			if (len(v.shown) > 0) != tt.asked {
				t.Errorf("the judge was shown %d requests", len(v.shown))
			}
			for _, shown := range v.shown {
				if strings.Contains(shown, "secret thought") {
					t.Errorf("the judge sees the chain of thought: %s", shown)
				}
			}
			if got := s.Rollouts(); len(got) != 1 || got[0].Step != 3 {
				t.Errorf("rollouts %+v", got)
			}
		})
	}
}

// TestARefusedAccountGivesNoReward: the job is told to end, once and for all, and nobody
// takes the refusal for a missing reward.
func TestARefusedAccountGivesNoReward(t *testing.T) {
	for _, tt := range []struct {
		name  string
		err   error
		ends  func(error) bool
		ended bool
	}{
		{"an outage", errAway, nil, false},
		{"an outage that ends the job", errAway, func(err error) bool { return errors.Is(err, errAway) }, true},
		{"what asking again won't mend", schemas.E("ask", "judge", schemas.InvalidInput, nil), nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := &voter{err: tt.err}
			s := serve(t, v)
			var told []error
			s.Ends, s.End = tt.ends, func(err error) { told = append(told, err) }
			const fine = "<think>a</think>b"
			status, rewards := ask(t, s, s.Token(), fine, fine, fine)
			if !tt.ended {
				if status != http.StatusOK || len(rewards) != 3 || len(told) != 0 {
					t.Errorf("status %d, rewards %v, told %v", status, rewards, told)
				}
				return
			}
			if status != http.StatusGone || len(told) != 1 || !errors.Is(told[0], tt.err) || len(s.Rollouts()) != 0 {
				t.Errorf("status %d, told %v, rollouts %v", status, told, s.Rollouts())
			}
			asked := len(v.shown)
			v.err = nil
			if status, _ := ask(t, s, s.Token(), fine); status != http.StatusGone || len(v.shown) != asked {
				t.Errorf("asked again: status %d, the judge was asked %d times", status, len(v.shown)-asked)
			}
		})
	}
}

func TestWrongToken(t *testing.T) {
	s := serve(t, &voter{})
	if status, _ := ask(t, s, "guess", "x"); status != http.StatusUnauthorized {
		t.Errorf("status %d", status)
	}
}

func TestCheckpointBringsBackRollouts(t *testing.T) {
	s := serve(t, &voter{})
	ask(t, s, s.Token(), "<think>a</think>b")
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	ask(t, s, s.Token(), "lost at the crash")
	if err := json.Unmarshal(raw, s); err != nil {
		t.Fatal(err)
	}
	if got := s.Rollouts(); len(got) != 1 || got[0].Answer != "b" {
		t.Errorf("rollouts %+v", got)
	}
}
