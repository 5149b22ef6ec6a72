package serving

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"precept/internal/process"
	"precept/internal/trainer"
	"precept/schemas"
)

const op = "serve model"

// Job is a model to be served.
type Job struct {
	Folder   string
	Name     string // what requests put into their field model
	Port     int    // 0 takes a free one
	AtOnce   int    // most requests that are answered together, where the server has to be told
	Adapters []Adapter
	// GPU says that there are devices for it, where they have been looked for, and Env what its process needs to
	// know of them. CUDA_VISIBLE_DEVICES is among that: the first ones are to be used.
	GPU bool
	Env []string
	// Parsed has the server tell chain of thought from answer, where it can. Precept reads
	// the text as it is.
	Parsed bool
}

// Server is a server that answers.
type Server struct {
	Kind  string
	URL   string // up to and with /v1
	Model string
	// Extra is what requests have to hold so that answers come whole.
	Extra map[string]any

	process waiter
	stop    context.CancelFunc
}

// waiter is a process, or the trainer's, whose events have to be read.
type waiter interface {
	Wait() error
	Done() <-chan struct{}
	LogTail() string
}

// Start starts a server with its files in the folder dir, and returns when it answers. It
// ends with ctx.
func Start(ctx context.Context, c Config, t trainer.Config, dir string, job Job) (*Server, error) {
	kind, program, err := c.choose(t, job.GPU || hasGPU())
	if err != nil {
		return nil, err
	}
	if len(job.Adapters) > 0 && kind != VLLM {
		return nil, schemas.Errorf(op, job.Name, schemas.InvalidInput, "the server %s takes no adapters", kind).
			WithHint("Set serving.server to vllm, or merge the adapter into its model.")
	}
	if err := CheckWeights(job.Folder); err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, schemas.E(op, dir, schemas.Unavailable, err)
	}
	if job.Folder, err = filepath.Abs(job.Folder); err != nil {
		return nil, schemas.E(op, job.Folder, schemas.Unavailable, err)
	}
	if job.Port, err = port(job.Port); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	s := &Server{Kind: kind, URL: fmt.Sprintf("http://127.0.0.1:%d/v1", job.Port), Model: job.Name, stop: stop}
	if kind == Precept {
		err = s.precept(ctx, t, dir, job, c.patience())
	} else {
		err = s.other(ctx, c, t, program, dir, job)
	}
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// precept starts the trainer's server, which says itself when it is ready.
func (s *Server) precept(ctx context.Context, t trainer.Config, dir string, job Job, patience time.Duration) error {
	p, err := trainer.Start(ctx, t, "serve", dir, trainer.Serve{
		Kind: "serve", Model: job.Folder, Host: "127.0.0.1", Port: job.Port, Device: "auto", MaxBatch: max(1, job.AtOnce), Name: job.Name,
	}, job.Env...)
	if err != nil {
		return err
	}
	s.process = p
	ready, err := p.Ready(ctx, patience)
	s.URL, s.Model = ready.URL, ready.Model
	return err
}

// other starts vllm or transformers.
func (s *Server) other(ctx context.Context, c Config, t trainer.Config, program, dir string, job Job) error {
	args, err := s.arguments(c, job)
	if err != nil {
		return err
	}
	if s.Kind == Transformers {
		// It knows a model by the path that it was given alone.
		link := filepath.Join(dir, job.Name)
		if !filepath.IsLocal(job.Name) || strings.ContainsAny(job.Name, `/\@:`) {
			return schemas.Errorf(op, job.Name, schemas.InvalidInput, "the name can't be that of a folder")
		}
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = os.RemoveAll(link)
		}
		if err == nil {
			err = os.Symlink(job.Folder, link)
		}
		if err != nil {
			return schemas.E(op, link, schemas.Unavailable, err)
		}
	}
	p, err := process.Start(ctx, process.Program{
		Path: program, Args: args, Dir: dir, Env: append(environment(t), job.Env...), Log: filepath.Join(dir, "serve.log"), Grace: time.Duration(t.Grace),
	})
	if err != nil {
		return schemas.E(op, program, schemas.Unavailable, err)
	}
	s.process = p
	return s.await(ctx, c.patience())
}

// arguments are the words behind the program's name.
func (s *Server) arguments(c Config, job Job) ([]string, error) {
	bind := []string{"--host", "127.0.0.1", "--port", strconv.Itoa(job.Port)}
	if s.Kind == Transformers {
		return slices.Concat(transformers(job.Name), bind, c.Flags), nil
	}
	parser := ""
	if job.Parsed {
		parser = c.ReasoningParser
		var err error
		if parser == "" {
			parser, err = Parser(job.Folder)
		} else if parser == "none" {
			parser = ""
		}
		if err != nil {
			return nil, err
		}
	}
	if t, err := readTags(job.Folder); err == nil && t.special && parser == "" {
		s.Extra = map[string]any{"skip_special_tokens": false}
	}
	args := append(vllm(job.Folder, job.Name, parser), bind...)
	if len(job.Adapters) > 0 {
		rank := 0
		modules := []string{"--lora-modules"}
		for _, a := range job.Adapters {
			r, err := a.rank()
			if err != nil {
				return nil, err
			}
			folder, err := filepath.Abs(a.Folder)
			if err != nil {
				return nil, schemas.E(op, a.Folder, schemas.InvalidInput, err)
			}
			rank, modules = max(rank, r), append(modules, a.Name+"="+folder)
		}
		args = append(append(args, "--enable-lora", "--max-lora-rank", strconv.Itoa(rank), "--max-loras", strconv.Itoa(len(job.Adapters))), modules...)
	}
	return append(args, c.Flags...), nil
}

// vllm is the command line but for where to listen.
func vllm(folder, name, parser string) []string {
	args := []string{
		"serve", folder, "--served-model-name", name, "--load-format", "safetensors",
		// What a request doesn't say is not taken from the model's files.
		"--generation-config", "vllm", "--enable-prompt-tokens-details",
	}
	if parser != "" {
		args = append(args, "--reasoning-parser", parser)
	}
	return args
}

func transformers(name string) []string { return []string{"serve", name, "--continuous-batching"} }

// CommandLine is what a person types to serve the folder that the shell is in.
func CommandLine(server, name, parser string) string {
	args := transformers(".")
	if server == VLLM {
		args = vllm(".", name, parser)
	}
	words := append([]string{server}, args...)
	for i, w := range words {
		words[i] = schemas.ShellWord(w)
	}
	return strings.Join(words, " ") + " --host 127.0.0.1 --port 8000"
}

// environment is that of a trainer's process, with vllm's own settings but its key.
func environment(t trainer.Config) []string {
	// Everything that is served is a folder here, and nothing is told to anybody.
	env := append(t.Environment(), "HF_HUB_OFFLINE=1", "VLLM_NO_USAGE_STATS=1", "DO_NOT_TRACK=1")
	for _, e := range os.Environ() {
		if strings.HasPrefix(e, "VLLM_") && !strings.HasPrefix(e, "VLLM_API_KEY=") {
			env = append(env, e)
		}
	}
	return env
}

// await returns when the server answers.
func (s *Server) await(ctx context.Context, patience time.Duration) error {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	next := time.NewTicker(100 * time.Millisecond)
	defer next.Stop()
	for {
		select {
		case <-s.process.Done():
			return schemas.Errorf(op, s.Model, schemas.Unavailable, "%s ended before it was ready: %w; the end of its log:\n%s", s.Kind, s.ending(), s.process.LogTail())
		case <-limit.C:
			return schemas.Errorf(op, s.Model, schemas.Unavailable, "%s is not ready after %s; the end of its log:\n%s", s.Kind, patience, s.process.LogTail()).
				WithHint("Where it only needs longer, set serving.ready in the worker's configuration.")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-next.C:
			if s.answers(ctx) {
				return nil
			}
		}
	}
}

// ending is how the process ended.
func (s *Server) ending() error {
	if err := s.process.Wait(); err != nil {
		return err
	}
	return errors.New("it exited by itself")
}

// loopback asks servers on this machine, whatever proxy there is for others.
var loopback = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}

// answers asks the server for its health, and vllm which models it has: another server may have
// taken the port.
func (s *Server) answers(ctx context.Context) bool {
	get := func(url string, v any) bool {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return false
		}
		resp, err := loopback.Do(r)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK && (v == nil || json.NewDecoder(resp.Body).Decode(v) == nil)
	}
	if !get(strings.TrimSuffix(s.URL, "/v1")+"/health", nil) {
		return false
	}
	if s.Kind == Transformers {
		return true
	}
	var models struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if !get(s.URL+"/models", &models) {
		return false
	}
	for _, m := range models.Data {
		if m.ID == s.Model {
			return true
		}
	}
	return false
}

// Done is closed when the server is gone.
func (s *Server) Done() <-chan struct{} { return s.process.Done() }

// Gone says how a server ended that was not stopped.
func (s *Server) Gone() error {
	return schemas.Errorf(op, s.Model, schemas.Unavailable, "%s has ended: %w; the end of its log:\n%s", s.Kind, s.ending(), s.process.LogTail())
}

// Stop ends the server and returns when it is gone.
func (s *Server) Stop() {
	s.stop()
	if s.process != nil {
		_ = s.process.Wait()
	}
}

// port is the one to be used: free, when it is looked at.
func port(wanted int) (int, error) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", wanted))
	if err != nil {
		return 0, schemas.E(op, fmt.Sprintf("port %d", wanted), schemas.Unavailable, err).WithHint("Name another port, or 0 for a free one.")
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
