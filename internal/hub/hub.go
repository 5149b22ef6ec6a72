// Package hub fetches files of data sets from the Hugging Face Hub, or from what speaks
// its protocol.
package hub

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"precept/schemas"
)

const op = "fetch from the Hub"

// stall is how long nothing may come before a transfer is taken for dead.
const stall = time.Minute

// Hub is one Hub. Its token goes to its own host alone, and into no message.
type Hub struct {
	endpoint string
	token    string
	offline  bool
	client   *http.Client
}

// FromEnv is the Hub that the environment names, as Hugging Face's own programs read it:
// HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE.
func FromEnv() *Hub {
	off := strings.ToLower(os.Getenv("HF_HUB_OFFLINE"))
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = stall
	return &Hub{
		endpoint: strings.TrimSuffix(cmp.Or(os.Getenv("HF_ENDPOINT"), "https://huggingface.co"), "/"),
		token:    strings.TrimSpace(os.Getenv("HF_TOKEN")),
		offline:  slices.Contains([]string{"1", "true", "yes", "on"}, off),
		client: &http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
			switch first := via[0].URL; {
			case len(via) >= 10:
				return errors.New("too many redirects")
			case first.Scheme == "https" && r.URL.Scheme != "https":
				return errors.New("a redirect leaves https")
			case r.URL.Host != first.Host:
				r.Header.Del("Authorization") // a link that is signed already
			}
			return nil
		}},
	}
}

// File is a file of a data set at a commit.
type File struct {
	Path string // in the repository
	Name string // with repository and commit
	url  string
}

// sibling is a file as the Hub lists it.
type sibling struct {
	Name string `json:"rfilename"`
}

// Find resolves a path to the files that it names at the commit that its revision stands
// for now, in the order of their names. Of a folder they are those in a format of imports.
func (h *Hub) Find(ctx context.Context, p schemas.HubPath) ([]File, error) {
	where := h.endpoint + "/api/datasets/" + p.Repo + "/revision/" + url.PathEscape(p.Revision)
	body, err := h.get(ctx, p, where)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var info struct {
		SHA      string    `json:"sha"`
		Siblings []sibling `json:"siblings"`
	}
	if err := json.NewDecoder(body).Decode(&info); err != nil || info.SHA == "" {
		return nil, schemas.Errorf(op, "datasets/"+p.Repo+"@"+p.Revision, schemas.Unavailable, "the Hub answers no description of a data set").WithHint("Check HF_ENDPOINT.")
	}
	var files []File
	for _, s := range info.Siblings {
		if named(p.Path, s.Name) {
			files = append(files, File{
				Path: s.Name, Name: p.At(info.SHA, s.Name),
				url: h.endpoint + "/datasets/" + p.Repo + "/resolve/" + url.PathEscape(info.SHA) + "/" + (&url.URL{Path: s.Name}).EscapedPath(),
			})
		}
	}
	if len(files) == 0 {
		return nil, schemas.Errorf(op, p.At(info.SHA, p.Path), schemas.InvalidInput, "the data set has no such file; it has %s", some(info.Siblings))
	}
	slices.SortFunc(files, func(x, y File) int { return strings.Compare(x.Path, y.Path) })
	return files, nil
}

// named reports whether a path names a file: as it is, as a pattern, or as its folder.
func named(pattern, name string) bool {
	if name == pattern {
		return true
	}
	if ok, err := path.Match(pattern, name); err == nil && ok {
		return true
	}
	return strings.HasPrefix(name, pattern+"/") && slices.Contains([]string{".jsonl", ".json", ".csv", ".parquet"}, path.Ext(name))
}

// some lists the first few.
func some(all []sibling) string {
	var names []string
	for _, s := range all[:min(len(all), 10)] {
		names = append(names, s.Name)
	}
	list := strings.Join(names, ", ")
	if n := len(all) - len(names); n > 0 {
		list += fmt.Sprintf(" and %d more", n)
	}
	return cmp.Or(list, "none")
}

// Fetch writes a file's content to a path on this machine.
func (h *Hub) Fetch(ctx context.Context, p schemas.HubPath, f File, to string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body, err := h.get(ctx, p, f.url)
	if err != nil {
		return err
	}
	defer body.Close()
	out, err := os.Create(to)
	if err != nil {
		return schemas.E(op, f.Name, schemas.Unavailable, err)
	}
	defer out.Close()
	timer := time.AfterFunc(stall, func() { cancel(fmt.Errorf("nothing came for %s", stall)) })
	defer timer.Stop()
	if _, err := io.Copy(out, alive{body, timer}); err != nil {
		return schemas.E(op, f.Name, schemas.Unavailable, cmp.Or(context.Cause(ctx), bare(err)))
	}
	if err := out.Close(); err != nil {
		return schemas.E(op, f.Name, schemas.Unavailable, err)
	}
	return nil
}

// alive puts a timer off whenever something comes.
type alive struct {
	io.Reader
	timer *time.Timer
}

func (a alive) Read(b []byte) (int, error) {
	n, err := a.Reader.Read(b)
	if n > 0 {
		a.timer.Reset(stall)
	}
	return n, err
}

// get asks for a resource. What is returned is to be closed.
func (h *Hub) get(ctx context.Context, p schemas.HubPath, where string) (io.ReadCloser, error) {
	const away = "Where the worker has no way to the Hub, name a mirror (HF_ENDPOINT), or copy the file to the worker or to S3 and import it from there."
	name := "datasets/" + p.Repo + "@" + p.Revision
	if h.offline {
		return nil, schemas.Errorf(op, name, schemas.InvalidInput, "the worker is to stay offline (HF_HUB_OFFLINE)").WithHint("%s", away)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return nil, schemas.E(op, name, schemas.InvalidInput, bare(err)).WithHint("Check HF_ENDPOINT.")
	}
	if h.token != "" {
		r.Header.Set("Authorization", "Bearer "+h.token)
	}
	resp, err := h.client.Do(r)
	if err != nil {
		return nil, schemas.E(op, name, schemas.Unavailable, bare(err)).WithHint("%s", away)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	resp.Body.Close()
	code := resp.Header.Get("X-Error-Code")
	fail := func(kind schemas.Kind, format string, args ...any) *schemas.Error {
		return schemas.Errorf(op, name, kind, "HTTP %d: "+format, append([]any{resp.StatusCode}, args...)...)
	}
	switch {
	case code == "GatedRepo":
		return nil, fail(schemas.InvalidInput, "the data set is gated").
			WithHint("Accept its terms on its page, and give the worker a token of that account: HF_TOKEN.")
	case code == "RevisionNotFound":
		return nil, fail(schemas.InvalidInput, "it has no such revision").WithHint("Name a commit, a branch or a tag behind the @.")
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden || code == "RepoNotFound":
		// The Hub doesn't tell whether what one may not see is there.
		return nil, fail(schemas.InvalidInput, "there is no such data set, or it is private or gated").
			WithHint("Check its name; for one that needs an account, give the worker its token: HF_TOKEN.")
	case resp.StatusCode == http.StatusNotFound:
		return nil, fail(schemas.InvalidInput, "there is no such thing at %s", r.URL.Redacted())
	case resp.StatusCode == http.StatusTooManyRequests:
		return nil, fail(schemas.RateLimited, "too many requests")
	}
	return nil, fail(schemas.Unavailable, "it can't be had now").WithHint("%s", away)
}

// bare is an error without the URL in it, which may be signed or hold a password.
func bare(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}
