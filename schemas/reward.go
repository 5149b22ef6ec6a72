package schemas

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
)

// RewardTerm is one part of the reward of RL, 0 to 1.
type RewardTerm string

// The terms. Those of the judge are the minimum of its votes' scores.
const (
	TermCompliance  RewardTerm = "compliance"  // the answer does what the policy asks for
	TermHelpfulness RewardTerm = "helpfulness" // it is as helpful as the policy allows
	TermStyle       RewardTerm = "style"       // it follows the principles of style
	// TermFormat is 1 for one closed chain of thought at the start, and an answer behind it
	// that ends within the length; else 0.
	TermFormat RewardTerm = "format"
)

// RewardTerms lists all terms.
var RewardTerms = []RewardTerm{TermCompliance, TermHelpfulness, TermStyle, TermFormat}

// RewardWeights weigh the terms against each other. In JSON they are an object, or a list of
// terms that weigh the same.
type RewardWeights map[RewardTerm]float64

// DefaultRewards weigh as a vote of the reward's judge is folded.
func DefaultRewards() RewardWeights {
	return RewardWeights{TermCompliance: 2, TermHelpfulness: 1, TermStyle: 1}
}

// UnmarshalJSON reads an object or a list.
func (w *RewardWeights) UnmarshalJSON(b []byte) error {
	if !bytes.HasPrefix(bytes.TrimSpace(b), []byte("[")) {
		var weights map[RewardTerm]float64
		if err := json.Unmarshal(b, &weights); err != nil {
			return errors.New(`rewards are weights such as {"compliance":1,"format":0.5}, or a list of terms`)
		}
		*w = weights
		return nil
	}
	var terms []RewardTerm
	if err := json.Unmarshal(b, &terms); err != nil {
		return fmt.Errorf("a list of rewards names terms, of %v", RewardTerms)
	}
	*w = RewardWeights{}
	for _, t := range terms {
		(*w)[t] = 1
	}
	return nil
}

// Normalised are the weights of all terms, which sum up to 1: so the reward lies between 0
// and 1 as its terms do, and 2 to 1 is the same as 4 to 2.
func (w RewardWeights) Normalised() RewardWeights {
	var sum float64
	for _, t := range RewardTerms {
		sum += w[t]
	}
	out := RewardWeights{}
	for _, t := range RewardTerms {
		out[t] = math.Round(w[t]/sum*1e9) / 1e9 // so that the same proportions are the same weights
	}
	return out
}

// Reward is the weighted sum of the terms, absent where a term that weighs something is: a
// part of the sum would pass for a low reward. It is rounded, so that scores that come to
// the same are the same.
func (w RewardWeights) Reward(s RewardScores) *float64 {
	var sum float64
	for _, t := range RewardTerms {
		switch score := s.Of(t); {
		case w[t] == 0:
		case score == nil:
			return nil
		default:
			sum += w[t] * *score
		}
	}
	sum = math.Round(1e9*sum) / 1e9
	return &sum
}

func (w RewardWeights) validate(v *violations, field string) {
	var judged float64
	for _, t := range slices.Sorted(maps.Keys(w)) {
		weight := w[t]
		switch {
		case !slices.Contains(RewardTerms, t):
			v.add(field, "has %q; the terms are %v", t, RewardTerms)
		case weight < 0 || weight > 1e6:
			v.add(field+"."+string(t), "is %v; it must lie between 0 and 1e6", weight)
		case t != TermFormat:
			judged += weight
		}
	}
	if judged == 0 {
		v.add(field, "gives no weight to what the judge says")
	}
}

// RewardScores are a rollout's terms; absent where nobody has given one.
type RewardScores struct {
	Compliance  *float64 `json:"compliance" parquet:"compliance,optional"`
	Helpfulness *float64 `json:"helpfulness" parquet:"helpfulness,optional"`
	Style       *float64 `json:"style" parquet:"style,optional"`
	Format      *float64 `json:"format" parquet:"format,optional"`
}

// Of is the score of a term.
func (s RewardScores) Of(t RewardTerm) *float64 {
	switch t {
	case TermCompliance:
		return s.Compliance
	case TermHelpfulness:
		return s.Helpfulness
	case TermStyle:
		return s.Style
	case TermFormat:
		return s.Format
	}
	return nil
}
