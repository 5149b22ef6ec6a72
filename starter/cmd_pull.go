package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"precept/internal/release"
	"precept/internal/shard"
	"precept/schemas"
)

const modelNames = `MODEL is a run, which stands for the last model that it trained, RUN/base, RUN/sft or
RUN/rl, or a model's digest (eight characters of it may do).`

func (a *app) pullCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "pull MODEL DIR",
		Short: "Fetch a model as a folder that vLLM and transformers load, with its card",
		Long: `Fetch a model as a folder that vLLM and transformers load as it is, with its card
(README.md): what it was made of, how, what was measured of it, and how to serve it.
DIR appears when it is whole and verified; called again, an interrupted pull goes on, and
of a folder that is there the card is written anew. Files that may hold code, pickles
among them, are refused.

` + modelNames + `

` + exitCodes,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.pull(cmd.Context(), args[0], args[1])
		},
	}
}

func (a *app) pull(ctx context.Context, name, dir string) error {
	store, err := a.open(ctx, a.config)
	if err != nil {
		return err
	}
	m, err := release.Find(ctx, store, name)
	if err != nil {
		return err
	}
	card, err := release.CardOf(ctx, store, m)
	if err != nil {
		return err
	}
	write := func(folder string) (text []byte, err error) {
		card, text, err = card.In(folder)
		return text, err
	}
	p, err := release.Pull(ctx, store, m.Digest, dir, write, func(f shard.File) {
		fmt.Fprintf(a.err, "%7s  %s\n", sized(f.Size), f.Path)
	})
	if err != nil {
		return err
	}
	if a.json {
		return printJSON(a.out, struct {
			Folder string       `json:"folder"`
			Found  bool         `json:"found"`
			Bytes  int64        `json:"bytes"`
			Card   release.Card `json:"card"`
		}{dir, p.Found, p.Bytes, card})
	}
	how := "fetched and verified"
	if p.Found {
		how = "was there already, and is whole"
	}
	fmt.Fprintf(a.out, "%s, %s: %s %s\n", m.Title(), sized(p.Bytes), dir, how)
	fmt.Fprint(a.out, simulatedLine(card.Simulated))
	fmt.Fprintf(a.out, "Its card: %s/%s\nServe it with: starter serve %s\nOr: cd %s && %s\n", dir, p.Card, schemas.ShellWord(name), schemas.ShellWord(dir), card.VLLM())
	return nil
}
