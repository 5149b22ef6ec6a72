package main

import (
	"context"
	"net/http/httptest"
	"testing"
	"time"

	"go.temporal.io/sdk/testsuite"

	"precept/activities"
	configuration "precept/internal/config" // config is the simulation's own
	"precept/internal/llm"
	"precept/internal/shard"
	"precept/schemas"
)

// TestThePolicyIsReadFromTheCache: of all that models read for the built-in prompts in
// synthesize and filter, policies before all, 95% comes from the provider's prefix cache,
// with many requests at once. A prefix is in the cache when its first reader has
// answered, not before.
func TestThePolicyIsReadFromTheCache(t *testing.T) {
	const inFlight = 16
	s := newServer(config{latency: 20 * time.Millisecond})
	hs := httptest.NewServer(s.handler())
	defer hs.Close()
	ctx, spec := t.Context(), schemas.RunSpec{Name: "cache"}.WithDefaults()
	c := configuration.Config{Endpoints: map[string]llm.Endpoint{}}
	for _, name := range []string{teacherModel, judgeModel} {
		c.Endpoints[name] = llm.Endpoint{
			Name: name, Model: name, BaseURL: hs.URL + "/v1", Provider: "simulated", Revision: "1", Simulated: true,
			MaxInFlight: inFlight, InputUSD: 2, CachedUSD: 0.5, OutputUSD: 8,
		}
	}
	spec.Synthesize.Teacher, spec.Filter.Judge, spec.Evaluate.Skip = schemas.RoleOf(teacherModel), schemas.RoleOf(judgeModel), true
	spec.Synthesize.Samples, spec.Filter.Votes = 1, 1 // more would be read more often
	store := shard.NewMemory()
	journal := shard.OpenJournal(store, shard.JournalOptions{CompactEvery: -1})
	defer journal.Close(context.WithoutCancel(ctx))
	a := activities.New(c, store, journal, "test")
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	env.RegisterActivity(a)

	inputs := must[schemas.InputsRef](t, env, a.Import, activities.ImportRequest{Run: "run", Spec: spec})
	var sums []schemas.StageSum
	var usage schemas.Usage
	for _, stage := range []struct {
		name schemas.Stage
		task any
	}{{schemas.StagePrompts, a.Prompts}, {schemas.StageSynthesize, a.Synthesize}, {schemas.StageFilter, a.Filter}} {
		plan := must[schemas.PlanRef](t, env, a.Plan, activities.PlanRequest{Run: "run", Stage: stage.name, Spec: spec, Inputs: inputs, Sums: sums})
		for i := range plan.Tasks {
			r := must[schemas.TaskResult](t, env, stage.task, activities.TaskRequest{Run: "run", Stage: stage.name, Plan: plan, Index: i, Unchecked: true})
			usage.Add(r.Usage)
		}
		sums = append(sums, must[schemas.StageSum](t, env, a.Manifest, activities.ManifestRequest{Run: "run", Stage: stage.name, Plan: plan}))
	}

	told := s.ledger.snapshot()
	if told.CachedTokens != usage.CachedTokens || told.PromptTokens != usage.PromptTokens || told.Requests != usage.Paid {
		t.Errorf("the endpoint told %+v, the stages count %+v", told.counts, usage)
	}
	share := float64(usage.CachedTokens) / float64(usage.PromptTokens)
	t.Logf("%d requests, %d tokens read, %.1f%% of them from the cache, for $%.2f", usage.Paid, usage.PromptTokens, 100*share, usage.USD)
	if share < 0.95 {
		t.Errorf("%.1f%% are read from the cache", 100*share)
	}
}

// must executes an activity.
func must[T any](t *testing.T, env *testsuite.TestActivityEnvironment, activity any, args ...any) (out T) {
	t.Helper()
	v, err := env.ExecuteActivity(activity, args...)
	if err == nil {
		err = v.Get(&out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}
