package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sourcegraph/conc/pool"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"precept/internal/config"
	"precept/internal/llm"
	"precept/schemas"
)

func (a *app) chatCommand() *cobra.Command {
	var c chat
	var server string
	cmd := &cobra.Command{
		Use:   "chat MODEL [MODEL]",
		Short: "Talk to a model, or to two side by side",
		Long: `Talk to a model, or to two side by side: every line is a prompt, and each model has a
conversation of its own. Chains of thought are folded. From a pipe it reads a prompt a line.

  /cot   show chains of thought from now on, or fold them again
  /new   begin a new conversation
  /quit  end

The texts may be harmful to read. Nothing of a chat is kept.

` + modelNames + `

` + exitCodes,
		Args: takes(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if c.maxTokens < 1 {
				return usage("--max-tokens is %d; it must be at least 1", c.maxTokens)
			}
			if !(c.temperature >= 0) {
				return usage("--temperature is %v; it must be at least 0", c.temperature)
			}
			c.app = a
			return c.run(cmd.Context(), server, args)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&c.maxTokens, "max-tokens", 512, "longest answer")
	flags.Float64Var(&c.temperature, "temperature", 0, "0 is greedy")
	flags.IntVar(&c.width, "width", 0, "columns of the screen; by default the terminal's. Two models stand side by side from 100 on")
	flags.StringVar(&server, "server", "", "vllm, transformers or precept, whatever the configuration says")
	return cmd
}

// chat is a conversation with one model or with each of two.
type chat struct {
	app         *app
	maxTokens   int
	temperature float64
	width       int
	talkers     []*talker
	cot         bool // shown
}

// talker is a model with its side of the conversation.
type talker struct {
	*hosted
	client   *llm.Client
	messages []schemas.Message
	said     said // last
}

// said is an answer, or why there is none.
type said struct {
	cot, answer, note string
}

func (c *chat) run(ctx context.Context, server string, names []string) error {
	a := c.app
	conf, err := config.Load(a.config)
	if err != nil {
		return err
	}
	store, err := a.open(ctx, a.config)
	if err != nil {
		return err
	}
	gpus, err := a.takeGPUs(ctx, conf, "starter chat "+strings.Join(names, " "))
	if err != nil {
		return err
	}
	defer gpus.release(ctx)
	for _, name := range names {
		h, err := a.host(ctx, conf, store, name, hosting{server: server, atOnce: 1}, gpus)
		if err != nil {
			return err
		}
		defer h.end()
		client, err := llm.NewClient(llm.Endpoint{
			Name: h.model.Name(), BaseURL: h.URL, Model: h.Model, Weights: h.model.Digest, Extra: h.Extra,
			MaxInFlight: 1, Timeout: 15 * time.Minute, JSONMode: llm.JSONNone,
		}, llm.Options{Journal: &llm.Memory{}, Attempts: 1})
		if err != nil {
			return err
		}
		c.talkers = append(c.talkers, &talker{hosted: h, client: client})
	}
	person := isTerminal(a.in) && isTerminal(a.out)
	if person {
		fmt.Fprintln(a.out, "Write a prompt. /cot shows chains of thought, /new begins anew, /quit ends.")
	}
	lines := readLines(ctx, bufio.NewReader(a.in))
	for {
		if person {
			fmt.Fprint(a.out, "> ")
		}
		var line line
		var open bool
		select {
		case line, open = <-lines:
		case <-ctx.Done():
			return nil
		}
		if !open {
			return nil
		}
		if line.err != nil {
			return schemas.E("read prompt", "", schemas.InvalidInput, line.err)
		}
		text := strings.TrimSpace(line.text)
		if text == "" {
			continue
		}
		if !person {
			fmt.Fprintf(a.out, "> %s\n", printable(text))
		}
		switch {
		case text == "/quit":
			return nil
		case text == "/new":
			for _, t := range c.talkers {
				t.messages, t.said = nil, said{}
			}
			fmt.Fprintln(a.out, "A new conversation.")
		case text == "/cot":
			if c.cot = !c.cot; !c.cot {
				fmt.Fprintln(a.out, "Chains of thought are folded.")
			} else if c.talkers[0].said == (said{}) {
				fmt.Fprintln(a.out, "Chains of thought are shown.")
			} else {
				c.show()
			}
		case strings.HasPrefix(text, "/"):
			fmt.Fprintf(a.out, "There is no %s; there are /cot, /new and /quit.\n", printable(text))
		default:
			if err := c.ask(ctx, text); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return nil
			}
			c.show()
		}
	}
}

// ask has all answer a prompt. That one doesn't is told in its answer's place, unless its
// server is gone.
func (c *chat) ask(ctx context.Context, text string) error {
	p := pool.New().WithErrors().WithFirstError()
	for _, t := range c.talkers {
		p.Go(func() error {
			asked := append(t.messages, schemas.Message{Role: "user", Content: text})
			answer, _, err := t.client.Ask(ctx, llm.Request{Messages: asked, Temperature: c.temperature, MaxTokens: c.maxTokens})
			select {
			case <-t.Done():
				if ctx.Err() == nil {
					return t.Gone()
				}
			default:
			}
			switch {
			case err != nil:
				t.said = said{note: err.Error()}
				return nil
			case answer.TooLong():
				t.said = said{note: "the conversation is longer than the model can read; /new begins another one"}
				return nil
			}
			t.said = said{}
			t.said.cot, t.said.answer, _ = answer.Split()
			if answer.Truncated() {
				t.said.note = fmt.Sprintf("cut after %d tokens; --max-tokens allows more", c.maxTokens)
			}
			// What was thought is no part of a conversation, as chat templates have it.
			t.messages = append(asked, schemas.Message{Role: "assistant", Content: t.said.answer})
			return nil
		})
	}
	return p.Wait()
}

// show shows the last answers: side by side where there is room.
func (c *chat) show() {
	width := c.width
	if f, ok := c.app.out.(*os.File); ok && width == 0 {
		width, _, _ = term.GetSize(int(f.Fd())) // 0 where it is no terminal
	}
	columns := len(c.talkers)
	if width == 0 {
		width = 100
		columns = 1
	} else if width < 100 {
		columns = 1
	}
	const between = " │ "
	each := (width - (columns-1)*utf8.RuneCountInString(between)) / columns
	var blocks [][]string
	for _, t := range c.talkers {
		blocks = append(blocks, columnOf(c.text(t), each))
	}
	if columns == 1 {
		for _, b := range blocks {
			fmt.Fprintln(c.app.out, strings.Join(b, "\n"))
		}
		fmt.Fprintln(c.app.out)
		return
	}
	for i := range max(len(blocks[0]), len(blocks[1])) {
		var cells []string
		for _, b := range blocks {
			cell := ""
			if i < len(b) {
				cell = b[i]
			}
			cells = append(cells, cell+strings.Repeat(" ", max(0, each-utf8.RuneCountInString(cell))))
		}
		fmt.Fprintln(c.app.out, strings.TrimRight(strings.Join(cells, between), " "))
	}
	fmt.Fprintln(c.app.out)
}

// text is what a talker has said last.
func (c *chat) text(t *talker) string {
	parts := []string{"── " + t.model.Name()}
	switch cot := t.said.cot; {
	case cot == "":
	case c.cot:
		parts = append(parts, "[thinks] "+cot, "")
	default:
		parts = append(parts, fmt.Sprintf("[thought: %s; /cot shows them]", words(cot)))
	}
	if t.said.answer != "" {
		parts = append(parts, t.said.answer)
	} else if t.said.note == "" {
		parts = append(parts, "[no answer]")
	}
	if t.said.note != "" {
		parts = append(parts, "["+t.said.note+"]")
	}
	return strings.Join(parts, "\n")
}

// columnOf breaks a text into lines of a width, between words where there are any.
func columnOf(text string, width int) (out []string) {
	for paragraph := range strings.SplitSeq(text, "\n") {
		rest := []rune(printable(strings.TrimRight(strings.ReplaceAll(paragraph, "\t", "    "), " \r")))
		for len(rest) > width {
			at := width
			for at > 0 && rest[at] != ' ' {
				at--
			}
			next := at + 1
			if at == 0 {
				at, next = width, width
			}
			out = append(out, string(rest[:at]))
			rest = rest[next:]
		}
		out = append(out, string(rest))
	}
	return out
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// line is a line of input, or why there is none.
type line struct {
	text string
	err  error
}

// readLines reads lines until the end or ctx's.
func readLines(ctx context.Context, in *bufio.Reader) <-chan line {
	lines := make(chan line)
	go func() {
		defer close(lines)
		for {
			text, err := in.ReadString('\n')
			l := line{text: text}
			if err == io.EOF && text == "" {
				return
			}
			if err != io.EOF {
				l.err = err
			}
			select {
			case lines <- l:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return lines
}
