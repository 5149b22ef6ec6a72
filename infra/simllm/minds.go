package main

import (
	"hash/maphash"
	"strings"
	"sync"

	"precept/infra/simllm/rulebook"
)

// minds keeps what was already thought: policies parsed, requests decided.
// Each of its maps is emptied when it is full.
type minds struct {
	seed     maphash.Seed
	mu       sync.Mutex
	books    map[uint64]*rulebook.Book
	verdicts map[uint64]rulebook.Verdict
}

const (
	maxBooks    = 256
	maxVerdicts = 1 << 14
)

func newMinds() *minds {
	return &minds{seed: maphash.MakeSeed(), books: map[uint64]*rulebook.Book{}, verdicts: map[uint64]rulebook.Verdict{}}
}

// decide decides the last of the user's turns by the policy in system. The
// book is nil when system holds no policy.
func (m *minds) decide(system string, turns []string) (*rulebook.Book, rulebook.Verdict) {
	category, text, ok := rulebook.Find(system)
	if !ok || len(turns) == 0 {
		return nil, rulebook.Verdict{}
	}
	bookKey := maphash.String(m.seed, category+"\x00"+text)
	request, earlier := turns[len(turns)-1], strings.Join(turns[:len(turns)-1], "\n")
	var h maphash.Hash
	h.SetSeed(m.seed)
	maphash.WriteComparable(&h, bookKey)
	h.WriteString(earlier)
	h.WriteByte(0)
	h.WriteString(request)
	key := h.Sum64()

	m.mu.Lock()
	book := m.books[bookKey]
	verdict, known := m.verdicts[key]
	m.mu.Unlock()
	if book == nil {
		book = rulebook.Parse(category, text)
	}
	if !known {
		verdict = book.Decide(request, earlier)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.books) >= maxBooks {
		clear(m.books)
	}
	if len(m.verdicts) >= maxVerdicts {
		clear(m.verdicts)
	}
	m.books[bookKey], m.verdicts[key] = book, verdict
	return book, verdict
}
