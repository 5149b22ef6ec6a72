package shardtest

import (
	"context"
	"iter"
	"sync"
	"time"

	"precept/internal/shard"
)

// Aging is a store in memory whose objects can be made to look older.
type Aging struct {
	*shard.Memory

	mu   sync.Mutex
	ages map[string]time.Duration
}

// NewAging returns an empty Aging.
func NewAging() *Aging {
	return &Aging{Memory: shard.NewMemory(), ages: map[string]time.Duration{}}
}

// Age makes the objects whose keys begin with prefix look older by an age, until they
// are written again.
func (s *Aging) Age(prefix string, age time.Duration) {
	for info := range s.Memory.List(context.Background(), prefix) {
		s.mu.Lock()
		s.ages[info.Key] = age
		s.mu.Unlock()
	}
}

func (s *Aging) aged(info shard.Info) shard.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	info.Modified = info.Modified.Add(-s.ages[info.Key])
	return info
}

// Get implements shard.Store.
func (s *Aging) Get(ctx context.Context, key string) ([]byte, shard.Info, error) {
	body, info, err := s.Memory.Get(ctx, key)
	return body, s.aged(info), err
}

// Head implements shard.Store.
func (s *Aging) Head(ctx context.Context, key string) (shard.Info, error) {
	info, err := s.Memory.Head(ctx, key)
	return s.aged(info), err
}

// Put implements shard.Store.
func (s *Aging) Put(ctx context.Context, key string, body []byte, opts shard.PutOptions) (shard.Info, error) {
	info, err := s.Memory.Put(ctx, key, body, opts)
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.ages, key)
	}
	return info, err
}

// PutFile implements shard.Store.
func (s *Aging) PutFile(ctx context.Context, key, path string, opts shard.PutOptions) (shard.Info, error) {
	info, err := s.Memory.PutFile(ctx, key, path, opts)
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.ages, key)
	}
	return info, err
}

// List implements shard.Store.
func (s *Aging) List(ctx context.Context, prefix string) iter.Seq2[shard.Info, error] {
	return s.ListAfter(ctx, prefix, "")
}

// ListAfter implements shard.Store.
func (s *Aging) ListAfter(ctx context.Context, prefix, after string) iter.Seq2[shard.Info, error] {
	return func(yield func(shard.Info, error) bool) {
		for info, err := range s.Memory.ListAfter(ctx, prefix, after) {
			if !yield(s.aged(info), err) {
				return
			}
		}
	}
}
