package schemas

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// RunSpec is the input of a Factory run. Everything but the name has a default:
// {"name": "x"} runs the built-in policy and prompts against the simulated
// endpoints.
type RunSpec struct {
	Schema string `json:"$schema,omitempty" jsonschema:"description=Where the JSON Schema lies; for editors only"`
	Name   string `json:"name" jsonschema:"description=The run's name for people"`
	Seed   int64  `json:"seed,omitempty" jsonschema:"default=1,description=Seed of training: the order of rows and what rollouts are drawn. 0 stands for the default"`

	Policy     PolicySpec     `json:"policy,omitzero"`
	Prompts    PromptsSpec    `json:"prompts,omitzero"`
	Synthesize SynthesizeSpec `json:"synthesize,omitzero"`
	Filter     FilterSpec     `json:"filter,omitzero"`
	Quota      QuotaSpec      `json:"quota,omitzero"`
	Curate     CurateSpec     `json:"curate,omitzero"`
	Base       string         `json:"base,omitempty" jsonschema:"default=HuggingFaceTB/SmolLM2-135M-Instruct,description=The policy model before training: a Hugging Face name (OWNER/NAME or OWNER/NAME@REVISION)\\, a local folder or an s3:// URI"`
	SFT        SFTSpec        `json:"sft,omitzero"`
	RL         RLSpec         `json:"rl,omitzero"`
	Dev        DevSpec        `json:"dev,omitzero"`
	Evaluate   EvaluateSpec   `json:"evaluate,omitzero"`
	Gates      GatesSpec      `json:"gates,omitzero"`
	Tripwires  TripwiresSpec  `json:"tripwires,omitzero"`
	Budget     BudgetSpec     `json:"budget,omitzero"`
	// Refresh asks models anew in a stage, whatever they have answered before. Its value
	// names the asking, so that the same run, started again, finds its answers.
	Refresh   map[Stage]string `json:"refresh,omitempty" jsonschema:"description=Stages (generate\\, classify\\, synthesize\\, filter\\, sft\\, sft-sample\\, sft-grade\\, rl\\, rl-sample\\, rl-grade\\, sample\\, grade) that ask or train anew whatever is recorded\\, each with a word of your own: another word asks once more"`
	Mode      string           `json:"mode,omitempty" jsonschema:"enum=online,enum=batch,default=online,description=How synthesize and filter ask their models: online\\, or by the provider's Batch API\\, which answers within a day at a lower price"`
	From      FromSpec         `json:"from,omitzero"`
	MaxFailed float64          `json:"max_failed,omitempty" jsonschema:"description=Share of a stage's units that may fail for good before the run waits at its failure gate (0 to 1): the stage then ends without them\\, and starter retry asks again; by default none"`
	Until     Stage            `json:"until,omitempty" jsonschema:"enum=generate,enum=classify,enum=prompts,enum=synthesize,enum=filter,enum=curate,enum=sft,enum=sft-sample,enum=sft-grade,enum=rl,enum=rl-sample,enum=rl-grade,enum=sample,enum=grade,description=The last stage of the run\\, whose report says how far it came; by default all are passed"`
	Window    int              `json:"window,omitempty" jsonschema:"default=16,description=Tasks of a stage that are open at a time"`
}

// FromSpec lets a run begin at a stage, with what is there already in place of what the
// stages before it would make: another run's results, or a data set and a model of one's
// own.
type FromSpec struct {
	Stage   Stage    `json:"stage,omitempty" jsonschema:"enum=synthesize,enum=filter,enum=curate,enum=sft,enum=rl,enum=sample,enum=grade,description=The first stage of the run"`
	Run     RunID    `json:"run,omitempty" jsonschema:"description=The run whose results are taken"`
	Dataset []Import `json:"dataset,omitempty" jsonschema:"description=Files of conversations whose last turn is the assistant's (messages\\, or prompt and completion): for filter the completions to judge\\, for sft and rl the training set"`
	Model   string   `json:"model,omitempty" jsonschema:"description=For rl and sample: the model that stands for the one that sft would train; named as base is"`
}

// PolicySpec says where the policy lies.
type PolicySpec struct {
	Source string `json:"source,omitempty" jsonschema:"default=builtin,description=builtin\\, a folder on the worker\\, or an s3:// prefix"`
}

// PromptsSpec says where prompts come from.
type PromptsSpec struct {
	Imports []Import `json:"imports,omitempty" jsonschema:"description=Files of prompts; by default the built-in ones\\, or none where prompts are generated"`
	Limit   int      `json:"limit,omitempty" jsonschema:"description=Use only the first N prompts of each file; 0 uses all"`
	// RowsPerShard bounds a shard; a category's buckets are a power of two.
	RowsPerShard int `json:"rows_per_shard,omitempty" jsonschema:"description=Most prompts a shard on average; by default 500 to 4000\\, by the run's size"`
	// NearDuplicates is the share of its shingles that a prompt must share with an
	// earlier one to be its duplicate.
	NearDuplicates *float64 `json:"near_duplicates,omitempty" jsonschema:"default=0.8,description=Share of three-word runs that two prompts must have in common for the later one to be removed (0 to 1); 0 removes exact duplicates only"`

	Classify ClassifySpec `json:"classify,omitzero"`
	Generate GenerateSpec `json:"generate,omitzero"`
}

// Import is one file of prompts or of an evaluation suite.
type Import struct {
	Path   string `json:"path" jsonschema:"description=builtin\\, a file on the worker\\, an s3:// URI\\, or hf://datasets/OWNER/NAME@REVISION/FILE of the Hugging Face Hub"`
	Format string `json:"format,omitempty" jsonschema:"enum=jsonl,enum=csv,enum=parquet,description=By default told by the file's ending"`
	Name   string `json:"name,omitempty" jsonschema:"description=The suite's name; by default the file's name"`
	// Columns maps Precept's column names to the file's.
	Columns  map[string]string `json:"columns,omitempty" jsonschema:"description=Precept's column (text\\, messages\\, system\\, category\\, intent\\, language\\, source\\, family\\, expected) to the file's; an empty name leaves the file's column out"`
	Category Category          `json:"category,omitempty" jsonschema:"description=For rows without one"`
	Intent   Intent            `json:"intent,omitempty" jsonschema:"enum=harmful,enum=borderline,enum=benign,description=For rows without one"`
	Language string            `json:"language,omitempty" jsonschema:"default=en,description=For rows without one"`
	Source   string            `json:"source,omitempty" jsonschema:"description=For rows without one; by default the file's name"`
	Classify bool              `json:"classify,omitempty" jsonschema:"description=The judge tells the category and the intent of rows without one (prompts.classify)"`
	MaxTurns int               `json:"max_turns,omitempty" jsonschema:"description=Most turns of a conversation; the last ones stay\\, down to the user's last; by default all"`
	MaxChars int               `json:"max_chars,omitempty" jsonschema:"description=Longest prompt in characters; earlier turns go first\\, and a longer last turn is rejected as too long; by default any"`
}

// SynthesizeSpec is the teacher's part.
type SynthesizeSpec struct {
	Teacher     Role     `json:"teacher,omitempty" jsonschema:"description=An endpoint of the worker's configuration\\, or routes" jsonschema_extras:"default=sim-teacher"`
	Samples     int      `json:"samples,omitempty" jsonschema:"default=2,description=Completions a prompt"`
	Temperature *float64 `json:"temperature,omitempty" jsonschema:"default=1,description=0 is greedy"`
	MaxTokens   int      `json:"max_tokens,omitempty" jsonschema:"default=1024"`
}

// FilterSpec is the judge's part.
type FilterSpec struct {
	Judge     Role     `json:"judge,omitempty" jsonschema:"description=An endpoint of the worker's configuration\\, or routes" jsonschema_extras:"default=sim-judge"`
	Votes     int      `json:"votes,omitempty" jsonschema:"default=3,description=Judge calls a completion; the minimum counts"`
	Threshold *float64 `json:"threshold,omitempty" jsonschema:"default=0.7,description=Lowest score that is kept (0 to 1); 0 keeps all that got its votes"`
	MaxTokens int      `json:"max_tokens,omitempty" jsonschema:"default=512,description=Longest reply of the judge\\, of the reward's too"`
}

// QuotaSpec asks for a number of accepted prompts, those with a completion that the
// filter kept. Prompts are then drawn from the imported ones in rounds, as many as the
// counts so far make likely to be enough.
type QuotaSpec struct {
	Accepted int  `json:"accepted,omitempty" jsonschema:"description=Examples that each category ends with for which prompts are imported; 0 sets no quota: all prompts are used"`
	ByIntent bool `json:"by_intent,omitempty" jsonschema:"description=The number is for each intent that a category's imported prompts have"`
	Rounds   int  `json:"rounds,omitempty" jsonschema:"default=5,description=Most rounds before the run waits and says what falls short"`
}

// CurateSpec says how the training sets are made.
type CurateSpec struct {
	MaxExamples int `json:"max_examples,omitempty" jsonschema:"description=Most SFT rows a shard; 0 keeps all"`
}

// SFTSpec is the supervised stage.
type SFTSpec struct {
	Skip            bool    `json:"skip,omitempty"`
	Mix             MixSpec `json:"mix,omitzero"`
	Epochs          int     `json:"epochs,omitempty" jsonschema:"default=2"`
	LearningRate    float64 `json:"learning_rate,omitempty" jsonschema:"default=0.0001"`
	BatchSize       int     `json:"batch_size,omitempty" jsonschema:"default=8"`
	MaxLength       int     `json:"max_length,omitempty" jsonschema:"default=512,description=Longest row in tokens; a longer one is refused\\, never cut"`
	TrainableLayers int     `json:"trainable_layers,omitempty" jsonschema:"description=Upper decoder layers that are trained; -1 trains all\\, and so does lora; else by default 15"`
	Lora            *Lora   `json:"lora,omitempty" jsonschema:"description=Train low-rank adapters in place of the weights"`
	Packing         bool    `json:"packing,omitempty" jsonschema:"description=Several rows one behind the other\\, up to max_length tokens\\, each of which attends to itself alone; a batch is then of packed rows"`
	HeldOut         float64 `json:"held_out,omitempty" jsonschema:"description=Share of the rows (0 to 0.5) that is not trained on\\, and whose loss is measured at every checkpoint"`
	Patience        int     `json:"patience,omitempty" jsonschema:"description=Training ends early when so many measurements of held_out in a row brought no new lowest loss; 0 trains to the end"`
	SaveSteps       int     `json:"save_steps,omitempty" jsonschema:"default=20,description=Steps between checkpoints"`
	TrainerSpec
}

// RLSpec is the reinforcement stage.
type RLSpec struct {
	Skip    bool          `json:"skip,omitempty"`
	Judge   Role          `json:"judge,omitempty" jsonschema:"description=The reward's endpoint\\, or routes" jsonschema_extras:"default=sim-judge"`
	Votes   int           `json:"votes,omitempty" jsonschema:"default=1,description=Judge calls a rollout; the minimum counts"`
	Rewards RewardWeights `json:"rewards,omitempty" jsonschema:"description=Weights of the reward's terms: compliance\\, helpfulness and style as the judge scores the answer\\, and format; or a list of terms that weigh the same. All terms are logged. By default compliance 2\\, helpfulness 1\\, style 1"`
	// MaxMissing is about completions that the judge could not be asked about.
	MaxMissing     *float64 `json:"max_missing,omitempty" jsonschema:"default=0.5,description=Share of a step's rewards that may be missing because the judge can't be reached (0 to 1); with more the training leaves a checkpoint and the run waits at its failure gate"`
	Steps          int      `json:"steps,omitempty" jsonschema:"default=8"`
	Generations    int      `json:"generations,omitempty" jsonschema:"default=4,description=Samples a prompt: GRPO's group"`
	PromptsPerStep int      `json:"prompts_per_step,omitempty" jsonschema:"default=2"`
	MaxTokens      int      `json:"max_tokens,omitempty" jsonschema:"default=72"`
	Temperature    float64  `json:"temperature,omitempty" jsonschema:"default=1"`
	LearningRate   float64  `json:"learning_rate,omitempty" jsonschema:"default=0.00001"`
	// The defaults are what the literature holds best for verdicts with little spread in a
	// group: DAPO's loss over all tokens and its raised upper clip (arXiv 2503.14476, 3.1 and
	// 3.3), no division by a group's spread, which weighs prompts by their difficulty (Dr. GRPO,
	// arXiv 2503.20783, 3.2), cut answers masked (DAPO, 3.4), and no divergence term.
	Loss            string  `json:"loss,omitempty" jsonschema:"enum=grpo,enum=dr_grpo,enum=dapo,enum=bnpo,enum=cispo,enum=sapo,enum=luspo,enum=vespo,default=dapo,description=How tokens' losses are put together\\, in TRL's words"`
	ScaleRewards    string  `json:"scale_rewards,omitempty" jsonschema:"enum=none,enum=group,enum=batch,default=none,description=By whose spread rewards are divided"`
	Beta            float64 `json:"beta,omitempty" jsonschema:"description=Weight of the divergence from the model that RL starts from; above 0 a second copy of it is held in memory"`
	Epsilon         float64 `json:"epsilon,omitempty" jsonschema:"default=0.2,description=Lower bound of the clipped ratio: 1 - epsilon"`
	EpsilonHigh     float64 `json:"epsilon_high,omitempty" jsonschema:"default=0.28,description=Upper bound: 1 + epsilon_high"`
	MaskTruncated   *bool   `json:"mask_truncated,omitempty" jsonschema:"default=true,description=Completions that were cut at max_tokens teach nothing"`
	TrainableLayers int     `json:"trainable_layers,omitempty" jsonschema:"description=As in sft"`
	Lora            *Lora   `json:"lora,omitempty" jsonschema:"description=As in sft"`
	SaveSteps       int     `json:"save_steps,omitempty" jsonschema:"default=4"`
	TrainerSpec
}

// DevSpec says how the best milestone of SFT and of RL is chosen: by prompts that are held
// out of training and stand in no suite. They are sampled as evaluate has it, and graded by
// its grader.
type DevSpec struct {
	Skip       bool `json:"skip,omitempty" jsonschema:"description=Hold no prompts out: the last weights of SFT and RL go on"`
	Prompts    int  `json:"prompts,omitempty" jsonschema:"default=24,description=Prompts that are held out\\, evenly of all intents\\, but at most a tenth of each intent's; fewer choose by chance"`
	Milestones int  `json:"milestones,omitempty" jsonschema:"default=3,description=Milestones of SFT and of RL each\\, at equal shares of their steps; the last is the end"`
}

// EvaluateSpec says what is asked of every arm, and who grades.
type EvaluateSpec struct {
	Skip      bool     `json:"skip,omitempty"`
	Suites    []Import `json:"suites,omitempty" jsonschema:"description=By default the built-in held-out suite"`
	Arms      []Arm    `json:"arms,omitempty" jsonschema:"enum=base,enum=base+policy,enum=sft,enum=rl,description=By default all whose models exist"`
	Grader    Role     `json:"grader,omitempty" jsonschema:"description=An endpoint of the worker's configuration\\, or routes" jsonschema_extras:"default=sim-judge"`
	Votes     int      `json:"votes,omitempty" jsonschema:"default=1"`
	MaxTokens int      `json:"max_tokens,omitempty" jsonschema:"default=72,description=New tokens an answer"`
	// PolicyArmPrompts bounds the arm base+policy, whose context is long.
	PolicyArmPrompts int `json:"policy_arm_prompts,omitempty" jsonschema:"default=14,description=Prompts asked of base+policy; -1 asks all"`
}

// GatesSpec says where the run waits for a person.
type GatesSpec struct {
	Dataset bool `json:"dataset,omitempty" jsonschema:"description=Wait before training"`
	Release bool `json:"release,omitempty" jsonschema:"description=Wait before the run completes"`
	// Timeout and OnTimeout say what becomes of these gates when nobody answers. The
	// failure gate always waits.
	Timeout   Duration `json:"timeout,omitempty" jsonschema:"description=How long dataset and release wait before on_timeout decides; by default for ever"`
	OnTimeout string   `json:"on_timeout,omitempty" jsonschema:"enum=approve,enum=reject,description=What is decided after the timeout"`
}

// BudgetSpec bounds what the run may spend on calls to models, under its ID, whenever it was
// started. When a budget is spent, the run waits at the gate budget.
type BudgetSpec struct {
	USD    float64 `json:"usd,omitempty" jsonschema:"description=Most US dollars that the run may spend on calls to models\\, by the prices of the worker's configuration; 0 sets no limit"`
	Tokens int64   `json:"tokens,omitempty" jsonschema:"description=Most tokens that it may send and be answered\\, together; those of models that it serves itself don't count; 0 sets no limit"`
}

// TripwiresSpec says when the run pauses because rows of generate, synthesize or filter come to
// nothing: a bad prompt is to be noticed before all rows are spent on it. Every task
// checks its own rows, and the run those of a stage so far.
type TripwiresSpec struct {
	Off   bool `json:"off,omitempty"`
	After int  `json:"after,omitempty" jsonschema:"default=200,description=Rows before the first check"`
	// The limits are shares of the rows so far.
	MinKept   *float64 `json:"min_kept,omitempty" jsonschema:"default=0.2,description=Least share that is kept"`
	MaxReason *float64 `json:"max_reason,omitempty" jsonschema:"default=0.6,description=Largest share that is rejected for one reason"`
	MaxCut    *float64 `json:"max_cut,omitempty" jsonschema:"default=0.2,description=Largest share of answers that are cut by length"`
	MaxFailed *float64 `json:"max_failed,omitempty" jsonschema:"default=0.5,description=Largest share that fails"`
	// MaxCost is in US dollars.
	MaxCost float64 `json:"max_cost,omitempty" jsonschema:"description=Most dollars that a kept row may cost\\, on average; 0 sets no limit"`
}

// Past names the limit that rows are past, by their ledger and what they took, or is
// empty.
func (t TripwiresSpec) Past(l Ledger, u Usage) string {
	total := float64(l.Outcomes())
	if total < float64(max(1, t.After)) {
		return ""
	}
	share := func(n int64) float64 { return float64(n) / total }
	if got := share(l.Missing()); got > *t.MaxFailed {
		return fmt.Sprintf("%.0f%% failed, more than max_failed %.0f%%", 100*got, 100**t.MaxFailed)
	}
	if got := share(l.Rejected[ReasonTruncated]); got > *t.MaxCut {
		return fmt.Sprintf("%.0f%% of the answers were cut by length, more than max_cut %.0f%%", 100*got, 100**t.MaxCut)
	}
	for _, r := range slices.Sorted(maps.Keys(l.Rejected)) {
		if got := share(l.Rejected[r]); got > *t.MaxReason {
			return fmt.Sprintf("%.0f%% were rejected as %q, more than max_reason %.0f%%", 100*got, r, 100**t.MaxReason)
		}
	}
	if cost := u.USD / float64(max(1, l.Kept)); t.MaxCost > 0 && cost > t.MaxCost {
		return fmt.Sprintf("a kept row costs %s, more than max_cost %s", FormatDollars(cost), FormatDollars(t.MaxCost))
	}
	if got := share(l.Kept); got < *t.MinKept {
		return fmt.Sprintf("%.0f%% were kept, less than min_kept %.0f%%", 100*got, 100**t.MinKept)
	}
	return ""
}

// The modes of a run.
const (
	ModeOnline = "online"
	ModeBatch  = "batch"
)

// ByBatch reports whether a stage's models are asked by batch.
func (s RunSpec) ByBatch(stage Stage) bool {
	return s.Mode == ModeBatch && (stage == StageSynthesize || stage == StageFilter)
}

// Builtin is the path that names what is embedded in the worker.
const Builtin = "builtin"

// DefaultBase is the model a run trains by default.
const DefaultBase = "HuggingFaceTB/SmolLM2-135M-Instruct"

// WithDefaults returns s with every default filled in.
func (s RunSpec) WithDefaults() RunSpec {
	def(&s.Seed, 1)
	def(&s.Policy.Source, Builtin)
	if len(s.Prompts.Imports) == 0 && !s.Generates() {
		s.Prompts.Imports = []Import{{Path: Builtin}}
	}
	s.promptDefaults()
	defPtr(&s.Prompts.NearDuplicates, 0.8)
	defRole(&s.Synthesize.Teacher, "sim-teacher")
	def(&s.Synthesize.Samples, 2)
	defPtr(&s.Synthesize.Temperature, 1)
	def(&s.Synthesize.MaxTokens, 1024)
	defRole(&s.Filter.Judge, "sim-judge")
	def(&s.Filter.Votes, 3)
	defPtr(&s.Filter.Threshold, 0.7)
	def(&s.Filter.MaxTokens, 512)
	def(&s.Quota.Rounds, 5)
	def(&s.Base, DefaultBase)
	def(&s.SFT.Epochs, 2)
	def(&s.SFT.LearningRate, 1e-4)
	def(&s.SFT.BatchSize, 8)
	def(&s.SFT.MaxLength, 512)
	defLayers(&s.SFT.TrainableLayers, s.SFT.Lora)
	def(&s.SFT.SaveSteps, 20)
	s.SFT.Mix = s.SFT.Mix.withDefaults()
	s.SFT.Lora, s.SFT.TrainerSpec = s.SFT.Lora.withDefaults(), s.SFT.TrainerSpec.withDefaults()
	defRole(&s.RL.Judge, "sim-judge")
	def(&s.RL.Votes, 1)
	if len(s.RL.Rewards) == 0 {
		s.RL.Rewards = DefaultRewards()
	}
	defPtr(&s.RL.MaxMissing, 0.5)
	def(&s.RL.Steps, 8)
	def(&s.RL.Generations, 4)
	def(&s.RL.PromptsPerStep, 2)
	def(&s.RL.MaxTokens, 72)
	def(&s.RL.Temperature, 1)
	def(&s.RL.LearningRate, 1e-5)
	def(&s.RL.Loss, "dapo")
	def(&s.RL.ScaleRewards, "none")
	def(&s.RL.Epsilon, 0.2)
	def(&s.RL.EpsilonHigh, 0.28)
	defPtr(&s.RL.MaskTruncated, true)
	defLayers(&s.RL.TrainableLayers, s.RL.Lora)
	def(&s.RL.SaveSteps, 4)
	s.RL.Lora, s.RL.TrainerSpec = s.RL.Lora.withDefaults(), s.RL.TrainerSpec.withDefaults()
	def(&s.Dev.Prompts, 24)
	def(&s.Dev.Milestones, 3)
	if len(s.Evaluate.Suites) == 0 {
		s.Evaluate.Suites = []Import{{Path: Builtin}}
	}
	if len(s.Evaluate.Arms) == 0 {
		for _, a := range Arms {
			if s.hasArm(a) {
				s.Evaluate.Arms = append(s.Evaluate.Arms, a)
			}
		}
	}
	defRole(&s.Evaluate.Grader, "sim-judge")
	def(&s.Evaluate.Votes, 1)
	def(&s.Evaluate.MaxTokens, 72)
	def(&s.Evaluate.PolicyArmPrompts, 14)
	def(&s.Tripwires.After, 200)
	defPtr(&s.Tripwires.MinKept, 0.2)
	defPtr(&s.Tripwires.MaxReason, 0.6)
	defPtr(&s.Tripwires.MaxCut, 0.2)
	defPtr(&s.Tripwires.MaxFailed, 0.5)
	def(&s.Window, 16)
	return s
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// defRole is def for a role.
func defRole(r *Role, endpoint string) {
	if len(*r) == 0 {
		*r = RoleOf(endpoint)
	}
}

// defPtr is def for a field whose zero value means something.
func defPtr[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

// Refreshable are the stages that ask models or train them.
var Refreshable = []Stage{StageGenerate, StageClassify, StageSynthesize, StageFilter, StageSFT, StageSFTSample, StageSFTGrade, StageRL, StageRLSample, StageRLGrade, StageSample, StageGrade}

// Passes reports whether stage lies between the first and the last of the run, and isn't
// skipped.
func (s RunSpec) Passes(stage Stage) bool {
	if s.From.Stage != "" && stage.Before(s.From.Stage) || s.Until != "" && s.Until.Before(stage) {
		return false
	}
	switch stage {
	case StageGenerate:
		return s.Generates()
	case StageClassify:
		return s.Classifies()
	case StageSFT:
		return !s.SFT.Skip
	case StageRL:
		return !s.RL.Skip
	case StageSFTSample, StageSFTGrade:
		return !s.SFT.Skip && !s.Dev.Skip
	case StageRLSample, StageRLGrade:
		return !s.RL.Skip && !s.Dev.Skip
	case StageSample, StageGrade:
		return !s.Evaluate.Skip
	}
	return true
}

// HoldsOut reports whether prompts are held out for dev: whatever the last stage of the run
// is, so that it can go on behind it.
func (s RunSpec) HoldsOut() bool { return !s.Dev.Skip && !(s.SFT.Skip && s.RL.Skip) }

func (s RunSpec) hasArm(a Arm) bool {
	switch a {
	case ArmSFT:
		return !s.SFT.Skip
	case ArmRL:
		return !s.RL.Skip && (s.From.Model == "" || s.From.Stage != StageSample)
	}
	return true
}

// UnmarshalJSON refuses unknown keys, so that a typo is not silent.
func (s *RunSpec) UnmarshalJSON(b []byte) error {
	type plain RunSpec
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var p plain
	if err := dec.Decode(&p); err != nil {
		return E("read run spec", "", InvalidInput, hinted(Explain(b, p, err), "check the spelling against schemas/runspec.schema.json"))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Errorf("read run spec", "", InvalidInput, "there is more after the JSON object")
	}
	*s = RunSpec(p)
	return nil
}

// Validate reports everything that is wrong with s, whose defaults are filled
// in, in one InvalidInput error that names the fields.
func (s RunSpec) Validate() error {
	var v violations
	if strings.TrimSpace(s.Name) == "" {
		v.add("name", "is missing; give the run a name")
	}
	for i, in := range s.Prompts.Imports {
		in.validate(&v, fmt.Sprintf("prompts.imports[%d]", i))
	}
	for i, in := range s.Evaluate.Suites {
		in.validate(&v, fmt.Sprintf("evaluate.suites[%d]", i))
		in.isLabelled(&v, fmt.Sprintf("evaluate.suites[%d]", i))
	}
	s.validatePrompts(&v)
	if s.Until != "" && (s.Until == StageReport || !slices.Contains(Stages, s.Until)) {
		v.add("until", "is %q; the stages are %v", s.Until, Stages[:len(Stages)-1])
	}
	for _, stage := range slices.Sorted(maps.Keys(s.Refresh)) {
		switch {
		case !slices.Contains(Refreshable, stage):
			v.add("refresh", "has %q; the stages are %v", stage, Refreshable)
		case s.Refresh[stage] == "":
			v.add("refresh."+string(stage), "is empty; give the asking a name, such as the day's date")
		}
	}
	if !slices.Contains([]string{"", ModeOnline, ModeBatch}, s.Mode) {
		v.add("mode", "is %q; use %s or %s", s.Mode, ModeOnline, ModeBatch)
	}
	s.validateFrom(&v)
	for _, part := range s.roles() {
		part.role.validate(&v, part.field)
	}
	v.atLeast("seed", s.Seed, 0)
	v.atLeast("prompts.limit", int64(s.Prompts.Limit), 0)
	v.between("prompts.rows_per_shard", float64(s.Prompts.RowsPerShard), 0, 5000)
	v.between("prompts.near_duplicates", *s.Prompts.NearDuplicates, 0, 1)
	v.between("synthesize.samples", float64(s.Synthesize.Samples), 1, 64)
	v.between("synthesize.temperature", *s.Synthesize.Temperature, 0, 2)
	v.atLeast("synthesize.max_tokens", int64(s.Synthesize.MaxTokens), 1)
	v.between("filter.votes", float64(s.Filter.Votes), 1, 25)
	v.between("filter.threshold", *s.Filter.Threshold, 0, 1)
	v.atLeast("filter.max_tokens", int64(s.Filter.MaxTokens), 1)
	v.atLeast("quota.accepted", int64(s.Quota.Accepted), 0)
	if s.Quota.Accepted > 0 && s.Curate.MaxExamples > 0 {
		v.add("curate.max_examples", "bounds a shard, which a quota can't be met with; use quota alone")
	}
	v.between("quota.rounds", float64(s.Quota.Rounds), 1, 20)
	v.atLeast("curate.max_examples", int64(s.Curate.MaxExamples), 0)
	s.SFT.validate(&v)
	s.RL.validate(&v)
	v.between("dev.prompts", float64(s.Dev.Prompts), 1, 5000)
	v.between("dev.milestones", float64(s.Dev.Milestones), 1, 100)
	v.between("evaluate.votes", float64(s.Evaluate.Votes), 1, 25)
	v.atLeast("evaluate.max_tokens", int64(s.Evaluate.MaxTokens), 1)
	v.atLeast("evaluate.policy_arm_prompts", int64(s.Evaluate.PolicyArmPrompts), -1)
	for i, a := range s.Evaluate.Arms {
		switch {
		case slices.Contains(s.Evaluate.Arms[:i], a):
			v.add("evaluate.arms", "has %q twice", a)
		case !slices.Contains(Arms, a):
			v.add("evaluate.arms", "has %q; the arms are %v", a, Arms)
		case !s.hasArm(a):
			v.add("evaluate.arms", "has %q, whose stage is not passed", a)
		}
	}
	v.atLeast("gates.timeout", int64(s.Gates.Timeout), 0)
	if s.Gates.OnTimeout != "" && !slices.Contains([]string{DecisionApprove, DecisionReject}, s.Gates.OnTimeout) {
		v.add("gates.on_timeout", "is %q; use approve or reject", s.Gates.OnTimeout)
	}
	if (s.Gates.OnTimeout != "") != (s.Gates.Timeout > 0) {
		v.add("gates", "needs both timeout and on_timeout, or neither")
	}
	if s.Gates.Release && !s.Passes(StageSFT) && !s.Passes(StageRL) {
		v.add("gates.release", "waits for people to release a model, and this run trains none; set it to false")
	}
	v.between("max_failed", s.MaxFailed, 0, 1)
	v.atLeast("tripwires.after", int64(s.Tripwires.After), 1)
	v.between("tripwires.min_kept", *s.Tripwires.MinKept, 0, 1)
	v.between("tripwires.max_reason", *s.Tripwires.MaxReason, 0, 1)
	v.between("tripwires.max_cut", *s.Tripwires.MaxCut, 0, 1)
	v.between("tripwires.max_failed", *s.Tripwires.MaxFailed, 0, 1)
	v.between("tripwires.max_cost", s.Tripwires.MaxCost, 0, math.MaxFloat64)
	v.between("budget.usd", s.Budget.USD, 0, math.MaxFloat64)
	v.atLeast("budget.tokens", s.Budget.Tokens, 0)
	v.between("window", float64(s.Window), 1, 200)
	return v.err()
}

func (s RunSpec) validateFrom(v *violations) {
	f := s.From
	if f.Stage == "" {
		if f.Run != "" || len(f.Dataset) > 0 || f.Model != "" {
			v.add("from.stage", "is missing; name the first stage of the run")
		}
		return
	}
	for i, in := range f.Dataset {
		in.validate(v, fmt.Sprintf("from.dataset[%d]", i))
		in.isLabelled(v, fmt.Sprintf("from.dataset[%d]", i))
	}
	own := len(f.Dataset) > 0 || f.Model != ""
	switch {
	case !StagePrompts.Before(f.Stage) || f.Stage == StageReport || f.Stage.Trained() != "":
		begin := slices.DeleteFunc(slices.Clone(Stages[slices.Index(Stages, StageSynthesize):len(Stages)-1]), func(s Stage) bool { return s.Trained() != "" })
		v.add("from.stage", "is %q; the stages to begin with are %v", f.Stage, begin)
	case s.Until != "" && s.Until.Before(f.Stage):
		v.add("from.stage", "is %s, behind the last stage %s", f.Stage, s.Until)
	case !s.Passes(f.Stage):
		v.add("from.stage", "is %s, which is skipped", f.Stage)
	case f.Run != "" && own:
		v.add("from", "names both a run and a data set or model of one's own; use one of them")
	case f.Run != "":
	case !own:
		v.add("from", "names neither a run nor a data set or model to begin with")
	case f.Stage == StageSynthesize:
		v.add("from.stage", "is synthesize: one's own prompts are prompts.imports, without from")
	case f.Stage == StageCurate || f.Stage == StageGrade:
		v.add("from.stage", "is %s, which needs a run; one's own data set can begin at filter, sft or rl, a model at rl or sample", f.Stage)
	case f.Stage == StageSample && len(f.Dataset) > 0:
		v.add("from.dataset", "is of no use to sample; the suites are evaluate.suites")
	case f.Stage != StageSample && len(f.Dataset) == 0:
		v.add("from.dataset", "is missing, and %s needs one", f.Stage)
	case f.Stage.Before(StageRL) && f.Model != "":
		v.add("from.model", "is of no use to %s; the model to train is base", f.Stage)
	case f.Stage == StageRL && f.Model == "" && !s.SFT.Skip:
		v.add("from.model", "is missing: what rl begins with in place of sft's model; to begin with base, skip sft")
	case f.Model != "" && s.SFT.Skip:
		v.add("from.model", "stands for the model that sft would train, and sft is skipped")
	}
	if s.Quota.Accepted > 0 && f.Stage != StageSynthesize {
		v.add("quota", "needs the run to begin at prompts or synthesize")
	}
}

func (in Import) validate(v *violations, field string) {
	if in.Path == "" {
		v.add(field+".path", "is missing")
	}
	if strings.HasPrefix(in.Path, HubScheme) {
		if _, err := ParseHubPath(in.Path); err != nil {
			v.add(field+".path", "can't be read: %v", err)
		}
	}
	if in.Format != "" && !slices.Contains([]string{"jsonl", "csv", "parquet"}, in.Format) {
		v.add(field+".format", "is %q; use jsonl, csv or parquet", in.Format)
	}
	if in.Intent != "" && !slices.Contains(Intents, in.Intent) {
		v.add(field+".intent", "is %q; use harmful, borderline or benign", in.Intent)
	}
	v.atLeast(field+".max_turns", int64(in.MaxTurns), 0)
	v.atLeast(field+".max_chars", int64(in.MaxChars), 0)
	for _, k := range slices.Sorted(maps.Keys(in.Columns)) {
		if !slices.Contains(ImportColumns, k) {
			v.add(field+".columns", "maps %q; the columns are %s", k, strings.Join(ImportColumns, ", "))
		}
	}
}

// ImportColumns are the columns that an import may map.
var ImportColumns = []string{"text", "messages", "system", "category", "intent", "language", "source", "family", "expected"}

// violations collects what is wrong, so that one error names it all.
type violations []string

func (v *violations) add(field, format string, args ...any) {
	*v = append(*v, field+" "+fmt.Sprintf(format, args...))
}

func (v *violations) atLeast(field string, got, low int64) {
	if got < low {
		v.add(field, "is %d; it must be at least %d", got, low)
	}
}

func (v *violations) between(field string, got, low, high float64) {
	switch {
	case got >= low && got <= high:
	case high == math.MaxFloat64:
		v.add(field, "is %v; it must be at least %v", got, low)
	default:
		v.add(field, "is %v; it must lie between %v and %v", got, low, high)
	}
}

func (v *violations) oneOf(field, got string, allowed ...string) {
	if !slices.Contains(allowed, got) {
		v.add(field, "is %q; use one of %s", got, strings.Join(allowed, ", "))
	}
}

func (v *violations) err() error {
	if len(*v) == 0 {
		return nil
	}
	return Errorf("check run spec", "", InvalidInput, "%s", strings.Join(*v, "; "))
}
