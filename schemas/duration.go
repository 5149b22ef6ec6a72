package schemas

import (
	"encoding/json"
	"fmt"
	"time"
)

// Duration is a time.Duration that is a string such as "90m" in JSON.
type Duration time.Duration

// MarshalJSON writes d as time.Duration's string.
func (d Duration) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(d).String())
}

// UnmarshalJSON reads a string that time.ParseDuration understands.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("a duration is a string such as \"90m\", not %s", b)
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("a duration is a string such as \"90m\" or \"1h30m\", not %q", s)
	}
	*d = Duration(v)
	return nil
}
