package shard_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"precept/internal/shard"
	"precept/schemas"
)

// TestRefusedPut holds what kind of error a server's refusal of a write is.
func TestRefusedPut(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "precept")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "precept-secret")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	tests := []struct {
		name   string
		status int
		code   string
		below  string // an object that lies below the key
		want   schemas.Kind
		hint   string
	}{
		{"full disk", 507, "InsufficientStorage", "", schemas.Unavailable, "Make room"},
		{"full disk, no room for attributes", 500, "InternalError", "", schemas.Unavailable, ""},
		{"full disk, no room for the folder", 409, "ExistingObjectIsDirectory", "", schemas.Unavailable, "disk may be full"},
		{"the key is a folder", 409, "ExistingObjectIsDirectory", "a/b/c.json", schemas.InvalidInput, ""},
		{"spent quota", 403, "QuotaExceeded", "", schemas.Unavailable, "Make room"},
		{"no access", 403, "AccessDenied", "", schemas.InvalidInput, "Check the credentials"},
		{"too fast", 503, "SlowDown", "", schemas.Unavailable, ""},
		{"it exists", 412, "PreconditionFailed", "", schemas.Conflict, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/xml")
				if r.Method == http.MethodPut {
					w.WriteHeader(tt.status)
					fmt.Fprintf(w, `<Error><Code>%s</Code></Error>`, tt.code)
					return
				}
				fmt.Fprint(w, `<ListBucketResult>`)
				if prefix := r.URL.Query().Get("prefix"); prefix == "a/b/" && tt.below != "" {
					fmt.Fprintf(w, `<Contents><Key>%s</Key></Contents>`, tt.below)
				}
				fmt.Fprint(w, `</ListBucketResult>`)
			}))
			defer server.Close()
			s, err := shard.NewS3(t.Context(), shard.Config{Bucket: "precept", Endpoint: server.URL, Region: "us-east-1", PathStyle: true})
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Put(t.Context(), "a/b", []byte("x"), shard.PutOptions{})
			if schemas.KindOf(err) != tt.want || !strings.Contains(fmt.Sprint(err), tt.hint) {
				t.Errorf("%v: %v, want %v and %q", schemas.KindOf(err), err, tt.want, tt.hint)
			}
		})
	}
}
