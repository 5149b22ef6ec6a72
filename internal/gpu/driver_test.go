//go:build cuda

package gpu

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"precept/schemas"
)

// These tests run gpuprobe on a stand-in for the driver, testdata/fakecuda. They need a C
// compiler, and CUDA's headers on the include path (make test-cuda).

// built is the folder of gpuprobe; its libcuda.so.1 lies in drivers.
var built, drivers string

func init() { setUp = buildProbe }

func buildProbe() (tearDown func(), err error) {
	if built, err = os.MkdirTemp("", "gpuprobe"); err != nil {
		return nil, err
	}
	tearDown = func() { os.RemoveAll(built) }
	drivers = filepath.Join(built, "drivers")
	for _, c := range [][]string{
		{"mkdir", drivers},
		{"gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", drivers + "/libcuda.so.1", "testdata/fakecuda/libcuda.c"},
		{"ln", "-s", "libcuda.so.1", drivers + "/libcuda.so"},
		{"go", "build", "-tags", "cuda", "-o", built + "/gpuprobe", "./probe"},
	} {
		cmd := exec.Command(c[0], c[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1", "CGO_LDFLAGS=-L"+drivers)
		if out, err := cmd.CombinedOutput(); err != nil {
			tearDown()
			return nil, fmt.Errorf("%s: %w\n%s", strings.Join(c, " "), err, out)
		}
	}
	return tearDown, nil
}

const (
	hopper = "NVIDIA H100:9.0:81920:80000"
	turing = "Tesla T4:7.5:16384:15000"
)

// driver has the stand-in pose as a driver: NAME=VALUE of its variables, or nil for no driver.
func driver(t *testing.T, env ...string) Config {
	t.Helper()
	for _, name := range []string{"LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "FAKECUDA_INIT", "FAKECUDA_DEVICES", "FAKECUDA_SICK"} {
		t.Setenv(name, "") // so that it is restored
		os.Unsetenv(name)
	}
	if env != nil {
		t.Setenv("LD_LIBRARY_PATH", drivers)
	}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		t.Setenv(name, value)
	}
	return Config{Probe: filepath.Join(built, "gpuprobe")}
}

func TestDriverList(t *testing.T) {
	first := Device{UUID: "GPU-fa000000-0000-0000-0000-000000000000", Name: "NVIDIA H100", Total: 81920 << 20, Free: 80000 << 20, Major: 9}
	second := Device{Index: 1, UUID: "GPU-fa000000-0000-0000-0000-000000000001", Name: "Tesla T4", Total: 16384 << 20, Free: 15000 << 20, Major: 7, Minor: 5}
	at := func(d Device, index int, fault *Fault) Device {
		d.Index = index
		if d.Fault = fault; fault != nil {
			d.Free = 0
		}
		return d
	}
	both := "FAKECUDA_DEVICES=" + hopper + "," + turing
	tests := []struct {
		name string
		env  []string
		want Inventory
		err  string
	}{
		{"two", []string{both}, Inventory{Devices: []Device{first, second}}, ""},
		{"in another order", []string{both, "CUDA_VISIBLE_DEVICES=1,0"}, Inventory{Devices: []Device{at(second, 0, nil), at(first, 1, nil)}}, ""},
		{"one by its UUID", []string{both, "CUDA_VISIBLE_DEVICES=" + second.UUID}, Inventory{Devices: []Device{at(second, 0, nil)}}, ""},
		{"up to what is no device", []string{both, "CUDA_VISIBLE_DEVICES=0,7,1"}, Inventory{Devices: []Device{first}}, ""},
		{"none is to be seen", []string{both, "CUDA_VISIBLE_DEVICES="}, Inventory{Absent: NoDevice}, ""},
		{"no driver", nil, Inventory{Absent: NoDriver}, ""},
		{"no device", []string{"FAKECUDA_INIT=100"}, Inventory{Absent: NoDevice}, ""},
		{"driver and module don't fit", []string{both, "FAKECUDA_INIT=803"}, Inventory{}, "SystemDriverMismatch"},
		{"a result that cu has no word for", []string{both, "FAKECUDA_INIT=34"}, Inventory{}, "UnknownErrorCode:34"},
		{"one is sick", []string{both, "FAKECUDA_SICK=1:context"}, Inventory{Devices: []Device{first, at(second, 1, &Fault{"make a context", "EccUncorrectable"})}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := List(t.Context(), driver(t, tt.env...))
			if tt.err != "" {
				if schemas.KindOf(err) != schemas.Unavailable || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got %v, want %s", err, tt.err)
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

func TestDriverCheck(t *testing.T) {
	both := "FAKECUDA_DEVICES=" + hopper + "," + turing
	tests := []struct{ name, sick, want string }{
		{"well", "", ""},
		{"the other one is sick", "0:bytes", ""},
		{"no context", "1:context", "it is sick: make a context: EccUncorrectable"},
		{"full", "1:alloc", "others use all of its memory"},
		{"takes nothing", "1:send", "it is sick: copy to the device: LaunchFailed"},
		{"gives nothing", "1:fetch", "it is sick: copy from the device: EccUncorrectable"},
		{"loses a bit", "1:bytes", "it is sick: compare"},
		{"hangs", "1:hang", "the driver doesn't answer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := driver(t, both)
			inventory, err := List(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if tt.sick != "" {
				t.Setenv("FAKECUDA_SICK", tt.sick)
			}
			if strings.HasSuffix(tt.sick, "hang") {
				defer func(was time.Duration) { patience = was }(patience)
				patience = 100 * time.Millisecond
			}
			err = Check(t.Context(), c, inventory.Devices[1])
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if schemas.KindOf(err) != schemas.Unavailable || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if !strings.Contains(err.Error(), "GPU 1 (Tesla T4, GPU-fa000000-0000-0000-0000-000000000001)") || !strings.Contains(err.Error(), "nvidia-smi") {
				t.Errorf("%q doesn't name the device and what to do", err)
			}
		})
	}
}

func TestCheckOfADeviceThatIsGone(t *testing.T) {
	c := driver(t, "FAKECUDA_DEVICES="+hopper)
	for _, d := range []Device{{Index: 1, Name: "Gone"}, {Index: 1, Name: "Gone", Fault: &Fault{"make a context", "Unknown"}}} {
		if err := Check(t.Context(), c, d); schemas.KindOf(err) != schemas.Unavailable || !strings.Contains(err.Error(), "Gone") {
			t.Errorf("got %v", err)
		}
	}
	t.Setenv("FAKECUDA_INIT", "100")
	if err := Check(t.Context(), c, Device{Name: "Gone"}); schemas.KindOf(err) != schemas.Unavailable || !strings.Contains(err.Error(), "no device") {
		t.Errorf("got %v", err)
	}
}
