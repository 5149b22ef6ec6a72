package schemas

import (
	"encoding/json"
	"fmt"
	"time"
)

// ShardRef points to a stored shard and says what it holds.
type ShardRef struct {
	Stage  Stage  `json:"stage"`
	Key    Key    `json:"key"`
	Object string `json:"object"`
	Rows   int64  `json:"rows"`
	Digest Digest `json:"digest"`
	Ledger Ledger `json:"ledger"`
}

// ModelRef points to a stored model folder.
type ModelRef struct {
	Digest  Digest             `json:"digest"`
	Prefix  string             `json:"prefix"`
	Base    string             `json:"base,omitempty"`
	Commit  string             `json:"commit,omitempty"` // of Base, where it came from a hub
	Metrics map[string]float64 `json:"metrics,omitempty"`
}

// Identity is the model's identity when Precept serves it.
func (m ModelRef) Identity() ModelIdentity { return ModelIdentity(m.Digest) }

// The kinds of a task's output.
const (
	OutputGenerated   = "generated"
	OutputLabels      = "labels"  // of imported prompts
	OutputMatches     = "matches" // of generated prompts, held against what they were asked to be
	OutputChecks      = "checks"  // of labelled prompts, for comparison
	OutputPrompts     = "prompts"
	OutputDev         = "dev" // the prompts that are held out
	OutputCompletions = "completions"
	OutputVerdicts    = "verdicts"
	OutputExamples    = "examples"
	OutputRLPrompts   = "rl-prompts"
	OutputModel       = "model"
	OutputRollouts    = "rollouts"
	OutputGrades      = "grades"
)

// Output is one thing that a task writes: a shard, or a training job's result.
// Category is that of a shard's rows, where they are all of one.
type Output struct {
	Kind     string   `json:"kind"`
	Key      Key      `json:"key"`
	Category Category `json:"category,omitempty"`
	// Bucket numbers the outputs of a category.
	Bucket int `json:"bucket,omitempty"`
}

// Task is one unit of work of a stage: it reads shards and writes outputs whose
// keys are fixed in the plan. Planned is its number of ledger units.
type Task struct {
	Title    string     `json:"title"`
	Category Category   `json:"category,omitempty"`
	Arm      Arm        `json:"arm,omitempty"`
	Suite    string     `json:"suite,omitempty"`
	Step     int        `json:"step,omitempty"` // of the milestone; 0 is what training began with
	Inputs   []ShardRef `json:"inputs,omitempty"`
	Model    *ModelRef  `json:"model,omitempty"`
	// Milestones is how many a training job leaves.
	Milestones int     `json:"milestones,omitempty"`
	Shares     []Share `json:"shares,omitempty"`
	// Quota is how many prompts may be kept, by intent or, under the empty one, in all.
	Quota   map[Intent]int64 `json:"quota,omitempty"`
	Planned int64            `json:"planned"`
	Outputs []Output         `json:"outputs"`
	Lineage json.RawMessage  `json:"lineage"`
}

// Output returns the key of the task's output of a kind.
func (t Task) Output(kind string) (Key, error) {
	for _, o := range t.Outputs {
		if o.Kind == kind {
			return o.Key, nil
		}
	}
	return "", fmt.Errorf("task %q has no output of kind %q", t.Title, kind)
}

// Share is a part of a shard's kept prompts, where a quota draws them in rounds: those
// numbered From to before To among those of an intent, or of all where it is empty. Of
// generated prompts it is the numbers that a task asks for.
type Share struct {
	Intent Intent `json:"intent,omitempty"`
	From   int64  `json:"from"`
	To     int64  `json:"to"`
}

// Plan is the list of a stage's tasks, stored as plans/<run>/<stage>.json.
type Plan struct {
	Run    RunID   `json:"run"`
	From   RunID   `json:"from,omitempty"` // the run that it is taken from
	Stage  Stage   `json:"stage"`
	Spec   RunSpec `json:"spec"`
	Inputs Inputs  `json:"inputs"`
	Tasks  []Task  `json:"tasks"`
}

// PlanRef is what the workflow knows of a plan.
type PlanRef struct {
	Object  string `json:"object"`
	Digest  Digest `json:"digest"`
	Tasks   int    `json:"tasks"`
	Planned int64  `json:"planned"`
}

// TaskResult is what a task tells the workflow.
type TaskResult struct {
	Title string `json:"title"`
	// ByCategory parts the ledger, where the rows are of categories.
	ByCategory Categories `json:"by_category,omitempty"`
	Rows       int64      `json:"rows"`
	Ledger     Ledger     `json:"ledger"`
	Usage      Usage      `json:"usage"`
	Costs      Costs      `json:"costs,omitempty"`
	Found      bool       `json:"found"`           // its outputs were there already
	Notes      []string   `json:"notes,omitempty"` // for people to know
	// Unfinished says why the task returned before its end: it is to be called again.
	Unfinished *Unfinished `json:"unfinished,omitempty"`
}

// Unfinished is why a task returned before its end.
type Unfinished struct {
	Grant bool `json:"grant,omitempty"` // its grant is spent
	// Needs is the least grant with which it could have sent another request.
	Needs   Cost     `json:"needs,omitzero"`
	Pending *Pending `json:"pending,omitempty"`
}

// Pending is that requests wait at a provider, in batches that are under way.
type Pending struct {
	After    Duration `json:"after"` // how long to wait before they are looked at again
	Requests int64    `json:"requests"`
	Answered int64    `json:"answered"`
}

// Add adds o's requests. What is looked at first decides how long to wait.
func (p *Pending) Add(o Pending) {
	if p.Requests == 0 || o.After < p.After {
		p.After = o.After
	}
	p.Requests += o.Requests
	p.Answered += o.Answered
}

// Manifest is the outcome of one stage of one run.
type Manifest struct {
	Run        RunID                 `json:"run"`
	From       RunID                 `json:"from,omitempty"` // the run that it is taken from
	Stage      Stage                 `json:"stage"`
	Spec       Digest                `json:"spec"`
	Plan       PlanRef               `json:"plan"`
	Outputs    map[string][]ShardRef `json:"outputs"`
	Model      *ModelRef             `json:"model,omitempty"`
	Ledger     Ledger                `json:"ledger"`
	ByCategory Categories            `json:"by_category,omitempty"`
	// Partial names the records, of type Partial, of the outputs that rows are missing
	// from.
	Partial []string `json:"partial,omitempty"`
	// Usage is the sum of Spent: what every execution of this stage under this run ID
	// took that came to its end.
	Usage Usage        `json:"usage"`
	Costs Costs        `json:"costs,omitempty"` // by category
	Spent []Spending   `json:"spent"`
	Curve []CurvePoint `json:"curve,omitempty"`
	Check *LabelCheck  `json:"check,omitempty"` // of classify
	// Milestones are those of the training job. Where a stage behind it chooses one, Model
	// of that stage is the choice.
	Milestones []Milestone `json:"milestones,omitempty"`
	Selection  *Selection  `json:"selection,omitempty"`
	Started    time.Time   `json:"started"`
	Finished   time.Time   `json:"finished"`
	Code       string      `json:"code"`
}

// Digest is that of what people judge: the content, not when it was made, or at what cost.
func (m Manifest) Digest() Digest {
	return DigestOf(struct {
		Outputs map[string][]ShardRef
		Model   *ModelRef
	}{m.Outputs, m.Model})
}

// Partial is the record of an output that a run goes on with although rows of it
// failed, stored as runs/<run>/partial/<stage>/<key>.json. Key is the planned one; the
// shard's own names the rows that are missing. When they come in, the whole output is
// written under Key, and the record counts no more.
type Partial struct {
	Task    string      `json:"task"`
	Key     Key         `json:"key"`
	Shard   ShardRef    `json:"shard"`
	Missing []FailedRow `json:"missing"`
}

// FailedRow is a row that failed: asking again may help.
type FailedRow struct {
	PromptID     string `json:"prompt_id"`
	CompletionID string `json:"completion_id,omitempty"`
	Sample       int32  `json:"sample"`
	Reason       Reason `json:"reason"`
	Error        string `json:"error,omitempty"`
}

// Spending is what one execution of a stage took.
type Spending struct {
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Usage    Usage     `json:"usage"`
	Costs    Costs     `json:"costs,omitempty"`
}

// JobResult is the outcome of a training job, stored as jobs/<key>.json.
type JobResult struct {
	Key    Key          `json:"key"`
	Model  ModelRef     `json:"model"`
	Ledger Ledger       `json:"ledger"`
	Curve  []CurvePoint `json:"curve"`
	// Milestones are the weights on the way, by step; Model is the last one.
	Milestones []Milestone `json:"milestones,omitempty"`
}

// Milestone is the weights of a training job as they were after a step, stored as a model
// of its own.
type Milestone struct {
	Step  int      `json:"step"`
	Model ModelRef `json:"model"`
}

// MetricRewardOf begins the name of a category's mean reward in a step.
const MetricRewardOf = "reward/"

// CurvePoint is one logged step of a training job.
type CurvePoint struct {
	Step    int                `json:"step"`
	Metrics map[string]float64 `json:"metrics"`
}

// StageSum is what the workflow carries of a finished stage.
type StageSum struct {
	Stage    Stage   `json:"stage"`
	Manifest string  `json:"manifest"`
	Digest   Digest  `json:"digest"`
	Tasks    int     `json:"tasks"`
	Rows     int64   `json:"rows"`
	Ledger   Ledger  `json:"ledger"`
	Usage    Usage   `json:"usage"`
	Seconds  float64 `json:"seconds"`
	// ByCategory parts the ledger. It is left out where there are more than
	// CarriedCategories; the manifest has it.
	ByCategory Categories `json:"by_category,omitempty"`
	Costs      Costs      `json:"costs,omitempty"` // likewise
	Milestones int        `json:"milestones,omitempty"`
	// Note is what people should know of the outcome.
	Note string `json:"note,omitempty"`
	// Adopted says that the run didn't pass the stage: it began behind it.
	Adopted bool `json:"adopted,omitempty"`
}

// Inputs is what a run reads from outside, copied by digest into the store before
// anything else.
type Inputs struct {
	Policy     Digest     `json:"policy"`
	Categories []Category `json:"categories"`
	Prompts    []Input    `json:"prompts"`
	Suites     []Input    `json:"suites"`
	Dataset    []Input    `json:"dataset,omitempty"`   // of one's own
	Mix        []Input    `json:"mix,omitempty"`       // conversations that are trained on beside the examples; Rows are usable ones
	Simulated  []string   `json:"simulated,omitempty"` // endpoints that are simulations
}

// Input is one imported file.
type Input struct {
	Name   string `json:"name"` // the path as the spec has it, or the suite's name
	Object string `json:"object"`
	Digest Digest `json:"digest"`
	Rows   int64  `json:"rows"`
	Import Import `json:"import"`
	// ByCategory parts the rows of training prompts that are labelled; the Unlabelled ones
	// are to be classified.
	ByCategory map[Category]int64 `json:"by_category,omitempty"`
	Unlabelled int64              `json:"unlabelled,omitempty"`
	// Unusable says which of the rows are rejected as they are.
	Unusable string `json:"unusable,omitempty"`
	// Shard holds a suite's prompts; training prompts are sharded by their stage.
	Shard *ShardRef `json:"shard,omitempty"`
}

// Rows sums the rows of inputs.
func Rows(inputs []Input) (n int64) {
	for _, in := range inputs {
		n += in.Rows
	}
	return n
}

// InputsRef points to the stored Inputs and repeats what the workflow needs.
type InputsRef struct {
	Object     string `json:"object"`
	Digest     Digest `json:"digest"`
	Policy     Digest `json:"policy"`
	Categories int    `json:"categories"`
	PromptRows int64  `json:"prompt_rows"`
	Unlabelled int64  `json:"unlabelled,omitempty"` // prompts to be classified
	Checks     int64  `json:"checks,omitempty"`     // labelled ones that are classified for comparison
	Generated  int64  `json:"generated,omitempty"`  // prompts that the teacher is asked for
	MixRows    int64  `json:"mix_rows,omitempty"`   // that are usable for SFT beside the examples
	// Sampled is the number of evaluation answers that each arm owes.
	Sampled   map[Arm]int64 `json:"sampled"`
	Hosted    []string      `json:"hosted,omitempty"` // endpoints that others serve
	Simulated []string      `json:"simulated,omitempty"`
	Notes     []string      `json:"notes,omitempty"` // for people to know
}
