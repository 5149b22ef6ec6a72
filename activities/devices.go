package activities

import (
	"cmp"
	"context"
	"slices"

	"go.temporal.io/sdk/activity"

	"precept/internal/gpu"
	"precept/schemas"
)

// devices are the worker's GPUs while a task has them: none where it runs on the CPU.
type devices struct {
	lease  *gpu.Lease
	list   []gpu.Device
	absent string // why there are none, where they were looked for
}

// takeDevices waits for the worker's devices, which no other job of the machine then has, and
// checks that they are well.
func (w *work) takeDevices(ctx context.Context) (d devices, err error) {
	waiting, cancel := w.untilStop(ctx)
	defer cancel()
	log := activity.GetLogger(ctx)
	found, err := gpu.List(waiting, w.config.GPU)
	if err != nil {
		return d, err
	}
	if found.Absent != "" {
		log.Info("the task runs on the CPU", "task", w.Title, "devices", found.String())
		if found.Absent != gpu.NotBuilt {
			d.absent = found.String()
		}
		return d, nil
	}
	d.lease, err = gpu.Take(waiting, w.Activities.work("devices"), found.Devices, w.Title, func(holder string) {
		w.beat.say("waiting for the devices, which " + holder + " has")
	})
	if err != nil {
		return d, err
	}
	defer func() {
		if err != nil {
			d.release(ctx)
		}
	}()
	w.beat.say("checking the devices")
	// What is free now, without what was ended on them.
	if found, err = gpu.List(waiting, w.config.GPU); err != nil {
		return d, err
	}
	if found.Absent != "" {
		return d, schemas.Errorf("take devices", w.Title, schemas.Unavailable, "they were there, and now there is %s", found.Absent)
	}
	for _, one := range found.Devices {
		if err := gpu.Check(waiting, w.config.GPU, one); err != nil {
			return d, err
		}
	}
	d.list = found.Devices
	log.Info("the task has devices", "task", w.Title, "devices", found.String())
	w.beat.say("")
	return d, nil
}

// plan places a job that starts from the model in a folder. No key follows from it: a step is over
// the same rows on any devices.
func (d devices) plan(dir string, j gpu.Job) (gpu.Plan, error) {
	if len(d.list) == 0 {
		return gpu.NewPlan(nil, gpu.Model{}, j)
	}
	m, err := gpu.ReadModel(dir)
	if err != nil {
		return gpu.Plan{}, err
	}
	return gpu.NewPlan(d.list, m, j)
}

// roomiest are the n devices with most free memory: none on the CPU.
func (d devices) roomiest(n int) []gpu.Device {
	all := slices.SortedStableFunc(slices.Values(d.list), func(x, y gpu.Device) int { return cmp.Compare(y.Free, x.Free) })
	return all[:min(n, len(all))]
}

// env is what a process needs that uses some of the devices.
func (d devices) env(used []gpu.Device) []string {
	if d.lease == nil {
		return nil
	}
	return d.lease.Env(used)
}

// release gives the devices back.
func (d devices) release(ctx context.Context) {
	if d.lease == nil {
		return
	}
	if err := d.lease.Release(context.WithoutCancel(ctx)); err != nil {
		activity.GetLogger(ctx).Warn("the devices are not given back as they were taken", "error", err)
	}
}

// place takes devices for the job and plans it, or tells why it can't be done on them.
func (j *job) place(ctx context.Context, base string, wants gpu.Job) (d devices, p gpu.Plan, err error) {
	if d, err = j.takeDevices(ctx); err != nil {
		return d, p, err
	}
	if p, err = d.plan(base, wants); err != nil {
		d.release(ctx)
		return d, p, err
	}
	if len(p.Devices) > 0 || d.absent != "" {
		activity.GetLogger(ctx).Info("the job is placed", "task", j.Title, "plan", p.String())
		j.note = p.String()
		j.beat.say(j.note)
	}
	return d, p, nil
}

// checkpointing is what a spec says of it in TRL's words; nil leaves it to the plan.
func checkpointing(spec schemas.TrainerSpec) *bool {
	said, ok := spec.Trainer["gradient_checkpointing"].(bool)
	if !ok {
		return nil
	}
	return &said
}
