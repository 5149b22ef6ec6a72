package hub

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/schemas"
)

const (
	commit = "0123456789abcdef0123456789abcdef01234567"
	token  = "hf_a-secret-of-some-length"
)

// world is a Hub with one data set, whose files lie on another host.
type world struct {
	*httptest.Server
	files *httptest.Server

	mu    sync.Mutex
	asked []string // paths, with whether the token came along
	short bool     // files end early
}

func newWorld(t *testing.T) *world {
	w := &world{}
	note := func(r *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.asked = append(w.asked, fmt.Sprintf("%s %v", r.URL.EscapedPath(), r.Header.Get("Authorization") == "Bearer "+token))
	}
	refuse := func(rw http.ResponseWriter, status int, code string) {
		rw.Header().Set("X-Error-Code", code)
		rw.WriteHeader(status)
	}
	w.files = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		note(r)
		if w.short {
			rw.Header().Set("Content-Length", "1000")
		}
		fmt.Fprint(rw, "the content of "+r.URL.Path)
	}))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/datasets/{owner}/{name}/revision/{revision}", func(rw http.ResponseWriter, r *http.Request) {
		note(r)
		switch name, revision := r.PathValue("name"), r.PathValue("revision"); {
		case name == "gated":
			refuse(rw, http.StatusForbidden, "GatedRepo")
		case name == "busy":
			refuse(rw, http.StatusTooManyRequests, "")
		case name == "broken":
			refuse(rw, http.StatusBadGateway, "")
		case name == "page":
			fmt.Fprint(rw, "<html>")
		case name != "chats":
			refuse(rw, http.StatusUnauthorized, "RepoNotFound")
		case revision != "main" && revision != commit && revision != "refs/convert/parquet":
			refuse(rw, http.StatusNotFound, "RevisionNotFound")
		default:
			fmt.Fprintf(rw, `{"sha":%q,"siblings":[{"rfilename":"README.md"},{"rfilename":"data/b c.parquet"},{"rfilename":"data/a.parquet"},{"rfilename":"data/notes.txt"},{"rfilename":"all.jsonl"}]}`, commit)
		}
	})
	mux.HandleFunc("GET /datasets/ann/chats/resolve/", func(rw http.ResponseWriter, r *http.Request) {
		note(r)
		http.Redirect(rw, r, w.files.URL+"/signed?by=a-signature", http.StatusFound)
	})
	w.Server = httptest.NewServer(mux)
	t.Cleanup(w.Close)
	t.Cleanup(w.files.Close)
	t.Setenv("HF_ENDPOINT", w.URL+"/")
	t.Setenv("HF_TOKEN", token)
	t.Setenv("HF_HUB_OFFLINE", "")
	return w
}

func parse(t *testing.T, path string) schemas.HubPath {
	t.Helper()
	p, err := schemas.ParseHubPath(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFind(t *testing.T) {
	newWorld(t)
	for path, want := range map[string][]string{
		"hf://datasets/ann/chats@main/all.jsonl":                          {"all.jsonl"},
		"hf://datasets/ann/chats@" + commit + "/data/*.parquet":           {"data/a.parquet", "data/b c.parquet"},
		"hf://datasets/ann/chats@refs/convert/parquet/data":               {"data/a.parquet", "data/b c.parquet"},
		"hf://datasets/ann/chats@refs%2Fconvert%2Fparquet/data/a.parquet": {"data/a.parquet"},
	} {
		files, err := FromEnv().Find(t.Context(), parse(t, path))
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		var got []string
		for _, f := range files {
			got = append(got, f.Path)
			if f.Name != "hf://datasets/ann/chats@"+commit+"/"+f.Path {
				t.Errorf("%s is named %s", f.Path, f.Name)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", path, d)
		}
	}
}

// TestFetch: a file is what its commit has, and the token goes to the Hub alone.
func TestFetch(t *testing.T) {
	w := newWorld(t)
	p := parse(t, "hf://datasets/ann/chats@main/data/b c.parquet")
	h := FromEnv()
	files, err := h.Find(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "file")
	if err := h.Fetch(t.Context(), p, files[0], to); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(to); err != nil || string(raw) != "the content of /signed" {
		t.Errorf("got %q, %v", raw, err)
	}
	want := []string{"/api/datasets/ann/chats/revision/main true", "/datasets/ann/chats/resolve/" + commit + "/data/b%20c.parquet true", "/signed false"}
	if d := cmp.Diff(want, w.asked); d != "" {
		t.Errorf("asked, and with the token (-want +got):\n%s", d)
	}
	w.short = true
	if err := h.Fetch(t.Context(), p, files[0], to); schemas.KindOf(err) != schemas.Unavailable || strings.Contains(err.Error(), "a-signature") {
		t.Errorf("a file that ends early: %v", err)
	}
}

func TestErrors(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		path, want string
		kind       schemas.Kind
	}{
		{"hf://datasets/ann/gated@main/a.csv", "Accept its terms", schemas.InvalidInput},
		{"hf://datasets/ann/none@main/a.csv", "private or gated", schemas.InvalidInput},
		{"hf://datasets/ann/chats@v9/a.csv", "no such revision", schemas.InvalidInput},
		{"hf://datasets/ann/chats@main/b.csv", "it has README.md, data/b c.parquet", schemas.InvalidInput},
		{"hf://datasets/ann/busy@main/a.csv", "too many requests", schemas.RateLimited},
		{"hf://datasets/ann/broken@main/a.csv", "HTTP 502", schemas.Unavailable},
		{"hf://datasets/ann/page@main/a.csv", "no description of a data set", schemas.Unavailable},
	} {
		_, err := FromEnv().Find(t.Context(), parse(t, tt.path))
		if schemas.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v, want %s with %q", tt.path, err, tt.kind, tt.want)
		}
	}
	p := parse(t, "hf://datasets/ann/chats@main/all.jsonl")
	// A password in HF_ENDPOINT is in no message.
	for _, away := range []string{"", "/nowhere", " broken"} {
		t.Setenv("HF_ENDPOINT", strings.Replace(w.URL, "//", "//ann:a-password@", 1)+away)
		_, err := FromEnv().Find(t.Context(), parse(t, "hf://datasets/ann/page@main/a.csv"))
		if err == nil || strings.Contains(err.Error(), "a-password") {
			t.Errorf("%s: %v", away, err)
		}
	}
	t.Setenv("HF_ENDPOINT", w.URL)
	w.Close()
	if _, err := FromEnv().Find(t.Context(), p); schemas.KindOf(err) != schemas.Unavailable || !strings.Contains(err.Error(), "HF_ENDPOINT") {
		t.Errorf("no way to the Hub: %v", err)
	}
	t.Setenv("HF_HUB_OFFLINE", "1")
	if _, err := FromEnv().Find(t.Context(), p); schemas.KindOf(err) != schemas.InvalidInput || !strings.Contains(err.Error(), "HF_HUB_OFFLINE") {
		t.Errorf("offline: %v", err)
	}
}
