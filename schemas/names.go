package schemas

import "slices"

// RunID is the workflow ID of a run.
type RunID string

// Category is the slug of a policy category, the name of its Markdown file
// without ".md", such as "self-harm".
type Category string

// Digest is a lower-case hexadecimal SHA-256.
type Digest string

// Short is the first twelve digits, for people.
func (d Digest) Short() string {
	if len(d) > 12 {
		return string(d[:12])
	}
	return string(d)
}

// Key names a shard or a request: the SHA-256 of the canonical JSON of
// everything its content follows from.
type Key = Digest

// ModelIdentity says which weights answered: the digest of a model that Precept
// serves, or provider, model and configured revision of an endpoint. It is never
// a URL or a served alias.
type ModelIdentity string

// Stage is one step of a run.
type Stage string

// The stages, in the order in which a run passes them.
const (
	StageGenerate   Stage = "generate"
	StageClassify   Stage = "classify"
	StagePrompts    Stage = "prompts"
	StageSynthesize Stage = "synthesize"
	StageFilter     Stage = "filter"
	StageCurate     Stage = "curate"
	StageSFT        Stage = "sft"
	StageSFTSample  Stage = "sft-sample"
	StageSFTGrade   Stage = "sft-grade"
	StageRL         Stage = "rl"
	StageRLSample   Stage = "rl-sample"
	StageRLGrade    Stage = "rl-grade"
	StageSample     Stage = "sample"
	StageGrade      Stage = "grade"
	StageReport     Stage = "report"
)

// Stages lists all stages in order. The first two are passed where the run asks for them,
// those behind sft and rl where prompts are held out for dev.
var Stages = []Stage{
	StageGenerate, StageClassify,
	StagePrompts, StageSynthesize, StageFilter, StageCurate,
	StageSFT, StageSFTSample, StageSFTGrade, StageRL, StageRLSample, StageRLGrade,
	StageSample, StageGrade, StageReport,
}

// The task queues: workflows and light work, calls to language models, training
// and serving.
const (
	QueueFactory = "factory"
	QueueLLM     = "llm"
	QueueGPU     = "gpu"
)

// Before reports whether a run passes s before other.
func (s Stage) Before(other Stage) bool {
	return slices.Index(Stages, s) < slices.Index(Stages, other)
}

// Trained is the stage whose milestones s samples or grades, so that the best one goes on;
// empty for the stages that do something else.
func (s Stage) Trained() Stage {
	switch s {
	case StageSFTSample, StageSFTGrade:
		return StageSFT
	case StageRLSample, StageRLGrade:
		return StageRL
	}
	return ""
}

// Work is the stage whose kind of tasks s has: milestones are sampled and graded as the arms
// of an evaluation are.
func (s Stage) Work() Stage {
	switch s {
	case StageSFTSample, StageRLSample:
		return StageSample
	case StageSFTGrade, StageRLGrade:
		return StageGrade
	}
	return s
}

// Samples is the stage whose answers s grades.
func (s Stage) Samples() Stage {
	switch s {
	case StageSFTGrade:
		return StageSFTSample
	case StageRLGrade:
		return StageRLSample
	}
	return StageSample
}

// Grades is the stage that says which milestone of the training stage s goes on.
func (s Stage) Grades() Stage {
	if s == StageSFT {
		return StageSFTGrade
	}
	return StageRLGrade
}

// Queue is the task queue whose workers run the stage's tasks.
func (s Stage) Queue() string {
	switch s.Work() {
	case StageGenerate, StageClassify, StagePrompts, StageSynthesize, StageFilter, StageGrade:
		return QueueLLM
	case StageSFT, StageRL, StageSample:
		return QueueGPU
	default:
		return QueueFactory
	}
}

// Pays reports whether the stage's tasks call models that somebody else serves: what they
// take counts towards a budget.
func (s Stage) Pays() bool {
	switch s.Work() {
	case StageGenerate, StageClassify, StageSynthesize, StageFilter, StageRL, StageGrade:
		return true
	}
	return false
}

// Intent says what a prompt's author wants.
type Intent string

// The intents. A borderline prompt looks harmful; the policy decides.
const (
	IntentHarmful    Intent = "harmful"
	IntentBorderline Intent = "borderline"
	IntentBenign     Intent = "benign"
)

// Intents lists all intents.
var Intents = []Intent{IntentHarmful, IntentBorderline, IntentBenign}

// Action is what the policy asks for, or what an answer did.
type Action string

// The actions. ActionNone is an answer that did nothing that can be named:
// empty, garbled, off topic, or cut off before it began.
const (
	ActionComply         Action = "comply"
	ActionSafeCompletion Action = "safe-completion"
	ActionRefuse         Action = "refuse"
	ActionNone           Action = "none"
)

// Arm is one model under evaluation.
type Arm string

// The arms of a Factory run.
const (
	ArmBase       Arm = "base"
	ArmBasePolicy Arm = "base+policy"
	ArmSFT        Arm = "sft"
	ArmRL         Arm = "rl"
)

// Arms lists all arms in the order in which they are shown.
var Arms = []Arm{ArmBase, ArmBasePolicy, ArmSFT, ArmRL}

// Gate is a point where a run waits for a person.
type Gate string

// The gates of a Factory run.
const (
	GateDataset Gate = "dataset"
	GateRelease Gate = "release"
	GateModels  Gate = "models"
	GateQuota   Gate = "quota"
	GateFailure Gate = "failure"
	GateBudget  Gate = "budget"
)
