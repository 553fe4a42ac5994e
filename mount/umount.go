package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/door/control"
)

// UnmountOptions say how Unmount goes about it.
type UnmountOptions struct {
	// Force takes the mount away from programs that still use it: their open
	// files give errors from then on. What was written is flushed all the same.
	Force bool
	// Lazy removes the name now and ends the mount when the last program has
	// stopped using it.
	Lazy bool
}

// Unmount ends the mount at a mount point and returns when all that was written
// is durable and the server has ended. A busy mount gives an error that wraps
// EBUSY and names who uses it.
func Unmount(ctx context.Context, point string, o UnmountOptions) error {
	resolved, err := ResolvePoint(point)
	if err != nil {
		return err
	}
	running, alive, err := Find(resolved)
	if err != nil {
		return fmt.Errorf("lock of mount point %s: %w", resolved, err)
	}
	if alive {
		err := shutdown(ctx, running, o)
		if errors.Is(err, errNoAnswer) {
			if err := Detach(resolved); err != nil {
				return err
			}
			return fmt.Errorf("%s is detached, but its process %d does not answer and may hold data that is not stored yet", point, running.PID)
		}
		var refused *control.Error
		switch {
		case err == nil:
			return nil
		case errors.As(err, &refused) && refused.Class == ClassBusy:
			return &BusyError{Point: resolved, Desc: refused.Desc}
		case errors.As(err, &refused):
			return errors.New(refused.Desc)
		case ctx.Err() != nil:
			return fmt.Errorf("unmount %s: %w", resolved, ctx.Err())
		}
		// The server does not answer: fall back to the kernel.
	}
	m, mounted, err := mountedAt(resolved)
	if err != nil {
		return fmt.Errorf("mount table: %w", err)
	}
	if !mounted {
		return fmt.Errorf("%s is not mounted", point)
	}
	if !strings.HasPrefix(m.Type, "fuse") {
		return fmt.Errorf("%s is not a mount of Massif: it is %s of type %s", point, m.Source, m.Type)
	}
	if o.Force || o.Lazy || IsDead(resolved) {
		err = Detach(resolved)
	} else {
		err = kernelUnmount(resolved, false)
	}
	if errors.Is(err, syscall.EBUSY) {
		return &BusyError{Point: resolved, Desc: busySentence(resolved)}
	}
	if err == nil && alive {
		err = waitGone(ctx, running)
	}
	return err
}

// BusyError says that a mount is in use.
type BusyError struct {
	Point string
	Desc  string
}

func (e *BusyError) Error() string   { return e.Desc }
func (e *BusyError) Is(t error) bool { return t == syscall.EBUSY }

// ClassBusy is the class of the control socket's error for a busy mount.
const ClassBusy = "MassifBusy"

func busySentence(point string) string {
	s := fmt.Sprintf("mount %s is busy", point)
	if who := holders(point, 5); len(who) > 0 {
		s += ": in use by " + strings.Join(who, ", ")
	}
	return s + "; nothing was unmounted (--lazy detaches it now, --force takes it away)"
}

// errNoAnswer says that a server did not answer in the time that a forced or lazy
// unmount gives it.
var errNoAnswer = errors.New("no answer")

// shutdown asks the server to unmount and waits until its process has let go. For
// what is neither forced nor lazy it waits as long as it takes.
func shutdown(ctx context.Context, r Running, o UnmountOptions) error {
	limit := time.Duration(0)
	switch {
	case o.Force: // in each of its steps the server gives up by itself
		limit = 6 * forcePatience
	case o.Lazy:
		limit = forcePatience
	}
	bounded := ctx
	if limit > 0 {
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	c, err := control.Dial(bounded, r.Control)
	if err != nil {
		return err
	}
	defer c.Close()
	err = c.Call(bounded, "shutdown", map[string]any{"force": o.Force, "lazy": o.Lazy}, nil, nil)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		return errNoAnswer
	}
	if err != nil || o.Lazy {
		return err
	}
	return waitGone(ctx, r)
}

// waitGone waits until a server no longer holds its mount point's lock.
func waitGone(ctx context.Context, r Running) error {
	pause := time.Millisecond
	for {
		now, alive, err := Find(r.Point)
		if err != nil {
			return err
		}
		if !alive || now.PID != r.PID {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is unmounted, but its process %d has not ended: %w", r.Point, r.PID, ctx.Err())
		case <-time.After(pause):
			pause = min(2*pause, 50*time.Millisecond)
		}
	}
}

// Detach removes a mount lazily, whatever state its server is in.
func Detach(point string) error { return kernelUnmount(point, true) }

// kernelUnmount unmounts without the server's help: as root by the system call,
// else through fusermount3, which lets users remove their own FUSE mounts.
func kernelUnmount(point string, lazy bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	err := unix.Unmount(point, flags)
	if err == nil {
		return nil
	}
	if !errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("unmount %s: %w", point, err)
	}
	args := []string{"-u"}
	if lazy {
		args = append(args, "-z")
	}
	cmd := exec.Command("fusermount3", append(args, "--", point)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		if strings.Contains(said.String(), "busy") {
			return fmt.Errorf("unmount %s: %w", point, syscall.EBUSY)
		}
		if said.Len() > 0 {
			return fmt.Errorf("unmount %s: %s", point, printable(said.String()))
		}
		return fmt.Errorf("unmount %s: %w", point, err)
	}
	return nil
}
