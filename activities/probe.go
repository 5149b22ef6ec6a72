package activities

import (
	"context"

	"go.temporal.io/sdk/temporal"

	"precept/internal/llm"
	"precept/schemas"
)

// ProbeRequest asks whether an endpoint that was refused answers again.
type ProbeRequest struct {
	Spec     schemas.RunSpec `json:"spec"`
	Endpoint string          `json:"endpoint"`
}

// Probe asks an endpoint for a word, as the run asks it, and tells what that took. It fails
// as long as there is no answer, and may be tried again then.
func (a *Activities) Probe(ctx context.Context, req ProbeRequest) (schemas.Usage, error) {
	beat := startBeat(ctx)
	defer beat.stop()
	client, err := a.client(req.Endpoint)
	if err != nil {
		return schemas.Usage{}, fail(err)
	}
	var asks llm.Request
	for _, r := range a.usedEndpoints(req.Spec) {
		if r.name == req.Endpoint {
			asks = r.asks
			break
		}
	}
	answer, meta, err := client.Probe(ctx, asks)
	if err != nil {
		return schemas.Usage{}, temporal.NewApplicationErrorWithOptions(err.Error(), string(schemas.Unavailable), temporal.ApplicationErrorOptions{
			NextRetryDelay: llm.RetryAfter(err),
		})
	}
	return llm.Count(answer, meta), nil
}
