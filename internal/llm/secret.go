package llm

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"net/url"
	"strings"
)

// secret is an endpoint's key, which must not be seen in anything that is kept or shown.
// The zero value is no key.
type secret struct {
	forms  []string
	places map[string][]place
}

// place is where a few bytes stand in a form of the key.
type place struct{ form, at int }

const (
	// minSecret is the length from which a key is taken for a secret, and a piece of
	// it for the key. Servers that want no key are often given a word such as "none".
	minSecret = 8
	// grain is how many bytes are compared at first, at every grain-th place of a
	// text: of minSecret bytes in a row some four are.
	grain = 4
)

// newSecret knows the key as it is and as a reply may write it.
func newSecret(key string) secret {
	s := secret{places: map[string][]place{}}
	if len(key) < minSecret {
		return s
	}
	asJSON, _ := json.Marshal(key) // a string can be
	quoted := strings.Trim(string(asJSON), `"`)
	bearer := "Bearer " + key
	for _, form := range []string{
		key, quoted, strings.ReplaceAll(quoted, "/", `\/`), jsonEscaper.Replace(key),
		url.QueryEscape(key), url.PathEscape(key), lowerHex(url.QueryEscape(key)), html.EscapeString(key),
		base64.StdEncoding.EncodeToString([]byte(key)), base64.URLEncoding.EncodeToString([]byte(key)),
		base64.StdEncoding.EncodeToString([]byte(bearer)), base64.URLEncoding.EncodeToString([]byte(bearer)),
	} {
		known := false
		for _, f := range s.forms {
			known = known || f == form
		}
		if known {
			continue
		}
		for at := 0; at+grain <= len(form); at++ {
			s.places[form[at:at+grain]] = append(s.places[form[at:at+grain]], place{len(s.forms), at})
		}
		s.forms = append(s.forms, form)
	}
	return s
}

// jsonEscaper writes what some encoders of JSON escape and Go's doesn't.
var jsonEscaper = strings.NewReplacer("+", `\u002B`, "/", `\/`, "=", `\u003D`, "&", `\u0026`, "<", `\u003C`, ">", `\u003E`, `"`, `\u0022`, "'", `\u0027`, "`", `\u0060`, `\`, `\\`)

// lowerHex writes %2F as %2f.
func lowerHex(escaped string) string {
	out := []byte(escaped)
	for i := range out {
		if (i > 0 && out[i-1] == '%' || i > 1 && out[i-2] == '%') && out[i] >= 'A' && out[i] <= 'F' {
			out[i] += 'a' - 'A'
		}
	}
	return string(out)
}

// hide replaces the key in text, whole or in pieces of minSecret bytes or more: a text
// that was cut may hold its beginning alone.
func (s secret) hide(text string) string {
	if len(s.forms) == 0 {
		return text
	}
	var out strings.Builder
	done := 0
	for at := 0; at+grain <= len(text); {
		from, to := s.around(text, done, at)
		if to-from < minSecret {
			at += grain
			continue
		}
		out.WriteString(text[done:from])
		out.WriteString("[key]")
		done, at = to, to
	}
	if done == 0 {
		return text
	}
	out.WriteString(text[done:])
	return strings.ToValidUTF8(out.String(), "\uFFFD") // a piece may end in the middle of a character
}

// around is the longest piece of the key that stands around at, after done.
func (s secret) around(text string, done, at int) (from, to int) {
	for _, p := range s.places[text[at:at+grain]] {
		form := s.forms[p.form]
		f, i := at, p.at
		for f > done && i > 0 && text[f-1] == form[i-1] {
			f, i = f-1, i-1
		}
		t, i := at+grain, p.at+grain
		for t < len(text) && i < len(form) && text[t] == form[i] {
			t, i = t+1, i+1
		}
		if t-f > to-from {
			from, to = f, t
		}
	}
	return from, to
}
