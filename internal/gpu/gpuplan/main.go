// Command gpuplan shows what a worker would do with this machine's GPUs, which package gpu
// explains:
//
//	gpuplan devices PROBE  lists the visible devices and checks each, by the program gpuprobe
//	gpuplan job            reads a Job from standard input and prints how it would be placed
//
// It prints JSON. Devices that are absent or sick are an answer, too.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"precept/internal/gpu"
)

// Devices is what a worker sees when it starts, and before a job.
type Devices struct {
	Said    string       `json:"said"` // for people
	Absent  gpu.Absence  `json:"absent,omitempty"`
	Devices []gpu.Device `json:"devices"`
	Sick    []string     `json:"sick"` // what checks found, in the worker's words
}

// Job is a training job and the devices it may have.
type Job struct {
	Devices   []gpu.Device `json:"devices"`
	Model     string       `json:"model"` // folder
	Batch     int          `json:"batch"`
	Length    int          `json:"length"`
	Layers    int          `json:"layers"`
	Generates bool         `json:"generates"`
}

// Placed is the plan for a job.
type Placed struct {
	Said          string `json:"said"` // for people
	Processes     int    `json:"processes"`
	DType         string `json:"dtype"`
	BatchSize     int    `json:"batch_size"`
	Accumulation  int    `json:"accumulation"`
	Checkpointing bool   `json:"checkpointing"`
	Bytes         int64  `json:"bytes"` // estimated, on each device
	Needs         int64  `json:"needs"` // free bytes of the smallest device that would be given the job
}

func main() {
	answer, err := run(context.Background(), os.Args[1:], os.Stdin)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(answer)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gpuplan:", err)
		os.Exit(2)
	}
}

func run(ctx context.Context, args []string, in io.Reader) (any, error) {
	switch {
	case len(args) == 2 && args[0] == "devices":
		return look(ctx, gpu.Config{Probe: args[1]})
	case len(args) == 1 && args[0] == "job":
		decoder := json.NewDecoder(in)
		decoder.DisallowUnknownFields()
		var job Job
		if err := decoder.Decode(&job); err != nil {
			return nil, fmt.Errorf("the job on standard input: %w", err)
		}
		return place(job)
	}
	return nil, fmt.Errorf("usage: gpuplan devices PROBE | gpuplan job")
}

func look(ctx context.Context, c gpu.Config) (Devices, error) {
	found, err := gpu.List(ctx, c)
	if err != nil {
		return Devices{}, err
	}
	out := Devices{Said: found.String(), Absent: found.Absent, Devices: found.Devices}
	for _, d := range found.Devices {
		if err := gpu.Check(ctx, c, d); err != nil {
			out.Sick = append(out.Sick, err.Error())
		}
	}
	return out, nil
}

func place(job Job) (Placed, error) {
	m, err := gpu.ReadModel(job.Model)
	if err != nil {
		return Placed{}, err
	}
	p, err := gpu.NewPlan(job.Devices, m, gpu.Job{Batch: job.Batch, Length: job.Length, Layers: job.Layers, Generates: job.Generates})
	if err != nil {
		return Placed{}, err
	}
	return Placed{
		Said: p.String(), Processes: p.Processes, DType: p.DType, BatchSize: p.BatchSize, Accumulation: p.Accumulation,
		Checkpointing: p.Checkpointing, Bytes: p.Memory.Total(), Needs: p.Memory.Needs(),
	}, nil
}
