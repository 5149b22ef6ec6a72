package report

import (
	"encoding/json"

	"precept/schemas"
)

// Data is everything that the page shows. Only Report is needed; a section
// without data is left out.
type Data struct {
	Report    schemas.RunReport
	SpecJSON  json.RawMessage // the run specification as it was started
	Inputs    schemas.Inputs
	Manifests []schemas.Manifest // in the order of stages
	Decisions []schemas.DecisionRecord
	Samples   []Sample
	Examples  []schemas.Example
}

// Sample is one prompt of a suite with the arms' answers.
type Sample struct {
	Suite   string
	Prompt  schemas.Prompt
	Answers []Answer
}

// Answer is one arm's answer. Grade is nil where there is none.
type Answer struct {
	Completion schemas.Completion
	Grade      *schemas.Grade
}
