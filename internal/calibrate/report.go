package calibrate

import "precept/schemas"

// Report is everything that a calibration tells.
type Report struct {
	File      string         `json:"file"`
	Role      string         `json:"role"`
	Votes     int            `json:"votes"`
	Policy    schemas.Digest `json:"policy"`
	Judge     Rater          `json:"judge"`
	Simulated []string       `json:"simulated,omitempty"`

	Answers    int64 `json:"answers"`
	Lost       int64 `json:"lost"`       // not all of their votes could be read: left out
	Unlabelled int64 `json:"unlabelled"` // left out
	Split      int64 `json:"split"`      // people are of two minds, evenly: left out

	Result     *Result     `json:"result,omitempty"` // absent where nothing is labelled
	Categories []Part      `json:"categories,omitempty"`
	People     []Annotated `json:"people,omitempty"`
	Misjudged  []Row       `json:"misjudged,omitempty"`
	Against    *Against    `json:"against,omitempty"`

	Usage schemas.Usage `json:"usage"`
}

// Otherwise is how many answers are judged otherwise than labelled, of which Misjudged may
// be the furthest only.
func (r Report) Otherwise() int64 {
	if r.Result == nil {
		return 0
	}
	return r.Result.At.Confusion.KeptBad + r.Result.At.Confusion.RejectedGood
}

// Rater is a judge: its endpoint and the weights behind it.
type Rater struct {
	Endpoint string                `json:"endpoint"`
	Identity schemas.ModelIdentity `json:"identity"`
}

// Part is what a judge comes to in one category.
type Part struct {
	Category schemas.Category `json:"category"`
	N        int64            `json:"n"`
	Accuracy Share            `json:"accuracy"`
	Kappa    *Kappa           `json:"kappa"`
}

// Annotated is how two people agree, on the answers that both have labelled: a judge can
// hardly agree with them more than they do with each other.
type Annotated struct {
	A         string    `json:"a"`
	B         string    `json:"b"`
	N         int64     `json:"n"`
	Agreement Agreement `json:"agreement"`
}

// Against is how a judge compares with another one.
type Against struct {
	Judge     Rater     `json:"judge"`
	N         int64     `json:"n"`
	Lost      int64     `json:"lost"` // answers on which one of the two lost a vote
	Agreement Agreement `json:"agreement"`
	Differ    int64     `json:"differ"`         // answers on which their scores differ
	Rows      []Row     `json:"rows,omitempty"` // of those where they differ most
}

// Row is one answer to look at. Label is absent where nobody gave one, Other where no
// other judge was asked. The texts are absent where nobody asked to see them.
type Row struct {
	Number   int              `json:"row"` // in the file, from 1
	Category schemas.Category `json:"category"`
	Label    *float64         `json:"label,omitempty"` // the mean where there are several
	Score    float64          `json:"score"`
	Other    *float64         `json:"other,omitempty"`
	Why      string           `json:"why"` // of the lowest vote
	OtherWhy string           `json:"other_why,omitempty"`
	Prompt   string           `json:"prompt,omitempty"`
	Answer   string           `json:"answer,omitempty"`
}
