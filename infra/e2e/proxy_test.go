//go:build e2e || chaos

package e2e

import (
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

// proxy stands between workers and a server. It passes on what it gets, but for what
// is disturbed.
type proxy struct {
	url  string
	pass *httputil.ReverseProxy

	mu   sync.Mutex
	now  disturbance
	got  int64 // requests
	hits int64 // of them, those that were disturbed
}

// disturbance is what happens to a share of the requests with a method; without
// methods, to those with any.
type disturbance struct {
	share   float64
	methods []string
	do      func(pass http.Handler, w http.ResponseWriter, r *http.Request)
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	connections := http.DefaultTransport.(*http.Transport).Clone()
	connections.MaxIdleConnsPerHost = 64
	p := &proxy{pass: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host // it is signed
		},
		Transport: connections,
		// Who asks a server that is down sees no answer of its proxy.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}}
	server := httptest.NewServer(p)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	p.url = server.URL
	return p
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.got++
	d := p.now
	hit := rand.Float64() < d.share && (len(d.methods) == 0 || slices.Contains(d.methods, r.Method))
	if hit {
		p.hits++
	}
	p.mu.Unlock()
	if hit {
		d.do(p.pass, w, r)
		return
	}
	p.pass.ServeHTTP(w, r)
}

// disturb begins a disturbance, and ends the one before.
func (p *proxy) disturb(d disturbance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = d
}

// count is how many requests came, and how many of them were disturbed.
func (p *proxy) count() (got, hits int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got, p.hits
}

// answer is a disturbance's reply in place of S3's.
func answer(w http.ResponseWriter, r *http.Request, status int, code, message string) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `<?xml version="1.0" encoding="UTF-8"?>`+"\n<Error><Code>"+code+"</Code><Message>"+message+"</Message></Error>")
}

var (
	// fullDisk answers writes as versitygw 1.8.0 was seen to: on tmpfs, and on ext4 without
	// a free block, 507 InsufficientStorage. On ext4 with one or two blocks left the data
	// fits, but not all that goes with it: 409 ExistingObjectIsDirectory where there is no
	// room for the object's folder, 500 InternalError where there is none for its attributes.
	// In no case was anything of the object to be seen afterwards; reads went on.
	fullDisk = disturbance{share: 1, methods: []string{http.MethodPut, http.MethodPost}, do: func(_ http.Handler, w http.ResponseWriter, r *http.Request) {
		switch rand.IntN(10) {
		case 0:
			answer(w, r, http.StatusConflict, "ExistingObjectIsDirectory", "Existing Object is a directory.")
		case 1:
			answer(w, r, http.StatusInternalServerError, "InternalError", "We encountered an internal error, please try again.")
		default:
			answer(w, r, http.StatusInsufficientStorage, "InsufficientStorage", "No space left on device.")
		}
	}}
	slowDown = disturbance{share: 1. / 3, do: func(_ http.Handler, w http.ResponseWriter, r *http.Request) {
		answer(w, r, http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.")
	}}
	slow = disturbance{share: 1, do: func(pass http.Handler, w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(time.Second + rand.N(2*time.Second)):
			pass.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}}
	// lostReply does what is asked, and hangs up.
	lostReply = disturbance{share: 1. / 3, methods: []string{http.MethodPut, http.MethodPost, http.MethodDelete}, do: func(pass http.Handler, _ http.ResponseWriter, r *http.Request) {
		pass.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}}
)
