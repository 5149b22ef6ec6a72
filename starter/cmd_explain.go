package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"precept/internal/shard"
	"precept/schemas"
)

func (a *app) explainCommand() *cobra.Command {
	var showText bool
	cmd := &cobra.Command{
		Use:   "explain RUN PROMPT_ID",
		Short: "Tell the story of one prompt",
		Long: `Tell what became of one prompt: where it is from, what the teacher wrote, how the judge
voted and why, what was trained on. The beginning of an ID will do, and the ID of a
completion or an example too. Prompts and answers may be harmful to read: they are shown
only with --show-text.

` + exitCodes,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.open(cmd.Context(), a.config)
			if err != nil {
				return err
			}
			s := story{run: schemas.RunID(args[0])}
			if err := s.find(cmd.Context(), store, args[1]); err != nil {
				return err
			}
			if a.json {
				return printJSON(a.out, s.plain(showText))
			}
			s.print(a, showText)
			return nil
		},
	}
	cmd.Flags().BoolVar(&showText, "show-text", false, "show prompts, answers and reasons too")
	return cmd
}

// story is all that a run has stored of one prompt.
type story struct {
	run      schemas.RunID
	prompt   schemas.Prompt
	chapters []sample
	missing  []missingRow
	ended    bool // curate has
}

// missingRow is a row that a stage of the run ended without.
type missingRow struct {
	stage schemas.Stage
	schemas.FailedRow
}

func (m missingRow) String() string {
	return fmt.Sprintf("  %s of sample %d failed: %s (%s); ask again with starter retry", m.stage, m.Sample, m.Reason, oneLine(m.Error))
}

// chapters are the kinds of rows that belong to a prompt, in the order of the stages.
var chapters = []struct {
	stage schemas.Stage
	kind  string
}{
	{schemas.StageGenerate, schemas.OutputGenerated}, {schemas.StageClassify, schemas.OutputLabels},
	{schemas.StageClassify, schemas.OutputMatches}, {schemas.StageClassify, schemas.OutputChecks},
	{schemas.StageSynthesize, schemas.OutputCompletions}, {schemas.StageFilter, schemas.OutputVerdicts},
	{schemas.StageCurate, schemas.OutputExamples}, {schemas.StageCurate, schemas.OutputRLPrompts},
	{schemas.StageRL, schemas.OutputRollouts},
}

// answers is where the chapters of completions, verdicts and examples begin.
const answers = 4

func (s *story) find(ctx context.Context, store shard.Store, id string) error {
	const op = "explain prompt"
	if id = strings.ToLower(id); len(id) < 4 || strings.Trim(id, "0123456789abcdef") != "" {
		return usage("%q is not the beginning of an ID; give at least 4 of its digits (0-9, a-f)", id)
	}
	id, err := promptBehind(ctx, store, s.run, id)
	if err != nil {
		return err
	}
	var matching []schemas.Prompt
	_, err = rowsOf(ctx, store, s.run, schemas.StagePrompts, schemas.OutputPrompts, "", func(r record) bool {
		p := r.row.(schemas.Prompt)
		if strings.HasPrefix(p.ID, id) && !slices.ContainsFunc(matching, func(q schemas.Prompt) bool { return q.ID == p.ID }) {
			matching = append(matching, p)
		}
		return false
	})
	if schemas.KindOf(err) == schemas.NotFound {
		// A run may begin behind the prompts, with a data set of one's own.
		matching, err = s.fromOwn(ctx, store, id)
	}
	if err == nil && len(matching) == 0 {
		matching, err = s.neverImported(ctx, store, id)
	}
	switch {
	case err != nil:
		return err
	case len(matching) == 0:
		return schemas.Errorf(op, id, schemas.NotFound, "run %s has no such prompt", s.run).
			WithHint("List some with: starter peek %s prompts", schemas.ShellWord(string(s.run)))
	case len(matching) > 1:
		return usage("%d prompts begin with %q: %s and %s are two", len(matching), id, matching[0].ID, matching[1].ID)
	}
	s.prompt = matching[0]
	for _, c := range chapters {
		found, err := rowsOf(ctx, store, s.run, c.stage, c.kind, s.prompt.Category, func(r record) bool { return promptOf(r.row) == s.prompt.ID })
		if schemas.KindOf(err) == schemas.NotFound {
			continue // the run has not come so far, or begins behind it
		}
		if err != nil {
			return err
		}
		s.ended = s.ended || c.stage == schemas.StageCurate
		if len(found) > 0 {
			s.chapters = append(s.chapters, sample{c.kind, found})
		}
	}
	for _, stage := range []schemas.Stage{schemas.StageSynthesize, schemas.StageFilter} {
		if err := s.findMissing(ctx, store, stage); err != nil {
			return err
		}
	}
	return nil
}

// neverImported finds prompts that classify rejected: no later stage has seen them.
func (s *story) neverImported(ctx context.Context, store shard.Store, id string) (matching []schemas.Prompt, err error) {
	for _, kind := range []string{schemas.OutputLabels, schemas.OutputMatches} {
		_, err := rowsOf(ctx, store, s.run, schemas.StageClassify, kind, "", func(r record) bool {
			l := r.row.(schemas.Label)
			p := l.Prompt
			p.Reason = l.Reason
			if strings.HasPrefix(p.ID, id) && !slices.ContainsFunc(matching, func(q schemas.Prompt) bool { return q.ID == p.ID }) {
				matching = append(matching, p)
			}
			return false
		})
		if err != nil && schemas.KindOf(err) != schemas.NotFound {
			return nil, err
		}
	}
	return matching, nil
}

// fromOwn finds prompts of a run that has no stage of them, by the rows that follow from
// them.
func (s *story) fromOwn(ctx context.Context, store shard.Store, id string) (matching []schemas.Prompt, err error) {
	took := false
	for _, c := range chapters[answers : answers+3] {
		_, err := rowsOf(ctx, store, s.run, c.stage, c.kind, "", func(r record) bool {
			p := schemas.Prompt{ID: promptOf(r.row)}
			switch row := r.row.(type) {
			case schemas.Completion:
				p = row.Prompt
			case schemas.Example:
				p = schemas.Prompt{ID: row.PromptID, Messages: row.Prompt, Category: row.Category, Intent: row.Intent, Language: row.Language, Source: row.Source}
			default:
				return false
			}
			if strings.HasPrefix(p.ID, id) && !slices.ContainsFunc(matching, func(q schemas.Prompt) bool { return q.ID == p.ID }) {
				matching = append(matching, p)
			}
			return false
		})
		if schemas.KindOf(err) == schemas.NotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		took = true
	}
	if !took {
		err = schemas.Errorf("explain prompt", string(s.run), schemas.NotFound, "there is no such run, or its stage %s has not ended", schemas.StagePrompts).
			WithHint("See how far the run is: starter progress %s", schemas.ShellWord(string(s.run)))
	}
	return matching, err
}

// findMissing finds rows of the prompt that a stage ended without.
func (s *story) findMissing(ctx context.Context, store shard.Store, stage schemas.Stage) error {
	var m schemas.Manifest
	err := shard.GetJSON(ctx, store, schemas.ManifestObject(s.run, stage), &m)
	if schemas.KindOf(err) == schemas.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	return failedRows(ctx, store, &m, func(row schemas.FailedRow) {
		if row.PromptID == s.prompt.ID {
			s.missing = append(s.missing, missingRow{stage, row})
		}
	})
}

// promptBehind is the ID of the prompt that a completion or an example with this ID
// belongs to; without one it is the ID as it came.
func promptBehind(ctx context.Context, store shard.Store, run schemas.RunID, id string) (string, error) {
	for _, c := range chapters[answers : answers+3] {
		found, err := rowsOf(ctx, store, run, c.stage, c.kind, "", func(r record) bool {
			switch row := r.row.(type) {
			case schemas.Completion:
				return strings.HasPrefix(row.ID, id)
			case schemas.Example:
				return strings.HasPrefix(row.ID, id)
			}
			return false
		})
		if schemas.KindOf(err) == schemas.NotFound {
			continue // the run has not come so far, or begins behind it
		}
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			return promptOf(found[0].row), nil
		}
	}
	return id, nil
}

// promptOf is the ID of the prompt that a row belongs to.
func promptOf(row any) string {
	switch r := row.(type) {
	case schemas.Generated:
		return r.Prompt.ID
	case schemas.Label:
		return r.Prompt.ID
	case schemas.Completion:
		return r.Prompt.ID
	case schemas.Verdict:
		return r.PromptID
	case schemas.Example:
		return r.PromptID
	case schemas.RLPrompt:
		return r.PromptID
	case schemas.Rollout:
		return r.PromptID
	}
	return ""
}

// rowsOf picks rows of a stage that has ended; of one category where it is named.
func rowsOf(ctx context.Context, store shard.Store, run schemas.RunID, stage schemas.Stage, kind string, category schemas.Category, wanted func(record) bool) (found []record, err error) {
	var m schemas.Manifest
	err = shard.GetJSON(ctx, store, schemas.ManifestObject(run, stage), &m)
	if schemas.KindOf(err) == schemas.NotFound {
		return nil, schemas.Errorf("explain prompt", string(run), schemas.NotFound, "there is no such run, or its stage %s has not ended", stage).
			WithHint("See how far the run is: starter progress %s", schemas.ShellWord(string(run)))
	}
	if err != nil {
		return nil, err
	}
	var plan schemas.Plan
	if err := shard.GetJSON(ctx, store, m.Plan.Object, &plan); err != nil {
		return nil, err
	}
	refs := m.Outputs[kind] // in the order of the plan
	for _, task := range plan.Tasks {
		for _, o := range task.Outputs {
			if o.Kind != kind || len(refs) == 0 {
				continue
			}
			ref := refs[0]
			refs = refs[1:]
			if of := cmp.Or(o.Category, task.Category); category != "" && of != "" && of != category {
				continue
			}
			records, err := tables[kind].read(ctx, store, ref)
			if err != nil {
				return nil, err
			}
			for _, r := range records {
				if wanted(r) {
					found = append(found, r)
				}
			}
		}
	}
	return found, nil
}

func (s *story) print(a *app, showText bool) {
	p := s.prompt
	fmt.Fprintf(a.out, "Prompt %s, %s, %s, %s, from %s: %s\n", p.ID, p.Category, p.Intent, p.Language, oneLine(p.Source), fate(p.Reason, "imported"))
	if showText {
		for _, t := range turns(p.Messages) {
			fmt.Fprintf(a.out, "%s:\n%s\n", t.name, indent(t.text))
		}
	}
	for _, c := range s.chapters {
		for _, r := range c.records {
			fmt.Fprintln(a.out, event(r.row))
			if showText {
				for _, t := range r.texts {
					if t.name != "user" && t.name != "system" {
						fmt.Fprintf(a.out, "  %s:\n%s\n", t.name, indent(t.text))
					}
				}
			}
		}
	}
	for _, m := range s.missing {
		fmt.Fprintln(a.out, m)
	}
	for _, line := range s.curated() {
		fmt.Fprintln(a.out, "  "+line)
	}
}

// curated says what curate did with the samples that the judge kept, which have no rows of
// their own: the best of a prompt's is its example, unless the quota was full.
func (s *story) curated() (lines []string) {
	if !s.ended {
		return nil
	}
	chosen := ""
	for _, c := range s.chapters {
		for _, r := range c.records {
			if e, ok := r.row.(schemas.Example); ok {
				chosen = e.CompletionID
			}
		}
	}
	kept := false
	for _, c := range s.chapters {
		for _, r := range c.records {
			v, ok := r.row.(schemas.Verdict)
			if !ok || v.Reason != "" {
				continue
			}
			kept = true
			if chosen != "" && v.CompletionID != chosen {
				lines = append(lines, fmt.Sprintf("sample %d is no example: %s", v.Sample, schemas.ReasonNotBest))
			}
		}
	}
	if s.prompt.Reason == "" && chosen == "" {
		line := "no example of it is in the SFT set"
		if kept {
			line += ": " + string(schemas.ReasonOverQuota)
		}
		lines = append(lines, line)
	}
	return lines
}

// event says in a line what happened.
func event(row any) string {
	switch r := row.(type) {
	case schemas.Generated:
		return fmt.Sprintf("  generated by %s: %s, %s, %s, %s, by %s: %s", r.Teacher, r.Style, r.Form, r.Length, r.Prompt.Language, r.Persona, fate(r.Reason, "kept"))
	case schemas.Label:
		return told(r)
	case schemas.Completion:
		line := fmt.Sprintf("  sample %d by %s: %s, %s; completion %s", r.Sample, r.Model, words(r.Answer), fate(r.Reason, "kept"), r.ID)
		if r.Request != "" {
			line += ", request " + r.Request.Short()
		}
		return line
	case schemas.Verdict:
		var scores []string
		for _, v := range r.Votes {
			scores = append(scores, fmt.Sprintf("%.2f (%s, rule %s)", v.Score, v.Action, oneLine(v.Rule)))
		}
		early := ""
		if r.Early {
			early = ", then the voting ended"
		}
		return fmt.Sprintf("  verdict on sample %d by %s: %.2f of votes %s%s: %s", r.Sample, r.Judge, r.Score, strings.Join(scores, ", "), early, fate(r.Reason, "kept"))
	case schemas.Example:
		return fmt.Sprintf("  example %s, of completion %s", r.ID, r.CompletionID)
	case schemas.RLPrompt:
		return "  a prompt for RL"
	case schemas.Rollout:
		reward := "no reward"
		if r.Reward != nil {
			reward = fmt.Sprintf("reward %.2f", *r.Reward)
		}
		var terms []string
		for _, t := range schemas.RewardTerms {
			if score := r.Terms.Of(t); score != nil {
				terms = append(terms, fmt.Sprintf("%s %.2f", t, *score))
			}
		}
		if len(terms) > 0 {
			reward += " (" + strings.Join(terms, ", ") + ")"
		}
		return fmt.Sprintf("  rollout %d of step %d: %s", r.Index, r.Step, reward)
	}
	return ""
}

func fate(reason schemas.Reason, otherwise string) string {
	if reason != "" {
		return "rejected: " + string(reason)
	}
	return otherwise
}

// plain is what --json prints: a line for each row, and the rows as they are stored
// where text is asked for.
func (s *story) plain(showText bool) map[string]any {
	p := s.prompt
	out := map[string]any{"id": p.ID, "category": p.Category, "intent": p.Intent, "source": p.Source, "reason": p.Reason}
	if showText {
		out["prompt"] = p
	}
	for _, c := range s.chapters {
		var rows []any
		for _, r := range c.records {
			if showText {
				rows = append(rows, r.row)
			} else {
				rows = append(rows, strings.TrimSpace(event(r.row)))
			}
		}
		out[c.kind] = rows
	}
	for _, m := range s.missing {
		failed, _ := out["failed"].([]string)
		out["failed"] = append(failed, strings.TrimSpace(m.String()))
	}
	if lines := s.curated(); len(lines) > 0 {
		out["curated"] = lines
	}
	return out
}
