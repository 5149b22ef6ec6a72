package schemas

import "fmt"

// Generated is one prompt as the teacher was asked for it: its category and intent are
// those asked for. Round counts how often all combinations of the other columns have been
// gone through, and Index the requests of a category and intent.
type Generated struct {
	Prompt  Prompt        `json:"prompt" parquet:"prompt"`
	Round   int32         `json:"round" parquet:"round"`
	Index   int64         `json:"index" parquet:"index"`
	Style   Style         `json:"style" parquet:"style,dict"`
	Persona string        `json:"persona" parquet:"persona,dict"`
	Form    string        `json:"form" parquet:"form,dict"`
	Length  string        `json:"length" parquet:"length,dict"`
	Seed    string        `json:"seed" parquet:"seed,dict"` // the policy's case that it was shown
	Teacher ModelIdentity `json:"teacher" parquet:"teacher,dict"`
	Request Key           `json:"request" parquet:"request"`
	Reason  Reason        `json:"reason,omitempty" parquet:"reason,dict"`
}

// NoCategory is what a vote or a label says of a prompt that belongs to no category.
const NoCategory Category = "none"

// LabelVote is one judge call's reading of a prompt. Second is empty where the judge sees
// no second category.
type LabelVote struct {
	Category Category `json:"category" parquet:"category,dict"`
	Second   Category `json:"second,omitempty" parquet:"second,dict"`
	Intent   Intent   `json:"intent" parquet:"intent,dict"`
	Why      string   `json:"why" parquet:"why"`
	Request  Key      `json:"request" parquet:"request"`
}

// Label is a prompt that the judge classifies. Category, Second and Intent are what more
// than half of its votes say, and empty where no such many agree; the prompt's own are
// those that the run goes on with. Row numbers an imported prompt in its file.
type Label struct {
	Row      int64         `json:"row" parquet:"row"`
	Prompt   Prompt        `json:"prompt" parquet:"prompt"`
	Category Category      `json:"category" parquet:"category,dict"`
	Second   Category      `json:"second,omitempty" parquet:"second,dict"`
	Intent   Intent        `json:"intent" parquet:"intent,dict"`
	Judge    ModelIdentity `json:"judge" parquet:"judge,dict"`
	Votes    []LabelVote   `json:"votes" parquet:"votes,list"`
	Reason   Reason        `json:"reason,omitempty" parquet:"reason,dict"`
}

// LabelCheck says how often the judge, who doesn't see the labels of labelled prompts,
// classifies them as they are labelled.
type LabelCheck struct {
	Category   LabelFigure                `json:"category"`
	Intent     LabelFigure                `json:"intent"`
	ByCategory map[Category]CategoryCheck `json:"by_category"`
}

// LabelFigure is the agreement on one of the labels: among N prompts, and beyond chance as
// Cohen's kappa. Where no vote could be read, or no majority agrees, the judge doesn't
// agree.
type LabelFigure struct {
	N     int64    `json:"n"`
	Agree int64    `json:"agree"`
	Kappa *float64 `json:"kappa"` // nil where it isn't defined: both give all prompts one label
}

// CategoryCheck parts a LabelCheck: of Labelled prompts of a category, Agree were told to
// be of it; of all prompts checked, Told were.
type CategoryCheck struct {
	Labelled int64 `json:"labelled"`
	Told     int64 `json:"told"`
	Agree    int64 `json:"agree"`
}

// KappaText is Kappa for people.
func (f LabelFigure) KappaText() string {
	if f.Kappa == nil {
		return "kappa not defined"
	}
	return fmt.Sprintf("kappa %.2f", *f.Kappa)
}
