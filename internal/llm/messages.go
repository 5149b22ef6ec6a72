package llm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash"
	"hash/crc32"
	"sync"

	"precept/schemas"
)

// encoded remembers the first messages of conversations, encoded and digested: they
// hold the policy, which all prompts of a category share.
var encoded = &firstMessages{byMessage: map[schemas.Message]first{}}

type firstMessages struct {
	mu        sync.RWMutex
	byMessage map[schemas.Message]first
}

// first is how a list of messages begins.
type first struct {
	json   []byte      // "[" and the message
	digest hash.Cloner // of that
	prefix uint32      // tells it from others
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// The cache is for a few long texts. It is emptied when there are many.
const (
	maxFirst     = 64
	worthKeeping = 1 << 10
)

// messages writes messages as canonical JSON, with sorted names and nothing escaped
// for HTML, and digests that. The JSON comes in two parts, since all requests that begin
// alike share the first.
func (f *firstMessages) messages(messages []schemas.Message) (begun first, rest []byte, _ schemas.Digest, err error) {
	if begun, err = f.begin(messages[0]); err != nil {
		return begun, nil, "", err
	}
	for _, m := range messages[1:] {
		raw, err := encodeMessage(m)
		if err != nil {
			return begun, nil, "", err
		}
		rest = append(append(rest, ','), raw...)
	}
	rest = append(rest, ']')
	clone, err := begun.digest.Clone()
	if err != nil {
		return begun, nil, "", err
	}
	clone.Write(rest)
	return begun, rest, schemas.Digest(hex.EncodeToString(clone.Sum(nil))), nil
}

func (f *firstMessages) begin(m schemas.Message) (first, error) {
	f.mu.RLock()
	known, ok := f.byMessage[m]
	f.mu.RUnlock()
	if ok {
		return known, nil
	}
	raw, err := encodeMessage(m)
	if err != nil {
		return first{}, err
	}
	raw = append([]byte("["), raw...)
	sum := sha256.New()
	sum.Write(raw)
	fresh := first{raw, sum.(hash.Cloner), crc32.Checksum(raw, castagnoli)}
	if len(raw) < worthKeeping {
		return fresh, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.byMessage) >= maxFirst {
		clear(f.byMessage)
	}
	f.byMessage[m] = fresh
	return fresh, nil
}

func encodeMessage(m schemas.Message) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(struct {
		Content string `json:"content"`
		Role    string `json:"role"`
	}{m.Content, m.Role})
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}
