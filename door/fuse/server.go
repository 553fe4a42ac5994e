package fuse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/door/fuse/kernel"
	"github.com/massif-fs/massif/vfs"
)

// Server is a mounted tree. Its methods may be called concurrently.
type Server struct {
	door       *door
	mountpoint string
	dev        device

	served  chan struct{} // closed when the last request is answered and all is given back
	stop    chan struct{} // closed when serving has ended
	workers sync.WaitGroup

	unmounting sync.Mutex
}

// Mount mounts a tree and serves it until it is unmounted: by Unmount, by
// umount(8), or by Options.MaxIdle. It returns when the mount answers. The
// tree stays the caller's: Mount's server never closes it; after Wait it has
// stopped using it.
func Mount(fs vfs.FS, mountpoint string, options Options) (*Server, error) {
	opts, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	mountpoint, err = canonicalMountpoint(mountpoint)
	if err != nil {
		return nil, err
	}
	d, err := newDoor(fs, opts)
	if err != nil {
		return nil, err
	}
	fd, err := kernelMount(mountpoint, &d.opts)
	if err != nil {
		return nil, err
	}
	s := &Server{door: d, mountpoint: mountpoint, served: make(chan struct{}), stop: make(chan struct{})}
	if err := s.start(fd); err != nil {
		kernelUnmount(mountpoint, true)
		return nil, err
	}
	return s, nil
}

// canonicalMountpoint finds the absolute path without symbolic links, as the
// kernel shows it in mountinfo.
func canonicalMountpoint(p string) (string, error) {
	abs, err := filepath.Abs(p)
	if err != nil {
		return "", fmt.Errorf("mount point %s: %w", p, err)
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		if errors.Is(err, syscall.ENOTCONN) {
			return "", fmt.Errorf("mount point %s: a dead mount lies there: unmount it first: %w", abs, err)
		}
		return "", fmt.Errorf("mount point %s: %w", abs, err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return "", fmt.Errorf("mount point %s: %w", real, err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("mount point %s: %w", real, syscall.ENOTDIR)
	}
	return real, nil
}

// start takes over fd: it answers INIT and serves.
func (s *Server) start(fd int) error {
	d := s.door
	conn, err := d.connect(fd)
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("mount %s: %w", s.mountpoint, err)
	}
	d.conn, d.epoch = conn, conn.Epoch()
	d.settle(conn.Init())
	if dev, ok, err := topMount(s.mountpoint); err == nil && ok {
		s.dev = dev
	} else {
		d.log.Warn("cannot find the new mount in /proc/self/mountinfo", "mountpoint", s.mountpoint, "error", err)
	}
	if d.kernelMinor >= pruneMinor {
		d.pruner.start(d, d.opts.MaxNodes, s.stop, &s.workers)
	}
	d.nodes.learn(kernel.RootID)
	if d.leases != nil {
		d.notify.start(d.leases.Recalls, d.notify.addRecall, s.stop, &s.workers)
	} else if w, ok := d.fs.(vfs.Watchable); ok {
		d.notify.start(w.Watch, d.notify.add, s.stop, &s.workers)
	}
	s.workers.Add(1)
	go func() {
		defer s.workers.Done()
		conn.Serve()
		close(s.stop)
	}()
	if d.opts.MaxIdle > 0 {
		s.workers.Add(1)
		go s.watchIdle()
	}
	go s.finish()
	s.prime()
	return nil
}

// connect agrees with the kernel on how to speak.
func (d *door) connect(fd int) (*kernel.Conn, error) {
	must := d.opts.Transport == TransportURing
	cfg := kernel.Config{
		Features: d.features(),
		MaxWrite: d.opts.MaxWrite, MaxReadAhead: d.opts.MaxReadAhead, MaxBackground: d.opts.MaxBackground,
		MaxMemory: d.opts.MaxRequestMemory, Logger: d.log, Debug: d.opts.Debug,
		IOUring: must,
	}
	conn, err := kernel.Open(fd, cfg, d)
	if err == nil && must && conn.Init().Features&kernel.OverIOUring == 0 {
		return nil, fmt.Errorf("%w: the kernel does not offer it", kernel.ErrNoRings) // start closes fd
	}
	return conn, err
}

// finish waits for the end of serving and gives everything back.
func (s *Server) finish() {
	<-s.stop
	s.workers.Wait()
	s.door.waiters.Wait()
	s.door.release()
	close(s.served)
}

// prime makes the kernel's first contacts: POLL (see kernel.Conn.Prime), and the
// readahead window.
func (s *Server) prime() {
	if err := s.door.conn.Prime(s.mountpoint); err != nil {
		s.door.log.Warn("a program written in Go that serves and uses this mount may hang", "error", err)
	}
	if os.Geteuid() == 0 && s.dev != (device{}) {
		if err := setReadAhead(s.dev, s.door.opts.MaxReadAhead); err != nil {
			s.door.log.Warn("readahead stays at the kernel's default", "mountpoint", s.mountpoint, "error", err)
		}
	}
}

// SetAccessLog calls fn after each request from now on, in place of what
// Options.AccessLog or an earlier call asked for; nil ends that. A call of the former
// function may still be under way when it returns.
func (s *Server) SetAccessLog(fn func(*Access)) {
	if fn == nil {
		s.door.accessLog.Store(nil)
		return
	}
	s.door.accessLog.Store(&fn)
}

// Mountpoint returns the absolute path of the mount.
func (s *Server) Mountpoint() string { return s.mountpoint }

// WaitMount waits until the mount answers. Mount has done so already; it checks
// that the mount still does.
func (s *Server) WaitMount() error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.mountpoint, &st); err != nil {
		return fmt.Errorf("mount %s: %w", s.mountpoint, err)
	}
	return nil
}

// Serve waits for the end of the mount, as Wait.
func (s *Server) Serve() { s.Wait() }

// Wait blocks until the mount is gone, all requests are answered and all Files
// and pins are given back to the tree.
func (s *Server) Wait() { <-s.served }

// Done returns a channel that is closed when Wait would return.
func (s *Server) Done() <-chan struct{} { return s.served }

// Unmount removes the mount and waits as Wait does. EBUSY: a program uses it (has
// a file open or its working directory there), and it stays mounted. A mount that is
// gone already is no error.
func (s *Server) Unmount() error { return s.unmount(false) }

// Detach removes the mount from the tree of names at once (a lazy unmount).
// Programs that use it may go on; the server ends when the last has stopped,
// for which Detach does not wait.
func (s *Server) Detach() error { return s.unmount(true) }

func (s *Server) unmount(detach bool) error {
	s.unmounting.Lock()
	defer s.unmounting.Unlock()
	select {
	case <-s.stop:
		s.Wait()
		return s.bury()
	default:
	}
	top, ok, err := topMount(s.mountpoint)
	if err != nil {
		return fmt.Errorf("unmount %s: %w", s.mountpoint, err)
	}
	if ok && s.dev != (device{}) && top != s.dev {
		return fmt.Errorf("unmount %s: another mount lies above it: %w", s.mountpoint, syscall.EBUSY)
	}
	if ok {
		err := kernelUnmount(s.mountpoint, detach)
		// Whoever looks at mounts (file indexers, "massif mounts", a child between fork
		// and exec) is gone in a moment, which on a busy machine is some time slices.
		for wait := 2 * time.Millisecond; errors.Is(err, syscall.EBUSY) && wait <= 256*time.Millisecond; wait *= 2 {
			time.Sleep(wait)
			err = kernelUnmount(s.mountpoint, detach)
		}
		if err != nil {
			return err
		}
	}
	if !detach {
		s.Wait()
	}
	return nil
}

// bury removes the dead mount that is left when the connection was aborted. Numbers
// of devices are used again, so that only its being dead tells that it is nobody
// else's mount.
func (s *Server) bury() error {
	top, ok, err := topMount(s.mountpoint)
	if err != nil || !ok || top != s.dev {
		return err
	}
	var st unix.Statfs_t
	if unix.Statfs(s.mountpoint, &st) != unix.ENOTCONN {
		return nil
	}
	return kernelUnmount(s.mountpoint, true)
}

// Abort ends the mount without regard to its users: their calls fail with
// ENOTCONN, data that the kernel had not written yet is lost, and the name is gone. For
// emergencies, instead of Detach: once the name is gone, a kernel without the fusectl
// file system (as in many containers) has no way to abort. As root only.
func (s *Server) Abort() error {
	if err := abortConnection(s.mountpoint, s.dev); err != nil {
		return fmt.Errorf("abort %s: %w", s.mountpoint, err)
	}
	return s.unmount(true)
}

// watchIdle unmounts when nothing has been asked for MaxIdle.
func (s *Server) watchIdle() {
	defer s.workers.Done()
	d := s.door
	timer := time.NewTimer(d.opts.MaxIdle)
	defer timer.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-timer.C:
		}
		idle := d.now() - time.Duration(d.lastRequest.Load())
		if d.inflight.Load() > 0 || idle < d.opts.MaxIdle {
			timer.Reset(max(d.opts.MaxIdle-idle, d.opts.MaxIdle/16, time.Millisecond))
			continue
		}
		// Not Unmount: that waits for this goroutine.
		s.unmounting.Lock()
		top, ok, err := topMount(s.mountpoint)
		if err == nil && ok && top == s.dev {
			err = kernelUnmount(s.mountpoint, false)
		}
		s.unmounting.Unlock()
		if err == nil {
			d.log.Info("unmounted after idle time", "mountpoint", s.mountpoint, "idle", idle)
			return
		}
		if !errors.Is(err, syscall.EBUSY) {
			d.log.Warn("cannot unmount after idle time", "mountpoint", s.mountpoint, "error", err)
		}
		timer.Reset(d.opts.MaxIdle) // in use without requests: look again later
	}
}

// features are what the door wants of the kernel.
func (d *door) features() kernel.Features {
	longLived := d.longLived || d.leases != nil
	explicit := d.keepCache && d.longLived || d.leases != nil // the tree tells when pages must go
	want := kernel.AsyncRead | kernel.ExportSupport | kernel.BigWrites | kernel.ReaddirPlus | kernel.AsyncDIO |
		kernel.NoOpenSupport | kernel.NoOpendirSupport | kernel.ParallelDirOps | kernel.MaxPages |
		kernel.CacheSymlinks | // a link's target never changes
		kernel.HandleKillprivV2 | kernel.SetXattrExt | kernel.HasExpireOnly | kernel.DirectIOAllowMmap | kernel.HasResend
	for _, f := range []struct {
		on   bool
		want kernel.Features
	}{
		{!longLived, kernel.ReaddirPlusAuto},
		{!d.stateless, kernel.AtomicOTrunc},
		{d.writeback, kernel.WritebackCache},
		{d.passthrough, kernel.Passthrough},
		{d.acl, kernel.PosixACL | kernel.DontMask},
		{d.locks != nil, kernel.PosixLocks | kernel.FlockLocks},
		{explicit, kernel.ExplicitInvalData},
		{!explicit, kernel.AutoInvalData},
	} {
		if f.on {
			want |= f.want
		}
	}
	return want
}

// probeACL finds whether a tree keeps POSIX ACLs.
func probeACL(x vfs.XattrFS) bool {
	if x == nil {
		return false
	}
	_, err := x.GetXattr(context.Background(), &vfs.Caller{}, vfs.Root, vfs.XattrACLAccess)
	return err == nil || errors.Is(err, syscall.ENODATA)
}
