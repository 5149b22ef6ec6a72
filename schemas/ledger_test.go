package schemas

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestLedgerAddsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		reasons := rapid.SliceOf(rapid.SampledFrom([]Reason{"", ReasonRefused, ReasonTruncated, ReasonCheck})).Draw(t, "reasons")
		cut := rapid.IntRange(0, len(reasons)).Draw(t, "cut")
		var whole, first, second Ledger
		for i, r := range reasons {
			whole.Count(r)
			if i < cut {
				first.Count(r)
			} else {
				second.Count(r)
			}
		}
		first.Add(second)
		if d := cmp.Diff(whole, first); d != "" {
			t.Fatalf("parts differ from the whole:\n%s", d)
		}
		if err := whole.Check(int64(len(reasons))); err != nil {
			t.Fatal(err)
		}
		if err := whole.Check(int64(len(reasons)) + 1); err == nil {
			t.Fatal("a missing unit goes unnoticed")
		}
	})
}

// TestChecksAreNoRejections: what is classified for comparison alone is counted apart.
func TestChecksAreNoRejections(t *testing.T) {
	var l Ledger
	for _, r := range []Reason{"", ReasonCheck, ReasonCheck, ReasonRefused} {
		l.Count(r)
	}
	if d := cmp.Diff(Ledger{Kept: 1, Checked: 2, Rejected: map[Reason]int64{ReasonRefused: 1}}, l); d != "" {
		t.Error(d)
	}
	if got := l.String(); got != "kept 1, checked 2, refused 1" {
		t.Errorf("it reads %q", got)
	}
}

func TestCanonicalJSON(t *testing.T) {
	type a struct {
		Z int    `json:"z"`
		A string `json:"a"`
	}
	got, err := CanonicalJSON(a{Z: 1, A: "<&>"})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"a":"<&>","z":1}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if DigestOf(a{1, "x"}) != DigestOf(map[string]any{"a": "x", "z": 1}) {
		t.Error("equal JSON has two digests")
	}
}

// TestCanonicalGeneric encodes generic values as they are and as a struct's field, which
// takes the long way.
func TestCanonicalGeneric(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"<&>", "\u2028", "\xff", "a\x00\x7f", "é"}))
	leaf := rapid.OneOf(
		rapid.Just[any](nil), text.AsAny(), rapid.Bool().AsAny(), rapid.Int().AsAny(), rapid.Int64().AsAny(), rapid.Float64().AsAny(),
		rapid.Map(text, func(s string) any { return Digest(s) }), rapid.Map(text, func(s string) any { return ModelIdentity(s) }),
		rapid.Just[any](struct{ B, A int }{1, 2}), rapid.Just[any](json.Number("1.0")), rapid.Just[any](json.RawMessage(`{"b": 1, "a": 2}`)),
	)
	value := rapid.Deferred(func() *rapid.Generator[any] { return leaf })
	for range 3 {
		inner := value
		value = rapid.OneOf(leaf, rapid.SliceOfN(inner, 0, 4).AsAny(), rapid.MapOfN(text, inner, 0, 4).AsAny())
	}
	rapid.Check(t, func(t *rapid.T) {
		v := value.Draw(t, "value")
		got, err := CanonicalJSON(v)
		if err != nil {
			t.Fatal(err)
		}
		long, err := CanonicalJSON(struct{ V any }{v})
		if err != nil {
			t.Fatal(err)
		}
		if want := string(long[len(`{"V":`) : len(long)-1]); string(got) != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	})
}

func TestRunKey(t *testing.T) {
	for run, want := range map[RunID]string{
		"quickstart": "quickstart", "a/b": "a%2Fb", "..": "%2E%2E", "x y": "x%20y",
	} {
		if got := RunKey(run); got != want {
			t.Errorf("RunKey(%q) = %q, want %q", run, got, want)
		}
	}
}
