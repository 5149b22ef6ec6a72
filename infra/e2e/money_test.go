//go:build e2e || bench || chaos

package e2e

import (
	"encoding/json"
	"net/http"

	"precept/schemas"
)

// prices are dollars for a million tokens, which binary fractions don't hold.
var prices = map[string]struct{ input, cached, output float64 }{
	"sim-teacher": {0.15, 0.0375, 0.6},
	"sim-judge":   {0.4, 0.1, 1.6},
}

// billed is what the endpoints have answered, by their own ledger.
func (s *stack) billed() (u schemas.Usage) {
	s.Helper()
	resp, err := http.Get(s.simllm + "/ledger")
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	var ledger struct {
		ByModel map[string]struct {
			Paid             int64 `json:"paid"`
			PromptTokens     int64 `json:"prompt_tokens"`
			CachedTokens     int64 `json:"cached_tokens"`
			CompletionTokens int64 `json:"completion_tokens"`
		} `json:"by_model"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&ledger); err != nil {
		s.Fatal(err)
	}
	for model, c := range ledger.ByModel {
		p := prices[model]
		u.Add(schemas.Usage{
			Paid: c.Paid, PromptTokens: c.PromptTokens, CachedTokens: c.CachedTokens, CompletionTokens: c.CompletionTokens,
			USD: schemas.Dollars((float64(c.PromptTokens-c.CachedTokens)*p.input + float64(c.CachedTokens)*p.cached + float64(c.CompletionTokens)*p.output) / 1e6),
		})
	}
	return u
}

// accounted is what a run tells that it took in all.
func accounted(r schemas.RunReport) schemas.Usage {
	u := r.Probed
	for _, s := range r.Stages {
		u.Add(s.Usage)
	}
	return u
}

// isExact holds that a run's account is the endpoints' ledger.
func (s *stack) isExact(u schemas.Usage) {
	s.Helper()
	ledger := s.billed()
	told := u
	told.Cached, told.Seconds = 0, 0
	if told != ledger {
		s.Errorf("the ledger has %+v, the run tells %+v", ledger, u)
	}
	s.Logf("ledger and account: %d calls, %d prompt tokens (%d cached), %d completion tokens, $%v", u.Paid, u.PromptTokens, u.CachedTokens, u.CompletionTokens, u.USD)
}

// isBounded holds that the endpoints' ledger is no less than a run's account, and no more
// than that and what it tells to be unaccounted.
func (s *stack) isBounded(u schemas.Usage) {
	s.Helper()
	ledger := s.billed()
	if ledger.Paid < u.Paid || ledger.Paid > u.Paid+u.Unanswered || ledger.USD < u.USD || ledger.USD > schemas.Dollars(u.USD+u.UnansweredUSD) {
		s.Errorf("the ledger has %+v, the run tells %+v", ledger, u)
	}
	s.Logf("the ledger has %d calls for $%v; told are %d for $%v, unaccounted at most %d for at most $%v", ledger.Paid, ledger.USD, u.Paid, u.USD, u.Unanswered, u.UnansweredUSD)
}
