package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/sourcegraph/conc/pool"
	"github.com/spf13/cobra"

	"precept/activities"
	"precept/internal/judge"
	"precept/internal/llm"
	"precept/internal/policy"
	"precept/schemas"
)

func (a *app) policyTestCommand() *cobra.Command {
	var t policyTest
	cmd := &cobra.Command{
		Use:   "test POLICY --teacher ENDPOINT --judge ENDPOINT",
		Short: "Put a policy's own cases to teacher and judge, and show where they decide otherwise",
		Long: `Put a policy's own cases to teacher and judge, and show where they decide otherwise: where
the teacher's answer, as the judge sees it, does something else than the case says, or
where the judge expects something else. Both read the cases with the policy, so that this
tells whether they can follow it at all. A policy is builtin, a folder, or an s3:// prefix.

The exit code is 1 where any case is decided otherwise.

` + exitCodes,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t.policy = args[0]
			if t.teacher == "" || t.judge == "" {
				return usage("teacher and judge are not both named").WithHint("Add: --teacher ENDPOINT --judge ENDPOINT, of the configuration")
			}
			return a.policyTest(cmd.Context(), t)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&t.teacher, "teacher", "", "the teacher's endpoint, of the configuration")
	flags.StringVar(&t.judge, "judge", "", "the judge's endpoint")
	flags.StringVar(&t.category, "category", "", "the cases of one category only")
	flags.Float64Var(&t.temperature, "temperature", 0, "the teacher's")
	flags.BoolVar(&t.all, "all", false, "show the cases that are decided as they say, too")
	return cmd
}

// policyTest says what the command is to do.
type policyTest struct {
	policy, teacher, judge, category string
	temperature                      float64
	all                              bool
}

// tested is what became of a case. Action and JudgeExpects are empty where there is no
// vote: Note says why.
type tested struct {
	Category schemas.Category `json:"category"`
	policy.Case
	TeacherDid   schemas.Action `json:"teacher_did,omitempty"`
	JudgeExpects schemas.Action `json:"judge_expects,omitempty"`
	JudgeRule    string         `json:"judge_rule,omitempty"`
	Why          string         `json:"why,omitempty"`
	Note         string         `json:"note,omitempty"`
}

// agrees reports whether teacher and judge decide as the case does.
func (t tested) agrees() bool { return t.TeacherDid == t.Action && t.JudgeExpects == t.Action }

func (a *app) policyTest(ctx context.Context, t policyTest) error {
	d, err := a.desk(ctx)
	if err != nil {
		return err
	}
	cases, used, err := t.ask(ctx, d)
	if err = errors.Join(err, d.close(ctx)); err != nil {
		return err
	}
	otherwise := 0
	for _, c := range cases {
		if !c.agrees() {
			otherwise++
		}
	}
	if a.json {
		err = printJSON(a.out, struct {
			Simulated []string      `json:"simulated,omitempty"`
			Cases     []tested      `json:"cases"`
			Otherwise int           `json:"otherwise"`
			Usage     schemas.Usage `json:"usage"`
		}{d.simulated(), cases, otherwise, used})
		if err != nil {
			return err
		}
	} else {
		fmt.Fprintf(a.out, "%s%s%s: teacher or judge decide otherwise on %d\n%s",
			simulatedLine(d.simulated()), t.table(cases), plural(len(cases), "case"), otherwise, costLine(used))
	}
	if otherwise > 0 {
		return exit{code: exitError}
	}
	return nil
}

// table shows the cases that are decided otherwise, or all: a line of what each decided, and
// under it the case and the judge's reason.
func (t policyTest) table(cases []tested) string {
	var lines strings.Builder
	var under []string
	w := tabwriter.NewWriter(&lines, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "category\texpected\tteacher did\tjudge expects")
	for _, c := range cases {
		if c.agrees() && !t.all {
			continue
		}
		did, expects, why := string(c.TeacherDid), fmt.Sprintf("%s (%s)", c.JudgeExpects, oneLine(c.JudgeRule)), "why: "+c.Why
		if c.Note != "" {
			did, expects, why = "-", "-", c.Note
		}
		fmt.Fprintf(w, "%s\t%s (%s)\t%s\t%s\n", c.Category, c.Action, c.Rule, did, expects)
		under = append(under, wrap(c.Text)+wrap(why))
	}
	w.Flush() // A strings.Builder takes all.
	if len(under) == 0 {
		return ""
	}
	var b strings.Builder
	head, rows, _ := strings.Cut(lines.String(), "\n")
	b.WriteString(head + "\n")
	for i, row := range strings.SplitAfter(rows, "\n")[:len(under)] {
		b.WriteString(row + under[i])
	}
	return b.String()
}

// ask puts the cases to teacher and judge.
func (t policyTest) ask(ctx context.Context, d *desk) (cases []tested, used schemas.Usage, err error) {
	pol, err := activities.ReadPolicy(ctx, d.config, t.policy)
	if err != nil {
		return nil, used, err
	}
	teacher, err := d.client(t.teacher)
	if err != nil {
		return nil, used, err
	}
	judging, err := d.client(t.judge)
	if err != nil {
		return nil, used, err
	}
	categories := pol.Categories()
	if t.category != "" {
		if _, err := pol.For(schemas.Category(t.category)); err != nil {
			return nil, used, err
		}
		categories = slices.DeleteFunc(categories, func(c schemas.Category) bool { return string(c) != t.category })
	}
	for _, category := range categories {
		for _, c := range pol.Cases(category) {
			cases = append(cases, tested{Category: category, Case: c})
		}
	}
	j := judge.New(judging, judge.RoleFilter, judge.Options{MaxTokens: judgeTokens(judge.RoleFilter)})
	var mu sync.Mutex
	spend := func(u schemas.Usage) { mu.Lock(); used.Add(u); mu.Unlock() }
	p := pool.New().WithMaxGoroutines(teacher.Endpoint().InFlight()).WithErrors().WithContext(ctx).WithCancelOnError().WithFirstError()
	for i := range cases {
		p.Go(func(ctx context.Context) error {
			cp, err := pol.For(cases[i].Category)
			if err != nil {
				return err
			}
			return t.one(ctx, teacher, j, cp, &cases[i], spend)
		})
	}
	err = p.Wait()
	return cases, used, err
}

// one puts one case to them.
func (t policyTest) one(ctx context.Context, teacher *llm.Client, j *judge.Judge, cp policy.CategoryPolicy, c *tested, spend func(schemas.Usage)) error {
	prompt := schemas.Prompt{Messages: []schemas.Message{{Role: "user", Content: c.Text}}, Category: c.Category}
	form := teacher.Endpoint().CoT
	answer, meta, err := teacher.Ask(ctx, llm.Request{
		Messages: policy.TeacherMessagesIn(form, cp, prompt), Temperature: t.temperature, MaxTokens: schemas.RunSpec{}.WithDefaults().Synthesize.MaxTokens,
	})
	if err != nil {
		return err
	}
	spend(llm.Count(answer, meta))
	cot, text, _ := form.Read(answer)
	if answer.Refusal || answer.TooLong() {
		c.Note = "the teacher's provider refused the request"
		return nil
	}
	r, err := j.Verdict(ctx, judge.Item{Policy: cp, Prompt: prompt, CoT: cot, Answer: text})
	spend(r.Usage)
	if err != nil {
		return err
	}
	if len(r.Votes) == 0 {
		c.Note = "the judge's vote could not be read"
		return nil
	}
	v := r.Votes[0]
	c.TeacherDid, c.JudgeExpects, c.JudgeRule, c.Why = v.Action, v.Expected, v.Rule, v.Why
	return nil
}
