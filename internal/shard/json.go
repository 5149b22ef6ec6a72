package shard

import (
	"context"
	"encoding/json"

	"precept/schemas"
)

// PutJSON writes v as an object of canonical JSON, so that equal values give
// equal bytes.
func PutJSON(ctx context.Context, s Store, key string, v any, opts PutOptions) error {
	body, err := schemas.CanonicalJSON(v)
	if err != nil {
		return schemas.E("put", key, schemas.InvalidInput, err)
	}
	if opts.ContentType == "" {
		opts.ContentType = "application/json"
	}
	_, err = s.Put(ctx, key, append(body, '\n'), opts)
	return err
}

// GetJSON reads an object of JSON into v.
func GetJSON(ctx context.Context, s Store, key string, v any) error {
	body, _, err := s.Get(ctx, key)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return schemas.E("read", key, schemas.InvalidInput, err)
	}
	return nil
}
