package main

import (
	"net/http"
	"slices"
	"sync"
	"time"
)

// second counts the requests that met the limits in one second, and those of them that
// were refused by them.
type second struct {
	At      int64 `json:"at"` // Unix time
	Came    int64 `json:"came"`
	Limited int64 `json:"limited"`
}

// maxSeconds is how far back the seconds go.
const maxSeconds = 3600

// seconds are those in which requests came.
type seconds struct {
	mu  sync.Mutex
	all []second
}

func (s *seconds) count(now time.Time, limited bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.all); n == 0 || s.all[n-1].At < now.Unix() {
		s.all = append(s.all[max(0, n+1-maxSeconds):], second{At: now.Unix()})
	}
	last := &s.all[len(s.all)-1]
	last.Came++
	if limited {
		last.Limited++
	}
}

func (s *seconds) serveGet(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	all := slices.Clone(s.all)
	s.mu.Unlock()
	// A client that went away has no use for the error.
	_ = writeJSON(w, http.StatusOK, map[string]any{"seconds": all})
}
