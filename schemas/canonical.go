package schemas

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"
)

// CanonicalJSON encodes v as JSON with sorted object keys, no insignificant
// white space and no HTML escaping, so that equal values give equal bytes.
func CanonicalJSON(v any) ([]byte, error) {
	if !isGeneric(v) {
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("encode canonical JSON: %w", err)
		}
		// Decoding into any and encoding again sorts the keys of structs too.
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		v = nil
		if err := dec.Decode(&v); err != nil {
			return nil, fmt.Errorf("encode canonical JSON: %w", err)
		}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode canonical JSON: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// isGeneric reports whether v is made of maps, lists and plain values alone, which are
// encoded with sorted keys as they are. Request keys are made of such.
func isGeneric(v any) bool {
	switch v := v.(type) {
	case nil, bool, int, int64, float64:
		return true
	case string:
		return utf8.ValidString(v)
	case Digest:
		return utf8.ValidString(string(v))
	case ModelIdentity:
		return utf8.ValidString(string(v))
	case []any:
		return !slices.ContainsFunc(v, func(e any) bool { return !isGeneric(e) })
	case map[string]any:
		for name, e := range v {
			if !utf8.ValidString(name) || !isGeneric(e) {
				return false
			}
		}
		return true
	}
	return false
}

// DigestOf is the SHA-256 of v's canonical JSON. It panics when v can't be
// encoded, which only a programming error can cause: v holds plain data.
func DigestOf(v any) Digest {
	raw, err := CanonicalJSON(v)
	if err != nil {
		panic(err)
	}
	return DigestBytes(raw)
}

// DigestBytes is the SHA-256 of b.
func DigestBytes(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest(hex.EncodeToString(sum[:]))
}
