package gpu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"precept/schemas"
)

// Config says where the probe is.
type Config struct {
	// Probe is the program gpuprobe. By default it is looked for beside the worker, and no device is
	// looked for where it isn't there.
	Probe string `json:"probe"`
}

// Answer is what the probe prints: a list of devices, or the fault that a check found.
type Answer struct {
	Devices []Device `json:"devices,omitempty"`
	Fault   *Fault   `json:"fault,omitempty"`
}

// patience bounds how long a driver may take: to set up a machine's many devices takes it many
// seconds.
var patience = 2 * time.Minute

// List lists the visible devices. One that is unfit is listed with its fault.
func List(ctx context.Context, c Config) (Inventory, error) {
	const op = "list devices"
	if c.Probe == "" && !exists(beside()) {
		return Inventory{Absent: NotBuilt}, nil
	}
	answer, err := c.ask(ctx, op, "", "list")
	if absent := (*absentError)(nil); errors.As(err, &absent) {
		return Inventory{Absent: absent.why}, nil
	}
	if err != nil {
		return Inventory{}, err
	}
	if len(answer.Devices) == 0 {
		return Inventory{Absent: NoDevice}, nil
	}
	return Inventory{Devices: answer.Devices}, nil
}

// Check tells whether a device holds what is written to it.
func Check(ctx context.Context, c Config, d Device) error {
	const op = "check device"
	fault := d.Fault
	if fault == nil {
		answer, err := c.ask(ctx, op, d.String(), "check", strconv.Itoa(d.Index))
		if absent := (*absentError)(nil); errors.As(err, &absent) {
			return schemas.Errorf(op, d.String(), schemas.Unavailable, "it was listed, and now there is %s", absent.why).
				WithHint(sickHint)
		}
		if err != nil {
			return err
		}
		fault = answer.Fault
	}
	switch {
	case fault == nil:
		return nil
	case fault.Code == full:
		return schemas.Errorf(op, d.String(), schemas.Unavailable, "%s: others use all of its memory", fault).
			WithHint("nvidia-smi shows who; the job is tried again.")
	}
	return schemas.Errorf(op, d.String(), schemas.Unavailable, "it is sick: %s", fault).WithHint(sickHint)
}

const sickHint = "Look at it with nvidia-smi and in the kernel's log (Xid). Until it is mended, start the worker with a CUDA_VISIBLE_DEVICES that leaves it out."

// absentError says that there is nothing to ask.
type absentError struct{ why Absence }

func (e *absentError) Error() string { return string(e.why) }

// ask runs the probe.
func (c Config) ask(ctx context.Context, op, thing string, args ...string) (answer Answer, err error) {
	path := c.Probe
	if path == "" {
		path = beside()
	}
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var out, log bytes.Buffer
	cmd := exec.CommandContext(within, path, args...)
	cmd.Stdout, cmd.Stderr = &out, &log
	if err = cmd.Start(); err != nil && ctx.Err() != nil {
		return answer, context.Cause(ctx)
	}
	if err != nil {
		return answer, schemas.E(op, path, schemas.NotFound, err).WithHint("Build it with make cuda, or mend gpu.probe in the worker's configuration.")
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-within.Done():
		// It is killed. One that hangs in the driver doesn't die of it, and isn't waited for.
		if ctx.Err() != nil {
			return answer, context.Cause(ctx)
		}
		return answer, schemas.Errorf(op, thing, schemas.Unavailable, "the driver doesn't answer within %s", patience).WithHint(sickHint)
	}
	// cu itself asks for the devices while it is imported, and prints what is wrong.
	if _, code, ok := strings.Cut(out.String(), "for details on: "); ok && err != nil {
		if code = strings.TrimSpace(code); code == "NoDevice" {
			return answer, &absentError{NoDevice}
		}
		return answer, schemas.Errorf(op, thing, schemas.Unavailable, "the driver can't be initialized: %s", code).
			WithHint("nvidia-smi tells more: driver and kernel module may be of two versions, or a service of the machine may not run.")
	}
	if err != nil && strings.Contains(log.String(), "libcuda.so") {
		return answer, &absentError{NoDriver}
	}
	if err == nil {
		err = json.Unmarshal(out.Bytes(), &answer)
	}
	if err != nil {
		return answer, schemas.Errorf(op, thing, schemas.Unavailable, "%s: %w: %.300s", filepath.Base(path), err, log.String()+out.String())
	}
	return answer, nil
}

// beside is where the probe is by default.
func beside() string {
	self, err := os.Executable()
	if err != nil {
		return "gpuprobe" // in no folder, so that it isn't found
	}
	return filepath.Join(filepath.Dir(self), "gpuprobe")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
