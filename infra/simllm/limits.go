package main

import (
	"net/http"
	"strconv"
	"time"

	"golang.org/x/time/rate"
)

// limits are the requests and tokens a minute that are answered. Two seconds'
// worth may come at once.
type limits struct {
	all []*limit
}

type limit struct {
	what   string // as the headers and errors name it
	minute int
	bucket *rate.Limiter
}

func newLimits(rpm, tpm int) *limits {
	l := &limits{}
	for _, it := range []limit{{what: "Requests", minute: rpm}, {what: "Tokens", minute: tpm}} {
		if it.minute > 0 {
			it.bucket = rate.NewLimiter(rate.Limit(float64(it.minute)/60), max(1, it.minute/30))
			l.all = append(l.all, &it)
		}
	}
	return l
}

// take takes a request with so many tokens from the minute's allowance, or tells
// what is used up and how long to wait for it.
func (l *limits) take(tokens int) (what string, wait time.Duration) {
	now := time.Now()
	var taken []*rate.Reservation
	for _, it := range l.all {
		n := 1
		if it.what == "Tokens" {
			n = min(tokens, it.bucket.Burst())
		}
		r := it.bucket.ReserveN(now, n)
		taken = append(taken, r)
		if d := r.DelayFrom(now); d > wait {
			what, wait = it.what, d
		}
	}
	if wait > 0 {
		for _, r := range taken {
			r.CancelAt(now)
		}
	}
	return what, wait
}

// tell writes the allowance into a reply's header, as OpenAI does.
func (l *limits) tell(h http.Header) {
	for _, it := range l.all {
		left := max(0, it.bucket.Tokens())
		refill := time.Duration((float64(it.bucket.Burst()) - left) / float64(it.bucket.Limit()) * float64(time.Second))
		h.Set("X-Ratelimit-Limit-"+it.what, strconv.Itoa(it.minute))
		h.Set("X-Ratelimit-Remaining-"+it.what, strconv.Itoa(int(left)))
		h.Set("X-Ratelimit-Reset-"+it.what, refill.Round(time.Millisecond).String())
	}
}
