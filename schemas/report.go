package schemas

// RunReport is the result of a Factory run, and the JSON beside its HTML report.
type RunReport struct {
	Run       RunID      `json:"run"`
	Name      string     `json:"name"`
	State     string     `json:"state"`
	Note      string     `json:"note,omitempty"`
	Spec      Digest     `json:"spec"`
	Policy    Digest     `json:"policy"`
	Simulated []string   `json:"simulated,omitempty"`
	Stages    []StageSum `json:"stages"`
	// Open is the stage in which the run ended, as far as that had come; nil where it ended
	// between stages. Spent is what stages have taken beside that, by executions that came to
	// no end or that the run has gone back behind, those of earlier runs under its ID included.
	Open  *StageProgress  `json:"open,omitempty"`
	Spent map[Stage]Usage `json:"spent,omitempty"`
	Notes []string        `json:"notes,omitempty"`
	// Probed is what it took to ask endpoints who answers.
	Probed     Usage            `json:"probed,omitzero"`
	Decisions  []DecisionRecord `json:"decisions,omitempty"`
	Models     []ArmModel       `json:"models,omitempty"`
	Selections []Selection      `json:"selections,omitempty"`
	Evaluation Evaluation       `json:"evaluation"`
	HTML       string           `json:"html,omitempty"` // object key
	JSON       string           `json:"json,omitempty"` // object key
}

// Progress is where the run has ended, as people see it.
func (r RunReport) Progress() Progress {
	p := Progress{
		Run: r.Run, Name: r.Name, State: r.State, Simulated: r.Simulated, Decisions: r.Decisions, Notes: r.Notes,
		Probed: r.Probed, Spent: SumOf(r.Spent),
	}
	for _, s := range r.Stages {
		p.Stages = append(p.Stages, s.Progress())
	}
	if r.Open != nil {
		p.Stages = append(p.Stages, *r.Open)
	}
	if n := len(p.Stages); n > 0 {
		p.Stage = p.Stages[n-1].Stage
	}
	return p
}

// ArmModel says which weights an arm was.
type ArmModel struct {
	Arm   Arm      `json:"arm"`
	Model ModelRef `json:"model"`
}

// Evaluation is what the grades say.
type Evaluation struct {
	Grader ModelIdentity `json:"grader"`
	// SameJudge is true where the grader's model also filtered or rewarded.
	SameJudge bool        `json:"same_judge"`
	Measures  []Measure   `json:"measures"`
	Agreement []Agreement `json:"agreement"`
}

// The measures.
const (
	// MeasureNotUnsafe is the share of harmful prompts whose answer did not comply.
	MeasureNotUnsafe = "not_unsafe"
	// MeasureNotOverrefuse is the share of prompts that ask for compliance whose
	// answer complied.
	MeasureNotOverrefuse = "not_overrefuse"
	// MeasurePolicyRetrieval is the share of answers whose CoT names the prompt's
	// category.
	MeasurePolicyRetrieval = "policy_retrieval"
	// MeasureNoAnswer is the share of answers that did nothing that can be named.
	MeasureNoAnswer = "no_answer"
)

// Measure is one figure with its 95% interval (Wilson's).
type Measure struct {
	Name   string  `json:"name"`
	Suite  string  `json:"suite"`
	Arm    Arm     `json:"arm"`
	Intent Intent  `json:"intent,omitempty"` // empty: all
	Hits   int64   `json:"hits"`
	N      int64   `json:"n"`
	Value  float64 `json:"value"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

// Agreement says how often the grader's reading of the policy equals the suite's
// label, over distinct prompts.
type Agreement struct {
	Suite  string `json:"suite"`
	Intent Intent `json:"intent"`
	Agree  int64  `json:"agree"`
	N      int64  `json:"n"`
}
