package serving

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"precept/internal/trainer"
	"precept/schemas"
)

// The servers.
const (
	Precept      = "precept"
	Transformers = "transformers"
	VLLM         = "vllm"
)

// Config says how models are served.
type Config struct {
	// Server is precept, transformers or vllm. By default it is vllm where there are a GPU
	// and a vllm to be found, and precept elsewhere.
	Server string `json:"server"`
	// Program is the server's program. By default it is looked for beside trainer.python, and then
	// in the PATH.
	Program string `json:"program"`
	// Flags are added to the command line of vllm or transformers.
	Flags []string `json:"flags"`
	// ReasoningParser is vllm's, for models that are served to others. By default it follows from the
	// model's tokenizer; none is "none".
	ReasoningParser string `json:"reasoning_parser"`
	// Ready is how long a server may take to be ready. Defaults to 10m.
	Ready schemas.Duration `json:"ready"`
}

// ours are the flags that a configuration can't set: they keep a server private, its model the one
// that was asked for, and code and pickles out of it.
var ours = []string{
	"--config", "--host", "--port", "--uds", "--model", "--tokenizer", "--served-model-name", "--api-key", "--reasoning-parser", "--lora-modules",
	"--load-format", "--trust-remote-code", "--hf-token", "--force-model",
}

// Check reports the first field of c that can't be used.
func (c Config) Check() error {
	const op = "check serving"
	if !slices.Contains([]string{"", Precept, Transformers, VLLM}, c.Server) {
		return schemas.Errorf(op, "server", schemas.InvalidInput, "%q is none of %s, %s and %s", c.Server, Precept, Transformers, VLLM)
	}
	if c.Server == Precept && (len(c.Flags) > 0 || c.Program != "") {
		return schemas.Errorf(op, "flags", schemas.InvalidInput, "the server %s is the trainer's own: it takes neither program nor flags", Precept)
	}
	if c.Server == "" && (len(c.Flags) > 0 || c.Program != "") {
		return schemas.Errorf(op, "server", schemas.InvalidInput, "program and flags are of one server").WithHint("Name it: server: vllm")
	}
	for _, flag := range c.Flags {
		name, _, _ := strings.Cut(flag, "=")
		// vllm takes underscores for hyphens, and both take an unambiguous beginning.
		name = strings.ReplaceAll(name, "_", "-")
		for _, o := range ours {
			if strings.HasPrefix(name, "--") && len(name) > 2 && strings.HasPrefix(o, name) {
				return schemas.Errorf(op, "flags", schemas.InvalidInput, "%s can't be set: %s is Precept's", flag, o)
			}
		}
	}
	if c.Ready < 0 {
		return schemas.Errorf(op, "ready", schemas.InvalidInput, "%s is negative", time.Duration(c.Ready))
	}
	return nil
}

func (c Config) patience() time.Duration { return cmp.Or(time.Duration(c.Ready), 10*time.Minute) }

// choose tells which server answers, and where its program is.
func (c Config) choose(t trainer.Config, gpu bool) (server, program string, err error) {
	if c.Server == Precept {
		return Precept, "", nil
	}
	if c.Server == "" {
		if gpu {
			if program, err := c.find(VLLM, t); err == nil {
				return VLLM, program, nil
			}
		}
		return Precept, "", nil
	}
	program, err = c.find(c.Server, t)
	return c.Server, program, err
}

// find looks for a server's program.
func (c Config) find(server string, t trainer.Config) (string, error) {
	if c.Program != "" {
		if path, err := exec.LookPath(c.Program); err == nil {
			return filepath.Abs(path)
		}
	} else {
		for _, name := range []string{filepath.Join(filepath.Dir(t.Python), server), server} {
			if path, err := exec.LookPath(name); err == nil {
				return filepath.Abs(path)
			}
		}
	}
	return "", schemas.Errorf("serve model", "", schemas.Unavailable, "there is no program %s", cmp.Or(c.Program, server)).
		WithHint("Install it, or set serving.program or serving.server in the worker's configuration.")
}

// hasGPU reports whether this process may use a GPU of NVIDIA's.
func hasGPU() bool {
	if visible, set := os.LookupEnv("CUDA_VISIBLE_DEVICES"); set && (visible == "" || visible == "-1") {
		return false
	}
	devices, err := filepath.Glob("/dev/nvidia[0-9]*")
	return err == nil && len(devices) > 0
}
