package object

import (
	"errors"
	"fmt"
	"strings"
)

// The kinds of failure that callers tell apart.
var (
	ErrNotFound     = errors.New("no such object")
	ErrExists       = errors.New("object exists")
	ErrPrecondition = errors.New("object was changed by somebody else")
	ErrNoBucket     = errors.New("no such bucket")
	ErrAccess       = errors.New("access denied") // credentials are wrong, expired or not allowed to do this
	ErrInvalid      = errors.New("invalid request")
	ErrUnsupported  = errors.New("the store cannot do this")
	ErrCorrupt      = errors.New("data is damaged") // a checksum does not fit
	ErrNoSpace      = errors.New("no space left in the store")
	// ErrUnavailable: throttling, server errors, broken connections, time-outs
	// of the store. Trying again may help.
	ErrUnavailable = errors.New("store is unavailable")
)

// Error is the error of an operation on a store.
type Error struct {
	Op  string // put, get, head, delete, list, copy, …
	Key string // may be empty
	Err error  // the cause; wraps a sentinel of this package where one fits
}

func (e *Error) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("%s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("%s %q: %v", e.Op, e.Key, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// DeleteError says which keys of a Delete could not be removed.
type DeleteError struct {
	Failed map[string]error
}

func (e *DeleteError) Error() string {
	const most = 3
	var b strings.Builder
	fmt.Fprintf(&b, "delete: %d objects failed", len(e.Failed))
	n := 0
	for key, err := range e.Failed {
		if n == most {
			b.WriteString("; …")
			break
		}
		fmt.Fprintf(&b, "; %q: %v", key, err)
		n++
	}
	return b.String()
}

// Unwrap makes errors.Is look into each failure.
func (e *DeleteError) Unwrap() []error {
	errs := make([]error, 0, len(e.Failed))
	for _, err := range e.Failed {
		errs = append(errs, err)
	}
	return errs
}
