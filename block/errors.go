package block

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/vfs"
)

// ErrMissing: a block that must exist is not in the store.
var ErrMissing = errors.New("block is missing from the object store")

// ErrDamaged: the bytes of a block, read twice, do not fit their checksums.
var ErrDamaged = errDamaged

// fail makes the error of an operation on a block: a sentence for people, and the
// errno that a program gets. This is the one place where errors of object stores
// become errno values.
func fail(op string, id ID, err error) error {
	if err == nil {
		return nil
	}
	name := ""
	if id != 0 {
		name = fmt.Sprintf("block %d", id)
	}
	return &vfs.Error{Op: op, Name: name, Err: withErrno(err)}
}

func withErrno(err error) error {
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno) && !isObjectError(err):
		return err
	case errors.Is(err, context.Canceled):
		return vfs.WithErrno(syscall.EINTR, err)
	case errors.Is(err, context.DeadlineExceeded):
		return vfs.WithErrno(syscall.ETIMEDOUT, err)
	case errors.Is(err, object.ErrNotFound):
		return vfs.WithErrno(syscall.EIO, fmt.Errorf("%w: %w", ErrMissing, err))
	case errors.Is(err, object.ErrNoSpace):
		return vfs.WithErrno(syscall.ENOSPC, err)
	case errors.Is(err, object.ErrAccess):
		return vfs.WithErrno(syscall.EACCES, err)
	case errors.Is(err, object.ErrNoBucket):
		return vfs.WithErrno(syscall.EIO, err)
	case errors.Is(err, cache.ErrTooLarge):
		return vfs.WithErrno(syscall.ENOMEM, err)
	case errors.Is(err, errDamaged), errors.Is(err, io.ErrUnexpectedEOF):
		return vfs.WithErrno(syscall.EIO, err)
	case isTimeout(err):
		return vfs.WithErrno(syscall.ETIMEDOUT, err)
	}
	// What a store on this machine says about itself.
	for _, e := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errno == e && !errors.Is(err, object.ErrUnavailable) {
			return vfs.WithErrno(e, err)
		}
	}
	return vfs.WithErrno(syscall.EIO, err)
}

// isObjectError tells whether a sentinel of package object decides about err, which
// may also wrap whatever errno the driver met on the way (ECONNREFUSED, ENOENT).
func isObjectError(err error) bool {
	for _, s := range []error{object.ErrNotFound, object.ErrNoSpace, object.ErrAccess, object.ErrNoBucket, object.ErrUnavailable,
		object.ErrCorrupt, object.ErrInvalid, object.ErrUnsupported} {
		if errors.Is(err, s) {
			return true
		}
	}
	var oe *object.Error
	return errors.As(err, &oe)
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout() || errors.Is(err, syscall.ETIMEDOUT)
}
