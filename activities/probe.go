package activities

import (
	"cmp"
	"context"

	"go.temporal.io/sdk/temporal"

	"precept/internal/llm"
	"precept/schemas"
)

// ProbeRequest asks whether an endpoint that was refused answers again.
type ProbeRequest struct {
	Spec     schemas.RunSpec `json:"spec"`
	Endpoint string          `json:"endpoint"`
	// Or are others, of which any one's answer will do.
	Or []string `json:"or,omitempty"`
}

// Probe asks an endpoint for a word, as the run asks it, and tells what that took; and where
// it doesn't answer, others in its place. It fails as long as there is no answer, and may be
// tried again then.
func (a *Activities) Probe(ctx context.Context, req ProbeRequest) (usage schemas.Usage, err error) {
	beat := startBeat(ctx)
	defer beat.stop()
	var first error
	for _, name := range append([]string{req.Endpoint}, req.Or...) {
		if usage, err = a.probe(ctx, req.Spec, name); err == nil || ctx.Err() != nil {
			return usage, err
		}
		first = cmp.Or(first, err)
	}
	return usage, first
}

func (a *Activities) probe(ctx context.Context, spec schemas.RunSpec, name string) (schemas.Usage, error) {
	client, err := a.client(name)
	if err != nil {
		return schemas.Usage{}, fail(err)
	}
	var asks llm.Request
	for _, r := range a.usedEndpoints(spec) {
		if r.name == name {
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
