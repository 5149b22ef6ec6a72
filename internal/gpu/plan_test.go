package gpu

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"precept/schemas"
)

// small is SmolLM2-135M.
var small = Model{Params: 134_515_008, Layers: even(30, 3_540_096), Hidden: 576, Inner: 1536, Query: 576, Key: 192, Vocab: 49152}

// eight is Llama 3.1 8B.
var eight = Model{Params: 8_030_261_248, Layers: even(32, 218_112_000), Hidden: 4096, Inner: 14336, Query: 4096, Key: 1024, Vocab: 128256}

func even(n int, params int64) []int64 {
	layers := make([]int64, n)
	for i := range layers {
		layers[i] = params
	}
	return layers
}

// cards are devices with so many GiB, all free, of one capability.
func cards(major int, gib ...int64) (all []Device) {
	for i, n := range gib {
		all = append(all, Device{Index: i, UUID: "GPU-" + string(rune('a'+i)), Name: "card", Major: major, Total: n << 30, Free: n << 30})
	}
	return all
}

func TestPlan(t *testing.T) {
	sft := Job{Batch: 8, Length: 512, Layers: 15}
	type want struct {
		on            string // indices of devices
		dtype         string
		batch, times  int
		checkpointing bool
	}
	tests := []struct {
		name    string
		devices []Device
		model   Model
		job     Job
		want    want
	}{
		{"CPU", nil, Model{}, sft, want{"", Float32, 8, 1, false}},
		{"one", cards(9, 80), small, sft, want{"0", BFloat16, 8, 1, false}},
		{"no bfloat16 before 8.0", cards(7, 16), small, sft, want{"0", Float32, 8, 1, false}},
		{"four", cards(8, 80, 80, 80, 80), small, sft, want{"0123", BFloat16, 2, 1, false}},
		{"three don't divide eight", cards(8, 80, 80, 80), small, sft, want{"01", BFloat16, 4, 1, false}},
		{"more than rows", cards(8, 80, 80, 80), small, Job{Batch: 1, Length: 512}, want{"0", BFloat16, 1, 1, false}},
		{"the ones with most room", cards(8, 8, 80, 40), small, sft, want{"12", BFloat16, 4, 1, false}},
		{"an old one beside a new one", append(cards(9, 80), Device{Index: 1, Major: 7, Total: 80 << 30, Free: 80 << 30}), small, sft, want{"01", Float32, 4, 1, false}},
		{"accumulates", cards(8, 5), small, Job{Batch: 64, Length: 512}, want{"0", BFloat16, 2, 32, false}},
		{"checkpoints", cards(8, 4), small, Job{Batch: 4, Length: 2048}, want{"0", BFloat16, 1, 4, true}},
		{"checkpoints where it is said", cards(8, 80), small, Job{Batch: 8, Length: 512, Checkpointing: new(true)}, want{"0", BFloat16, 8, 1, true}},
		{"eight billion, some layers", cards(9, 80), eight, Job{Batch: 8, Length: 512, Layers: 4}, want{"0", BFloat16, 8, 1, false}},
		{"eight billion, adapters", cards(9, 80), eight, Job{Batch: 8, Length: 512, Lora: &schemas.Lora{R: 16}}, want{"0", BFloat16, 4, 2, false}},
		{"who generates is alone", cards(9, 80, 80), small, Job{Batch: 8, Length: 512, Generates: true}, want{"0", BFloat16, 8, 1, false}},
		{"too full a device is left", cards(8, 80, 1), small, sft, want{"0", BFloat16, 8, 1, false}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := NewPlan(tt.devices, tt.model, tt.job)
			if err != nil {
				t.Fatal(err)
			}
			got := want{"", p.DType, p.BatchSize, p.Accumulation, p.Checkpointing}
			for _, d := range p.Devices {
				got.on += string(rune('0' + d.Index))
			}
			if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(want{})); d != "" {
				t.Errorf("(- want, + got):\n%s\n%s", d, p)
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	busy := cards(9, 80)
	busy[0].Free = 2 << 30
	tests := []struct {
		name    string
		devices []Device
		model   Model
		job     Job
		kind    schemas.Kind
		want    []string
	}{
		{"too large", cards(9, 80), eight, Job{Batch: 8, Length: 512}, schemas.InvalidInput,
			[]string{"GPU 0 (card, GPU-a)", "one row at a time needs an estimated 135.2 GiB", "optimizer 59.8 GiB", "trainable_layers"}},
		{"more of them don't help", cards(9, 80, 80, 80, 80), eight, Job{Batch: 8, Length: 512}, schemas.InvalidInput, []string{"one row at a time"}},
		{"others use it", busy, small, Job{Batch: 8, Length: 512}, schemas.Unavailable, []string{"others leave it 2.0 GiB of 80.0 GiB", "nvidia-smi"}},
		{"checkpointing is forbidden", cards(8, 4), small, Job{Batch: 4, Length: 2048, Checkpointing: new(false)}, schemas.InvalidInput, []string{"one row at a time"}},
		{"more layers than there are", cards(9, 80), small, Job{Batch: 8, Length: 512, Layers: 31}, schemas.InvalidInput, []string{"31 of 30 layers"}},
		{"no rows", cards(9, 80), small, Job{Length: 512}, schemas.InvalidInput, []string{"0 rows"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := NewPlan(tt.devices, tt.model, tt.job)
			if schemas.KindOf(err) != tt.kind {
				t.Fatalf("got %s, %v", p, err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q doesn't say %q", err, want)
				}
			}
		})
	}
}

// The rule, by hand.
func TestMemory(t *testing.T) {
	tiny := Model{Params: 1000, Layers: []int64{300, 300}, Hidden: 10, Inner: 20, Query: 10, Key: 5, Vocab: 40}
	tests := []struct {
		name string
		plan Plan
		job  Job
		want Memory
	}{
		{"everything in float32", Plan{Processes: 1, DType: Float32, BatchSize: 2}, Job{Length: 3},
			Memory{4000, 4000, 8000, 6*2*(24*10+4*(40+10+80)) + 4*40*6}},
		{"bfloat16 keeps copies of the weights", Plan{Processes: 1, DType: BFloat16, BatchSize: 2}, Job{Length: 3},
			Memory{6000, 4000, 8000, 6*2*(20*10+2*(40+10+80)) + 4*40*6}},
		{"several processes send gradients", Plan{Processes: 2, DType: Float32, BatchSize: 2}, Job{Length: 3},
			Memory{4000, 8000, 8000, 6*2*(24*10+4*(40+10+80)) + 4*40*6}},
		{"the upper layer and the norm", Plan{Processes: 1, DType: Float32, BatchSize: 2}, Job{Length: 3, Layers: 1},
			Memory{4000, 4 * 310, 8 * 310, 6*(24*10+4*(40+10+80)) + 4*40*6}},
		{"adapters", Plan{Processes: 1, DType: Float32, BatchSize: 1}, Job{Length: 1, Lora: &schemas.Lora{R: 2, Layers: 1}},
			Memory{4000 + 4*2*160, 4 * 2 * 160, 8 * 2 * 160, 24*10 + 4*(40+10+80) + 4*40}},
		{"checkpointing keeps a layer, and each one's input", Plan{Processes: 1, DType: Float32, BatchSize: 2, Checkpointing: true}, Job{Length: 3},
			Memory{4000, 4000, 8000, 6*(2*40+24*10+4*(40+10+80)) + 4*40*6}},
		{"the model that it starts from beside it", Plan{Processes: 1, DType: Float32, BatchSize: 2}, Job{Length: 3, Compares: true},
			Memory{8000, 4000, 8000, 6*2*(24*10+4*(40+10+80)) + 4*40*6}},
		{"adapters are merged into a copy", Plan{Processes: 1, DType: Float32, BatchSize: 1}, Job{Length: 1, Merges: true, Lora: &schemas.Lora{R: 2, Layers: 1}},
			Memory{8000 + 4*2*160, 4 * 2 * 160, 8 * 2 * 160, 24*10 + 4*(40+10+80) + 4*40}},
		{"with adapters it is the same", Plan{Processes: 1, DType: Float32, BatchSize: 1}, Job{Length: 1, Compares: true, Lora: &schemas.Lora{R: 2, Layers: 1}},
			Memory{4000 + 4*2*160, 4 * 2 * 160, 8 * 2 * 160, 24*10 + 4*(40+10+80) + 4*40}},
		{"generating takes more than training", Plan{Processes: 1, DType: Float32, BatchSize: 1}, Job{Batch: 100, Length: 3, Generates: true},
			Memory{4000, 4000, 8000, 100*3*2*2*5*4 + 100*40*4}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, tiny.memory(tt.plan, tt.job)); d != "" {
				t.Errorf("(- want, + got):\n%s", d)
			}
		})
	}
}

// Whatever the devices: a step is over the job's batch, no device gets more than it has room for,
// and each process has a device of its own.
func TestPlanHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		devices := cards(rapid.IntRange(6, 10).Draw(t, "major"), rapid.SliceOfN(rapid.Int64Range(1, 100), 1, 9).Draw(t, "GiB")...)
		j := Job{
			Batch: rapid.IntRange(1, 100).Draw(t, "batch"), Length: rapid.IntRange(1, 8192).Draw(t, "length"),
			Layers: rapid.IntRange(0, 30).Draw(t, "layers"), Generates: rapid.Bool().Draw(t, "generates"),
		}
		p, err := NewPlan(devices, small, j)
		if err != nil {
			if kind := schemas.KindOf(err); kind != schemas.InvalidInput {
				t.Fatalf("all memory is free, and it says %v", err)
			}
			return
		}
		if p.Processes*p.BatchSize*p.Accumulation != j.Batch || len(p.Devices) != p.Processes {
			t.Fatalf("a batch of %d is %+v", j.Batch, p)
		}
		seen := map[int]bool{}
		for _, d := range p.Devices {
			if p.Memory.Total() > room(d.Free) || seen[d.Index] {
				t.Fatalf("%s on %v", p, d)
			}
			seen[d.Index] = true
		}
		// Shorter rows fit where longer ones do.
		if j.Length > 1 {
			j.Length /= 2
			if _, err := NewPlan(devices, small, j); err != nil {
				t.Fatalf("half the length: %v", err)
			}
		}
	})
}

func TestNeeds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := Memory{Weights: rapid.Int64Range(0, 1<<50).Draw(t, "bytes")}
		if n := m.Needs(); room(n) < m.Total() || room(n-10) >= m.Total() {
			t.Errorf("%d bytes need %d free, of which a job can have %d", m.Total(), n, room(n))
		}
	})
}
