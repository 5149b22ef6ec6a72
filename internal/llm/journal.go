package llm

import (
	"bytes"
	"context"
	"sync"

	"precept/schemas"
)

// Journal keeps answers under their request key.
type Journal interface {
	// Lookup returns what was appended under the key, and whether anything was.
	Lookup(context.Context, schemas.Key) ([]byte, bool, error)
	// Append keeps an answer. It may return before the answer is durable.
	Append(schemas.Key, []byte) error
	// Ready waits until the journal is near enough to durable for another
	// request to be sent.
	Ready(context.Context) error
}

// Memory is a Journal that lives as long as its process. The zero value is empty.
type Memory struct {
	mu      sync.Mutex
	answers map[schemas.Key][]byte
}

// Lookup implements Journal.
func (m *Memory) Lookup(_ context.Context, key schemas.Key) ([]byte, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	raw, ok := m.answers[key]
	return bytes.Clone(raw), ok, nil
}

// Append implements Journal. The first answer under a key stays.
func (m *Memory) Append(key schemas.Key, raw []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.answers == nil {
		m.answers = map[schemas.Key][]byte{}
	}
	if _, ok := m.answers[key]; !ok {
		m.answers[key] = bytes.Clone(raw)
	}
	return nil
}

// Ready implements Journal.
func (m *Memory) Ready(ctx context.Context) error { return ctx.Err() }

// Len is the number of answers.
func (m *Memory) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.answers)
}
