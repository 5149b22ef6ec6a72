package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"precept/schemas"
)

func (a *app) startCommand() *cobra.Command {
	var run string
	var watch, untilGate bool
	var refresh []string
	cmd := &cobra.Command{
		Use:   "start SPEC.json",
		Short: "Start a run, or attach to it where it runs already",
		Long: `Start a run, or attach to it where it runs already. A run that has ended is started
again under its ID: finished work is found in the store, so that this finishes it.

The same with the Temporal CLI:
  temporal workflow start --type Factory --task-queue factory --workflow-id RUN --input-file SPEC.json

` + exitCodes,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := a.readSpec(args[0])
			if err != nil {
				return err
			}
			if err := refreshed(&spec, refresh, time.Now()); err != nil {
				return err
			}
			id := schemas.RunID(run)
			if id == "" {
				if id = schemas.RunID(slug(spec.Name)); id == "" {
					return usage("the name %q makes no run ID", spec.Name).WithHint("Give one: starter start %s --run ID", args[0])
				}
			}
			s, err := a.connect()
			if err != nil {
				return err
			}
			defer s.close()
			attached, err := s.start(cmd.Context(), id, spec)
			if err != nil {
				return err
			}
			if err := a.printStarted(id, attached, s.link(id)); err != nil {
				return err
			}
			if watch || untilGate {
				return a.watch(cmd.Context(), s, id, untilGate)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&run, "run", "", "the run's ID (default: made of the spec's name)")
	cmd.Flags().StringSliceVar(&refresh, "refresh", nil, "stages that ask models anew, whatever they have answered before")
	cmd.Flags().BoolVar(&watch, "watch", false, "go on with starter watch")
	cmd.Flags().BoolVar(&untilGate, "until-gate", false, "with --watch: end when a gate waits")
	return cmd
}

// refreshed names a new asking for each of the stages.
func refreshed(spec *schemas.RunSpec, stages []string, now time.Time) error {
	if len(stages) == 0 {
		return nil
	}
	spec.Refresh = maps.Clone(spec.Refresh)
	if spec.Refresh == nil {
		spec.Refresh = map[schemas.Stage]string{}
	}
	for _, s := range stages {
		if !slices.Contains(schemas.Refreshable, schemas.Stage(s)) {
			return usage("stage %q asks no model", s).WithHint("Use --refresh with one of: %v", schemas.Refreshable)
		}
		spec.Refresh[schemas.Stage(s)] = now.UTC().Format(time.RFC3339)
	}
	return nil
}

func (a *app) printStarted(run schemas.RunID, attached bool, link string) error {
	if a.json {
		return printJSON(a.out, struct {
			Run      schemas.RunID `json:"run"`
			Attached bool          `json:"attached"`
			UI       string        `json:"ui,omitempty"`
		}{run, attached, link})
	}
	what := "Started run %s.\n"
	if attached {
		what = "Run %s runs already: attached to it, nothing new was started.\n"
	}
	fmt.Fprintf(a.out, what, run)
	fmt.Fprintf(a.out, "Watch it with: starter watch %s\n", schemas.ShellWord(string(run)))
	if link != "" {
		fmt.Fprintf(a.out, "In the UI: %s\n", link)
	}
	return nil
}

// slug makes an ID of a name: lower-case words joined by hyphens.
func slug(name string) string {
	words := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	return strings.Join(words, "-")
}
