package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"precept/activities"
	"precept/internal/policy"
	"precept/schemas"
)

// try says what the command is to do.
type try struct {
	spec     string
	prompt   string
	category string
	intent   string
	most     int
	messages bool
}

func (a *app) tryCommand() *cobra.Command {
	var t try
	cmd := &cobra.Command{
		Use:   "try SPEC.json [--prompt TEXT --category CATEGORY]",
		Short: "See what teacher and judge make of a few prompts, before a run",
		Long: `See what teacher and judge make of a few prompts, before a run: what they are asked, the
answers, every vote with its reason, the verdict and the cost. No Temporal server is
needed. Files and policy are read here, as a worker would read them; duplicates and
prompts of the evaluation suites are not looked for, and prompts that a judge would have
to classify, or a teacher to write, are left out. The answers are recorded in the store
that --config names: neither a run nor another try pays for them again.

The texts may be harmful to read.

` + exitCodes,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t.spec = args[0]
			return a.try(cmd.Context(), t)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&t.prompt, "prompt", "", "a prompt of your own in place of the spec's")
	flags.StringVar(&t.category, "category", "", "its category")
	flags.StringVar(&t.intent, "intent", "", "its intent, which the judge is told: harmful, borderline or benign; needed where routes go by it")
	flags.IntVarP(&t.most, "prompts", "n", 10, "how many of the spec's prompts, taken from its files in turn")
	flags.BoolVar(&t.messages, "messages", false, "show every message whole, the policy too (--json has them to the letter)")
	return cmd
}

func (a *app) try(ctx context.Context, t try) error {
	spec, err := a.readSpec(t.spec)
	if err != nil {
		return err
	}
	req := activities.TryRequest{Spec: spec.WithDefaults(), Most: t.most}
	switch {
	case t.most < 1:
		return usage("-n is %d; it must be at least 1", t.most)
	case t.intent != "" && !slices.Contains(schemas.Intents, schemas.Intent(t.intent)):
		return usage("--intent is %q; it is one of %v", t.intent, schemas.Intents)
	case t.prompt == "" && t.intent != "":
		return usage("--intent is a prompt's of your own").WithHint("Add: --prompt TEXT")
	case t.prompt == "" && t.category != "":
		return usage("--category is a prompt's of your own").WithHint("Add: --prompt TEXT")
	case t.prompt != "" && t.category == "":
		return usage("the prompt has no category").WithHint("Add: --category CATEGORY, one of the policy's")
	case t.prompt != "":
		p := schemas.Prompt{
			Messages: []schemas.Message{{Role: "user", Content: t.prompt}}, Category: schemas.Category(t.category), Intent: schemas.Intent(t.intent), Language: "en", Source: "try",
		}
		p.ID = schemas.PromptID(p.Category, p.Messages)
		req.Prompts = []schemas.Prompt{p}
	}
	d, err := a.desk(ctx)
	if err != nil {
		return err
	}
	trials, used, err := activities.Try(ctx, d.config, d.store, d.journal, req)
	if err = errors.Join(err, d.close(ctx)); err != nil {
		return err
	}
	simulated := simulatedOf(d.config, append(req.Spec.Synthesize.Teacher.Endpoints(), req.Spec.Filter.Judge.Endpoints()...))
	if a.json {
		return printJSON(a.out, struct {
			Simulated []string           `json:"simulated,omitempty"`
			Trials    []activities.Trial `json:"trials"`
			Usage     schemas.Usage      `json:"usage"`
		}{simulated, trials, used})
	}
	fmt.Fprint(a.out, simulatedLine(simulated))
	var l schemas.Ledger
	for _, trial := range trials {
		fmt.Fprint(a.out, trialText(trial, t.messages))
		for _, s := range trial.Samples {
			l.Planned++
			l.Count(s.Fate())
		}
	}
	fmt.Fprintf(a.out, "%s, %s: %s\n%s", plural(len(trials), "prompt"), plural(int(l.Planned), "answer"), l, costLine(used))
	return nil
}

// trialText shows what became of one prompt.
func trialText(t activities.Trial, whole bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Prompt %s, %s", short(t.Prompt.ID), t.Prompt.Category)
	if t.Prompt.Intent != "" {
		fmt.Fprintf(&b, ", %s", t.Prompt.Intent)
	}
	fmt.Fprintf(&b, "; category policy %s, about %d tokens\n", t.Policy.Short(), t.Tokens)
	writeMessages(&b, "to the teacher", t.Messages, whole)
	for k, s := range t.Samples {
		c := s.Completion
		fmt.Fprintf(&b, "  sample %d by %s: %s\n", k, c.Model, fate(s.Fate(), "kept"))
		for _, part := range []text{{"CoT", c.CoT}, {"answer", c.Answer}} {
			if part.text != "" {
				fmt.Fprintf(&b, "  %s:\n%s\n", part.name, indent(part.text))
			}
		}
		if whole && s.Judged != nil {
			writeMessages(&b, "to the judge", s.Judged, whole)
		}
		if v := s.Verdict; v != nil {
			for i, vote := range v.Votes {
				fmt.Fprintf(&b, "  vote %d: %.2f; the policy expects %s by %s, the answer did %s; compliance %d, helpfulness %d, style %d, citation %d\n%s\n",
					i+1, vote.Score, vote.Expected, oneLine(vote.Rule), vote.Action, vote.Compliance, vote.Helpfulness, vote.Style, vote.Citation, indent(vote.Why))
			}
			early := ""
			if v.Early {
				early = ", then the voting ended"
			}
			fmt.Fprintf(&b, "  verdict by %s: %.2f over %s%s\n", v.Judge, v.Score, plural(int(v.VoteCount), "vote"), early)
		}
	}
	b.WriteString("\n")
	return b.String()
}

// writeMessages shows messages; of a system message, which holds a whole policy, its size
// alone unless all is asked for.
func writeMessages(b *strings.Builder, to string, messages []schemas.Message, whole bool) {
	for _, m := range messages {
		if m.Role == "system" && !whole {
			fmt.Fprintf(b, "  system %s: about %d tokens, shown with --messages\n", to, policy.Tokens(m.Content))
			continue
		}
		fmt.Fprintf(b, "  %s %s:\n%s\n", m.Role, to, indent(m.Content))
	}
}
