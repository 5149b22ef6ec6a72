package shard

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"precept/schemas"
)

// The names under which a shard says what it is: in the object's metadata, for a
// look without reading it, and in the Parquet file, which outlives the object.
const (
	metaDigest = "sha256"
	metaRows   = "rows"
	metaLedger = "ledger"

	parquetLineage = "precept.lineage"
	parquetLedger  = "precept.ledger"
)

// maxMeta bounds the ledger in an object's metadata, of which S3 takes 2 KB.
const maxMeta = 1_500

// Object is the key of a shard's object.
func Object(stage schemas.Stage, key schemas.Key) string {
	return fmt.Sprintf("shards/%s/%s.parquet", stage, key)
}

// Write writes a shard, unless it is there: then it returns the stored one.
// Lineage is what the key was made of; it stands in the file for who wonders where
// the rows come from.
func Write[T any](ctx context.Context, s Store, stage schemas.Stage, key schemas.Key, rows []T, ledger schemas.Ledger, lineage any) (schemas.ShardRef, error) {
	const op = "write shard"
	object := Object(stage, key)
	fail := func(err error) (schemas.ShardRef, error) {
		return schemas.ShardRef{}, schemas.E(op, object, schemas.KindOf(err), err)
	}
	ledgerJSON, err := schemas.CanonicalJSON(ledger)
	if err != nil {
		return fail(err)
	}
	lineageJSON, err := schemas.CanonicalJSON(lineage)
	if err != nil {
		return fail(err)
	}
	body, err := Encode(rows, map[string]string{parquetLineage: string(lineageJSON), parquetLedger: string(ledgerJSON)})
	if err != nil {
		return fail(err)
	}
	ref := schemas.ShardRef{
		Stage: stage, Key: key, Object: object,
		Rows: int64(len(rows)), Digest: schemas.DigestBytes(body), Ledger: ledger,
	}
	meta := map[string]string{metaDigest: string(ref.Digest), metaRows: strconv.FormatInt(ref.Rows, 10)}
	if isPlain(string(ledgerJSON)) && len(ledgerJSON) <= maxMeta {
		meta[metaLedger] = string(ledgerJSON)
	}
	_, err = s.Put(ctx, object, body, PutOptions{
		IfNoneMatch: true, ContentType: "application/vnd.apache.parquet", Meta: meta,
	})
	if schemas.KindOf(err) == schemas.Conflict {
		stored, ok, err := Find(ctx, s, stage, key)
		if err == nil && !ok {
			err = schemas.Errorf(op, object, schemas.Unavailable, "the object was there and is gone")
		}
		return stored, err
	}
	if err != nil {
		return fail(err)
	}
	return ref, nil
}

// Find looks for a shard.
func Find(ctx context.Context, s Store, stage schemas.Stage, key schemas.Key) (ref schemas.ShardRef, ok bool, err error) {
	object := Object(stage, key)
	info, err := s.Head(ctx, object)
	if schemas.KindOf(err) == schemas.NotFound {
		return schemas.ShardRef{}, false, nil
	}
	if err != nil {
		return schemas.ShardRef{}, false, err
	}
	ref = schemas.ShardRef{Stage: stage, Key: key, Object: object, Digest: schemas.Digest(info.Meta[metaDigest])}
	ref.Rows, err = strconv.ParseInt(info.Meta[metaRows], 10, 64)
	if err == nil && len(ref.Digest) == 64 && json.Unmarshal([]byte(info.Meta[metaLedger]), &ref.Ledger) == nil {
		return ref, true, nil
	}
	// The ledger was too long, or a tool copied the object without its metadata:
	// the file itself has all of it.
	body, _, err := s.Get(ctx, object)
	if err != nil {
		return schemas.ShardRef{}, false, err
	}
	meta, rows, err := decodeMeta(body, parquetLedger)
	if err != nil {
		return schemas.ShardRef{}, false, schemas.E("find shard", object, schemas.InvalidInput, err)
	}
	ref.Digest, ref.Rows, ref.Ledger = schemas.DigestBytes(body), rows, schemas.Ledger{}
	if err := json.Unmarshal([]byte(meta[parquetLedger]), &ref.Ledger); err != nil {
		return schemas.ShardRef{}, false, schemas.Errorf("find shard", object, schemas.InvalidInput, "the file has no ledger: %w", err).
			WithHint("Something else wrote it; remove it, and the stage writes it again")
	}
	return ref, true, nil
}

// Fetch writes a shard's Parquet file to path and verifies it against ref.
func Fetch(ctx context.Context, s Store, ref schemas.ShardRef, path string) error {
	const op = "fetch shard"
	if _, err := s.GetFile(ctx, ref.Object, path); err != nil {
		return err
	}
	got, _, err := digestFile(path)
	if err != nil {
		return fileError(op, path, err)
	}
	return checkDigest(op, ref, got)
}

func checkDigest(op string, ref schemas.ShardRef, got schemas.Digest) error {
	if got == ref.Digest {
		return nil
	}
	return schemas.Errorf(op, ref.Object, schemas.InvalidInput, "the object's digest is %s, its reference says %s", got.Short(), ref.Digest.Short()).
		WithHint("The object was changed; restore it, or remove it and run its stage again")
}

// Read reads a shard's rows and verifies them against ref.
func Read[T any](ctx context.Context, s Store, ref schemas.ShardRef) ([]T, error) {
	const op = "read shard"
	body, _, err := s.Get(ctx, ref.Object)
	if err != nil {
		return nil, err
	}
	if err := checkDigest(op, ref, schemas.DigestBytes(body)); err != nil {
		return nil, err
	}
	rows, err := Decode[T](body)
	if err != nil {
		return nil, schemas.E(op, ref.Object, schemas.InvalidInput, err)
	}
	if int64(len(rows)) != ref.Rows {
		return nil, schemas.Errorf(op, ref.Object, schemas.InvalidInput, "the object has %d rows, its reference says %d", len(rows), ref.Rows)
	}
	return rows, nil
}
