package trainer

// SFT is the job of the supervised stage.
type SFT struct {
	Kind                 string   `json:"kind"`
	Base                 string   `json:"base"`
	Data                 []string `json:"data"`
	Output               string   `json:"output"`
	Checkpoints          string   `json:"checkpoints"`
	ResumeFrom           string   `json:"resume_from"`
	Seed                 int64    `json:"seed"`
	Epochs               int      `json:"epochs"`
	LearningRate         float64  `json:"learning_rate"`
	BatchSize            int      `json:"batch_size"`
	GradientAccumulation int      `json:"gradient_accumulation"`
	MaxLength            int      `json:"max_length"`
	WarmupRatio          float64  `json:"warmup_ratio"`
	TrainableLayers      int      `json:"trainable_layers"`
	SaveSteps            int      `json:"save_steps"`
	Device               string   `json:"device"`
	DType                string   `json:"dtype"`
	GroupByLength        bool     `json:"group_by_length"`
}

// RL is the job of the reinforcement stage.
type RL struct {
	Kind                     string   `json:"kind"`
	Base                     string   `json:"base"`
	Data                     []string `json:"data"`
	Output                   string   `json:"output"`
	Checkpoints              string   `json:"checkpoints"`
	ResumeFrom               string   `json:"resume_from"`
	Seed                     int64    `json:"seed"`
	Steps                    int      `json:"steps"`
	NumGenerations           int      `json:"num_generations"`
	PromptsPerStep           int      `json:"prompts_per_step"`
	MaxCompletionLength      int      `json:"max_completion_length"`
	Temperature              float64  `json:"temperature"`
	LearningRate             float64  `json:"learning_rate"`
	Beta                     float64  `json:"beta"`
	EpsilonHigh              float64  `json:"epsilon_high"`
	LossType                 string   `json:"loss_type"`
	ScaleRewards             string   `json:"scale_rewards"`
	MaskTruncatedCompletions bool     `json:"mask_truncated_completions"`
	TrainableLayers          int      `json:"trainable_layers"`
	SaveSteps                int      `json:"save_steps"`
	Device                   string   `json:"device"`
	DType                    string   `json:"dtype"`
	Reward                   Reward   `json:"reward"`
}

// Reward tells the job where its reward server listens. The token is in the
// environment variable TokenEnv.
type Reward struct {
	URL      string  `json:"url"`
	TokenEnv string  `json:"token_env"`
	TimeoutS float64 `json:"timeout_s"`
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
