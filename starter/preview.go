package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"precept/activities"
	"precept/internal/shard"
	"precept/schemas"
)

// storedSpec is the spec that a run's stages were last planned with. What was filled in
// since nobody said otherwise is left out where another change may touch it.
func storedSpec(ctx context.Context, store shard.Store, run schemas.RunID) (spec schemas.RunSpec, err error) {
	past, err := openArchive(ctx, store, run)
	if schemas.KindOf(err) == schemas.NotFound {
		return spec, schemas.Errorf("read spec of run", string(run), schemas.NotFound, "the store has no such run").
			WithHint("Check its ID, and --config, which names the store")
	}
	if err != nil {
		return spec, err
	}
	if past.own == nil {
		return spec, schemas.Errorf("start from run", string(run), schemas.NotFound, "none of its stages has been planned").
			WithHint("See how far it is: starter progress %s", schemas.ShellWord(string(run)))
	}
	spec = past.own.spec
	bare := spec
	bare.Evaluate.Arms = nil
	if slices.Equal(bare.WithDefaults().Evaluate.Arms, spec.Evaluate.Arms) {
		spec = bare
	}
	return spec, nil
}

// withSettings changes fields of a spec by their paths: filter.threshold=0.8. A value is
// JSON, or else a string.
func withSettings(spec schemas.RunSpec, settings []string) (schemas.RunSpec, error) {
	raw, err := json.Marshal(spec)
	if err != nil {
		return spec, err
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		return spec, err
	}
	for _, s := range settings {
		path, text, ok := strings.Cut(s, "=")
		if !ok || path == "" {
			return spec, usage("--set %s names no value", s).WithHint("Write it as: --set filter.threshold=0.8")
		}
		var value any
		if json.Unmarshal([]byte(text), &value) != nil {
			value = text
		}
		at := fields
		names := strings.Split(path, ".")
		for i, name := range names[:len(names)-1] {
			if at[name] == nil {
				at[name] = map[string]any{}
			}
			next, ok := at[name].(map[string]any)
			if !ok {
				return spec, usage("--set %s: %s has no fields", s, strings.Join(names[:i+1], ".")).
					WithHint("Set it whole, as JSON: --set %s='…'", strings.Join(names[:i+1], "."))
			}
			at = next
		}
		at[names[len(names)-1]] = value
	}
	if raw, err = json.Marshal(fields); err != nil {
		return spec, err
	}
	var changed schemas.RunSpec
	if err := json.Unmarshal(raw, &changed); err != nil {
		return spec, schemas.E("change run spec", "", schemas.InvalidInput, inner(err)).WithHint("The fields are in schemas/runspec.schema.json")
	}
	if err := changed.WithDefaults().Validate(); err != nil {
		return spec, schemas.E("change run spec", "", schemas.InvalidInput, inner(err))
	}
	return changed, nil
}

// preview looks at what a run would find and ask.
func (a *app) preview(ctx context.Context, run schemas.RunID, spec schemas.RunSpec, like schemas.RunID) ([]activities.StagePreview, error) {
	d, err := a.desk(ctx)
	if err != nil {
		return nil, err
	}
	stages, err := activities.Preview(ctx, d.config, d.store, d.journal, activities.PreviewRequest{Run: run, Spec: spec.WithDefaults(), Like: like})
	if closing := d.close(ctx); err == nil {
		err = closing // of nothing: it only read
	}
	return stages, err
}

// previewTable shows a preview, a line for a stage.
func previewTable(stages []activities.StagePreview) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "stage\treused\tto ask\tfrom the journal\tcost\ttime\tchanged")
	var notes []string
	for _, s := range stages {
		reused := "-"
		if s.Tasks > 0 {
			reused = fmt.Sprintf("%d/%d tasks", s.Found, s.Tasks)
		}
		answered, asked, usd, took := fmt.Sprint(s.Answered), fmt.Sprint(s.Most), "unknown", "unknown"
		switch {
		case s.Works:
			asked, answered = "a GPU's work", "-"
		case s.Tasks == 0:
			asked, answered = "unknown", "-"
		case s.Least < s.Most:
			asked = fmt.Sprintf("%d to %d", s.Least, s.Most)
		}
		if s.USD != nil {
			usd, took = schemas.FormatDollars(*s.USD), clock(seconds(*s.Seconds))
		}
		if s.Tasks > 0 && s.Found == s.Tasks {
			usd, took = "-", "-"
		}
		if s.Estimated != "" {
			if s.Tasks > 0 {
				asked = "about " + asked
			}
			notes = append(notes, fmt.Sprintf("%s is estimated: %s", s.Stage, s.Estimated))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Stage, reused, asked, answered, usd, took, strings.Join(s.Changed, ", "))
	}
	w.Flush() // A strings.Builder takes all.
	for _, n := range notes {
		fmt.Fprintln(&b, n)
	}
	return b.String()
}
