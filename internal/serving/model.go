package serving

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"precept/schemas"
)

// Adapter is a folder of low-rank weights (LoRA), as PEFT writes it.
type Adapter struct {
	Name   string
	Folder string
}

// rank is the adapter's, by its own configuration.
func (a Adapter) rank() (int, error) {
	const op = "read adapter"
	var c struct {
		R int `json:"r"`
	}
	if err := readJSON(filepath.Join(a.Folder, "adapter_config.json"), &c); err != nil {
		return 0, schemas.E(op, a.Folder, schemas.InvalidInput, err)
	}
	if _, err := os.Stat(filepath.Join(a.Folder, "adapter_model.safetensors")); err != nil {
		return 0, schemas.E(op, a.Folder, schemas.InvalidInput, err).WithHint("Save the adapter as safetensors.")
	}
	for _, rank := range []int{8, 16, 32, 64, 128, 256, 320, 512} { // what vllm takes
		if c.R >= 1 && c.R <= rank {
			return rank, nil
		}
	}
	return 0, schemas.Errorf(op, a.Folder, schemas.InvalidInput, "its rank is %d; it must lie between 1 and 512", c.R)
}

// CheckWeights refuses a folder whose weights are not safetensors: other forms, pickles among
// them, may hold code, and nothing here loads them.
func CheckWeights(folder string) error {
	const op = "read model"
	entries, err := os.ReadDir(folder)
	if err != nil {
		return schemas.E(op, folder, schemas.InvalidInput, err)
	}
	var others []string
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".safetensors":
			return nil
		case ".bin", ".pt", ".pth", ".ckpt", ".h5", ".gguf":
			others = append(others, e.Name())
		}
	}
	found := "it has no weights"
	if len(others) > 0 {
		found = "its weights are " + strings.Join(others, ", ")
	}
	return schemas.Errorf(op, folder, schemas.InvalidInput, "there are no safetensors in it: %s", found).
		WithHint("Convert it to safetensors first; what may hold code is not loaded.")
}

// The parsers of vllm that read a <think> block.
const (
	parserQwen3  = "qwen3"       // tags are tokens, and the chat template may close the block by itself
	parserTokens = "deepseek_r1" // tags are tokens
	parserText   = "olmo3"       // tags are text
)

// Parser is the reasoning parser by which vllm tells the <think> block of the model in a
// folder from its answer. The usual ones refuse to start where the tokenizer has no token of
// its own for the tags; then they have to be looked for in the text.
func Parser(folder string) (string, error) {
	const op = "choose reasoning parser"
	var config struct {
		Type string `json:"model_type"`
	}
	if err := readJSON(filepath.Join(folder, "config.json"), &config); err != nil {
		return "", schemas.E(op, folder, schemas.InvalidInput, err)
	}
	tags, err := readTags(folder)
	switch {
	case err != nil:
		return "", schemas.E(op, folder, schemas.InvalidInput, err)
	case !tags.tokens:
		return parserText, nil
	case strings.HasPrefix(config.Type, "qwen3"):
		return parserQwen3, nil
	}
	return parserTokens, nil
}

// tags is what a tokenizer makes of the tags around a chain of thought.
type tags struct {
	tokens  bool // each is one token
	special bool // which a server leaves out of what it answers
}

func readTags(folder string) (t tags, err error) {
	var tokenizer struct {
		Added []struct {
			Content string `json:"content"`
			Special bool   `json:"special"`
		} `json:"added_tokens"`
		Model struct {
			Vocab json.RawMessage `json:"vocab"`
		} `json:"model"`
	}
	err = readJSON(filepath.Join(folder, "tokenizer.json"), &tokenizer)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil // an older form, which has no such tokens
	}
	if err != nil {
		return t, err
	}
	known := map[string]int{}
	// Some have a list of pieces in its place, and the tags among those added.
	_ = json.Unmarshal(tokenizer.Model.Vocab, &known)
	for _, added := range tokenizer.Added {
		known[added.Content] = 0
		if added.Content == "<think>" || added.Content == "</think>" {
			t.special = t.special || added.Special
		}
	}
	_, begins := known["<think>"]
	_, ends := known["</think>"]
	t.tokens = begins && ends
	return t, nil
}

func readJSON(path string, v any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return nil
}
