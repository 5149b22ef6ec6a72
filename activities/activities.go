package activities

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing/fstest"
	"time"

	"go.temporal.io/sdk/temporal"

	"precept/internal/config"
	"precept/internal/fleet"
	"precept/internal/llm"
	"precept/internal/policy"
	"precept/internal/reward"
	"precept/internal/shard"
	"precept/schemas"
)

// Activities holds what all activities of a worker share. Its exported methods
// are the activities; workflows name them by a nil pointer of this type.
type Activities struct {
	config  config.Config
	store   shard.Store
	journal *shard.Journal
	holder  string        // names this process in leases
	ttl     time.Duration // bounds how long a dead worker keeps others from its task
	offline bool          // models answer from the journal alone
	tell    func(context.Context, schemas.OutagesTold) error

	mu       sync.Mutex
	clients  map[string]*llm.Client
	members  []*fleet.Member // of those whose limits are shared
	plans    map[schemas.Digest]*schemas.Plan
	policies map[schemas.Digest]*policy.Policy
	bases    map[string]schemas.ModelRef // weights that are known already
	recorded sync.Map                    // what was last stored of who answers, by model identity
	listed   sync.Map                    // the batches that were last listed, by endpoint
}

// New returns the activities of a worker named holder.
func New(c config.Config, store shard.Store, journal *shard.Journal, holder string) *Activities {
	return &Activities{
		config: c, store: store, journal: journal, holder: holder, ttl: leaseTTL, tell: signalRun,
		clients:  map[string]*llm.Client{},
		plans:    map[schemas.Digest]*schemas.Plan{},
		policies: map[schemas.Digest]*policy.Policy{},
	}
}

// endpoint returns the configuration of an endpoint.
func (a *Activities) endpoint(name string) (llm.Endpoint, error) {
	e, ok := a.config.Endpoints[name]
	if !ok {
		return llm.Endpoint{}, schemas.Errorf("find endpoint", name, schemas.InvalidInput,
			"the worker's configuration has no such endpoint; it has %v", a.config.EndpointNames())
	}
	return e, nil
}

// client returns the process's client of an endpoint; all tasks share it and its
// limits.
func (a *Activities) client(name string) (*llm.Client, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c, ok := a.clients[name]; ok {
		return c, nil
	}
	e, err := a.endpoint(name)
	if err != nil {
		return nil, err
	}
	c, member, err := fleet.Client(a.store, a.holder, e, llm.Options{Journal: a.journal, Offline: a.offline})
	if err != nil {
		return nil, err
	}
	a.members = append(a.members, member)
	a.clients[name] = c
	return c, nil
}

// Close gives the worker's shares of the endpoints' limits back; where there are limits,
// nothing is sent after it. It is no method, since those are activities.
func Close(a *Activities) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fleet.Close(a.members...)
}

// policyOf returns a stored policy.
func (a *Activities) policyOf(ctx context.Context, digest schemas.Digest) (*policy.Policy, error) {
	a.mu.Lock()
	p := a.policies[digest]
	a.mu.Unlock()
	if p != nil {
		return p, nil
	}
	files := fstest.MapFS{}
	prefix := schemas.PolicyPrefix(digest) + "/"
	for info, err := range a.store.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		raw, _, err := a.store.Get(ctx, info.Key)
		if err != nil {
			return nil, err
		}
		files[info.Key[len(prefix):]] = &fstest.MapFile{Data: raw}
	}
	p, err := policy.Load(files)
	if err != nil {
		return nil, err
	}
	if p.Digest() != digest {
		return nil, schemas.Errorf("read policy", digest.Short(), schemas.Internal, "its stored files have digest %s", p.Digest().Short())
	}
	a.mu.Lock()
	a.policies[digest] = p
	a.mu.Unlock()
	return p, nil
}

// fail gives an error the type that workflows and people see.
func fail(err error, details ...any) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		return err
	}
	if llm.IsAccount(err) && len(details) == 0 {
		details = []any{schemas.TaskFailure{Account: true, Endpoint: llm.AskedBy(err)}}
	}
	kind := schemas.KindOf(err)
	return temporal.NewApplicationErrorWithOptions(err.Error(), string(kind), temporal.ApplicationErrorOptions{
		NonRetryable:   kind == schemas.InvalidInput || kind == schemas.BudgetExceeded || llm.IsAccount(err) || errors.As(err, new(*givenUpError)) || errors.As(err, new(*reward.MissingError)),
		NextRetryDelay: llm.RetryAfter(err),
		Details:        details,
	})
}

// lineage is what a key is made of. Its JSON stands in the shard.
type lineage struct {
	Stage   schemas.Stage    `json:"stage"`
	Kind    string           `json:"kind"`
	Version any              `json:"version"`
	Inputs  []schemas.Digest `json:"inputs"`
	Params  map[string]any   `json:"params"`
	Policy  schemas.Digest   `json:"policy,omitempty"`
	Models  []model          `json:"models,omitempty"`
}

// model is a model that rows follow from: its weights, and what its endpoint's
// configuration adds to every request.
type model struct {
	Identity schemas.ModelIdentity `json:"identity"`
	Sent     map[string]any        `json:"sent,omitempty"`
}

func asked(e llm.Endpoint) model { return model{e.Identity(), e.Sent()} }

func weights(m schemas.ModelRef) model { return model{Identity: m.Identity()} }

func (l lineage) key() schemas.Key { return schemas.DigestOf(l) }

func (l lineage) output() schemas.Output { return schemas.Output{Kind: l.Kind, Key: l.key()} }

func (l lineage) of(kind string) lineage { l.Kind = kind; return l }

func digests(refs ...schemas.ShardRef) (out []schemas.Digest) {
	for _, r := range refs {
		out = append(out, r.Digest)
	}
	return out
}

func title(format string, args ...any) string { return fmt.Sprintf(format, args...) }
