package vfs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// Error is a failed operation on a tree, for people: what was done, to what, and
// why it failed. Its errno is found by ErrnoOf.
type Error struct {
	Op   string // the operation: "read", "rename", …
	Name string // what it was done to; may be empty
	Err  error
}

func (e *Error) Error() string {
	if e.Name == "" {
		return e.Op + ": " + e.Err.Error()
	}
	return e.Op + " " + e.Name + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// WithErrno gives err an errno: errors.Is finds both.
func WithErrno(errno syscall.Errno, err error) error {
	return &errnoError{errno, err}
}

type errnoError struct {
	errno syscall.Errno
	err   error
}

func (e *errnoError) Error() string   { return e.err.Error() }
func (e *errnoError) Unwrap() []error { return []error{e.errno, e.err} }

// ErrnoOf returns the errno that tells a program about err: 0 for nil, the
// syscall.Errno found in its chain, the closest for well-known errors of the
// standard library, else EIO.
func ErrnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if errno, ok := err.(syscall.Errno); ok {
		return errno
	}
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return errno
	case errors.Is(err, context.Canceled):
		return syscall.EINTR
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return syscall.ETIMEDOUT
	case errors.Is(err, fs.ErrNotExist):
		return syscall.ENOENT
	case errors.Is(err, fs.ErrExist):
		return syscall.EEXIST
	case errors.Is(err, fs.ErrPermission):
		return syscall.EACCES
	case errors.Is(err, fs.ErrClosed):
		return syscall.EBADF
	case errors.Is(err, io.ErrUnexpectedEOF):
		return syscall.EIO
	}
	return syscall.EIO
}

// CheckName returns why name cannot be an entry's name: EINVAL, ENAMETOOLONG, or nil.
func CheckName(name string) error {
	if len(name) > MaxName {
		return syscall.ENAMETOOLONG
	}
	if name == "" || name == "." || name == ".." {
		return syscall.EINVAL
	}
	for i := 0; i < len(name); i++ {
		if name[i] == '/' || name[i] == 0 {
			return syscall.EINVAL
		}
	}
	return nil
}
