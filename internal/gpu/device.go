package gpu

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Device is what the driver says of a device.
type Device struct {
	Index int    `json:"index"` // among those that are visible
	UUID  string `json:"uuid"`  // of the whole GPU, also where the device is a part of it
	Name  string `json:"name"`
	Total int64  `json:"total"` // bytes
	Free  int64  `json:"free"`  // bytes, beside the context that every process needs
	Major int    `json:"major"` // of the compute capability
	Minor int    `json:"minor"`
	// Fault is why the device can't be used at all.
	Fault *Fault `json:"fault,omitempty"`
}

// Fault is what went wrong with a device: at which step, and the driver's word for it.
type Fault struct {
	Step string `json:"step"`
	Code string `json:"code"`
}

func (f Fault) String() string { return f.Step + ": " + f.Code }

// full is the driver's word for memory that others have taken: the device is well.
const full = "OutOfMemory"

func (d Device) String() string {
	return fmt.Sprintf("GPU %d (%s, %s)", d.Index, d.Name, d.UUID)
}

// visible is the device's name in CUDA_VISIBLE_DEVICES. A part of a GPU is named by what stands there
// for it now: the UUID is that of the whole.
func (d Device) visible() string {
	if !strings.Contains(d.Name, " MIG ") {
		return d.UUID
	}
	if now := strings.Split(os.Getenv("CUDA_VISIBLE_DEVICES"), ","); d.Index < len(now) && now[d.Index] != "" {
		return strings.TrimSpace(now[d.Index])
	}
	return strconv.Itoa(d.Index)
}

// Absence is why there is no device.
type Absence string

// The absences.
const (
	NotBuilt Absence = "not built" // there is no probe: a build with the tag cuda makes it
	NoDriver Absence = "no driver"
	NoDevice Absence = "no device"
)

// Inventory is the visible devices. Where there are none, Absent says why.
type Inventory struct {
	Devices []Device
	Absent  Absence
}

func (i Inventory) String() string {
	switch i.Absent {
	case NotBuilt:
		return "no device is looked for: this worker was built without the tag cuda, so no gpuprobe is beside it (make cuda builds it)"
	case NoDriver:
		return "no device: the NVIDIA driver's library libcuda.so.1 isn't there"
	case NoDevice:
		return fmt.Sprintf("no device: the driver finds none (CUDA_VISIBLE_DEVICES=%q)", os.Getenv("CUDA_VISIBLE_DEVICES"))
	}
	var all []string
	for _, d := range i.Devices {
		one := fmt.Sprintf("%s, capability %d.%d, %s of %s free", d, d.Major, d.Minor, size(d.Free), size(d.Total))
		if d.Fault != nil {
			one = fmt.Sprintf("%s, UNFIT: %s", d, d.Fault)
		}
		all = append(all, one)
	}
	return strings.Join(all, "; ")
}

// size is bytes for people.
func size(n int64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }
