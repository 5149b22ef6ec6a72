package fleet

import (
	"precept/internal/llm"
	"precept/internal/shard"
)

// Client makes a client that keeps to its share of the endpoint's limits. Close its member
// when it sends no more. One that sends nothing, as those of previews, never joins.
func Client(store shard.Store, worker string, e llm.Endpoint, o llm.Options) (*llm.Client, *Member, error) {
	var c *llm.Client
	m := New(store, e.Name, worker, Options{Demand: func() float64 { return c.Demand() }})
	o.Share = m.Share
	c, err := llm.NewClient(e, o)
	return c, m, err
}
