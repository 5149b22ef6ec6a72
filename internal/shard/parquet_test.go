package shard_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"
	"pgregory.net/rapid"

	"precept/internal/shard"
	"precept/schemas"
)

func rollouts(n int) []schemas.Rollout {
	rows := make([]schemas.Rollout, n)
	for i := range rows {
		reward := float64(i%11) / 10
		rows[i] = schemas.Rollout{
			Step: int32(i / 8), Index: int32(i % 8), PromptID: fmt.Sprintf("%024x", i/4),
			Category: "self-harm", Intent: schemas.IntentBorderline, CoT: fmt.Sprintf("thought %d", i), Answer: "«an answer»",
			Votes: []schemas.Vote{{Expected: schemas.ActionComply, Action: schemas.ActionComply, Score: reward, Citation: -1}},
		}
		if i%3 > 0 {
			rows[i].Reward, rows[i].Terms.Compliance = &reward, &reward
		}
	}
	return rows
}

// golden is the digest of fixed rows. When it changes, so do the bytes of every
// shard: raise the number in the stage versions.
const golden = "32dffdff5ffe6093c43a865d5694a613f3c6c16013d0e8f0b5b9101a8180d8e1"

func TestEncodeGolden(t *testing.T) {
	for range 3 {
		b, err := shard.Encode(rollouts(100), map[string]string{"b": "2", "a": "1"})
		if err != nil {
			t.Fatal(err)
		}
		if got := schemas.DigestBytes(b); got != golden {
			t.Fatalf("digest of the golden rows = %s, want %s", got, golden)
		}
	}
}

func TestRowGroups(t *testing.T) {
	b, err := shard.Encode(rollouts(10_001), nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := parquet.OpenFile(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var got []int64
	for _, group := range f.RowGroups() {
		got = append(got, group.NumRows())
	}
	if diff := cmp.Diff([]int64{5000, 5000, 1}, got); diff != "" {
		t.Errorf("row groups (-want +got):\n%s", diff)
	}
	rows, err := shard.Decode[schemas.Rollout](b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(rollouts(10_001), rows); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

// TestRoundTrip writes and reads rows of a deep type. Empty lists come back as
// empty, be they nil or not.
func TestRoundTrip(t *testing.T) {
	message := rapid.Custom(func(t *rapid.T) schemas.Message {
		return schemas.Message{Role: rapid.SampledFrom([]string{"system", "user"}).Draw(t, "role"), Content: rapid.String().Draw(t, "content")}
	})
	prompt := rapid.Custom(func(t *rapid.T) schemas.Prompt {
		return schemas.Prompt{
			ID: rapid.String().Draw(t, "id"), Messages: rapid.SliceOfN(message, 1, 4).Draw(t, "messages"),
			Category: schemas.Category(rapid.String().Draw(t, "category")), Intent: rapid.SampledFrom(schemas.Intents).Draw(t, "intent"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOf(prompt).Draw(t, "rows")
		b, err := shard.Encode(want, nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := shard.Encode(want, nil)
		if err != nil || !bytes.Equal(b, again) {
			t.Fatalf("the same rows give other bytes (%v)", err)
		}
		got, err := shard.Decode[schemas.Prompt](b)
		if err != nil {
			t.Fatal(err)
		}
		if len(want)+len(got) > 0 {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("rows (-want +got):\n%s", diff)
			}
		}
	})
}

func TestDecodeColumns(t *testing.T) {
	type old struct {
		A string `parquet:"a"`
		B int64  `parquet:"b"`
	}
	type narrow struct {
		A string `parquet:"a"`
	}
	type optional struct {
		A string   `parquet:"a"`
		C *float64 `parquet:"c,optional"`
	}
	type group struct {
		C *float64 `parquet:"c,optional"`
	}
	type grouped struct {
		A string `parquet:"a"`
		G group  `parquet:"g"`
	}
	type wide struct {
		A string `parquet:"a"`
		D string `parquet:"d"`
	}
	b, err := shard.Encode([]old{{"x", 1}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := shard.Decode[narrow](b); err != nil || !cmp.Equal(got, []narrow{{"x"}}) {
		t.Errorf("with fewer columns: %v, %v", got, err)
	}
	if got, err := shard.Decode[optional](b); err != nil || !cmp.Equal(got, []optional{{A: "x"}}) {
		t.Errorf("with another optional column: %v, %v", got, err)
	}
	if got, err := shard.Decode[grouped](b); err != nil || !cmp.Equal(got, []grouped{{A: "x"}}) {
		t.Errorf("with a group of optional columns: %v, %v", got, err)
	}
	_, err = shard.Decode[wide](b)
	if schemas.KindOf(err) != schemas.InvalidInput || !strings.Contains(err.Error(), "no column d") {
		t.Errorf("with another column: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	whole, err := shard.Encode(rollouts(20), map[string]string{"a": "1"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte("PAR1PAR1"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := shard.Decode[schemas.Rollout](b); err != nil && schemas.KindOf(err) != schemas.InvalidInput {
			t.Errorf("Decode: %v, want InvalidInput", err)
		}
	})
}
