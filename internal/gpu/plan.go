package gpu

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"precept/schemas"
)

// Job is what of a training job decides how it is placed.
type Job struct {
	Batch  int // rows of an optimizer step, or completions
	Length int // tokens of the longest one
	Layers int // upper layers that are trained; 0 is all, and all else
	Lora   *schemas.Lora
	// Checkpointing, where it isn't nil, is said and not planned.
	Checkpointing *bool
	// Generates has the job write the rows of a step itself, all at once and before it trains on
	// them, in one process.
	Generates bool
	// Compares has the job hold the model that it starts from beside the one it trains. With
	// adapters the two are one.
	Compares bool
	// Merges has the job merge its adapters into a copy of the model while it trains, for a
	// milestone.
	Merges bool
}

// checkpointing is what may be tried, the faster first.
func (j Job) checkpointing() []bool {
	if j.Checkpointing != nil {
		return []bool{*j.Checkpointing}
	}
	return []bool{false, true}
}

// Number formats of a plan, in the trainer's words.
const (
	Float32  = "float32"
	BFloat16 = "bfloat16"
)

// Plan is how a job is placed. Processes × BatchSize × Accumulation is the job's batch.
type Plan struct {
	Devices      []Device // one a process; none is the CPU
	Processes    int
	DType        string // what is computed in; weights and optimizer are float32
	BatchSize    int    // rows that a process has in memory at a time
	Accumulation int    // such batches to an optimizer step
	// Checkpointing trades a third of the speed for most of the activations' memory.
	Checkpointing bool
	Memory        Memory
}

// Memory is an estimate of what each device must hold, in bytes.
type Memory struct {
	Weights     int64
	Gradients   int64
	Optimizer   int64
	Activations int64 // or, where more, what generating takes
}

// Total is all of it.
func (m Memory) Total() int64 { return m.Weights + m.Gradients + m.Optimizer + m.Activations }

// Needs is how much a device must have free to be given what takes so much.
func (m Memory) Needs() int64 { return (m.Total() + spare + 8) / 9 * 10 }

func (m Memory) String() string {
	return fmt.Sprintf("%s (weights %s, gradients %s, optimizer %s, activations %s)",
		size(m.Total()), size(m.Weights), size(m.Gradients), size(m.Optimizer), size(m.Activations))
}

// NewPlan places a job on devices. Without any it is one process on the CPU, whatever the
// model. On devices it takes as many processes as divide the batch, the largest batch that fits beside
// the model, and accumulates the rest, so that a step is over the same rows anywhere.
func NewPlan(devices []Device, m Model, j Job) (Plan, error) {
	const op = "plan training"
	if len(devices) == 0 {
		return Plan{Processes: 1, DType: Float32, BatchSize: j.Batch, Accumulation: 1}, nil
	}
	if j.Batch < 1 || j.Length < 1 || j.Layers < 0 || j.Layers > len(m.Layers) {
		return Plan{}, schemas.Errorf(op, "", schemas.InvalidInput, "a batch of %d rows of %d tokens, %d of %d layers trained", j.Batch, j.Length, j.Layers, len(m.Layers))
	}
	byRoom := slices.Clone(devices)
	slices.SortStableFunc(byRoom, func(x, y Device) int { return cmp.Compare(y.Free, x.Free) })
	most := len(devices)
	if j.Generates {
		most = 1
	}
	for n := min(most, j.Batch); n >= 1; n-- {
		if j.Batch%n != 0 {
			continue
		}
		p := place(byRoom[:n])
		for _, p.Checkpointing = range j.checkpointing() {
			for _, p.BatchSize = range divisors(j.Batch / n) {
				p.Memory = m.memory(p, j)
				if p.Memory.Total() <= room(p.Devices[n-1].Free) {
					p.Accumulation = j.Batch / n / p.BatchSize
					return p, nil
				}
			}
		}
	}
	// The least that it could be.
	p := place(byRoom[:1])
	tried := j.checkpointing()
	p.BatchSize, p.Checkpointing = 1, tried[len(tried)-1]
	p.Memory = m.memory(p, j)
	d := p.Devices[0]
	if p.Memory.Total() <= room(d.Total) {
		return Plan{}, schemas.Errorf(op, d.String(), schemas.Unavailable, "the job needs an estimated %s, and others leave it %s of %s",
			p.Memory, size(d.Free), size(d.Total)).WithHint("nvidia-smi shows who uses the rest; the job is tried again.")
	}
	return Plan{}, schemas.Errorf(op, d.String(), schemas.InvalidInput, "one row at a time needs an estimated %s, and of its %s (%s free) a job can have %s",
		p.Memory, size(d.Total), size(d.Free), size(room(d.Free))).
		WithHint("Train fewer layers (trainable_layers), shorter rows (max_length, max_tokens), a smaller model, or on a device with more memory. docs/training.md has the rule.")
}

// place is a plan on these devices, its batch not yet set.
func place(devices []Device) Plan {
	p := Plan{Devices: slices.Clone(devices), Processes: len(devices), DType: BFloat16}
	// Before 8.0 there is no bfloat16. float16 reaches no further than 65504, so that losses are scaled and
	// steps skipped: another training, which the trainer doesn't do.
	if slices.ContainsFunc(devices, func(d Device) bool { return d.Major < 8 }) {
		p.DType = Float32
	}
	return p
}

// room is what of a device's memory a job can count on: a tenth goes to pieces between
// tensors, and half a GiB to the libraries' own buffers.
func room(free int64) int64 { return free/10*9 - spare }

const spare = 1 << 29

// divisors are n's divisors, the largest first.
func divisors(n int) (all []int) {
	for d := n; d >= 1; d-- {
		if n%d == 0 {
			all = append(all, d)
		}
	}
	return all
}

// scored is how many tokens the trainer's loss projects onto the vocabulary at a time.
const scored = 4096

// memory estimates what each device must hold. docs/training.md explains the rule.
func (m Model) memory(p Plan, j Job) (out Memory) {
	trained, through := m.Params, int64(len(m.Layers))
	if j.Layers > 0 {
		// What lies below keeps no activations: no gradient passes through it.
		through = int64(j.Layers)
		trained = m.Hidden // the last norm
		for _, n := range m.Layers[len(m.Layers)-j.Layers:] {
			trained += n
		}
	}
	out.Weights = 4 * m.Params
	if j.Lora != nil {
		layers := int64(cmp.Or(j.Lora.Layers, len(m.Layers)))
		// Seven matrices a layer: query, key, value, output; gate, up, down.
		trained = layers * int64(j.Lora.R) * (2*(m.Hidden+m.Query) + 2*(m.Hidden+m.Key) + 3*(m.Hidden+m.Inner))
		through = layers
		out.Weights += 4 * trained
	}
	element := int64(4)
	if p.DType == BFloat16 {
		element = 2
		out.Weights += 2 * m.Params // the copies that are computed with
	}
	if j.Merges && j.Lora != nil {
		out.Weights += 4 * m.Params
	}
	if j.Compares && j.Lora == nil {
		out.Weights += 4 * m.Params
	}
	out.Gradients, out.Optimizer = 4*trained, 8*trained
	if p.Processes > 1 {
		out.Gradients *= 2 // what is sent to the others is a copy
	}

	tokens := int64(p.BatchSize) * int64(j.Length)
	// The residual stream and its two norms are float32; attention keeps query, its output, and
	// key and value spread over all heads; the feed-forward part its gate, both factors and their product.
	kept := 2*(4+4+element)*m.Hidden + element*(4*m.Query+2*m.Key+4*m.Inner)
	if p.Checkpointing {
		out.Activations = tokens * (through*4*m.Hidden + kept)
	} else {
		out.Activations = tokens * through * kept
	}
	out.Activations += 4 * m.Vocab * min(tokens, scored)
	if j.Generates {
		rows := int64(j.Batch)
		cache := rows*int64(j.Length)*int64(len(m.Layers))*2*m.Key*4 + rows*m.Vocab*4
		out.Activations = max(out.Activations, cache)
	}
	return out
}

func (p Plan) String() string {
	if len(p.Devices) == 0 {
		return "1 process on the CPU, float32"
	}
	var on []string
	for _, d := range p.Devices {
		on = append(on, d.String())
	}
	least := slices.MinFunc(p.Devices, func(x, y Device) int { return cmp.Compare(x.Free, y.Free) })
	text := fmt.Sprintf("%d × %d × %d (processes × batch × accumulation) in %s on %s, estimated %s of %s free",
		p.Processes, p.BatchSize, p.Accumulation, p.DType, strings.Join(on, ", "), p.Memory, size(least.Free))
	if p.Checkpointing {
		text += ", with gradient checkpointing"
	}
	return text
}
