package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"precept/schemas"
)

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check SPEC.json",
		Short: "Check a run's specification and show it with all its defaults",
		Long: `Check a run's specification and show it with all its defaults. SPEC.json may be - for
standard input. No server is needed; files and endpoints that the spec names are
checked by the worker when the run starts.

` + exitCodes,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := a.readSpec(args[0])
			if err != nil {
				return err
			}
			if !a.json {
				fmt.Fprintf(a.out, "%s is good, but for files, policy and endpoints, which starter estimate looks at. With its defaults it reads:\n", args[0])
			}
			return printJSON(a.out, spec.WithDefaults())
		},
	}
}

// readSpec reads a spec and checks it with its defaults. What it returns is the
// spec as written.
func (a *app) readSpec(path string) (schemas.RunSpec, error) {
	const op = "read run spec"
	fail := func(err error) (schemas.RunSpec, error) {
		return schemas.RunSpec{}, schemas.E(op, path, schemas.InvalidInput, err).WithHint("Mend it, then: starter check %s", path)
	}
	var (
		raw []byte
		err error
	)
	if path == "-" {
		raw, err = io.ReadAll(a.in)
	} else {
		raw, err = os.ReadFile(path)
	}
	if err != nil {
		return schemas.RunSpec{}, schemas.E(op, path, schemas.InvalidInput, inner(err)).WithHint(`The smallest spec is {"name": "my-run"}`)
	}
	var spec schemas.RunSpec
	if err := json.Unmarshal(raw, &spec); err != nil {
		return fail(place(raw, inner(err)))
	}
	if err := spec.WithDefaults().Validate(); err != nil {
		return fail(inner(err))
	}
	return spec, nil
}

// place adds the line to a syntax error.
func place(raw []byte, err error) error {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return err
	}
	line := 1
	for _, b := range raw[:min(int(syntax.Offset), len(raw))] {
		if b == '\n' {
			line++
		}
	}
	return fmt.Errorf("line %d: %w", line, err)
}

// inner drops the operation and thing that err says itself, for a caller that
// says them better.
func inner(err error) error {
	var e *schemas.Error
	if errors.As(err, &e) && e.Err != nil {
		return e.Err
	}
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
