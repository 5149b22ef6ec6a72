package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"precept/internal/config"
	"precept/internal/gpu"
	"precept/internal/release"
	"precept/internal/serving"
	"precept/internal/shard"
	"precept/schemas"
)

// hosting says how a command serves a model.
type hosting struct {
	server   string
	port     int
	atOnce   int
	adapters []string
	parsed   bool
}

func (a *app) serveCommand() *cobra.Command {
	var h hosting
	cmd := &cobra.Command{
		Use:   "serve MODEL [--port N]",
		Short: "Serve a model on this machine, for evaluation harnesses and other clients",
		Long: `Serve a model on this machine, OpenAI-compatibly and on loopback alone, until Ctrl-C. The
model is fetched into the folder that trainer.work_dir of the configuration names.

The server is the one that the configuration names (serving), or vllm where there are a GPU
and vllm, and else the trainer's own. With vllm a trained model's chain of thought is a field
of its own (reasoning); with the others it stands in the answer, inside <think>.

` + modelNames + `

` + exitCodes,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h.parsed = true
			return a.serve(cmd.Context(), args[0], h)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&h.port, "port", 0, "the port; 0 takes a free one")
	flags.StringVar(&h.server, "server", "", "vllm, transformers or precept, whatever the configuration says")
	flags.IntVar(&h.atOnce, "at-once", 16, "requests that the server precept answers together")
	flags.StringArrayVar(&h.adapters, "adapter", nil, "NAME=FOLDER of low-rank weights (LoRA) to be served beside the model, by vllm; may be repeated")
	return cmd
}

func (a *app) serve(ctx context.Context, name string, h hosting) error {
	c, err := config.Load(a.config)
	if err != nil {
		return err
	}
	store, err := a.open(ctx, a.config)
	if err != nil {
		return err
	}
	gpus, err := a.takeGPUs(ctx, c, "starter serve "+name)
	if err != nil {
		return err
	}
	defer gpus.release(ctx)
	served, err := a.host(ctx, c, store, name, h, gpus)
	if err != nil {
		return err
	}
	defer served.end()
	s := served.Server
	if a.json {
		err = printJSON(a.out, map[string]any{
			"model": s.Model, "url": s.URL, "server": s.Kind, "name": served.model.Name(), "digest": served.model.Digest,
		})
	} else {
		_, err = fmt.Fprint(a.out, servedText(served))
	}
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		served.end()
		fmt.Fprintln(a.err, "Ended.")
		return nil
	case <-s.Done():
		return s.Gone()
	}
}

func servedText(h *hosted) string {
	body, err := json.Marshal(map[string]any{
		"model": h.Model, "messages": []schemas.Message{{Role: "user", Content: "How do I kill a frozen process?"}}, "max_tokens": 128,
	})
	if err != nil {
		panic(err) // strings and a number
	}
	return fmt.Sprintf("%s is served by %s:\n  URL    %s\n  model  %s\nTry it:\n  curl -s %s/chat/completions -H 'Content-Type: application/json' -d %s\nCtrl-C ends it.\n",
		h.model.Name(), h.Kind, h.URL, h.Model, h.URL, schemas.ShellWord(string(body)))
}

// hosted is a model that is served.
type hosted struct {
	*serving.Server
	model release.Model
	dir   string
}

// end ends the server, and drops its files: it has answered, so nobody needs them.
func (h *hosted) end() {
	h.Stop()
	_ = os.RemoveAll(h.dir)
}

// gpus are the machine's, while the command has them: none where it runs on the CPU.
type gpus struct {
	lease *gpu.Lease
	list  []gpu.Device // the one with most free memory first
	used  int
}

// takeGPUs waits for the machine's GPUs, as a worker's tasks do: one job at a time has them.
func (a *app) takeGPUs(ctx context.Context, c config.Config, holder string) (*gpus, error) {
	found, err := gpu.List(ctx, c.GPU)
	if err != nil || found.Absent != "" {
		return &gpus{}, err
	}
	lease, err := gpu.Take(ctx, c.Trainer.Work("devices"), found.Devices, holder, func(other string) {
		fmt.Fprintf(a.err, "Waiting for the GPUs, which %s has\n", oneLine(other))
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(found.Devices, func(x, y gpu.Device) int { return cmp.Compare(y.Free, x.Free) })
	return &gpus{lease: lease, list: found.Devices}, nil
}

// next is what the process of the next model needs to know: of one GPU, or of all.
func (g *gpus) next(all bool) []string {
	if g.lease == nil {
		return nil
	}
	if all {
		return g.lease.Env(g.list)
	}
	g.used++
	return g.lease.Env([]gpu.Device{g.list[(g.used-1)%len(g.list)]})
}

func (g *gpus) release(ctx context.Context) {
	if g.lease != nil {
		_ = g.lease.Release(context.WithoutCancel(ctx)) // it ends with this process at the latest
	}
}

// host fetches a model and serves it.
func (a *app) host(ctx context.Context, c config.Config, store shard.Store, name string, h hosting, gpus *gpus) (*hosted, error) {
	if h.server != "" && h.server != c.Serving.Server {
		// Program and flags are another server's.
		c.Serving = serving.Config{Server: h.server, ReasoningParser: c.Serving.ReasoningParser, Ready: c.Serving.Ready}
		if err := c.Serving.Check(); err != nil {
			return nil, err
		}
	}
	job := serving.Job{Port: h.port, AtOnce: h.atOnce, GPU: len(gpus.list) > 0, Env: gpus.next(c.Serving.Server == serving.VLLM)}
	for _, text := range h.adapters {
		name, folder, ok := strings.Cut(text, "=")
		if !ok || name == "" || folder == "" {
			return nil, usage("--adapter is %q", text).WithHint("Write it as NAME=FOLDER")
		}
		job.Adapters = append(job.Adapters, serving.Adapter{Name: name, Folder: folder})
	}
	m, err := release.Find(ctx, store, name)
	if err != nil {
		return nil, err
	}
	if m.Run == "" {
		if m, err = release.Maker(ctx, store, m); err != nil {
			return nil, err
		}
	}
	job.Parsed = h.parsed && m.Thinks()
	fmt.Fprintf(a.err, "Fetching %s and starting its server\n", m.Title())
	job.Name, job.Folder = m.Digest.Short(), c.Trainer.Work("models", string(m.Digest))
	if err := shard.GetFolder(ctx, store, schemas.ModelPrefix(m.Digest), job.Folder); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(c.Trainer.Work(), "serve-*")
	if err != nil {
		return nil, schemas.E("serve model", m.Name(), schemas.Unavailable, err)
	}
	s, err := serving.Start(ctx, c.Serving, c.Trainer, dir, job)
	if err != nil {
		return nil, err // its log stays, for who needs more than the end
	}
	return &hosted{s, m, dir}, nil
}
