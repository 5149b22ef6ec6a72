package activities

import (
	"context"

	"precept/internal/eval"
	"precept/internal/judge"
	"precept/internal/llm"
	"precept/schemas"
)

// gradeVersion changes when the same votes give other grades.
const gradeVersion = 5

// grade plans a task for every shard of evaluation answers, or of milestones' answers. The
// grader is shown the latter's chains of thought, too, in calls of their own: an answer's
// grade is the same with and without.
func (p *planner) grade(ctx context.Context) (tasks []schemas.Task, err error) {
	m, plan, err := p.passed(ctx, p.Stage.Samples())
	if err != nil {
		return nil, err
	}
	for i, ref := range m.Outputs[schemas.OutputCompletions] {
		l := lineage{
			Stage: p.Stage, Version: []any{gradeVersion, judge.StageVersion()}, Inputs: digests(ref),
			Params: p.params(map[string]any{"votes": p.Spec.Evaluate.Votes}),
			Policy: p.inputs.Policy,
		}
		if err := p.cast(&l, p.Spec.Evaluate.Grader, schemas.Intents, p.inputs.Categories...); err != nil {
			return nil, err
		}
		sampled := plan.Tasks[i]
		name := title("%s, %s", sampled.Suite, sampled.Arm)
		if p.Stage.Trained() != "" {
			name = title("%s, step %d", sampled.Suite, sampled.Step)
		}
		t := newTask(name, ref.Ledger.Kept, l, schemas.OutputGrades)
		t.Arm, t.Suite, t.Inputs = sampled.Arm, sampled.Suite, []schemas.ShardRef{ref}
		t.Step, t.Model = sampled.Step, sampled.Model
		tasks = append(tasks, t)
	}
	return tasks, nil
}

// Grade has the grader say what each evaluation answer did.
func (a *Activities) Grade(ctx context.Context, req TaskRequest) (schemas.TaskResult, error) {
	return a.task(ctx, req, doGrade)
}

func doGrade(ctx context.Context, w *work) error {
	completions, err := keptCompletions(ctx, w.store, w.Inputs[0])
	if err != nil {
		return err
	}
	pol, err := w.policyOf(ctx, w.plan.Inputs.Policy)
	if err != nil {
		return err
	}
	router, err := w.router(w.spec.Evaluate.Grader, schemas.Intents...)
	if err != nil {
		return err
	}
	grader := func(role judge.Role) routedJudge {
		return routedJudge{router: router, judge: judge.New(nil, role, judge.Options{Votes: w.spec.Evaluate.Votes, Refresh: w.refresh(), All: role == judge.RoleFilter})}
	}
	j, ofCoT := grader(judge.RoleGrade), grader(judge.RoleFilter)
	grades := rowsOf[schemas.Grade]{
		kind: schemas.OutputGrades, n: len(completions), unit: judged(completions),
		reason: func(g schemas.Grade) schemas.Reason { return g.Reason },
	}
	return grades.do(ctx, w, router.inFlight(), func(ctx context.Context, i int) (schemas.Grade, error) {
		c := completions[i]
		g := schemas.Grade{
			CompletionID: c.ID, PromptID: c.Prompt.ID, Suite: c.Suite, Arm: c.Arm,
			Category: c.Prompt.Category, Intent: c.Prompt.Intent, Expected: c.Prompt.Expected,
			HasCoT: c.CoT != "", Cited: eval.CitedCategory(c.CoT, pol.Categories()),
			Truncated: c.FinishReason == "length",
		}
		cp, err := pol.For(c.Prompt.Category)
		if err != nil {
			return g, err
		}
		ctx = llm.InCategory(ctx, c.Prompt.Category)
		item := judge.Item{Policy: cp, Prompt: c.Prompt, Answer: c.Answer}
		ofCoTs := 0 // requests
		if w.stage.Trained() != "" && g.HasCoT {
			ofCoTs = w.spec.Evaluate.Votes
		}
		r, who, err := j.verdict(ctx, item)
		g.Grader = who
		if err != nil {
			answered := len(r.Votes) + r.Lost
			return g, w.unanswered(err, answered, 1, w.spec.Evaluate.Votes-answered+ofCoTs)
		}
		g.Votes = r.Votes
		if ofCoTs > 0 {
			item.CoT = c.CoT
			r, _, err := ofCoT.verdict(ctx, item)
			if err != nil {
				answered := len(r.Votes) + r.Lost
				return g, w.unanswered(err, w.spec.Evaluate.Votes+answered, 1, w.spec.Evaluate.Votes-answered)
			}
			g.CoTVotes = r.Votes
		}
		if len(g.Votes) == 0 {
			g.Reason = schemas.ReasonMalformedVerdict
			return g, nil
		}
		worst := worstVote(g.Votes)
		g.Action, g.JudgeExpects, g.Style = worst.Action, worst.Expected, worst.Style
		return g, nil
	})
}

// worstVote is the vote that makes the minimum.
func worstVote(votes []schemas.Vote) schemas.Vote {
	worst := votes[0]
	for _, v := range votes[1:] {
		if v.Score < worst.Score {
			worst = v
		}
	}
	return worst
}
