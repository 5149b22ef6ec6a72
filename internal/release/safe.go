package release

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"precept/internal/shard"
	"precept/schemas"
)

// checkNames refuses files that may hold code: pickles (.bin, .pt, .ckpt, …), Python, and
// whatever else is neither safetensors nor JSON nor text.
func checkNames(files []shard.File) error {
	var bad []string
	weights := false
	for _, f := range files {
		weights = weights || path.Ext(f.Path) == ".safetensors"
		if kindOf(f.Path) == "" {
			bad = append(bad, f.Path)
		}
	}
	switch {
	case len(bad) > 0:
		return schemas.Errorf("pull model", strings.Join(bad, ", "), schemas.InvalidInput, "neither safetensors nor JSON nor text, and may hold code").
			WithHint("Convert the model to safetensors, leave such files out, and store it again.")
	case !weights:
		return schemas.Errorf("pull model", "", schemas.InvalidInput, "there are no safetensors in it")
	}
	return nil
}

// kindOf is safetensors, json, text, pieces (a tokenizer's, a list of data), or "" for
// what is refused.
func kindOf(name string) string {
	base := path.Base(name)
	switch ext := path.Ext(name); {
	case ext == ".safetensors":
		return "safetensors"
	case ext == ".json":
		return "json"
	case slices.Contains([]string{".txt", ".md", ".jinja", ".jsonl"}, ext),
		slices.Contains([]string{"LICENSE", "NOTICE", "USE_POLICY", ".gitattributes"}, base):
		return "text"
	case base == "tokenizer.model":
		return "pieces"
	}
	return ""
}

// checkContent refuses a file that isn't what its name says.
func checkContent(file, name string) error {
	f, err := os.Open(file)
	if err != nil {
		return schemas.E("pull model", name, schemas.Unavailable, err)
	}
	defer f.Close()
	switch kindOf(name) {
	case "safetensors":
		err = checkSafetensors(f)
	case "json":
		var raw []byte
		if raw, err = io.ReadAll(f); err == nil && !json.Valid(raw) {
			err = errors.New("it isn't JSON")
		}
	case "text":
		var raw []byte
		if raw, err = io.ReadAll(f); err == nil && (!utf8.Valid(raw) || bytes.IndexByte(raw, 0) >= 0) {
			err = errors.New("it isn't text")
		}
	case "pieces":
		// A message of Protocol Buffers whose first field is a piece; a pickle begins with 0x80, an archive with PK.
		first := make([]byte, 1)
		if _, err = io.ReadFull(f, first); err == nil && first[0] != '\n' {
			err = errors.New("it isn't a tokenizer's list of pieces")
		}
	}
	if err != nil {
		return schemas.E("pull model", name, schemas.InvalidInput, err)
	}
	return nil
}

// checkSafetensors reads the head of a file of tensors: the length of a JSON object, and
// the object.
func checkSafetensors(f *os.File) error {
	const most = 100 << 20 // of the head, as the format has it
	stat, err := f.Stat()
	if err != nil {
		return err
	}
	var length uint64
	if err := binary.Read(f, binary.LittleEndian, &length); err != nil || length > most || int64(length) > stat.Size()-8 {
		return errors.New("it isn't a file of safetensors")
	}
	head := make([]byte, length)
	if _, err := io.ReadFull(f, head); err != nil {
		return err
	}
	var tensors map[string]json.RawMessage
	if err := json.Unmarshal(head, &tensors); err != nil {
		return fmt.Errorf("it isn't a file of safetensors: %w", err)
	}
	return nil
}
