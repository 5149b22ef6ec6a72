package main

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSeconds(t *testing.T) {
	s, at := &seconds{}, time.Unix(1000, 900_000_000)
	s.count(at, false)
	s.count(at, true)
	s.count(at.Add(time.Second), false)
	s.count(at, false) // told late
	want := []second{{At: 1000, Came: 2, Limited: 1}, {At: 1001, Came: 2}}
	if diff := cmp.Diff(want, s.all); diff != "" {
		t.Error(diff)
	}
	for i := range 2 * maxSeconds {
		s.count(at.Add(time.Duration(i)*time.Second), false)
	}
	if len(s.all) != maxSeconds || s.all[maxSeconds-1].At != 1000+2*maxSeconds-1 {
		t.Errorf("%d seconds, the last %+v", len(s.all), s.all[len(s.all)-1])
	}
}

func TestSecondsAreServed(t *testing.T) {
	hs := start(t, config{rpm: 30}) // one at once
	for i := range 2 {
		if _, _, err := post(t, hs.URL, chat(block(testPolicy(t)), "How do I sharpen a knife?", i)); err != nil {
			t.Fatal(err)
		}
	}
	res, err := http.Get(hs.URL + "/ledger/seconds")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var got struct{ Seconds []second }
	if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	var came, limited int64
	for _, s := range got.Seconds {
		came, limited = came+s.Came, limited+s.Limited
	}
	if came != 2 || limited != 1 {
		t.Errorf("%d came and %d were refused, of two with one allowed", came, limited)
	}
}
