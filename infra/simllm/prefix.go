package main

import (
	"hash/maphash"
	"sync"
)

const (
	blockChars = 256
	// maxBlocks bounds one generation of the cache; two generations live.
	maxBlocks = 1 << 16
)

// prefixCache simulates a provider's prefix cache: it remembers, by chained
// hashes of 256-character blocks, the beginnings of recent requests.
type prefixCache struct {
	mu         sync.Mutex
	seed       maphash.Seed
	young, old map[uint64]struct{}
}

func newPrefixCache() *prefixCache {
	return &prefixCache{seed: maphash.MakeSeed(), young: map[uint64]struct{}{}}
}

// look returns how many characters of text's beginning a recent request of the
// same model shared, and how to remember text: when the model has read it, which is not
// yet.
func (c *prefixCache) look(model, text string) (shared int, remember func()) {
	var h maphash.Hash
	h.SetSeed(c.seed)
	h.WriteString(model)
	sums := make([]uint64, 0, len(text)/blockChars)
	for at := 0; at+blockChars <= len(text); at += blockChars {
		h.WriteString(text[at : at+blockChars])
		sums = append(sums, h.Sum64())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range sums {
		_, young := c.young[s]
		_, old := c.old[s]
		if !young && !old {
			break
		}
		shared += blockChars
	}
	return shared, func() { c.remember(sums) }
}

func (c *prefixCache) remember(sums []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range sums {
		c.young[s] = struct{}{}
	}
	if len(c.young) >= maxBlocks {
		c.old, c.young = c.young, map[uint64]struct{}{}
	}
}
