package main

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/sourcegraph/conc/pool"

	"precept/examples"
	"precept/internal/judge"
	"precept/internal/llm"
	"precept/internal/policy"
	"precept/internal/prompts"
	"precept/policies"
	"precept/schemas"
)

// TestEarlyStoppingSaves measures on the built-in prompts what it saves to stop voting at
// a vote that settles the verdict. The teacher makes so many mistakes that about half of
// its answers are rejected.
func TestEarlyStoppingSaves(t *testing.T) {
	hs := start(t, config{flaws: flaws{decision: .32, lecture: .32}})
	journal := &llm.Memory{} // one for all: votes that were asked for once are there
	client := func(model string) *llm.Client {
		c, err := llm.NewClient(llm.Endpoint{
			Name: model, Model: model, BaseURL: hs.URL + "/v1", Provider: "test", Revision: "1", Simulated: true,
		}, llm.Options{Journal: journal})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	teacher, sim := client(teacherModel), client(judgeModel)
	items := written(t, teacher)
	const threshold = 0.7
	for _, k := range []int{3, 5} {
		t.Run(fmt.Sprintf("%d votes", k), func(t *testing.T) {
			all := judge.New(sim, judge.RoleFilter, judge.Options{Votes: k, Threshold: threshold, All: true})
			early := judge.New(sim, judge.RoleFilter, judge.Options{Votes: k, Threshold: threshold})
			var mu sync.Mutex
			var asked, rejected, split int
			p := pool.New().WithMaxGoroutines(4).WithErrors().WithContext(t.Context())
			for _, item := range items {
				p.Go(func(ctx context.Context) error {
					every, err := all.Verdict(ctx, item)
					if err != nil {
						return err
					}
					some, err := early.Verdict(ctx, item)
					if err != nil {
						return err
					}
					if some.Reason != every.Reason {
						return fmt.Errorf("%q early, %q of all votes", some.Reason, every.Reason)
					}
					low := 0
					for _, v := range every.Votes {
						if v.Score < threshold {
							low++
						}
					}
					mu.Lock()
					defer mu.Unlock()
					asked += len(some.Votes) + some.Lost
					if every.Reason != "" {
						rejected++
					}
					if low > 0 && low < k {
						split++
					}
					return nil
				})
			}
			if err := p.Wait(); err != nil {
				t.Fatal(err)
			}
			n := float64(len(items))
			saved := 1 - float64(asked)/(n*float64(k))
			possible := float64(rejected) / n * float64(k-1) / float64(k)
			t.Logf("%d answers, %.1f%% rejected, votes disagree on %.1f%%: %.1f%% of the calls saved of %.1f%% possible (%.1f%%)",
				len(items), 100*float64(rejected)/n, 100*float64(split)/n, 100*saved, 100*possible, 100*saved/possible)
			if share := float64(rejected) / n; math.Abs(share-0.5) > 0.05 {
				t.Errorf("%.2f of the answers are rejected, and not half", share)
			}
			if saved < 0.9*possible {
				t.Errorf("saved %.3f, which is less than 90%% of %.3f", saved, possible)
			}
		})
	}
}

// written is the teacher's answers to the built-in prompts.
func written(t *testing.T, teacher *llm.Client) (items []judge.Item) {
	t.Helper()
	pol, err := policy.Load(policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	names, err := fs.Glob(examples.Prompts, "prompts/*.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		raw, err := fs.ReadFile(examples.Prompts, name)
		if err != nil {
			t.Fatal(err)
		}
		for prompt, err := range prompts.Scan(name, strings.NewReader(string(raw)), int64(len(raw)), schemas.Import{}) {
			if err != nil {
				t.Fatal(err)
			}
			cp, err := pol.For(prompt.Category)
			if err != nil {
				t.Fatal(err)
			}
			answer, _, err := teacher.Ask(t.Context(), llm.Request{Messages: policy.TeacherMessages(cp, prompt.Prompt), Temperature: 1})
			if err != nil {
				t.Fatal(err)
			}
			cot, text, _ := answer.Split()
			items = append(items, judge.Item{Policy: cp, Prompt: prompt.Prompt, CoT: cot, Answer: text})
		}
	}
	return items
}
