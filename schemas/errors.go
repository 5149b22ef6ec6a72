package schemas

import (
	"errors"
	"fmt"
	"strings"
)

// Kind classifies an error. The names are stable: they cross process boundaries
// as Temporal application error types.
type Kind string

// The kinds. InvalidInput is never retried.
const (
	InvalidInput    Kind = "InvalidInput"
	NotFound        Kind = "NotFound"
	RateLimited     Kind = "RateLimited"
	Unavailable     Kind = "Unavailable"
	BudgetExceeded  Kind = "BudgetExceeded"
	ContentRejected Kind = "ContentRejected"
	Conflict        Kind = "Conflict"
	Internal        Kind = "Internal"
)

// Error says which operation failed on which thing, and why. Its message ends
// with what to do next where that is known (Hint).
type Error struct {
	Op    string
	Thing string
	Kind  Kind
	Err   error
	Hint  string
}

// E makes an Error. A nil err is allowed: then op, thing and kind say it all.
func E(op, thing string, kind Kind, err error) *Error {
	return &Error{Op: op, Thing: thing, Kind: kind, Err: err}
}

// Errorf makes an Error from a format.
func Errorf(op, thing string, kind Kind, format string, args ...any) *Error {
	return E(op, thing, kind, fmt.Errorf(format, args...))
}

// WithHint returns a copy of e that tells what to do next.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Thing != "" {
		fmt.Fprintf(&b, " %s", e.Thing)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	} else {
		fmt.Fprintf(&b, ": %s", e.Kind)
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, ". %s", e.Hint)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the outermost Error in err's chain, Internal for
// any other error and "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// Retryable reports whether trying again later may help.
func (k Kind) Retryable() bool {
	switch k {
	case RateLimited, Unavailable, Internal, Conflict:
		return true
	}
	return false
}
