package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"precept/internal/config"
	"precept/internal/fleet"
	"precept/internal/llm"
	"precept/internal/shard"
	"precept/schemas"
)

// desk is where a command asks models itself: the endpoints of the configuration, and the
// journal that runs use too, so that what was answered once is not paid for again.
type desk struct {
	config  config.Config
	store   shard.Store
	journal *shard.Journal
	clients map[string]*llm.Client
	name    string          // of this process
	members []*fleet.Member // of those whose limits are shared
}

func (a *app) desk(ctx context.Context) (*desk, error) {
	c, err := config.Load(a.config)
	if err != nil {
		return nil, err
	}
	store, err := a.open(ctx, a.config)
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "starter"
	}
	name := fmt.Sprintf("%s-%d", host, os.Getpid())
	journal := shard.OpenJournal(store, shard.JournalOptions{Writer: name, CompactEvery: -1})
	return &desk{config: c, store: store, journal: journal, clients: map[string]*llm.Client{}, name: name}, nil
}

// close gives back what it had of the endpoints' limits, and writes what is not yet in the
// journal, even where the command was interrupted.
func (d *desk) close(ctx context.Context) error {
	fleet.Close(d.members...)
	return d.journal.Close(context.WithoutCancel(ctx))
}

func (d *desk) client(name string) (*llm.Client, error) {
	if c, ok := d.clients[name]; ok {
		return c, nil
	}
	e, ok := d.config.Endpoints[name]
	if !ok {
		return nil, schemas.Errorf("find endpoint", name, schemas.InvalidInput,
			"the configuration has no such endpoint; it has %v", d.config.EndpointNames())
	}
	c, member, err := fleet.Client(d.store, d.name, e, llm.Options{Journal: d.journal})
	if err != nil {
		return nil, err
	}
	d.clients[name], d.members = c, append(d.members, member)
	return c, nil
}

// simulated names the endpoints asked that are simulations.
func (d *desk) simulated() []string {
	return simulatedOf(d.config, slices.Collect(maps.Keys(d.clients)))
}

func simulatedOf(c config.Config, endpoints []string) (names []string) {
	for _, name := range endpoints {
		if c.Endpoints[name].Simulated {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// costLine says what a command's calls came to.
func costLine(u schemas.Usage) string {
	return fmt.Sprintf("Calls: %d paid (%s); %d answered by what was recorded earlier, which costs nothing now\n", u.Paid, schemas.FormatDollars(u.USD), u.Cached)
}
