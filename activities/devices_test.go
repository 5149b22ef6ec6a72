package activities

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/internal/gpu"
	"precept/internal/trainer"
	"precept/schemas"
)

// probed is a stand-in for gpuprobe that lists devices, and finds a fault where one is given.
func probed(t *testing.T, fault string, devices ...gpu.Device) gpu.Config {
	t.Helper()
	list, err := json.Marshal(gpu.Answer{Devices: devices})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "gpuprobe")
	script := fmt.Sprintf("#!/bin/sh\n[ $1 = list ] && echo '%s' || echo '{%s}'\n", list, fault)
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return gpu.Config{Probe: path}
}

func card(index int, gib int64) gpu.Device {
	return gpu.Device{Index: index, UUID: fmt.Sprintf("GPU-%d", index), Name: "card", Major: 9, Total: gib << 30, Free: gib << 30}
}

// sized is a model whose size can be read.
func sized(t *testing.T) string {
	var header strings.Builder
	header.WriteString(`{"model.embed_tokens.weight":{"shape":[32,8]}`)
	for i := range 30 {
		fmt.Fprintf(&header, `,"model.layers.%d.mlp.up_proj.weight":{"shape":[16,8]}`, i)
	}
	header.WriteString("}")
	return write(t, map[string]string{
		"config.json":       `{"hidden_size":8,"intermediate_size":16,"num_attention_heads":4,"vocab_size":32}`,
		"model.safetensors": string(binary.LittleEndian.AppendUint64(nil, uint64(header.Len()))) + header.String(),
	})
}

// records keeps the job file and the environment of each rank, and ends the job.
const records = `
cp "$5" "$here/job-of-$3-${RANK:-alone}.json"
env > "$here/env-of-$3-${RANK:-alone}"
[ "${RANK:-0}" = 0 ] && echo '{"event":"error","kind":"InvalidInput","message":"recorded"}'
exit 2`

// trainerWas is what the trainer was told: its job file, and variables by name.
func trainerWas(t *testing.T, c trainer.Config, of string) (job map[string]any, env map[string]string) {
	t.Helper()
	if err := json.Unmarshal([]byte(beside(t, c, "job-of-"+of+".json")), &job); err != nil {
		t.Fatal(err)
	}
	env = map[string]string{}
	for line := range strings.Lines(beside(t, c, "env-of-"+of)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		env[name] = value
	}
	return job, env
}

func pick(job map[string]any, names ...string) map[string]any {
	out := map[string]any{}
	for _, name := range names {
		if v, ok := job[name]; ok {
			out[name] = v
		}
	}
	return out
}

var placed = []string{"processes", "dtype", "batch_size", "gradient_accumulation", "gradient_checkpointing", "device"}

func TestJobsAreToldTheirDevices(t *testing.T) {
	t.Parallel()
	spec := imported(t, fivePrompts()...)
	spec.SFT.Skip = true
	spec.RL = schemas.RLSpec{Judge: schemas.RoleOf("judge"), Steps: 2, PromptsPerStep: 2, Generations: 3}
	c := python(t, records)
	model := sized(t)

	onCPU := newWorld(t, spec, options{trainer: c})
	onCPU.config.Models["tiny"] = model
	onCPU.stages(dataStages...)
	onGPU := newWorld(t, spec, options{trainer: elsewhere(t, c), store: onCPU.store, holder: "other"})
	onGPU.config.Models["tiny"], onGPU.config.GPU = model, probed(t, "", card(0, 8), card(1, 80))
	onGPU.inputs, onGPU.sums = onCPU.inputs, onCPU.sums

	does := func(w *world, stage schemas.Stage) schemas.PlanRef {
		t.Helper()
		plan := w.plans(stage)
		if _, err := w.does(stage, plan, 0); err == nil || !strings.Contains(err.Error(), "recorded") {
			t.Fatalf("%s: got %v", stage, err)
		}
		return plan
	}
	tests := []struct {
		stage  schemas.Stage
		of     string
		rank   string // where there are several
		cpu    map[string]any
		gpu    map[string]any
		seeing string
	}{
		{schemas.StageSFT, "sft", "0",
			map[string]any{"dtype": "float32", "batch_size": 8.0, "gradient_accumulation": 1.0, "device": "auto"},
			map[string]any{"dtype": "bfloat16", "batch_size": 4.0, "gradient_accumulation": 1.0, "device": "auto", "processes": 2.0}, "GPU-1,GPU-0"},
		{schemas.StageRL, "rl", "alone",
			map[string]any{"dtype": "float32", "gradient_accumulation": 1.0, "device": "auto"},
			map[string]any{"dtype": "bfloat16", "gradient_accumulation": 1.0, "device": "auto"}, "GPU-1"},
	}
	for _, tt := range tests {
		cpuPlan := does(onCPU, tt.stage)
		job, env := trainerWas(t, c, tt.of+"-alone")
		if d := cmp.Diff(tt.cpu, pick(job, placed...)); d != "" {
			t.Errorf("%s on the CPU (- want, + got):\n%s", tt.stage, d)
		}
		if seen, ok := env["PRECEPT_DEVICES_LEASE"]; ok {
			t.Errorf("%s on the CPU has a lease %q", tt.stage, seen)
		}
		gpuPlan := does(onGPU, tt.stage)
		if cpuPlan.Digest != gpuPlan.Digest {
			t.Errorf("%s: the keys follow from the devices", tt.stage)
		}
		job, env = trainerWas(t, c, tt.of+"-"+tt.rank)
		if d := cmp.Diff(tt.gpu, pick(job, placed...)); d != "" {
			t.Errorf("%s on devices (- want, + got):\n%s", tt.stage, d)
		}
		if env["CUDA_VISIBLE_DEVICES"] != tt.seeing || env["PRECEPT_DEVICES_LEASE"] == "" {
			t.Errorf("%s sees %q under lease %q, want %q", tt.stage, env["CUDA_VISIBLE_DEVICES"], env["PRECEPT_DEVICES_LEASE"], tt.seeing)
		}
	}
}

func TestDevicesThatJobsCantHave(t *testing.T) {
	t.Parallel()
	full := card(0, 80)
	full.Free = 1 << 20
	tests := []struct {
		name  string
		probe gpu.Config
		kind  schemas.Kind
		never bool // retried
		want  []string
	}{
		{"too small", probed(t, "", gpu.Device{UUID: "GPU-0", Name: "card", Major: 9, Total: 1 << 29, Free: 1 << 29}), schemas.InvalidInput, true,
			[]string{"plan training GPU 0 (card, GPU-0)", "one row at a time needs", "trainable_layers"}},
		{"full", probed(t, "", full), schemas.Unavailable, false, []string{"others leave it 0.0 GiB of 80.0 GiB"}},
		{"sick", probed(t, `"fault":{"step":"compare","code":"what comes back is not what was written"}`, card(0, 80)), schemas.Unavailable, false,
			[]string{"GPU 0 (card, GPU-0): it is sick: compare", "CUDA_VISIBLE_DEVICES"}},
		{"a probe that is gone", gpu.Config{Probe: "/nonexistent/gpuprobe"}, schemas.NotFound, false, []string{"make cuda"}},
	}
	w := newWorld(t, imported(t, fivePrompts()...), options{trainer: python(t, records)})
	w.config.Models["tiny"] = sized(t)
	w.stages(dataStages...)
	plan := w.plans(schemas.StageSFT)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w.config.GPU = tt.probe
			_, err := w.does(schemas.StageSFT, plan, 0)
			f := failure(t, err)
			if f.Type() != string(tt.kind) || f.NonRetryable() != tt.never {
				t.Errorf("got type %s, non-retryable %v: %v", f.Type(), f.NonRetryable(), err)
			}
			for _, want := range tt.want {
				if !strings.Contains(f.Message(), want) {
					t.Errorf("%q doesn't say %q", f.Message(), want)
				}
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(w.config.Trainer.Python), "attempts")); !os.IsNotExist(err) {
				t.Errorf("the trainer was started: %v", err)
			}
		})
	}
	// What was refused holds nothing.
	w.config.GPU = probed(t, "", card(0, 80))
	if _, err := w.does(schemas.StageSFT, plan, 0); err == nil || !strings.Contains(err.Error(), "recorded") {
		t.Errorf("got %v", err)
	}
}

// People see how a job is placed. Why it is on the CPU, where devices were looked for, stands
// in the log.
func TestAJobTellsItsPlace(t *testing.T) {
	t.Parallel()
	nothing := filepath.Join(t.TempDir(), "gpuprobe")
	if err := os.WriteFile(nothing, []byte("#!/bin/sh\necho 'Error in initialization, please refer to x for details on: NoDevice'; exit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		probe gpu.Config
		want  string
	}{
		{"not looked for", gpu.Config{}, ""},
		{"none", gpu.Config{Probe: nothing}, `plan="1 process on the CPU, float32"`},
		{"one", probed(t, "", card(0, 80)), "1 × 8 × 1 (processes × batch × accumulation) in bfloat16 on GPU 0 (card, GPU-0), estimated"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			w := newWorld(t, imported(t, fivePrompts()...), options{log: &log, trainer: python(t, `echo '{"event":"start","total_steps":4,"rows":5}'; step 4; finish`)})
			w.config.Models["tiny"], w.config.GPU = sized(t), tt.probe
			w.stages(dataStages...)
			w.stage(schemas.StageSFT)
			if got := strings.Contains(log.String(), "the job is placed"); got != (tt.want != "") || !strings.Contains(log.String(), tt.want) ||
				tt.name == "none" && !strings.Contains(log.String(), "no device: the driver finds none") {
				t.Errorf("the log doesn't tell %q:\n%s", tt.want, log.String())
			}
		})
	}
	// It stands beside the steps.
	j := &job{work: &work{beat: &beat{}}, note: "placed"}
	j.upload = &upload{job: j}
	for _, event := range []string{trainer.EventStart, trainer.EventProgress} {
		if err := j.event(t.Context(), trainer.Event{Event: event}); err != nil {
			t.Fatal(err)
		}
		if got := j.beat.progress().Note; got != "placed" {
			t.Errorf("at %s it tells %q", event, got)
		}
	}
}

func TestTheServedModelHasADevice(t *testing.T) {
	t.Parallel()
	models := newModels(t)
	models.says(func(q question) *reply {
		if q.Model == "served" {
			return &reply{text: "Here you are."}
		}
		return nil
	})
	c := python(t, fmt.Sprintf(`
env > "$here/env-of-serve"
cp "$5" "$here/job-of-serve.json"
echo '{"event":"ready","url":"%s/v1","model":"served"}'
trap 'exit 0' TERM
while :; do sleep 0.02; done`, models.URL))
	w := newWorld(t, evaluated(t), options{models: models, trainer: c})
	w.config.GPU = probed(t, "", card(0, 8), card(1, 80))
	w.stages(dataStages...)
	w.stage(schemas.StageSample)
	if _, env := trainerWas(t, c, "serve"); env["CUDA_VISIBLE_DEVICES"] != "GPU-1" {
		t.Errorf("the server sees %q", env["CUDA_VISIBLE_DEVICES"])
	}
}
