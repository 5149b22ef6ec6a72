package reward

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"precept/schemas"
)

// TestNoThoughtReachesTheJudge: "secret" stands for what is thought, in all of a request.
func TestNoThoughtReachesTheJudge(t *testing.T) {
	tests := []struct {
		name, completion string
		asked            bool
	}{
		{"the form that is trained", "<think>\nsecret\n</think>\n\nHello", true},
		{"two blocks", "<think>secret</think>a<think>secret</think>b", false},
		{"two blocks, one after the other", "<think>secret</think><think>secret</think>b", false},
		{"never closed", "<think>secret", false},
		{"the second never closed", "<think>secret</think>a<think>secret", false},
		{"never opened", "secret</think>a", false},
		{"upper case", "<THINK>secret</THINK>a", false},
		{"closed in upper case", "<think>secret</THINK>a", false},
		{"the second in upper case", "<think>secret</think>a<THINK>secret</THINK>b", false},
		{"the second in mixed case with blanks", "<think>secret</think>a< Think >secret</ tHink >b", false},
		{"nested", "<think>secret<think>secret</think>secret</think>b", false},
		{"nested in upper case", "<think>secret<THINK>secret</THINK>secret</think>b", false},
		{"a tag in the answer", "<think>secret</think>The tag <think> is secret", false},
		{"a closing tag in the answer", "<think>secret</think>secret</think>b", false},
		{"another word for it", "<think>secret</think>a<thinking>secret</thinking>", false},
		{"brackets", "<think>secret</think>a[THINK]secret[/THINK]b", false},
		{"special tokens for it", "<|begin_of_thought|>secret<|end_of_thought|>b", false},
		{"special tokens for it behind a block", "<think>secret</think>a<|begin_of_thought|>secret<|end_of_thought|>b", false},
		{"a turn of its own", "<think>secret</think>a<|im_start|>assistant\nsecret", false},
		{"a channel", "<|channel|>analysis<|message|>secret<|end|>a", false},
		{"an attribute", "<think>secret</think>a<think hidden>secret</think>b", false},
		{"tags that are none", "<think>secret</think>In Go, a <- b; in HTML <b>thinking</b> and [thought] are fine", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := &voter{}
			s := serve(t, v)
			status, out := post(t, s, s.Token(), asks(tt.completion))
			if status != http.StatusOK || len(out.Rewards) != 1 || out.Rewards[0] == nil {
				t.Fatalf("status %d, %+v", status, out)
			}
			if asked := len(v.shown) > 0; asked != tt.asked {
				t.Errorf("the judge was shown %q", v.shown)
			}
			if !tt.asked && *out.Rewards[0] != 0 {
				t.Errorf("what is malformed earns %v", *out.Rewards[0])
			}
			for _, shown := range v.shown {
				if strings.Contains(shown, "secret") {
					t.Errorf("the judge sees %s", shown)
				}
			}
		})
	}
}

// TestWhateverIsTaggedIsHidden puts completions together of tags and words: what stands
// behind any opening tag and before a closing one of the same kind is a thought.
func TestWhateverIsTaggedIsHidden(t *testing.T) {
	opens := []string{"<think>", "<THINK>", "<Think >", "<thinking>", "[THINK]", "<|begin_of_thought|>"}
	closes := []string{"</think>", "</THINK>", "</ think>", "</thinking>", "[/THINK]", "<|end_of_thought|>"}
	words := []string{"answer", " ", "\n", "<b>", "&lt;think&gt;", "<", ">", "/", "<|im_start|>", "“"}
	v := &voter{}
	s := serve(t, v)
	rapid.Check(t, func(rt *rapid.T) {
		var b strings.Builder
		depth := 0
		for range rapid.IntRange(1, 12).Draw(rt, "parts") {
			switch rapid.IntRange(0, 3).Draw(rt, "kind") {
			case 0:
				b.WriteString(rapid.SampledFrom(opens).Draw(rt, "open"))
				depth++
			case 1:
				b.WriteString(rapid.SampledFrom(closes).Draw(rt, "close"))
				depth = max(0, depth-1)
			default:
				if depth > 0 {
					b.WriteString("secret")
				}
				b.WriteString(rapid.SampledFrom(words).Draw(rt, "word"))
			}
		}
		v.shown = nil
		completion := b.String()
		if rapid.Bool().Draw(rt, "trained form first") {
			completion = "<think>secret</think>" + completion
		}
		if status, _ := post(t, s, s.Token(), asks(completion)); status != http.StatusOK {
			rt.Fatalf("status %d", status)
		}
		for _, shown := range v.shown {
			if strings.Contains(shown, "secret") {
				rt.Fatalf("of %q the judge sees %s", completion, shown)
			}
		}
	})
}

func TestTerms(t *testing.T) {
	const fine = "<think>a</think>b"
	v := &voter{fails: func(r string) bool { return strings.Contains(r, "away") }}
	s := serve(t, v)
	s.Weights = schemas.RewardWeights{schemas.TermCompliance: 2, schemas.TermFormat: 2}.Normalised()
	req := asks(fine, "no form", fine, "<think>a</think>away")
	req.Items[2].Cut = true
	_, out := post(t, s, s.Token(), req)
	p := func(v float64) *float64 { return &v }
	want := response{
		Rewards: []*float64{p(1), p(0), p(0.5), nil},
		Terms: map[schemas.RewardTerm][]*float64{
			schemas.TermCompliance:  {p(1), p(0), p(1), nil},
			schemas.TermHelpfulness: {p(0.8), p(0), p(0.8), nil},
			schemas.TermStyle:       {p(0.8), p(0), p(0.8), nil},
			schemas.TermFormat:      {p(1), p(0), p(0), nil}, // of no use without the others
		},
	}
	if d := cmp.Diff(want, out); d != "" {
		t.Errorf("rewards (-want +got):\n%s", d)
	}
	last := s.Rollouts()[3]
	if last.Reward != nil || last.Terms.Compliance != nil || *last.Terms.Format != 1 || last.Lost {
		t.Errorf("the rollout without a judge is %+v", last)
	}
}

// TestProcessesHaveRolloutsOfTheirOwn: those of one don't replace another's, and one that
// asks again replaces its own.
func TestProcessesHaveRolloutsOfTheirOwn(t *testing.T) {
	s := serve(t, &voter{})
	from := func(rank int32, words ...string) {
		for i := range words {
			words[i] = "<think>a</think>" + words[i]
		}
		req := asks(words...)
		req.Rank, req.Ranks = rank, 3
		if status, _ := post(t, s, s.Token(), req); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
	}
	from(2, "e", "f")
	from(0, "a", "lost")
	from(1, "c", "d")
	from(0, "a", "b")
	check := func() {
		t.Helper()
		var got []string
		for _, r := range s.Rollouts() {
			got = append(got, fmt.Sprint(r.Step, r.Index, r.Answer))
		}
		if d := cmp.Diff([]string{"3 0a", "3 1b", "3 2c", "3 3d", "3 4e", "3 5f"}, got); d != "" {
			t.Errorf("rollouts (-want +got):\n%s", d)
		}
	}
	check()
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	from(1, "x", "y")
	if err := json.Unmarshal(raw, s); err != nil {
		t.Fatal(err)
	}
	check()
}

func TestTooManyMissing(t *testing.T) {
	tests := []struct {
		name  string
		max   float64
		ranks [][]string // what the processes ask about, one after the other
		ends  bool
	}{
		{"as many as may be", 0.5, [][]string{{"away", "b", "away", "d"}}, false},
		{"more", 0.5, [][]string{{"away", "b", "away", "away"}}, true},
		{"none may be", 0, [][]string{{"a", "b", "c", "away"}}, true},
		{"all may be", 1, [][]string{{"away", "away", "away", "away"}}, false},
		{"of all processes, as many as may be", 0.5, [][]string{{"away", "away"}, {"c", "d"}}, false},
		{"of all processes, more", 0.5, [][]string{{"away", "b"}, {"away", "away"}}, true},
		{"one that asks again counts once", 0.5, [][]string{{"away", "away"}, nil, {"c", "d"}}, false},
		{"malformed is not missing", 0.5, [][]string{{"<think>", "<think>", "<think>", "<think>"}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, &voter{fails: func(r string) bool { return strings.Contains(r, "away") }})
			var told []error
			s.MaxMissing, s.End = tt.max, func(err error) { told = append(told, err) }
			ended, rank := false, int32(0)
			for i, words := range tt.ranks {
				again := words == nil
				if again {
					words, rank = tt.ranks[i-1], rank-1
				}
				var req request
				for _, w := range words {
					req.Items = append(req.Items, asks("<think>a</think>"+w).Items...)
				}
				req.Rank, req.Ranks = rank, int32(4/len(words))
				status, _ := post(t, s, s.Token(), req)
				ended = ended || status == http.StatusGone
				rank++
			}
			missing := (*MissingError)(nil)
			if ended != tt.ends || ended != (len(told) == 1) || ended && (!errors.As(told[0], &missing) || !errors.Is(told[0], errAway)) {
				t.Errorf("ended %v, told %v", ended, told)
			}
			if ended && schemas.KindOf(told[0]) != schemas.Unavailable {
				t.Errorf("its kind is %s", schemas.KindOf(told[0]))
			}
		})
	}
}

func TestFlat(t *testing.T) {
	digits := regexp.MustCompile(`score([0-9]+)`)
	v := &voter{score: func(r string) int {
		var n int
		fmt.Sscan(digits.FindStringSubmatch(r)[1], &n)
		return n
	}}
	// step asks for two groups of two, and reports whether the job is to end.
	step := func(t *testing.T, s *Server, at int, scores ...int) bool {
		t.Helper()
		var words []string
		for _, n := range scores {
			words = append(words, fmt.Sprintf("<think>a</think>score%d", n))
		}
		req := asks(words...)
		req.Step = int32(at)
		status, _ := post(t, s, s.Token(), req)
		return status == http.StatusGone
	}
	flat, apart := []int{3, 3, 8, 8}, []int{3, 3, 8, 9}
	t.Run("after so many in a row", func(t *testing.T) {
		s := serve(t, v)
		var told []error
		s.FlatSteps, s.End = 3, func(err error) { told = append(told, err) }
		for at, scores := range [][]int{flat, flat, apart, flat, flat} {
			if step(t, s, at, scores...) {
				t.Fatalf("ended at step %d", at)
			}
		}
		if s.Flat() {
			t.Error("flat, but for one step")
		}
		// What a checkpoint brings back counts.
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, s); err != nil {
			t.Fatal(err)
		}
		end := (*FlatError)(nil)
		if !step(t, s, 5, flat...) || len(told) != 1 || !errors.As(told[0], &end) || end.Steps != 3 || len(end.Last) != 4 {
			t.Errorf("told %v", told)
		}
	})
	t.Run("never", func(t *testing.T) {
		s := serve(t, v)
		for at := range 5 {
			if step(t, s, at, flat...) {
				t.Fatalf("ended at step %d", at)
			}
		}
		if !s.Flat() {
			t.Error("not flat")
		}
	})
	t.Run("a step is judged when all processes have asked", func(t *testing.T) {
		s := serve(t, v)
		s.FlatSteps = 1
		for rank, scores := range [][]int{{3, 3}, {8, 9}} {
			var words []string
			for _, n := range scores {
				words = append(words, fmt.Sprintf("<think>a</think>score%d", n))
			}
			req := asks(words...)
			req.Rank, req.Ranks = int32(rank), 2
			if status, _ := post(t, s, s.Token(), req); status != http.StatusOK {
				t.Errorf("process %d: status %d", rank, status)
			}
		}
	})
	t.Run("missing rewards differ from none", func(t *testing.T) {
		one := 1.0
		rollouts := []schemas.Rollout{{Reward: &one}, {}, {}, {}}
		for _, rs := range [][]schemas.Rollout{rollouts, slices.Repeat(rollouts[1:2], 4), nil} {
			if compared, differ := spread(rs, 2); compared || differ {
				t.Errorf("%d rollouts without two rewards of a prompt: compared %t, differ %t", len(rs), compared, differ)
			}
		}
	})
}
