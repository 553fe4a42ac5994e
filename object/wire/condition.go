package wire

import (
	"errors"

	"github.com/massif-fs/massif/object"
)

// ConditionHolds looks whether opts' conditions hold for what head describes: if not,
// the error wraps object.ErrExists or object.ErrPrecondition. head is not called
// without conditions. Between this and the upload things may change.
func ConditionHolds(op, key string, opts *object.PutOptions, head func() (object.Info, error)) error {
	if !opts.IfAbsent && opts.IfMatch == "" {
		return nil
	}
	info, err := head()
	missing := errors.Is(err, object.ErrNotFound)
	switch {
	case err != nil && !missing:
		return err
	case opts.IfAbsent && !missing:
		return &object.Error{Op: op, Key: key, Err: object.ErrExists}
	case opts.IfMatch != "" && (missing || info.ETag != opts.IfMatch):
		return &object.Error{Op: op, Key: key, Err: object.ErrPrecondition}
	}
	return nil
}
