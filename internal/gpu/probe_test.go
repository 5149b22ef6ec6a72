package gpu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/schemas"
)

// probe writes a stand-in for gpuprobe: a shell script.
func probe(t *testing.T, script string) Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gpuprobe")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return Config{Probe: path}
}

func TestListWithoutAProbe(t *testing.T) {
	got, err := List(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(Inventory{Absent: NotBuilt}, got); d != "" {
		t.Errorf("(- want, + got):\n%s", d)
	}
	if !strings.Contains(got.String(), "built without the tag cuda") {
		t.Errorf("it says %q", got)
	}
	// One that is configured has to be there.
	if _, err := List(t.Context(), Config{Probe: "/nonexistent/gpuprobe"}); schemas.KindOf(err) != schemas.NotFound || !strings.Contains(err.Error(), "make cuda") {
		t.Errorf("got %v", err)
	}
}

func TestList(t *testing.T) {
	tests := []struct {
		name, script string
		want         Absence
		err          string
	}{
		{"loader", `echo "gpuprobe: error while loading shared libraries: libcuda.so.1: cannot open shared object file" >&2; exit 127`, NoDriver, ""},
		{"none", `echo "Error in initialization, please refer to x for details on: NoDevice"; exit 1`, NoDevice, ""},
		{"no list", `echo '{}'`, NoDevice, ""},
		{"driver", `echo "Error in initialization, please refer to x for details on: SystemNotReady"; exit 1`, "", "can't be initialized: SystemNotReady"},
		{"no JSON", `echo hello`, "", "hello"},
		{"fails", `echo "count devices: Unknown" >&2; exit 2`, "", "count devices: Unknown"},
		{"dies", `kill -SEGV $$`, "", "segmentation fault"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := List(t.Context(), probe(t, tt.script))
			if tt.err != "" {
				if schemas.KindOf(err) != schemas.Unavailable || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || got.Absent != tt.want || len(got.Devices) != 0 {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestListEndsWithItsContext(t *testing.T) {
	c := probe(t, `echo > "$0.runs"; kill -STOP $$`)
	runs := c.Probe + ".runs"
	if err := syscall.Mkfifo(runs, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("the worker stops")
	go func() {
		_, _ = os.ReadFile(runs) // returns once it runs
		cancel(stop)
	}()
	if _, err := List(ctx, c); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

func TestVisible(t *testing.T) {
	whole := Device{Index: 1, UUID: "GPU-1", Name: "NVIDIA H100"}
	part := Device{Index: 1, UUID: "GPU-1", Name: "NVIDIA H100 80GB HBM3 MIG 1g.10gb"}
	tests := []struct {
		device    Device
		env, want string
	}{
		{whole, "", "GPU-1"},
		{whole, "3,5", "GPU-1"},
		{part, "MIG-a,MIG-b", "MIG-b"},
		{part, "", "1"},
	}
	for _, tt := range tests {
		t.Setenv("CUDA_VISIBLE_DEVICES", tt.env)
		if got := tt.device.visible(); got != tt.want {
			t.Errorf("%s with %q is %q, want %q", tt.device.Name, tt.env, got, tt.want)
		}
	}
}

func TestInventoryText(t *testing.T) {
	got := Inventory{Devices: []Device{
		{Index: 0, UUID: "GPU-0", Name: "A", Major: 9, Total: 80 << 30, Free: 79 << 30},
		{Index: 1, UUID: "GPU-1", Name: "B", Fault: &Fault{"make a context", "EccUncorrectable"}},
	}}.String()
	want := "GPU 0 (A, GPU-0), capability 9.0, 79.0 GiB of 80.0 GiB free; GPU 1 (B, GPU-1), UNFIT: make a context: EccUncorrectable"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
