package activities

import (
	"context"
	"fmt"
	"time"

	"precept/internal/llm"
	"precept/internal/shard"
	"precept/schemas"
)

// servedRecord is what was answering under a model identity, the last one last. Answers are
// kept under the identity, whose revision people set: what the endpoint says itself may
// change all the same, and is to be seen before recorded answers are used beside new ones.
type servedRecord struct {
	Identity schemas.ModelIdentity `json:"identity"`
	By       []servedSince         `json:"by"`
}

type servedSince struct {
	llm.Served
	Since time.Time `json:"since"`
}

func (r servedRecord) last() llm.Served {
	if len(r.By) == 0 {
		return llm.Served{}
	}
	return r.By[len(r.By)-1].Served
}

func servedObject(identity schemas.ModelIdentity) string {
	return fmt.Sprintf("served/%s.json", schemas.DigestOf(identity))
}

// Served asks the hosted models of a run who they are, and tells what has changed since
// answers were last recorded. An endpoint that doesn't answer is only noted: the run may
// have all its answers already.
func (a *Activities) Served(ctx context.Context, spec schemas.RunSpec) (schemas.Served, error) {
	beat := startBeat(ctx)
	defer beat.stop()
	s, err := a.served(ctx, spec)
	return s, fail(err)
}

func (a *Activities) served(ctx context.Context, spec schemas.RunSpec) (s schemas.Served, err error) {
	asked, account := map[string]bool{}, newAccount("")
	defer func() { s.Usage = account.took() }()
	for _, r := range a.usedEndpoints(spec) {
		if asked[r.name] || !r.hosted() {
			continue
		}
		asked[r.name] = true
		client, err := a.client(r.name)
		if err != nil {
			return s, err
		}
		record, _, err := a.servedBy(ctx, client.Endpoint().Identity())
		if err != nil {
			return s, err
		}
		was := record.last()
		if was.Model == "" {
			continue // nothing is recorded yet
		}
		now, err := client.Paying(account).Probe(ctx, r.asks)
		switch {
		case err != nil:
			s.Notes = append(s.Notes, fmt.Sprintf("endpoint %s did not say which model answers: %v", r.name, err))
		case now == was:
		case now.Model == was.Model:
			s.Notes = append(s.Notes, changedModel(r, now, was))
		default:
			s.Changed = append(s.Changed, changedModel(r, now, was))
		}
	}
	return s, nil
}

func changedModel(r role, now, was llm.Served) string {
	return fmt.Sprintf("endpoint %s (%s) answers as %s, and was %s when answers were recorded", r.name, r.endpoint.Identity(), now, was)
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
		if err := a.addServed(ctx, c.Endpoint().Identity(), c.Last()); err != nil {
			return err
		}
	}
	return nil
}

func (a *Activities) addServed(ctx context.Context, identity schemas.ModelIdentity, served llm.Served) error {
	if known, _ := a.recorded.Load(identity); served.Model == "" || known == served {
		return nil
	}
	for {
		record, etag, err := a.servedBy(ctx, identity)
		if err == nil && record.last() != served {
			record.By = append(record.By, servedSince{served, time.Now().UTC()})
			err = shard.PutJSON(ctx, a.store, servedObject(identity), record, shard.PutOptions{IfMatch: etag, IfNoneMatch: etag == ""})
		}
		if schemas.KindOf(err) == schemas.Conflict {
			continue // another worker has added to it
		}
		if err == nil {
			a.recorded.Store(identity, served)
		}
		return err
	}
}
