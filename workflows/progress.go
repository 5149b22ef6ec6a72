package workflows

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"precept/schemas"
)

// The search attributes of a run.
var (
	attrName   = temporal.NewSearchAttributeKeyKeyword("RunName")
	attrStage  = temporal.NewSearchAttributeKeyKeyword("RunStage")
	attrState  = temporal.NewSearchAttributeKeyKeyword("RunState")
	attrPolicy = temporal.NewSearchAttributeKeyKeyword("PolicyDigest")
	attrBase   = temporal.NewSearchAttributeKeyKeyword("BaseModel")
	attrUSD    = temporal.NewSearchAttributeKeyFloat64("SpentUSD")
)

func (f *factory) current() schemas.Stage {
	if len(f.stages) == 0 {
		return schemas.StagePrompts
	}
	return f.stages[len(f.stages)-1].Stage
}

func (f *factory) progress() schemas.Progress {
	p := schemas.Progress{
		Run: f.id, Name: f.spec.Name, State: f.state, Stage: f.current(), Stages: f.stages,
		Waiting: f.waiting, Decisions: f.carried.Decisions, Notes: f.carried.Notes, Started: f.carried.Started,
	}
	if f.carried.Inputs != nil {
		p.Simulated = f.carried.Inputs.Simulated
	}
	p.Outages = schemas.Outages(f.outages)
	p.Probed = f.carried.Probed
	p.Spent = schemas.SumOf(f.carried.Spent)
	if budget := f.budget(); budget != (schemas.Cost{}) {
		p.Budget = &budget
	}
	return p
}

// note adds what people are to know, each once.
func (f *factory) note(notes []string) {
	for _, n := range notes {
		if !slices.Contains(f.carried.Notes, n) {
			f.carried.Notes = append(f.carried.Notes, n)
		}
	}
}

// show tells the UI and the CLI where the run stands. It is called per stage and
// gate, not per task: each upsert is an event of the history.
func (f *factory) show(ctx workflow.Context) {
	updates := []temporal.SearchAttributeUpdate{
		attrName.ValueSet(f.spec.Name),
		attrStage.ValueSet(string(f.current())),
		attrState.ValueSet(f.state),
		attrBase.ValueSet(f.spec.Base),
		attrUSD.ValueSet(f.progress().Usage().USD),
	}
	if f.carried.Inputs != nil {
		updates = append(updates, attrPolicy.ValueSet(string(f.carried.Inputs.Policy)))
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, updates...); err != nil {
		workflow.GetLogger(ctx).Error("search attributes not set", "error", err)
	}
	workflow.SetCurrentDetails(ctx, details(f.progress()))
}

// details is the run's page in the Temporal UI, in Markdown.
func details(p schemas.Progress) string {
	var b strings.Builder
	fmt.Fprintf(&b, "**%s**: %s, stage %s\n\n", p.Name, p.State, p.Stage)
	if w := p.Waiting; w != nil {
		fmt.Fprintf(&b, "**Waits at gate %s** (opening %s, data %s)\n\n%s\n\n```\n%s\n```\n\n", w.Gate, w.ID, w.Digest.Short(), w.Question, w.Command)
	}
	if len(p.Simulated) > 0 {
		fmt.Fprintf(&b, "*Simulated, not real models: %s*\n\n", strings.Join(p.Simulated, ", "))
	}
	for _, o := range p.Outages {
		fmt.Fprintf(&b, "**%s**\n\n", o)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "*%s*\n\n", n)
	}
	b.WriteString("| stage | tasks | kept | what became of the rest | calls paid | from cache | seconds |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, s := range p.Stages {
		tasks := fmt.Sprintf("%d of %d", s.Done, s.Tasks)
		switch {
		case s.Adopted:
			tasks = "taken over"
		case s.Closed:
			tasks = fmt.Sprintf("all %d", s.Tasks)
		case s.Tasks == 0:
			tasks = "being planned"
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %s | %d | %d | %.1f |\n", s.Stage, tasks, s.Ledger.Kept, s.Ledger.Rest(), s.Usage.Paid, s.Usage.Cached, s.Seconds)
	}
	n := len(p.Stages)
	if n > 0 && p.Stages[n-1].Pending != nil {
		fmt.Fprintf(&b, "\n%s\n", p.Stages[n-1].WaitsFor())
	}
	if n > 0 && len(p.Stages[n-1].ByCategory) > 0 {
		last := p.Stages[n-1]
		fmt.Fprintf(&b, "\n%s by category\n\n| category | kept | what became of the rest |\n| --- | --- | --- |\n", last.Stage)
		for _, c := range slices.Sorted(maps.Keys(last.ByCategory)) {
			fmt.Fprintf(&b, "| %s | %d | %s |\n", c, last.ByCategory[c].Kept, last.ByCategory[c].Rest())
		}
	}
	return b.String()
}
