package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"precept/internal/policy"
	"precept/policies"
	"precept/schemas"
)

func (a *app) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Check a policy, compare two, or put its own cases to teacher and judge",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return usage("unknown command %q of starter policy", args[0]).WithHint("List them with: starter policy --help")
		},
	}
	cmd.AddCommand(a.policyLintCommand(), a.policyDiffCommand(), a.policyTestCommand())
	return cmd
}

func (a *app) policyLintCommand() *cobra.Command {
	var strict bool
	cmd := &cobra.Command{
		Use:   "lint FOLDER",
		Short: "Find what is wrong with a policy, and how large it is",
		Long: `Find what is wrong with a policy: parts that are missing or malformed, cases that
contradict their rule or each other. Warnings are what isn't wrong but doubtful: a rule
without a case or behind one that fits everything, a long summary. FOLDER may be builtin.

The exit code is 1 where there is an error, or with --strict a warning.

` + exitCodes,
		Args: takes(1, 1),
		RunE: func(_ *cobra.Command, args []string) error { return a.policyLint(args[0], strict) },
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "warnings are errors")
	return cmd
}

func (a *app) policyLint(folder string, strict bool) error {
	var files fs.FS = policies.FS
	if folder != schemas.Builtin {
		files = os.DirFS(folder)
	}
	l, err := policy.Lint(files)
	if err != nil {
		return schemas.E("lint policy", folder, schemas.InvalidInput, inner(inner(err)))
	}
	failed := l.Errors()
	warnings := len(l.Findings) - failed
	if strict {
		failed += warnings
	}
	if a.json {
		err = printJSON(a.out, l)
	} else {
		err = a.printLint(folder, l)
	}
	if err != nil {
		return err
	}
	if failed > 0 {
		return exit{exitError, fmt.Sprintf("policy %s: %s, %s", folder, plural(l.Errors(), "error"), plural(warnings, "warning"))}
	}
	return nil
}

func (a *app) printLint(folder string, l policy.Linted) error {
	for _, f := range l.Findings {
		kind, line := "warning", ""
		if f.Error {
			kind = "error"
		}
		if f.Line > 0 {
			line = fmt.Sprintf(":%d", f.Line)
		}
		fmt.Fprintf(a.out, "%s%s: %s: %s\n", filepath.Join(folder, f.File), line, kind, oneLine(f.Text))
	}
	if l.Errors() > 0 {
		return nil
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "category\trules\tcases\ttokens\twith all that a teacher reads")
	for _, s := range l.Sizes {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\n", s.Category, s.Rules, s.Cases, s.Tokens, s.Message)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "Tokens are estimated, at %d characters each. %s.\n", policy.CharactersPerToken, plural(len(l.Findings), "warning"))
	return nil
}
