package activities

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sourcegraph/conc/pool"

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

// ServedRequest asks who answers for a run.
type ServedRequest struct {
	Spec   schemas.RunSpec `json:"spec"`
	Policy schemas.Digest  `json:"policy"`
}

// Served asks the hosted models of a run who they are and whether they can do what the run
// asks of them, and tells what has changed since answers were last recorded. An endpoint
// that doesn't answer is only noted: the run may have all its answers already.
func (a *Activities) Served(ctx context.Context, req ServedRequest) (schemas.Served, error) {
	beat := a.looking(ctx, startBeat(ctx), schemas.TellerServed)
	defer beat.stop()
	s, err := a.served(ctx, req, beat.lookout)
	return s, fail(err)
}

func (a *Activities) served(ctx context.Context, req ServedRequest, l *lookout) (s schemas.Served, err error) {
	pol, err := a.policyOf(ctx, req.Policy)
	if err != nil {
		return s, err
	}
	used := slices.DeleteFunc(a.usedEndpoints(req.Spec), func(r role) bool { return !r.hosted() })
	for _, r := range used {
		client, err := a.client(r.name)
		if err != nil {
			return s, err
		}
		l.watch(client)
	}
	fits := make([]fit, len(used))
	p := pool.New().WithErrors().WithFirstError().WithContext(ctx)
	for i, r := range used {
		p.Go(func(ctx context.Context) (err error) {
			fits[i], err = a.fits(ctx, r, pol)
			return err
		})
	}
	if err := p.Wait(); err != nil {
		return s, err
	}
	// One endpoint may play many roles.
	byName := map[string][]fit{}
	for i, f := range fits {
		s.Usage.Add(f.Usage)
		s.Unfit = append(s.Unfit, f.Unfit...)
		s.Notes = append(s.Notes, f.Notes...)
		byName[used[i].name] = append(byName[used[i].name], f)
	}
	for _, r := range used {
		if byName[r.name] == nil {
			continue
		}
		if err := a.compare(ctx, r, byName[r.name], &s); err != nil {
			return s, err
		}
		delete(byName, r.name)
	}
	return s, nil
}

// compare tells whether another model answers at an endpoint than when answers were
// recorded: by its probes, or where those are older, by a word.
func (a *Activities) compare(ctx context.Context, r role, probes []fit, s *schemas.Served) error {
	record, _, err := a.servedBy(ctx, r.endpoint.Identity())
	if err != nil {
		return err
	}
	was, now := record.last(), llm.Served{}
	if was.Model == "" {
		return nil // nothing is recorded yet
	}
	for _, f := range probes {
		switch {
		case f.state == fitSilent:
			return nil // and its notes say so
		case f.state == fitNow:
			now = f.Served
		}
	}
	if now.Model == "" {
		client, err := a.client(r.name)
		if err != nil {
			return err
		}
		answer, meta, err := client.Probe(ctx, r.asks)
		if err != nil {
			s.Notes = append(s.Notes, fmt.Sprintf("endpoint %s did not say which model answers: %v", r.name, err))
			return nil
		}
		s.Usage.Add(llm.Count(answer, meta))
		now = answer.Served()
	}
	switch {
	case now == was || now.Model == "":
	case now.Model == was.Model:
		s.Notes = append(s.Notes, changedModel(r, now, was))
	default:
		s.Changed = append(s.Changed, changedModel(r, now, was))
	}
	return nil
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
