package schemas

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// Lora are low-rank adapters that are trained in place of the weights, and merged into the
// model at the end.
type Lora struct {
	R      int `json:"r,omitempty" jsonschema:"default=16,description=Rank"`
	Alpha  int `json:"alpha,omitempty" jsonschema:"default=32,description=Scale\\, divided by r"`
	Layers int `json:"layers,omitempty" jsonschema:"description=Upper decoder layers that get adapters; 0 is all"`
}

// TrainerSpec is what SFT and RL have in common beside their own fields.
type TrainerSpec struct {
	HangAfter Duration       `json:"hang_after,omitempty" jsonschema:"default=30m,description=A trainer of which nothing is heard for so long counts as dead\\, and its job goes on from the last checkpoint: longer than loading the model\\, a step or a checkpoint takes"`
	ReportTo  []string       `json:"report_to,omitempty" jsonschema:"enum=tensorboard,enum=wandb,enum=mlflow,description=Who else follows the training; their keys are trainer.secrets of the worker's configuration"`
	Trainer   map[string]any `json:"trainer,omitempty" jsonschema:"description=Further fields of TRL's SFTConfig or GRPOConfig"`
}

// MixSpec adds conversations of other data to the examples, so that safety isn't learned at
// the price of everything else: the paper trains on capability data beside it (section 2).
type MixSpec struct {
	Files []Import `json:"files,omitempty" jsonschema:"description=Files of conversations whose last turn is the assistant's (messages\\, or prompt and completion)"`
	Share float64  `json:"share,omitempty" jsonschema:"default=0.2,description=Share of the rows to train on that they make up\\, or as many as there are"`
}

// General is the category of mixed rows that name none.
const General Category = "general"

func (m MixSpec) withDefaults() MixSpec {
	if len(m.Files) == 0 {
		return m
	}
	def(&m.Share, 0.2)
	m.Files = slices.Clone(m.Files)
	for i := range m.Files {
		def(&m.Files[i].Category, General)
		def(&m.Files[i].Intent, IntentBenign)
	}
	return m
}

// Rows is how many of the usable rows are mixed with the examples.
func (m MixSpec) Rows(examples, usable int64) int64 {
	if len(m.Files) == 0 {
		return 0
	}
	return min(usable, int64(math.Round(float64(examples)*m.Share/(1-m.Share))))
}

func (m MixSpec) validate(v *violations) {
	for i, in := range m.Files {
		in.validate(v, fmt.Sprintf("sft.mix.files[%d]", i))
		in.isLabelled(v, fmt.Sprintf("sft.mix.files[%d]", i))
	}
	if len(m.Files) == 0 {
		if m.Share != 0 {
			v.add("sft.mix.files", "are missing: what the share is of")
		}
		return
	}
	v.between("sft.mix.share", m.Share, 0.001, 0.95)
}

func (l *Lora) withDefaults() *Lora {
	if l == nil {
		return nil
	}
	d := *l
	def(&d.R, 16)
	def(&d.Alpha, 32)
	return &d
}

func (t TrainerSpec) withDefaults() TrainerSpec {
	def(&t.HangAfter, Duration(30*time.Minute))
	return t
}

// defLayers is def for the layers to train: with adapters it is theirs to say.
func defLayers(layers *int, lora *Lora) {
	if lora == nil {
		def(layers, 15)
	}
}

func (s SFTSpec) validate(v *violations) {
	s.Mix.validate(v)
	v.atLeast("sft.epochs", int64(s.Epochs), 1)
	v.between("sft.learning_rate", s.LearningRate, 1e-9, 1)
	v.atLeast("sft.batch_size", int64(s.BatchSize), 1)
	v.atLeast("sft.max_length", int64(s.MaxLength), 16)
	v.between("sft.held_out", s.HeldOut, 0, 0.5)
	v.atLeast("sft.patience", int64(s.Patience), 0)
	if s.Patience > 0 && s.HeldOut == 0 {
		v.add("sft.patience", "counts measurements of held-out rows; set sft.held_out")
	}
	v.atLeast("sft.save_steps", int64(s.SaveSteps), 1)
	trained(v, "sft", s.TrainableLayers, s.Lora)
	s.TrainerSpec.validate(v, StageSFT)
}

func (s RLSpec) validate(v *violations) {
	v.between("rl.votes", float64(s.Votes), 1, 25)
	s.Rewards.validate(v, "rl.rewards")
	v.between("rl.max_missing", *s.MaxMissing, 0, 1)
	v.atLeast("rl.steps", int64(s.Steps), 1)
	v.atLeast("rl.generations", int64(s.Generations), 2)
	v.atLeast("rl.prompts_per_step", int64(s.PromptsPerStep), 1)
	v.atLeast("rl.max_tokens", int64(s.MaxTokens), 1)
	v.between("rl.temperature", s.Temperature, 0, 2)
	v.between("rl.learning_rate", s.LearningRate, 1e-9, 1)
	v.oneOf("rl.loss", s.Loss, "grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")
	v.oneOf("rl.scale_rewards", s.ScaleRewards, "none", "group", "batch")
	v.between("rl.beta", s.Beta, 0, 10)
	v.between("rl.epsilon", s.Epsilon, 1e-9, 1)
	v.between("rl.epsilon_high", s.EpsilonHigh, 1e-9, 100)
	v.atLeast("rl.save_steps", int64(s.SaveSteps), 1)
	trained(v, "rl", s.TrainableLayers, s.Lora)
	s.TrainerSpec.validate(v, StageRL)
}

// trained checks which weights are trained.
func trained(v *violations, stage string, layers int, lora *Lora) {
	v.atLeast(stage+".trainable_layers", int64(layers), -1)
	if lora == nil {
		return
	}
	if layers != 0 {
		v.add(stage+".trainable_layers", "says which weights are trained, and lora trains none of them; use %s.lora.layers", stage)
	}
	v.atLeast(stage+".lora.r", int64(lora.R), 1)
	v.atLeast(stage+".lora.alpha", int64(lora.Alpha), 1)
	v.atLeast(stage+".lora.layers", int64(lora.Layers), 0)
}

// trainerFields is what the pinned TRL takes: by stage, the fields of its configuration,
// each with the types of its values in JSON, or why it is not to be set.
// trainer/precept_trainer/further.py writes it.
//
//go:embed trainerfields.json
var trainerFields []byte

type trainerField struct {
	Types     []string `json:"types"`
	Owned     string   `json:"owned"`
	Placement bool     `json:"placement"` // it says where a model is trained, not what it learns
}

func trainerFieldsOf(stage Stage) map[string]trainerField {
	var fields map[Stage]map[string]trainerField
	if err := json.Unmarshal(trainerFields, &fields); err != nil {
		panic(fmt.Sprintf("read trainerfields.json: %v", err)) // embedded
	}
	return fields[stage]
}

// Learned are the further fields that a model follows from.
func (t TrainerSpec) Learned(stage Stage) map[string]any {
	learned := map[string]any{}
	for name, field := range trainerFieldsOf(stage) {
		if v, ok := t.Trainer[name]; ok && !field.Placement {
			learned[name] = v
		}
	}
	return learned
}

func (t TrainerSpec) validate(v *violations, stage Stage) {
	if time.Duration(t.HangAfter) < time.Second {
		v.add(string(stage)+".hang_after", "is %s; it must be at least 1s", time.Duration(t.HangAfter))
	}
	for _, who := range t.ReportTo {
		v.oneOf(string(stage)+".report_to", who, "tensorboard", "wandb", "mlflow")
	}
	if len(t.Trainer) == 0 {
		return
	}
	fields := trainerFieldsOf(stage)
	for _, name := range slices.Sorted(maps.Keys(t.Trainer)) {
		field, known := fields[name]
		switch path := string(stage) + ".trainer." + name; {
		case !known:
			v.add(path, "is not a field of TRL's configuration for %s", stage)
		case field.Owned != "":
			v.add(path, "is not to be set: %s", field.Owned)
		case !slices.Contains(field.Types, jsonType(t.Trainer[name])) &&
			!(jsonType(t.Trainer[name]) == "integer" && slices.Contains(field.Types, "number")):
			v.add(path, "is of type %s; TRL takes %s", jsonType(t.Trainer[name]), strings.Join(field.Types, " or "))
		}
	}
}

// jsonType names the type of a decoded JSON value, in JSON Schema's words.
func jsonType(value any) string {
	switch x := value.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case float64:
		if x == float64(int64(x)) {
			return "integer"
		}
		return "number"
	case string:
		return "string"
	case []any:
		return "array"
	}
	return "object"
}
