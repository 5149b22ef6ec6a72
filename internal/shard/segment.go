package shard

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"precept/schemas"
)

// A segment is an immutable object of the journal: lines of JSON, compressed.
// `zstd -dc` shows it.
//
//	{"key":"<64 hex digits>","value":{...}}   a value that is compact JSON
//	{"key":"<64 hex digits>","bytes":"..."}   any other, in base64
type record struct {
	key   requestKey
	value []byte
}

// requestKey is a schemas.Key in the 32 bytes that the index holds.
type requestKey [32]byte

func parseRequestKey(key schemas.Key) (k requestKey, err error) {
	if len(key) != 2*len(k) || strings.ToLower(string(key)) != string(key) {
		return k, fmt.Errorf("%q is not a key of 64 hexadecimal digits", key)
	}
	_, err = hex.Decode(k[:], []byte(key))
	return k, err
}

func (k requestKey) String() string { return hex.EncodeToString(k[:]) }

// partition is the part of the journal that k belongs to: its first digit.
func (k requestKey) partition() int { return int(k[0] >> 4) }

type line struct {
	Key   schemas.Key     `json:"key"`
	Value json.RawMessage `json:"value,omitempty"`
	Bytes []byte          `json:"bytes,omitempty"`
}

// maxSegment bounds what a segment may unpack to.
const maxSegment = 256 << 20

// The coders are safe for concurrent use by their EncodeAll and DecodeAll.
var (
	segmentEncoder = must(zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithZeroFrames(true)))
	segmentDecoder = must(zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(maxSegment)))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // constant options
	}
	return v
}

func encodeSegment(records []record) []byte {
	var out bytes.Buffer
	for _, r := range records {
		// Written by hand: encoding/json would reformat the value.
		fmt.Fprintf(&out, `{"key":"%s",`, r.key)
		if isCompactJSON(r.value) {
			fmt.Fprintf(&out, `"value":%s}`+"\n", r.value)
		} else {
			quoted, _ := json.Marshal(r.value)
			fmt.Fprintf(&out, `"bytes":%s}`+"\n", quoted)
		}
	}
	return segmentEncoder.EncodeAll(out.Bytes(), nil)
}

func isCompactJSON(value []byte) bool {
	var compact bytes.Buffer
	return json.Compact(&compact, value) == nil && bytes.Equal(compact.Bytes(), value)
}

// decodeSegment reads a segment whole, or fails.
func decodeSegment(body []byte) ([]record, error) {
	if len(body) == 0 {
		return nil, io.ErrUnexpectedEOF // for the decoder it is an empty text
	}
	text, err := segmentDecoder.DecodeAll(body, nil)
	if err != nil {
		return nil, err
	}
	var records []record
	for len(text) > 0 {
		raw, rest, ok := bytes.Cut(text, []byte("\n"))
		if !ok {
			return nil, fmt.Errorf("line %d is not complete", len(records)+1)
		}
		text = rest
		if r, ok := ownLine(raw); ok {
			records = append(records, r)
			continue
		}
		var l line
		if err := json.Unmarshal(raw, &l); err != nil {
			return nil, fmt.Errorf("line %d: %w", len(records)+1, err)
		}
		key, err := parseRequestKey(l.Key)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", len(records)+1, err)
		}
		value := l.Bytes
		if l.Value != nil {
			value = slices.Clone(l.Value)
		}
		records = append(records, record{key, value})
	}
	return records, nil
}

// ownLine reads a line as encodeSegment writes it for a JSON value, which nearly all
// are, without taking it apart.
func ownLine(raw []byte) (r record, ok bool) {
	const before, between = `{"key":"`, `","value":`
	rest, ok := bytes.CutPrefix(raw, []byte(before))
	if !ok || len(rest) < 64+len(between)+1 {
		return r, false
	}
	key, rest := rest[:64], rest[64:]
	value, ok := bytes.CutPrefix(rest, []byte(between))
	if !ok || len(value) == 0 || value[len(value)-1] != '}' {
		return r, false
	}
	value = value[:len(value)-1]
	k, err := parseRequestKey(schemas.Key(key))
	return record{k, value}, err == nil && json.Valid(value)
}
