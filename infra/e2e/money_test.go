//go:build e2e || bench || chaos

package e2e

import (
	"encoding/json"
	"net/http"
	"testing"

	"precept/schemas"
)

// prices are dollars for a million tokens, which binary fractions don't hold.
var prices = map[string]map[string]any{
	"sim-teacher": {"input_usd": 0.15, "cached_usd": 0.0375, "output_usd": 0.6},
	"sim-judge":   {"input_usd": 0.4, "cached_usd": 0.1, "output_usd": 1.6},
}

// billOf is what an endpoint has counted, at the configured prices.
func billOf(t *testing.T, url string, endpoints map[string]any) (u schemas.Usage) {
	t.Helper()
	resp, err := http.Get(url + "/ledger")
	if err != nil {
		t.Fatal(err)
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
		t.Fatal(err)
	}
	prices := map[string]map[string]any{}
	for _, e := range endpoints {
		e := e.(map[string]any)
		prices[e["model"].(string)] = e
	}
	for model, l := range ledger.ByModel {
		price := func(name string) float64 { return prices[model][name].(float64) }
		u.Add(schemas.Usage{
			Paid: l.Paid, PromptTokens: l.PromptTokens, CachedTokens: l.CachedTokens, CompletionTokens: l.CompletionTokens,
			USD: schemas.Dollars((float64(l.PromptTokens-l.CachedTokens)*price("input_usd") + float64(l.CachedTokens)*price("cached_usd") + float64(l.CompletionTokens)*price("output_usd")) / 1e6),
		})
	}
	return u
}

// bare is what an endpoint knows of a usage.
func bare(u schemas.Usage) schemas.Usage {
	return schemas.Usage{Paid: u.Paid, PromptTokens: u.PromptTokens, CachedTokens: u.CachedTokens, CompletionTokens: u.CompletionTokens, USD: u.USD}
}

// accounted is what a run tells that it took in all.
func accounted(r schemas.RunReport) schemas.Usage {
	return r.Progress().Usage()
}

// bill is what the simulated endpoints have answered.
func (s *stack) bill() schemas.Usage {
	s.Helper()
	return billOf(s.T, s.simllm, s.config["endpoints"].(map[string]any))
}

// isExact holds that a run's account is the endpoints' ledger.
func (s *stack) isExact(u schemas.Usage) {
	s.Helper()
	if ledger := s.bill(); bare(u) != ledger || u.Unanswered > 0 {
		s.Errorf("the ledger has %+v, the run tells %+v", ledger, u)
	}
	s.Logf("ledger and account: %d calls, %d prompt tokens (%d cached), %d completion tokens, $%v", u.Paid, u.PromptTokens, u.CachedTokens, u.CompletionTokens, u.USD)
}

// isBounded holds that the endpoints' ledger is no less than a run's account, and no more
// than that and what it tells to be unaccounted.
func (s *stack) isBounded(u schemas.Usage) {
	s.Helper()
	ledger := s.bill()
	if ledger.Paid < u.Paid || ledger.Paid > u.Paid+u.Unanswered || ledger.USD < u.USD || ledger.USD > schemas.Dollars(u.USD+u.UnansweredUSD) {
		s.Errorf("the ledger has %+v, the run tells %+v", ledger, u)
	}
	s.Logf("the ledger has %d calls for $%v; told are %d for $%v, unaccounted at most %d for at most $%v", ledger.Paid, ledger.USD, u.Paid, u.USD, u.Unanswered, u.UnansweredUSD)
}
