package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/door/control"
	"github.com/massif-fs/massif/door/fuse"
	"github.com/massif-fs/massif/telemetry"
)

// ServeOptions are what Serve needs besides the spec.
type ServeOptions struct {
	Log *telemetry.Log
	// Ready, if not nil, is called once when the mount answers.
	Ready func()
}

// server is a mount being served by this process.
type server struct {
	spec  *Spec
	point string
	log   *telemetry.Log

	lock    *pointLock
	opened  *Opened
	fuse    *fuse.Server
	control *control.Server
	socket  *control.Server // the tree's own; nil: none
	observe *observer
	started time.Time
	running Running

	// work is the context of long commands; it ends when the mount is to end.
	work     context.Context
	stopWork context.CancelFunc

	ending     sync.Mutex // one attempt to unmount at a time
	finishOnce sync.Once
	gone       chan struct{} // closed when the tree is closed
	goneErr    error         // of closing; read after gone
	forceOnce  sync.Once
	forced     chan struct{} // closed when waiting for the store shall end
}

// Serve mounts a spec at a mount point and serves it until it is unmounted, by
// whomever, or ctx is done or a signal (TERM, INT, QUIT) asks for the end. It
// returns nil if the mount came and went without loss; an error before Ready was
// called means that nothing was changed.
//
// The first signal unmounts cleanly, and if the mount is busy goes on trying; a
// second one takes the mount away from who uses it. Either way what was written is
// flushed before Serve returns.
func Serve(ctx context.Context, spec *Spec, point string, o ServeOptions) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT)
	defer signal.Stop(signals)
	stopReopen := reopenOnHangup(o.Log)
	defer stopReopen()

	s := &server{spec: spec, log: o.Log, observe: newObserver(), started: time.Now(), gone: make(chan struct{}), forced: make(chan struct{})}
	s.work, s.stopWork = context.WithCancel(context.Background())
	defer s.stopWork()
	if err := s.start(ctx, point, o); err != nil {
		return err
	}
	s.log.Info("mounted", "point", s.point, "source", s.opened.Source, "pid", os.Getpid())
	if o.Ready != nil {
		o.Ready()
	}
	if _, err := daemon.SdNotify(false, fmt.Sprintf("%s\nMAINPID=%d", daemon.SdNotifyReady, os.Getpid())); err != nil {
		s.log.Warn("systemd was not told that the mount is ready", "err", err)
	}
	s.stay(ctx, signals)
	// Clients that wait for the end get their answer before the socket goes, and
	// the lock goes last, because its release tells others that all is done.
	err := s.control.Close()
	if s.socket != nil {
		err = errors.Join(err, s.socket.Close())
	}
	if err := errors.Join(err, s.lock.release()); err != nil {
		s.log.Warn("clean-up", "err", err)
	}
	return s.goneErr
}

// reopenOnHangup opens the log file anew at each SIGHUP, for those who rotate logs.
func reopenOnHangup(log *telemetry.Log) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range hangups {
			if err := log.Reopen(); err != nil {
				log.Error("log file stays the old one", "err", err)
			}
		}
	}()
	return func() {
		signal.Stop(hangups)
		close(hangups)
		<-done
	}
}

// start does everything up to a mount that answers, and undoes it on failure.
func (s *server) start(ctx context.Context, point string, o ServeOptions) (err error) {
	var undo []func()
	defer func() {
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				undo[i]()
			}
		}
	}()
	if err := s.spec.Validate(); err != nil {
		return err
	}
	if s.point, err = ResolvePoint(point); err != nil {
		return err
	}
	if s.lock, err = lockPoint(s.point); err != nil {
		return err
	}
	undo = append(undo, func() { s.lock.release() })
	if err = checkPoint(s.point, s.log.Logger); err != nil {
		return err
	}
	if s.spec.Mount.EmptyPoint {
		if err = checkEmpty(s.point); err != nil {
			return err
		}
	}
	registry, err := OpenRegistry()
	if err != nil {
		return err
	}
	options := &s.spec.Mount
	tuneProcess(memoryLimit(options), s.log.Logger)

	s.opened, err = s.spec.Tree.Config.Open(ctx, &Env{
		Registry: registry, Options: options, Point: s.point, Passphrase: s.spec.Passphrase, Log: s.log.Logger,
	})
	s.spec.Passphrase.Wipe()
	s.spec.Passphrase = nil
	if err != nil {
		return err
	}
	undo = append(undo, func() { s.closeTree() })

	controlPath, err := runtimeFile(s.point, ".sock")
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	s.running = Running{
		Point: s.point, Source: s.source(), PID: os.Getpid(), Started: s.started,
		Control: controlPath, Log: o.Log.Path(),
	}
	if v := s.opened.Volume; v != nil {
		s.running.Volume = v.Record.UUID
	}
	if s.fuse, err = fuse.Mount(s.opened.FS, s.point, s.doorOptions()); err != nil {
		return explainMount(err, s.point)
	}
	undo = append(undo, func() { s.fuse.Detach(); s.fuse.Wait() })
	if err = s.lock.describe(s.running); err != nil {
		return fmt.Errorf("lock of mount point %s: %w", s.point, err)
	}
	undo = append(undo, func() { s.observe.close() })
	if err = s.observe.start(s); err != nil {
		return err
	}
	if s.control, err = control.Serve(s.work, controlPath, s.commands(), s.log.Logger); err != nil {
		return err
	}
	undo = append(undo, func() { s.control.Close() })
	if path := s.opened.Socket; path != "" {
		if s.socket, err = control.Serve(s.work, path, s.commands(), s.log.Logger); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) source() string {
	if s.spec.Source != "" {
		return s.spec.Source
	}
	return s.opened.Source
}

func (s *server) doorOptions() fuse.Options {
	o := &s.spec.Mount
	name := o.FSName
	if name == "" {
		name = s.source()
	}
	options := fuse.Options{
		FsName:               name,
		Subtype:              s.opened.Subtype,
		AllowOther:           o.EffectiveAllowOther(),
		NoDefaultPermissions: !o.EffectiveDefaultPermissions(),
		ReadOnly:             o.ReadOnly,
		NoExec:               o.NoExec, NoSuid: o.NoSuid, NoDev: o.NoDev, NoAtime: o.NoAtime,
		UID: o.UID, GID: o.GID, Umask: (*uint32)(o.Umask),
		MaxIdle:  time.Duration(o.MaxIdle),
		Recorder: s.observe.ops,
		Logger:   s.log.Logger,
	}
	options.Transport, _ = fuse.ParseTransport(o.Transport) // Validate has looked
	if o.WritebackCache {
		options.WritebackCache = fuse.On
	}
	return options
}

// explainMount turns the usual refusals of the kernel and of fusermount3 into
// something to act on.
func explainMount(err error, point string) error {
	switch {
	case errors.Is(err, syscall.ENOENT) && !exists("/dev/fuse"):
		return fmt.Errorf("mount %s: this machine has no /dev/fuse: load the module with \"modprobe fuse\", or start the container with the device", point)
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("mount %s: not permitted; in a container, FUSE needs the device /dev/fuse and the capability SYS_ADMIN: %w", point, err)
	}
	return err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// stay waits for a reason to end and sees to it that the mount ends.
func (s *server) stay(ctx context.Context, signals <-chan os.Signal) {
	var (
		asked   int              // how often somebody wanted the end
		attempt chan error       // result of the attempt under way; nil if there is none
		retry   <-chan time.Time // of a busy mount
		done    = ctx.Done()
	)
	for {
		select {
		case <-s.gone: // ended through the control socket
			return
		case <-s.fuse.Done(): // unmounted by somebody else, or idle
			s.finish()
			return
		case err := <-attempt:
			attempt = nil
			if err == nil {
				return
			}
			if retry == nil {
				s.log.Warn("cannot unmount yet; trying on, and a second signal forces it", "err", err)
			}
			retry = time.After(250 * time.Millisecond)
			continue
		case <-done:
			done = nil
			asked++
		case sig := <-signals:
			asked++
			s.log.Info("asked to end", "signal", sig.String())
			if asked > 1 {
				s.force()
			}
		case <-retry:
		}
		if attempt == nil && asked > 0 {
			attempt = make(chan error, 1)
			force := asked > 1
			go func(result chan<- error) { result <- s.end(force, false) }(attempt)
		}
	}
}

// force lets what waits for the store in order to end wait no longer.
func (s *server) force() { s.forceOnce.Do(func() { close(s.forced) }) }

// end unmounts and closes everything. force takes the mount away from its users,
// lazy lets them finish: then the end comes later.
func (s *server) end(force, lazy bool) error {
	s.ending.Lock()
	defer s.ending.Unlock()
	if lazy {
		return s.fuse.Detach()
	}
	err := s.fuse.Unmount()
	switch {
	case errors.Is(err, syscall.EBUSY) && !force:
		return &BusyError{Point: s.point, Desc: busySentence(s.point)}
	case err != nil && !force:
		return err
	case err != nil:
		s.takeAway()
	}
	s.finish()
	return nil
}

// takeAway ends a mount that is in use, after what its users have written so far
// was handed over by the kernel.
func (s *server) takeAway() {
	s.log.Warn("taking the mount away from its users", "point", s.point, "users", holders(s.point, 5))
	synced := make(chan error, 1)
	go func() { synced <- syncPoint(s.point) }()
	select {
	case err := <-synced:
		if err != nil {
			s.log.Warn("sync before a forced unmount", "err", err)
		}
	case <-time.After(forcePatience):
		s.log.Warn("sync before a forced unmount: no end in sight")
	}
	if err := s.fuse.Abort(); err != nil { // without privileges
		s.log.Warn("abort", "err", err)
		if err := s.fuse.Detach(); err != nil {
			s.log.Warn("detach", "err", err)
		}
	}
	select {
	case <-s.fuse.Done():
	case <-time.After(forcePatience): // users hold on to it: the tree's Close ends that
	}
}

const (
	// forcePatience is how long a forced end waits in each of its steps.
	forcePatience = 10 * time.Second
	// closePatience is how long an end that nobody forces tries to store what is
	// not stored yet.
	closePatience = 10 * time.Minute
)

// syncPoint makes the kernel hand over what it holds of a mount.
func syncPoint(point string) error {
	f, err := os.Open(point)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// finish closes everything once the kernel is done with the mount, and waits
// until that has happened.
func (s *server) finish() {
	s.finishOnce.Do(func() {
		daemon.SdNotify(false, daemon.SdNotifyStopping)
		s.stopWork()
		s.goneErr = s.closeTree()
		if err := s.observe.close(); err != nil {
			s.log.Warn("clean-up", "err", err)
		}
		if s.goneErr != nil {
			s.log.Error("unmounted, but not cleanly", "point", s.point, "err", s.goneErr)
		} else {
			s.log.Info("unmounted", "point", s.point)
		}
		close(s.gone)
	})
	<-s.gone
}

// closeTree flushes and closes the tree. While the store does not take what is not
// stored yet, it tries on, because the memory of this process is the only copy.
func (s *server) closeTree() error {
	deadline := time.Now().Add(closePatience)
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		result := make(chan error, 1)
		go func() { result <- s.opened.FS.Close() }()
		var err error
		select {
		case err = <-result:
		case <-s.forced:
			return s.dropTree(result)
		}
		if err == nil {
			break
		}
		forcer, can := s.opened.FS.(forceCloser)
		if !can {
			return errors.Join(err, s.closeRest())
		}
		s.log.Error("what was written cannot be stored yet; trying on", "err", err)
		select {
		case <-time.After(pause):
		case <-s.forced:
			deadline = time.Time{}
		}
		if time.Now().After(deadline) {
			return errors.Join(s.forceClose(forcer), s.closeRest())
		}
	}
	s.drain()
	return s.closeRest()
}

// drain waits until the journal of write-back is in the store, or somebody forces
// the end: then it stays on the disk for the next mount.
func (s *server) drain() {
	if s.opened.Drain == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-s.forced:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := s.opened.Drain(ctx); err != nil {
		s.log.Warn("what lies in the journal is uploaded by the next mount", "point", s.point, "err", err)
	}
}

// forceCloser is a tree that can be closed without storing everything.
type forceCloser interface {
	// ForceClose tries to store what is not stored yet until ctx is done and then
	// drops it, with an error that says so.
	ForceClose(ctx context.Context) error
}

// dropTree closes a tree whose Close is under way and takes too long.
func (s *server) dropTree(closing <-chan error) error {
	if forcer, can := s.opened.FS.(forceCloser); can {
		return errors.Join(s.forceClose(forcer), s.closeRest())
	}
	select {
	case err := <-closing:
		return errors.Join(err, s.closeRest())
	case <-time.After(forcePatience):
		return fmt.Errorf("the tree was not closed within %v", forcePatience)
	}
}

func (s *server) forceClose(forcer forceCloser) error {
	ctx, cancel := context.WithTimeout(context.Background(), forcePatience)
	defer cancel()
	return forcer.ForceClose(ctx)
}

func (s *server) closeRest() error {
	if s.opened.Close == nil {
		return nil
	}
	return s.opened.Close()
}

// logPath is the default log file of a mount point.
func logPath(point string) (string, error) {
	home, err := Home()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, "log", logName(point)+".log"), nil
}
