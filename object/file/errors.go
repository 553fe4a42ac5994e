package file

import (
	"context"
	"errors"
	"fmt"

	"github.com/massif-fs/massif/object"
	"golang.org/x/sys/unix"
)

// kindOf gives each errno the sentinel of the contract that callers look for.
var kindOf = map[unix.Errno]error{
	unix.ENOENT:       object.ErrNotFound,
	unix.ENOTDIR:      object.ErrNotFound,
	unix.ELOOP:        object.ErrNotFound, // a symbolic link: not one of our objects
	unix.EACCES:       object.ErrAccess,
	unix.EPERM:        object.ErrAccess,
	unix.EROFS:        object.ErrAccess,
	unix.ENOSPC:       object.ErrNoSpace,
	unix.EDQUOT:       object.ErrNoSpace,
	unix.ENAMETOOLONG: object.ErrInvalid,
	unix.EFBIG:        object.ErrInvalid,
	unix.EUCLEAN:      object.ErrCorrupt,
	unix.EBADMSG:      object.ErrCorrupt,
	unix.ETIMEDOUT:    object.ErrUnavailable,
	unix.ESTALE:       object.ErrUnavailable,
	unix.EHOSTDOWN:    object.ErrUnavailable,
	unix.EMFILE:       object.ErrUnavailable,
	unix.ENFILE:       object.ErrUnavailable,
	unix.ENOMEM:       object.ErrUnavailable,
	unix.EAGAIN:       object.ErrUnavailable,
}

// wrap makes an *object.Error of err. The cause keeps its errno beside the
// sentinel.
func wrap(op, key string, err error) error {
	if err == nil {
		return nil
	}
	var already *object.Error
	if errors.As(err, &already) {
		return err
	}
	var errno unix.Errno
	if errors.As(err, &errno) && !errors.Is(err, context.Canceled) {
		if kind := kindOf[errno]; kind != nil && !errors.Is(err, kind) {
			err = fmt.Errorf("%w: %w", kind, err)
		}
	}
	return &object.Error{Op: op, Key: key, Err: err}
}

// retry calls f again while a signal interrupts it.
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
