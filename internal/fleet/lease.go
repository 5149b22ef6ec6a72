package fleet

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/sourcegraph/conc/pool"

	"precept/internal/shard"
	"precept/schemas"
)

// errBuried is what the renewal of a lease ends with that others have removed.
var errBuried = errors.New("the lease was removed")

// state is a lease's content. Its bytes, and so its ETag, never repeat under one key.
type state struct {
	Worker string  `json:"worker"`
	Beat   int64   `json:"beat"`
	TTL    string  `json:"ttl"`
	Demand float64 `json:"demand"`
	Claim  float64 `json:"claim"`
	Buried bool    `json:"buried,omitempty"`
}

// lease is a member's own, and what it knows of the others'. One goroutine uses it.
type lease struct {
	member *Member
	key    string
	etag   string // empty until it is written
	state  state
	claim  float64 // what is claimed in the store for sure
	others map[string]other
}

// other is somebody else's lease.
type other struct {
	state
	etag  string
	since time.Time // when the ETag was first seen
}

func (m *Member) newLease() *lease {
	return &lease{
		member: m, key: schemas.LimitObject(m.endpoint, m.worker+"-"+rand.Text()),
		state: state{Worker: m.worker, TTL: m.ttl().String()},
	}
}

// part is what is dealt to the member.
func (l *lease) part() float64 {
	demands := []float64{l.state.Demand}
	for _, o := range l.others {
		demands = append(demands, o.Demand)
	}
	return part(l.state.Demand, demands)
}

// claimed is what the others keep the member from.
func (l *lease) claimed() (sum float64) {
	for _, o := range l.others {
		sum += o.Claim
	}
	return sum
}

// write claims a part. It fails with errBuried where the lease is gone.
func (l *lease) write(ctx context.Context, claim float64) error {
	l.state.Claim, l.claim = claim, min(l.claim, claim)
	for {
		l.state.Beat++
		body, err := json.Marshal(l.state)
		if err != nil {
			return err
		}
		info, err := l.member.store.Put(ctx, l.key, body, shard.PutOptions{
			IfNoneMatch: l.etag == "", IfMatch: l.etag, ContentType: "application/json",
		})
		kind := schemas.KindOf(err)
		if kind != schemas.Conflict && kind != schemas.NotFound {
			if err == nil {
				l.etag, l.claim = info.ETag, claim
			}
			return err
		}
		body, info, err = l.member.store.Get(ctx, l.key)
		switch {
		case schemas.KindOf(err) == schemas.NotFound, err == nil && read(body).Buried:
			return errBuried
		case err != nil:
			return err
		}
		// An earlier write whose reply was lost: nobody else writes here but to bury.
		l.etag = info.ETag
	}
}

// look reads the others' leases where they have changed, and buries those that have not
// for a lease time.
func (l *lease) look(ctx context.Context) error {
	begun := l.member.options.now()
	var mu sync.Mutex
	others := map[string]other{}
	p := pool.New().WithContext(ctx).WithFirstError().WithMaxGoroutines(8)
	for info, err := range l.member.store.List(ctx, schemas.LimitPrefix(l.member.endpoint)) {
		if err != nil {
			return errors.Join(err, p.Wait())
		}
		if info.Key == l.key {
			continue
		}
		p.Go(func(ctx context.Context) error {
			o, ok, err := l.meet(ctx, info, begun)
			mu.Lock()
			defer mu.Unlock()
			if ok {
				others[info.Key] = o
			}
			return err
		})
	}
	if err := p.Wait(); err != nil {
		return err
	}
	l.others = others
	return nil
}

// meet is what is known of a lease that was listed at or after a time; not ok where it is
// gone.
func (l *lease) meet(ctx context.Context, info shard.Info, listed time.Time) (o other, ok bool, err error) {
	store := l.member.store
	o, known := l.others[info.Key]
	if !known || o.etag != info.ETag {
		body, info, err := store.Get(ctx, info.Key)
		if schemas.KindOf(err) == schemas.NotFound {
			return other{}, false, nil
		}
		o = other{state: read(body), etag: info.ETag, since: l.member.options.now()}
		if err != nil || !o.Buried {
			return o, err == nil, err
		}
	}
	if !o.Buried {
		ttl, _ := time.ParseDuration(o.TTL)
		if listed.Sub(o.since) < max(ttl, l.member.ttl()) {
			return o, true, nil
		}
		o.Buried = true
		body, err := json.Marshal(o.state)
		if err != nil {
			return o, true, err
		}
		_, err = store.Put(ctx, info.Key, body, shard.PutOptions{IfMatch: o.etag, ContentType: "application/json"})
		switch schemas.KindOf(err) {
		case "":
			l.member.options.Log.Warn("a worker's lease on the limits has run out; its share returns", "worker", o.Worker)
		case schemas.Conflict, schemas.NotFound: // renewed, or buried by another
			return l.meet(ctx, shard.Info{Key: info.Key}, listed)
		default:
			return o, true, err
		}
	}
	return o, false, store.Delete(ctx, info.Key)
}

// read reads a lease. One that can't be read may claim all.
func read(body []byte) (s state) {
	if json.Unmarshal(body, &s) != nil || !(s.Claim >= 0 && s.Claim <= 1) || !(s.Demand >= 0 && s.Demand <= 1) {
		return state{Worker: "somebody unknown", Demand: 1, Claim: 1, Buried: s.Buried}
	}
	return s
}
