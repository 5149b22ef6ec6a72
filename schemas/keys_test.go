package schemas

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// value draws what JSON can hold.
func value(depth int) *rapid.Generator[any] {
	scalars := rapid.OneOf(
		rapid.Map(rapid.String(), func(s string) any { return s }),
		rapid.Map(rapid.Int64(), func(n int64) any { return n }),
		rapid.Map(rapid.Float64().Filter(func(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }), func(f float64) any { return f }),
		rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		rapid.Just(any(nil)),
	)
	if depth == 0 {
		return scalars
	}
	return rapid.OneOf(scalars,
		rapid.Map(rapid.SliceOfN(rapid.Deferred(func() *rapid.Generator[any] { return value(depth - 1) }), 0, 4), func(v []any) any { return v }),
		rapid.Map(rapid.MapOfN(rapid.String(), rapid.Deferred(func() *rapid.Generator[any] { return value(depth - 1) }), 0, 4), func(v map[string]any) any { return v }),
	)
}

// A key follows from what is in a value, not from how it was written; canonical JSON is
// JSON of the same value, and canonical already.
func TestKeysFollowFromValues(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := value(3).Draw(t, "value")
		canonical, err := CanonicalJSON(v)
		if err != nil {
			t.Fatal(err)
		}
		indented, err := json.MarshalIndent(v, " ", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if again := DigestOf(json.RawMessage(indented)); again != DigestOf(v) {
			t.Errorf("%s has digest %s, written otherwise %s", canonical, DigestOf(v).Short(), again.Short())
		}
		if again, err := CanonicalJSON(json.RawMessage(canonical)); err != nil || string(again) != string(canonical) {
			t.Errorf("%s becomes %s, %v", canonical, again, err)
		}
		w := value(3).Draw(t, "other")
		other, err := CanonicalJSON(w)
		if err != nil {
			t.Fatal(err)
		}
		if (DigestOf(v) == DigestOf(w)) != (string(canonical) == string(other)) {
			t.Errorf("%s and %s: the digests are %s and %s", canonical, other, DigestOf(v), DigestOf(w))
		}
	})
}

// Two runs never share a key of the store, and every key is one that a gateway over files
// can hold.
func TestRunKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := RunID(rapid.StringN(1, 40, -1).Draw(t, "a")), RunID(rapid.StringN(1, 40, -1).Draw(t, "b"))
		if (RunKey(a) == RunKey(b)) != (a == b) {
			t.Errorf("%q and %q have keys %q and %q", a, b, RunKey(a), RunKey(b))
		}
		if strings.ContainsAny(RunKey(a), "/.") || RunKey(a) == "" {
			t.Errorf("%q has key %q", a, RunKey(a))
		}
	})
}

func FuzzDecision(f *testing.F) {
	f.Add([]byte(`{"gate":"dataset","by":"ann"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var d Decision
		if err := json.Unmarshal(b, &d); err != nil {
			return
		}
		raw, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var again Decision
		if err := json.Unmarshal(raw, &again); err != nil || again != d {
			t.Errorf("%+v becomes %+v, %v", d, again, err)
		}
	})
}
