package gpu

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/schemas"
)

const llama = `{"hidden_size":8,"intermediate_size":16,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":32,"num_hidden_layers":2}`

// safetensors is a file that has just a header.
func safetensors(header string) string {
	return string(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))) + header
}

func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, body := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReadModel(t *testing.T) {
	lower := safetensors(`{"__metadata__":{"format":"pt"},"model.embed_tokens.weight":{"dtype":"BF16","shape":[32,8],"data_offsets":[0,512]},` +
		`"model.layers.0.mlp.up_proj.weight":{"dtype":"BF16","shape":[16,8],"data_offsets":[512,768]}}`)
	upper := safetensors(`{"model.layers.1.mlp.up_proj.weight":{"dtype":"F32","shape":[16,8],"data_offsets":[0,512]},` +
		`"model.layers.1.input_layernorm.weight":{"dtype":"F32","shape":[8],"data_offsets":[512,544]},"model.norm.weight":{"dtype":"F32","shape":[8],"data_offsets":[544,576]}}`)
	want := Model{Params: 32*8 + 2*16*8 + 8 + 8, Layers: []int64{128, 136}, Hidden: 8, Inner: 16, Query: 8, Key: 4, Vocab: 32}
	tests := []struct {
		name  string
		files map[string]string
		want  Model
		err   string
	}{
		{"in two files", map[string]string{"config.json": llama, "model-1.safetensors": lower, "model-2.safetensors": upper}, want, ""},
		{"of several parts", map[string]string{"config.json": `{"vision_config":{"hidden_size":1},"text_config":` + llama + `}`, "a.safetensors": lower, "b.safetensors": upper}, want, ""},
		{"no config", map[string]string{"a.safetensors": lower}, Model{}, "config.json"},
		{"no width", map[string]string{"config.json": `{"num_attention_heads":1,"vocab_size":1}`, "a.safetensors": lower}, Model{}, "hidden_size is missing"},
		{"no JSON", map[string]string{"config.json": `{`, "a.safetensors": lower}, Model{}, "config.json"},
		{"no weights", map[string]string{"config.json": llama, "pytorch_model.bin": "x"}, Model{}, "safe_serialization"},
		{"half a model", map[string]string{"config.json": llama, "b.safetensors": upper}, Model{}, "no complete decoder layers"},
		{"cut", map[string]string{"config.json": llama, "a.safetensors": lower[:40]}, Model{}, "its header"},
		{"something else", map[string]string{"config.json": llama, "a.safetensors": "version https://git-lfs.github.com/spec/v1"}, Model{}, "no safetensors"},
		{"an impossible shape", map[string]string{"config.json": llama, "a.safetensors": safetensors(`{"x":{"shape":[4294967296,4294967296]}}`)}, Model{}, "has shape"},
		{"an impossible layer", map[string]string{"config.json": llama, "a.safetensors": safetensors(`{"layers.99999999.x":{"shape":[1]}}`)}, Model{}, "no layer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ReadModel(folder(t, tt.files))
			if tt.err != "" {
				if schemas.KindOf(err) != schemas.InvalidInput || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(- want, + got):\n%s", d)
			}
		})
	}
}

func FuzzReadModel(f *testing.F) {
	f.Add(llama, `{"model.layers.0.x":{"shape":[1,2]}}`)
	f.Fuzz(func(t *testing.T, config, header string) {
		m, err := ReadModel(folder(t, map[string]string{"config.json": config, "a.safetensors": safetensors(header)}))
		if err == nil && (m.Params < 0 || m.Hidden <= 0) {
			t.Errorf("read %+v", m)
		}
	})
}
