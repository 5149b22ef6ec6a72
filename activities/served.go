package activities

import (
	"context"
	"fmt"
	"slices"

	"precept/internal/llm"
	"precept/internal/shard"
	"precept/schemas"
)

// servedRecord is what was answering under a model identity so far. Answers are kept under
// the identity, whose revision people set: what the endpoint says itself may change all the
// same, and must be seen before recorded answers are used beside new ones.
type servedRecord struct {
	Identity schemas.ModelIdentity `json:"identity"`
	By       []llm.Served          `json:"by"`
}

func servedObject(identity schemas.ModelIdentity) string {
	return fmt.Sprintf("served/%s.json", schemas.DigestOf(identity))
}

// Served asks the hosted models of a run who they are, and tells what has changed since
// answers were recorded.
func (a *Activities) Served(ctx context.Context, spec schemas.RunSpec) (schemas.Served, error) {
	beat := startBeat(ctx)
	defer beat.stop()
	s, err := a.served(ctx, spec)
	return s, fail(err)
}

func (a *Activities) served(ctx context.Context, spec schemas.RunSpec) (s schemas.Served, err error) {
	for _, name := range hosted(a.usedEndpoints(spec)) {
		client, err := a.client(name)
		if err != nil {
			return s, err
		}
		now, err := client.Probe(ctx)
		if err != nil {
			return s, err
		}
		identity := client.Endpoint().Identity()
		record, _, err := a.servedBy(ctx, identity)
		if err != nil {
			return s, err
		}
		if len(record.By) == 0 || slices.Contains(record.By, now) {
			continue
		}
		change := fmt.Sprintf("endpoint %s (%s) answers as %s, and was %s when answers were recorded", name, identity, now, record.By[len(record.By)-1])
		if slices.ContainsFunc(record.By, func(was llm.Served) bool { return was.Model == now.Model }) {
			s.Notes = append(s.Notes, change)
		} else {
			s.Changed = append(s.Changed, change)
		}
	}
	return s, nil
}

// servedBy reads what was answering under an identity, and the record's ETag.
func (a *Activities) servedBy(ctx context.Context, identity schemas.ModelIdentity) (record servedRecord, etag string, err error) {
	object := servedObject(identity)
	info, err := a.store.Head(ctx, object)
	if schemas.KindOf(err) == schemas.NotFound {
		return servedRecord{Identity: identity}, "", nil
	}
	if err != nil {
		return record, "", err
	}
	return record, info.ETag, shard.GetJSON(ctx, a.store, object, &record)
}

// recordServed adds what endpoints have said to their records.
func (a *Activities) recordServed(ctx context.Context) error {
	a.mu.Lock()
	clients := make([]*llm.Client, 0, len(a.clients))
	for _, c := range a.clients {
		clients = append(clients, c)
	}
	a.mu.Unlock()
	for _, c := range clients {
		for _, served := range c.Seen() {
			if err := a.addServed(ctx, c.Endpoint().Identity(), served); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *Activities) addServed(ctx context.Context, identity schemas.ModelIdentity, served llm.Served) error {
	type known struct {
		identity schemas.ModelIdentity
		served   llm.Served
	}
	k := known{identity, served}
	if _, ok := a.recorded.Load(k); ok {
		return nil
	}
	for {
		record, etag, err := a.servedBy(ctx, identity)
		if err != nil {
			return err
		}
		if !slices.Contains(record.By, served) {
			record.By = append(record.By, served)
			err = shard.PutJSON(ctx, a.store, servedObject(identity), record, shard.PutOptions{IfMatch: etag, IfNoneMatch: etag == ""})
		}
		if schemas.KindOf(err) == schemas.Conflict {
			continue // another worker has added to it
		}
		if err == nil {
			a.recorded.Store(k, true)
		}
		return err
	}
}
