package bucket

import (
	"context"
	"errors"
	"syscall"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/vfs"
)

// fail makes an error of the store one that tells a program what happened.
func fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	if errno, ok := err.(syscall.Errno); ok {
		return errno
	}
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno): // the cause, or what an earlier call said
	case errors.Is(err, context.Canceled):
		errno = syscall.EINTR
	case errors.Is(err, context.DeadlineExceeded):
		errno = syscall.ETIMEDOUT
	case errors.Is(err, object.ErrNotFound):
		errno = syscall.ENOENT
	case errors.Is(err, object.ErrExists):
		errno = syscall.EEXIST
	case errors.Is(err, object.ErrPrecondition):
		errno = syscall.ESTALE
	case errors.Is(err, object.ErrAccess):
		errno = syscall.EACCES
	case errors.Is(err, object.ErrInvalid):
		errno = syscall.EINVAL
	case errors.Is(err, object.ErrUnsupported):
		errno = syscall.EOPNOTSUPP
	case errors.Is(err, object.ErrNoSpace):
		errno = syscall.ENOSPC
	default:
		errno = syscall.EIO
	}
	return &vfs.Error{Op: op, Name: name, Err: vfs.WithErrno(errno, err)}
}
