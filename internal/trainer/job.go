package trainer

import "precept/schemas"

// Training is what the jobs of both stages have in common.
type Training struct {
	Base                 string         `json:"base"`
	Data                 []string       `json:"data"`
	Output               string         `json:"output"`
	Checkpoints          string         `json:"checkpoints"`
	ResumeFrom           string         `json:"resume_from"`
	Seed                 int64          `json:"seed"`
	LearningRate         float64        `json:"learning_rate"`
	GradientAccumulation int            `json:"gradient_accumulation"`
	TrainableLayers      int            `json:"trainable_layers"`
	Lora                 *schemas.Lora  `json:"lora,omitempty"`
	SaveSteps            int            `json:"save_steps"`
	Milestones           int            `json:"milestones"`
	Device               string         `json:"device"`
	DType                string         `json:"dtype"`
	ReportTo             []string       `json:"report_to,omitempty"`
	Trainer              map[string]any `json:"trainer,omitempty"`
	// Processes train together, each on a device and on a batch of its own. It is left out of
	// the file of one that trains alone.
	Processes             int  `json:"processes,omitempty"`
	GradientCheckpointing bool `json:"gradient_checkpointing,omitempty"`
}

func (t Training) processes() int { return max(1, t.Processes) }

// SFT is the job of the supervised stage.
type SFT struct {
	Kind string `json:"kind"`
	Training
	Epochs        int      `json:"epochs"`
	BatchSize     int      `json:"batch_size"`
	MaxLength     int      `json:"max_length"`
	WarmupRatio   float64  `json:"warmup_ratio"`
	Mix           []string `json:"mix,omitempty"`
	Packing       bool     `json:"packing"`
	HeldOut       float64  `json:"held_out"`
	Patience      int      `json:"patience"`
	GroupByLength bool     `json:"group_by_length"`
}

// RL is the job of the reinforcement stage.
type RL struct {
	Kind string `json:"kind"`
	Training
	Steps                    int     `json:"steps"`
	NumGenerations           int     `json:"num_generations"`
	PromptsPerStep           int     `json:"prompts_per_step"`
	MaxCompletionLength      int     `json:"max_completion_length"`
	Temperature              float64 `json:"temperature"`
	Beta                     float64 `json:"beta"`
	Epsilon                  float64 `json:"epsilon"`
	EpsilonHigh              float64 `json:"epsilon_high"`
	LossType                 string  `json:"loss_type"`
	ScaleRewards             string  `json:"scale_rewards"`
	MaskTruncatedCompletions bool    `json:"mask_truncated_completions"`
	Reward                   Reward  `json:"reward"`
}

// Reward tells the job where its reward server listens. The token is in the
// environment variable TokenEnv.
type Reward struct {
	URL      string  `json:"url"`
	TokenEnv string  `json:"token_env"`
	TimeoutS float64 `json:"timeout_s"`
	// Weights are those of the terms that the server gives apart.
	Weights schemas.RewardWeights `json:"weights"`
}

// Base is the job that fetches a base model.
type Base struct {
	Kind     string `json:"kind"`
	Source   string `json:"source"`
	Revision string `json:"revision"`
	Output   string `json:"output"`
}

// Serve is the job of a model server on loopback.
type Serve struct {
	Kind     string `json:"kind"`
	Model    string `json:"model"`
	Host     string `json:"host"`
	Port     int    `json:"port"`
	Device   string `json:"device"`
	MaxBatch int    `json:"max_batch"`
	Name     string `json:"name"`
}
