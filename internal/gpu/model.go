package gpu

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"precept/schemas"
)

// Model is what of a model decides how much memory it takes.
type Model struct {
	Params int64   // all of them
	Layers []int64 // params by decoder layer
	Hidden int64   // width
	Inner  int64   // width of the feed-forward part
	Query  int64   // width of all query heads
	Key    int64   // width of all key heads, and of all value heads
	Vocab  int64
}

// ReadModel reads a folder in Hugging Face layout: its config.json, and the headers of its
// safetensors, which hold the shape of every weight.
func ReadModel(dir string) (m Model, err error) {
	const op = "read model"
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return m, schemas.E(op, dir, schemas.InvalidInput, err)
	}
	if err := m.configure(raw); err != nil {
		return m, schemas.E(op, dir, schemas.InvalidInput, fmt.Errorf("config.json: %w", err))
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err != nil {
		return m, schemas.E(op, dir, schemas.Internal, err)
	}
	if len(files) == 0 {
		return m, schemas.Errorf(op, dir, schemas.InvalidInput, "there are no safetensors in it, so it isn't known how large it is").
			WithHint("Store it with save_pretrained(…, safe_serialization=True).")
	}
	for _, file := range files {
		if err := m.count(file); err != nil {
			return m, schemas.E(op, file, schemas.InvalidInput, err)
		}
	}
	if len(m.Layers) == 0 || slices.Contains(m.Layers, 0) {
		return m, schemas.Errorf(op, dir, schemas.InvalidInput, "its safetensors hold no complete decoder layers")
	}
	return m, nil
}

// configure reads the widths; a model of several parts has those of its text part.
func (m *Model) configure(raw []byte) error {
	type config struct {
		Hidden  int64 `json:"hidden_size"`
		Inner   int64 `json:"intermediate_size"`
		Heads   int64 `json:"num_attention_heads"`
		KeyHead int64 `json:"num_key_value_heads"`
		HeadDim int64 `json:"head_dim"`
		Vocab   int64 `json:"vocab_size"`
	}
	var c struct {
		config
		Text *config `json:"text_config"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return err
	}
	if c.Text != nil {
		c.config = *c.Text
	}
	for name, n := range map[string]int64{"hidden_size": c.Hidden, "num_attention_heads": c.Heads, "vocab_size": c.Vocab} {
		if n <= 0 {
			return fmt.Errorf("%s is missing", name)
		}
	}
	head := cmp.Or(c.HeadDim, c.Hidden/c.Heads)
	m.Hidden, m.Vocab, m.Inner = c.Hidden, c.Vocab, cmp.Or(c.Inner, 4*c.Hidden)
	m.Query, m.Key = c.Heads*head, cmp.Or(c.KeyHead, c.Heads)*head
	return nil
}

var layer = regexp.MustCompile(`(?:^|\.)(?:layers|h)\.(\d+)\.`)

// Bounds of what a file may say, so that a broken one takes no memory.
const (
	longestHeader = 100 << 20 // of the format itself
	mostLayers    = 10_000
)

// count adds the weights that a file's header lists: eight bytes of length, and JSON.
func (m *Model) count(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var length uint64
	if err := binary.Read(f, binary.LittleEndian, &length); err != nil {
		return fmt.Errorf("its header: %w", err)
	}
	if length > longestHeader {
		return fmt.Errorf("its header has %d bytes: these are no safetensors", length)
	}
	raw := make([]byte, length)
	if _, err := io.ReadFull(f, raw); err != nil {
		return fmt.Errorf("its header: %w", err)
	}
	var tensors map[string]struct {
		Shape []int64 `json:"shape"`
	}
	if err := json.Unmarshal(raw, &tensors); err != nil {
		return fmt.Errorf("its header: %w", err)
	}
	for name, t := range tensors {
		if name == "__metadata__" {
			continue
		}
		n := int64(1)
		for _, d := range t.Shape {
			if d < 0 || (d > 0 && n > (1<<50)/d) {
				return fmt.Errorf("%s has shape %v", name, t.Shape)
			}
			n *= d
		}
		m.Params += n
		found := layer.FindStringSubmatch(name)
		if found == nil {
			continue
		}
		at, err := strconv.Atoi(found[1])
		if err != nil || at >= mostLayers {
			return fmt.Errorf("%s is of no layer", name)
		}
		if at >= len(m.Layers) {
			m.Layers = append(m.Layers, make([]int64, at+1-len(m.Layers))...)
		}
		m.Layers[at] += n
	}
	return nil
}
