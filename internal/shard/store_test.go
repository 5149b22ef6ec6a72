package shard_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"precept/internal/shard"
	"precept/internal/shard/shardtest"
	"precept/schemas"
)

func TestMemory(t *testing.T) { shardtest.Store(t, shard.NewMemory()) }

func TestS3(t *testing.T) {
	s := shardtest.S3(t)
	shardtest.Store(t, s)

	if err := s.CreateBucket(t.Context()); err != nil {
		t.Errorf("CreateBucket of an existing one: %v", err)
	}
	config := s.Config()
	config.Bucket = "missing"
	missing, err := shard.NewS3(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	_, err = missing.Put(t.Context(), "a.json", nil, shard.PutOptions{})
	if schemas.KindOf(err) != schemas.InvalidInput || !strings.Contains(err.Error(), `Create bucket "missing"`) {
		t.Errorf("Put into no bucket: %v", err)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	denied, err := shard.NewS3(t.Context(), s.Config())
	if err != nil {
		t.Fatal(err)
	}
	_, err = denied.Put(t.Context(), "a.json", nil, shard.PutOptions{})
	if schemas.KindOf(err) != schemas.InvalidInput || !strings.Contains(err.Error(), "Check the credentials") {
		t.Errorf("Put with a wrong secret: %v", err)
	}
}

// TestS3Errors checks the kinds of errors that a well server doesn't give.
func TestS3Errors(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "a")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "b")
	t.Setenv("AWS_MAX_ATTEMPTS", "2")
	open := func(t *testing.T, endpoint string) *shard.S3 {
		s, err := shard.NewS3(t.Context(), shard.Config{Bucket: "b", Endpoint: endpoint, PathStyle: true})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	tests := []struct {
		name    string
		replies []string // status line and code, the last one for ever
		want    schemas.Kind
	}{
		{"contended write is tried again", []string{"409 ConditionalRequestConflict", "200 "}, ""},
		{"slow down is tried again", []string{"503 SlowDown", "200 "}, ""},
		{"slow down for ever", []string{"503 SlowDown"}, schemas.Unavailable},
		{"internal error for ever", []string{"500 InternalError"}, schemas.Unavailable},
		{"too large", []string{"400 EntityTooLarge"}, schemas.InvalidInput},
		{"no access", []string{"403 AccessDenied"}, schemas.InvalidInput},
		{"exists", []string{"412 PreconditionFailed"}, schemas.Conflict},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var calls atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				i := min(int(calls.Add(1)), len(test.replies)) - 1
				status, code, _ := strings.Cut(test.replies[i], " ")
				w.WriteHeader(map[string]int{"200": 200, "400": 400, "403": 403, "409": 409, "412": 412, "500": 500, "503": 503}[status])
				if code != "" {
					w.Write([]byte("<Error><Code>" + code + "</Code></Error>"))
				}
			}))
			defer server.Close()
			_, err := open(t, server.URL).Put(t.Context(), "a.json", []byte("x"), shard.PutOptions{})
			if got := schemas.KindOf(err); got != test.want {
				t.Errorf("Put: %v, want kind %q", err, test.want)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		if _, err := open(t, "http://"+l.Addr().String()).Head(t.Context(), "a.json"); schemas.KindOf(err) != schemas.Unavailable {
			t.Errorf("Head: %v, want Unavailable", err)
		}
	})
	t.Run("no bucket named", func(t *testing.T) {
		if _, err := shard.NewS3(t.Context(), shard.Config{}); schemas.KindOf(err) != schemas.InvalidInput {
			t.Errorf("NewS3: %v, want InvalidInput", err)
		}
	})
}
