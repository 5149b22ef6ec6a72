package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"precept/internal/gpu"
)

func write(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// A device that is listed and sick, as a worker would be told.
func TestDevices(t *testing.T) {
	probe := write(t, filepath.Join(t.TempDir(), "gpuprobe"), `#!/bin/sh
case $1 in
list) echo '{"devices":[{"index":0,"uuid":"GPU-a","name":"card","total":2147483648,"free":1073741824,"major":9}]}' ;;
check) echo '{"fault":{"step":"compare","code":"what comes back is not what was written"}}' ;;
esac
`, 0o755)
	got, err := run(t.Context(), []string{"devices", probe}, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := got.(Devices)
	if len(d.Devices) != 1 || d.Devices[0].Free != 1<<30 || !strings.Contains(d.Said, "1.0 GiB of 2.0 GiB free") {
		t.Errorf("it lists %+v", d)
	}
	if len(d.Sick) != 1 || !strings.Contains(d.Sick[0], "compare: what comes back") {
		t.Errorf("it finds %q", d.Sick)
	}
}

func TestJob(t *testing.T) {
	dir := t.TempDir()
	header := `{"model.layers.0.x":{"shape":[8]},"model.norm.weight":{"shape":[8]}}`
	write(t, filepath.Join(dir, "config.json"), `{"hidden_size":8,"num_attention_heads":2,"vocab_size":32}`, 0o644)
	write(t, filepath.Join(dir, "model.safetensors"), string(binary.LittleEndian.AppendUint64(nil, uint64(len(header))))+header, 0o644)
	job := func(free int64) string {
		raw, err := json.Marshal(Job{Devices: []gpu.Device{{Name: "card", Major: 9, Total: free, Free: free}}, Model: dir, Batch: 4, Length: 16, Layers: 1})
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	got, err := run(t.Context(), []string{"job"}, strings.NewReader(job(8<<30)))
	if err != nil {
		t.Fatal(err)
	}
	p := got.(Placed)
	if p.DType != gpu.BFloat16 || p.BatchSize != 4 || p.Accumulation != 1 || p.Bytes <= 0 || p.Needs <= p.Bytes {
		t.Errorf("it is placed as %+v", p)
	}
	// What a job needs is enough for it.
	if again, err := run(t.Context(), []string{"job"}, strings.NewReader(job(p.Needs))); err != nil || again.(Placed).BatchSize != 4 {
		t.Errorf("with %d bytes: %+v, %v", p.Needs, again, err)
	}
	for name, in := range map[string]string{"too large": job(1 << 29), "misspelt": `{"modell":""}`, "no model": `{"model":"/nonexistent"}`} {
		if _, err := run(t.Context(), []string{"job"}, strings.NewReader(in)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestUsage(t *testing.T) {
	if _, err := run(t.Context(), nil, nil); err == nil || !strings.Contains(fmt.Sprint(err), "usage") {
		t.Errorf("got %v", err)
	}
}
