package main

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"precept/activities"
	"precept/schemas"
)

// start is what is to be started.
type start struct {
	run              string
	from             string
	settings         []string
	refresh          []string
	preview, yes     bool
	watch, untilGate bool
}

func (a *app) startCommand() *cobra.Command {
	var s start
	cmd := &cobra.Command{
		Use:   "start SPEC.json | start --from RUN --set FIELD=VALUE",
		Short: "Start a run, or attach to it where it runs already",
		Long: `Start a run, or attach to it where it runs already. A run that has ended is started
again under its ID: finished work is found in the store, so that this finishes it.

With --from the spec is that of another run, changed by --set. First it is shown, for each
stage, what is reused, what is asked and what that costs, and which part of the keys has
changed; then it is asked whether to start. --preview shows it alone, for a SPEC.json too.

The same with the Temporal CLI:
  temporal workflow start --type Factory --task-queue factory --workflow-id RUN --input-file SPEC.json

` + exitCodes,
		Example: `  starter start examples/quickstart.json --run first --watch
  starter start --from first --set filter.threshold=0.8 --run strict
  starter start --from first --refresh filter --preview`,
		Args: takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.start(cmd, s, args) },
	}
	flags := cmd.Flags()
	flags.StringVar(&s.run, "run", "", "the run's ID (default: made of the spec's name; with --from of the other run's ID)")
	flags.StringVar(&s.from, "from", "", "take the spec of this run")
	flags.StringArrayVar(&s.settings, "set", nil, "change a field of the spec, such as filter.threshold=0.8; the value is JSON or a word")
	flags.StringSliceVar(&s.refresh, "refresh", nil, "stages that ask models anew, whatever they have answered before; STAGE=WORD for one that was named before")
	flags.BoolVar(&s.preview, "preview", false, "show what would be reused, asked and paid, and start nothing")
	flags.BoolVarP(&s.yes, "yes", "y", false, "with --from: start without asking")
	flags.BoolVar(&s.watch, "watch", false, "go on with starter watch")
	flags.BoolVar(&s.untilGate, "until-gate", false, "with --watch: end when a gate waits")
	return cmd
}

func (a *app) start(cmd *cobra.Command, s start, args []string) error {
	ctx := cmd.Context()
	if (s.from == "") == (len(args) == 0) {
		return usage("name either a file or a run to start from").WithHint("Usage: starter %s", cmd.Use)
	}
	var spec schemas.RunSpec
	var err error
	if s.from == "" {
		spec, err = a.readSpec(args[0])
	} else {
		store, openErr := a.open(ctx, a.config)
		if openErr != nil {
			return openErr
		}
		spec, err = storedSpec(ctx, store, schemas.RunID(s.from))
	}
	if err != nil {
		return err
	}
	if spec, err = withSettings(spec, s.settings); err != nil {
		return err
	}
	if err := refreshed(&spec, s.refresh, time.Now()); err != nil {
		return err
	}
	id, err := s.id(spec)
	if err != nil {
		return err
	}
	if s.preview || s.from != "" && !(a.json && s.yes) { // one JSON object is enough
		stages, err := a.preview(ctx, id, spec, schemas.RunID(s.from))
		if err != nil && s.preview {
			return err
		}
		if err != nil {
			fmt.Fprintf(a.err, "No preview can be made: %s\n", oneLine(err.Error()))
		} else if err := a.printPreview(id, stages); err != nil || s.preview {
			return err
		}
		if err := a.confirmed(s.yes); err != nil {
			return err
		}
	}
	server, err := a.connect()
	if err != nil {
		return err
	}
	defer server.close()
	attached, err := server.start(ctx, id, spec)
	if err != nil {
		return err
	}
	if err := a.printStarted(id, attached, server.link(id)); err != nil {
		return err
	}
	for _, stage := range slices.Sorted(maps.Keys(spec.Refresh)) {
		fmt.Fprintf(a.err, "Stage %s asks anew. To start just this run again: --refresh %s=%s\n", stage, stage, spec.Refresh[stage])
	}
	if s.watch || s.untilGate {
		return a.watch(ctx, server, id, s.untilGate)
	}
	return nil
}

// id is the run's ID. From another run, the same change makes the same ID.
func (s start) id(spec schemas.RunSpec) (schemas.RunID, error) {
	switch {
	case s.run != "":
		return schemas.RunID(s.run), nil
	case s.from != "":
		return schemas.RunID(s.from + "-" + string(schemas.DigestOf(spec.WithDefaults())[:6])), nil
	}
	if id := slug(spec.Name); id != "" {
		return schemas.RunID(id), nil
	}
	return "", usage("the name %q makes no run ID", spec.Name).WithHint("Give one: --run ID")
}

func (a *app) printPreview(run schemas.RunID, stages []activities.StagePreview) error {
	if a.json {
		return printJSON(a.out, struct {
			Run    schemas.RunID             `json:"run"`
			Stages []activities.StagePreview `json:"stages"`
		}{run, stages})
	}
	fmt.Fprintf(a.out, "Run %s would find and ask:\n%s", run, previewTable(stages))
	return nil
}

// confirmed asks whether to start; it fails where the answer is no.
func (a *app) confirmed(yes bool) error {
	if yes {
		return nil
	}
	if in, ok := a.in.(*os.File); !ok || !term.IsTerminal(int(in.Fd())) {
		return exit{exitError, "nothing was started. To start it, add: --yes"}
	}
	fmt.Fprint(a.err, "Start it? [y/N] ")
	answer, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil {
		return err
	}
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return exit{exitError, "nothing was started"}
	}
	return nil
}

// refreshed names a new asking for each of the stages: STAGE, or STAGE=WORD for one that has
// a name already.
func refreshed(spec *schemas.RunSpec, stages []string, now time.Time) error {
	if len(stages) == 0 {
		return nil
	}
	spec.Refresh = maps.Clone(spec.Refresh)
	if spec.Refresh == nil {
		spec.Refresh = map[schemas.Stage]string{}
	}
	for _, s := range stages {
		s, word, named := strings.Cut(s, "=")
		if !named {
			word = now.UTC().Format(time.RFC3339)
		}
		if !slices.Contains(schemas.Refreshable, schemas.Stage(s)) {
			return usage("stage %q asks no model", s).WithHint("Use --refresh with one of: %v", schemas.Refreshable)
		}
		spec.Refresh[schemas.Stage(s)] = word
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
