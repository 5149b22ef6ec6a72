package shard

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func TestSegmentRoundTrip(t *testing.T) {
	value := rapid.OneOf(
		rapid.SliceOf(rapid.Byte()),
		rapid.SampledFrom([][]byte{nil, []byte("null"), []byte(`{"a":"<b> & é"}`), []byte(`{ "a": 1 }`), []byte("1\n"), []byte(`"\u2028` + "\u2028\""), []byte("\"\xff\"")}),
	)
	rapid.Check(t, func(t *rapid.T) {
		var want []record
		for _, value := range rapid.SliceOf(value).Draw(t, "values") {
			var r record
			copy(r.key[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"))
			r.value = value
			want = append(want, r)
		}
		body := encodeSegment(want)
		got, err := decodeSegment(body)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Fatalf("%d records, want %d", len(got), len(want))
		}
		for i := range want {
			if got[i].key != want[i].key || !bytes.Equal(got[i].value, want[i].value) {
				t.Fatalf("record %d = %s %q, want %s %q", i, got[i].key, got[i].value, want[i].key, want[i].value)
			}
		}
		if cut := rapid.IntRange(0, len(body)-1).Draw(t, "cut"); len(want) > 0 {
			if got, err := decodeSegment(body[:cut]); err == nil {
				t.Fatalf("a segment cut at %d of %d bytes gives %d records, want an error", cut, len(body), len(got))
			}
		}
	})
}

func FuzzSegment(f *testing.F) {
	text := func(s string) []byte { return segmentEncoder.EncodeAll([]byte(s), nil) }
	f.Add(encodeSegment([]record{{value: []byte(`{"a":1}`)}, {value: []byte{0xff}}}))
	f.Add(text(`{"key":"ff","value":1}` + "\n"))
	f.Add(text(`{"key":`))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		records, err := decodeSegment(body)
		if err != nil {
			return
		}
		again, err := decodeSegment(encodeSegment(records))
		if err != nil || len(again) != len(records) {
			t.Fatalf("%d records become %d, %v", len(records), len(again), err)
		}
	})
}

// FuzzSegmentText fuzzes what is within the compression.
func FuzzSegmentText(f *testing.F) {
	f.Add(`{"key":"ff","value":1}` + "\n")
	f.Add(`{"key":"0000000000000000000000000000000000000000000000000000000000000000","value": {"a": 1}}` + "\n")
	f.Add("\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		records, err := decodeSegment(segmentEncoder.EncodeAll([]byte(text), nil))
		if err != nil {
			return
		}
		again, err := decodeSegment(encodeSegment(records))
		if err != nil || len(again) != len(records) {
			t.Fatalf("%d records become %d, %v", len(records), len(again), err)
		}
		for i := range records {
			if !bytes.Equal(records[i].value, again[i].value) {
				t.Fatalf("value %q becomes %q", records[i].value, again[i].value)
			}
		}
	})
}
