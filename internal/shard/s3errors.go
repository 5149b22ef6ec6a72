package shard

import (
	"context"
	"errors"
	"net/http"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"precept/schemas"
)

// codeOf finds the server's error code and HTTP status in an error of the SDK.
func codeOf(err error) (code string, status int) {
	var api smithy.APIError
	if errors.As(err, &api) {
		code = api.ErrorCode()
	}
	var response *smithyhttp.ResponseError
	if errors.As(err, &response) {
		status = response.HTTPStatusCode()
	}
	return code, status
}

// wrapPut is wrap for a write. versitygw takes a folder that it can't make, since its
// disk is full, for an object's key that is a folder.
func (s *S3) wrapPut(ctx context.Context, key string, err error) error {
	if code, _ := codeOf(err); code == "ExistingObjectIsDirectory" && !s.isFolder(ctx, key) {
		return schemas.E("put", key, schemas.Unavailable, err).
			WithHint("The key is no folder: the server's disk may be full. Make room; what waits for it is tried again")
	}
	return s.wrap("put", key, err)
}

// isFolder reports whether objects lie below key.
func (s *S3) isFolder(ctx context.Context, key string) bool {
	for _, err := range s.List(ctx, key+"/") {
		return err == nil
	}
	return false
}

// wrap puts an error of the SDK into Precept's vocabulary; nil stays nil.
func (s *S3) wrap(op, key string, err error) error {
	if err == nil {
		return nil
	}
	e := schemas.E(op, key, schemas.Unavailable, err)
	code, status := codeOf(err)
	switch code {
	case "NoSuchBucket":
		e.Kind = schemas.InvalidInput
		return e.WithHint("Create bucket %q, or name another one", s.config.Bucket)
	case "NoSuchKey", "NotFound":
		e.Kind = schemas.NotFound
		return e
	case "PreconditionFailed":
		e.Kind = schemas.Conflict
		return e
	case "ExpiredToken", "RequestTimeout", "SlowDown", "ServiceUnavailable", "InternalError":
		return e
	case "InsufficientStorage", "QuotaExceeded":
		return e.WithHint("Make room in bucket %q; what waits for it is tried again", s.config.Bucket)
	case "RequestTimeTooSkewed":
		e.Kind = schemas.InvalidInput
		return e.WithHint("Set this machine's clock")
	}
	switch {
	case status == http.StatusNotFound:
		e.Kind = schemas.NotFound
	case status == http.StatusPreconditionFailed:
		e.Kind = schemas.Conflict
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		e.Kind = schemas.InvalidInput
		return e.WithHint("Check the credentials, and that they may read, write, list and delete in bucket %q", s.config.Bucket)
	case status == http.StatusConflict && (code == "ConditionalRequestConflict" || code == "OperationAborted"):
		// Retried already, and still contended.
	case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests:
	case status == http.StatusMovedPermanently:
		e.Kind = schemas.InvalidInput
		return e.WithHint("Set the region of bucket %q", s.config.Bucket)
	case status >= 400 && status < 500:
		e.Kind = schemas.InvalidInput
	}
	return e
}
