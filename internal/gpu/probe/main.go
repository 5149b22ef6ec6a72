//go:build cuda

// Command gpuprobe asks the CUDA driver for the worker, which package gpu explains:
//
//	gpuprobe list         prints the visible devices
//	gpuprobe check INDEX  copies a pattern to a device and back
//
// It prints one gpu.Answer as JSON. What is wrong with a device is an answer, too.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"gorgonia.org/cu"

	"precept/internal/gpu"
)

func main() {
	runtime.LockOSThread() // a context belongs to the thread that made it
	answer, err := run(os.Args[1:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(answer)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gpuprobe:", err)
		os.Exit(2)
	}
}

func run(args []string) (gpu.Answer, error) {
	switch {
	case len(args) == 1 && args[0] == "list":
		devices, err := list()
		return gpu.Answer{Devices: devices}, err
	case len(args) == 2 && args[0] == "check":
		index, err := strconv.Atoi(args[1])
		if err != nil {
			return gpu.Answer{}, err
		}
		return gpu.Answer{Fault: check(index)}, nil
	}
	return gpu.Answer{}, fmt.Errorf("usage: gpuprobe list | gpuprobe check INDEX")
}

func list() ([]gpu.Device, error) {
	n, err := cu.NumDevices()
	if err != nil {
		return nil, fmt.Errorf("count devices: %w", err)
	}
	devices := make([]gpu.Device, n)
	for i := range devices {
		devices[i] = describe(i)
	}
	return devices, nil
}

// describe asks for all that is known of a device, up to its first fault.
func describe(index int) (d gpu.Device) {
	d.Index = index
	device, err := cu.GetDevice(index)
	steps := []struct {
		name string
		do   func() error
	}{
		{"find the device", func() error { return err }},
		{"ask for its UUID", func() error {
			id, err := device.UUID()
			d.UUID = "GPU-" + id.String()
			return err
		}},
		{"ask for its name", func() (err error) { d.Name, err = device.Name(); return err }},
		{"ask for its memory", func() (err error) { d.Total, err = device.TotalMem(); return err }},
		{"ask for its capability", func() (err error) { d.Major, err = device.Attribute(cu.ComputeCapabilityMajor); return err }},
		{"ask for its capability", func() (err error) { d.Minor, err = device.Attribute(cu.ComputeCapabilityMinor); return err }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			d.Fault = fault(s.name, err)
			return d
		}
	}
	d.Fault = within(device, func() *gpu.Fault {
		free, _, err := cu.MemInfo()
		d.Free = free
		return fault("ask for its free memory", err)
	})
	return d
}

// checked is how many bytes a check writes.
const checked = 64 << 20

// check copies a pattern to a device and back, and then its complement, so that every bit
// has been both 0 and 1.
func check(index int) *gpu.Fault {
	device, err := cu.GetDevice(index)
	if err != nil {
		return fault("find the device", err)
	}
	return within(device, func() (found *gpu.Fault) {
		mem, err := cu.MemAlloc(checked)
		if err != nil {
			return fault("take memory", err)
		}
		defer func() {
			if f := fault("give memory back", cu.MemFree(mem)); found == nil {
				found = f
			}
		}()
		wrote, read := make([]byte, checked), make([]byte, checked)
		for _, flip := range []byte{0, 0xff} {
			pattern(wrote, flip)
			if err := cu.MemcpyHtoD(mem, unsafe.Pointer(&wrote[0]), checked); err != nil {
				return fault("copy to the device", err)
			}
			clear(read)
			if err := cu.MemcpyDtoH(unsafe.Pointer(&read[0]), mem, checked); err != nil {
				return fault("copy from the device", err)
			}
			if !bytes.Equal(wrote, read) {
				return &gpu.Fault{Step: "compare", Code: "what comes back is not what was written"}
			}
		}
		return nil
	})
}

// pattern fills b so that no two places near each other hold the same: a byte that comes from a
// wrong address is seen.
func pattern(b []byte, flip byte) {
	x := uint32(2463534242)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x) ^ flip
	}
}

// within does something in a context on a device, and returns the first fault.
func within(device cu.Device, do func() *gpu.Fault) *gpu.Fault {
	ctx, err := device.MakeContext(cu.SchedAuto)
	if err != nil {
		return fault("make a context", err)
	}
	found := do()
	if f := fault("end the context", ctx.Destroy()); found == nil {
		found = f
	}
	return found
}

func fault(step string, err error) *gpu.Fault {
	if err == nil {
		return nil
	}
	return &gpu.Fault{Step: step, Code: err.Error()}
}
