package shard_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/internal/shard"
	"precept/internal/shard/shardtest"
	"precept/schemas"
)

func TestShard(t *testing.T) {
	for name, s := range map[string]shard.Store{"memory": shard.NewMemory(), "s3": shardtest.S3(t)} {
		t.Run(name, func(t *testing.T) { testShard(t, s) })
	}
}

func testShard(t *testing.T, s shard.Store) {
	ctx, key := t.Context(), schemas.DigestOf("a key")
	lineage := map[string]any{"stage": "rl", "inputs": []string{"x"}}
	ledger := schemas.Ledger{Planned: 12, Kept: 10}
	ledger.Count(schemas.ReasonNoCoT)
	ledger.Count(schemas.ReasonTruncated)

	if _, ok, err := shard.Find(ctx, s, schemas.StageRL, key); ok || err != nil {
		t.Fatalf("Find of nothing = %v, %v", ok, err)
	}
	ref, err := shard.Write(ctx, s, schemas.StageRL, key, rollouts(10), ledger, lineage)
	if err != nil {
		t.Fatal(err)
	}
	if want := "shards/rl/" + string(key) + ".parquet"; ref.Object != want || ref.Rows != 10 {
		t.Errorf("Write = %+v, want object %s with 10 rows", ref, want)
	}
	found, ok, err := shard.Find(ctx, s, schemas.StageRL, key)
	if err != nil || !ok {
		t.Fatalf("Find = %v, %v", ok, err)
	}
	if diff := cmp.Diff(ref, found); diff != "" {
		t.Errorf("Find (-written +found):\n%s", diff)
	}
	rows, err := shard.Read[schemas.Rollout](ctx, s, found)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(rollouts(10), rows); diff != "" {
		t.Errorf("Read (-want +got):\n%s", diff)
	}

	// Who comes second gets what is there, whatever they made themselves.
	second, err := shard.Write(ctx, s, schemas.StageRL, key, rollouts(3), schemas.Ledger{Planned: 3, Kept: 3}, lineage)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ref, second); diff != "" {
		t.Errorf("second Write (-first +second):\n%s", diff)
	}

	// A copy without metadata is still whole.
	body, _, err := s.Get(ctx, ref.Object)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, ref.Object, body, shard.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	copied, ok, err := shard.Find(ctx, s, schemas.StageRL, key)
	if err != nil || !ok {
		t.Fatalf("Find of a copy = %v, %v", ok, err)
	}
	if diff := cmp.Diff(ref, copied); diff != "" {
		t.Errorf("Find of a copy (-written +found):\n%s", diff)
	}

	lie := ref
	lie.Rows++
	if _, err := shard.Read[schemas.Rollout](ctx, s, lie); schemas.KindOf(err) != schemas.InvalidInput {
		t.Errorf("Read with another number of rows: %v, want InvalidInput", err)
	}
	if _, err := s.Put(ctx, ref.Object, []byte("PAR1"), shard.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := shard.Read[schemas.Rollout](ctx, s, ref); schemas.KindOf(err) != schemas.InvalidInput {
		t.Errorf("Read of changed bytes: %v, want InvalidInput", err)
	}
	if _, _, err := shard.Find(ctx, s, schemas.StageRL, key); schemas.KindOf(err) != schemas.InvalidInput {
		t.Errorf("Find of what is no shard: %v, want InvalidInput", err)
	}
	if _, err := shard.Read[schemas.Rollout](ctx, s, schemas.ShardRef{Object: "shards/rl/none.parquet"}); schemas.KindOf(err) != schemas.NotFound {
		t.Errorf("Read of nothing: %v, want NotFound", err)
	}
}

// TestLongLedger writes a ledger that an object's metadata can't hold.
func TestLongLedger(t *testing.T) {
	ctx, s := t.Context(), shard.NewMemory()
	ledger := schemas.Ledger{Planned: 100, Failed: map[schemas.Reason]int64{}}
	for i := range 100 {
		ledger.Failed[schemas.Reason(fmt.Sprintf("a long reason «number» %d", i))] = 1
	}
	ref, err := shard.Write(ctx, s, schemas.StageRL, "k", rollouts(0), ledger, nil)
	if err != nil {
		t.Fatal(err)
	}
	found, ok, err := shard.Find(ctx, s, schemas.StageRL, "k")
	if err != nil || !ok {
		t.Fatalf("Find = %v, %v", ok, err)
	}
	if diff := cmp.Diff(ref, found); diff != "" {
		t.Errorf("Find (-written +found):\n%s", diff)
	}
}

func TestJSON(t *testing.T) {
	ctx, s := t.Context(), shard.NewMemory()
	want := schemas.Ledger{Planned: 1, Kept: 1}
	if err := shard.PutJSON(ctx, s, "a.json", want, shard.PutOptions{IfNoneMatch: true}); err != nil {
		t.Fatal(err)
	}
	if err := shard.PutJSON(ctx, s, "a.json", want, shard.PutOptions{IfNoneMatch: true}); schemas.KindOf(err) != schemas.Conflict {
		t.Errorf("second PutJSON: %v, want Conflict", err)
	}
	var got schemas.Ledger
	if err := shard.GetJSON(ctx, s, "a.json", &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("GetJSON (-want +got):\n%s", diff)
	}
	if err := shard.GetJSON(ctx, s, "b.json", &got); schemas.KindOf(err) != schemas.NotFound {
		t.Errorf("GetJSON of nothing: %v, want NotFound", err)
	}
	if _, err := s.Put(ctx, "b.json", []byte("{"), shard.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := shard.GetJSON(ctx, s, "b.json", &got); schemas.KindOf(err) != schemas.InvalidInput {
		t.Errorf("GetJSON of what is no JSON: %v, want InvalidInput", err)
	}
}

func ExampleWrite() {
	ctx, store := context.Background(), shard.NewMemory()
	rows := []schemas.Message{{Role: "user", Content: "How do I kill a frozen process?"}}
	key := schemas.DigestOf("everything the rows follow from")

	ref, err := shard.Write(ctx, store, schemas.StagePrompts, key, rows, schemas.Ledger{Planned: 1, Kept: 1}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	read, err := shard.Read[schemas.Message](ctx, store, ref)
	fmt.Println(strings.HasPrefix(ref.Object, "shards/prompts/"), ref.Rows, read[0].Content, err)
	// Output: true 1 How do I kill a frozen process? <nil>
}
