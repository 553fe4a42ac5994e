package pebble

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// disk is the file system below Pebble, made safe against its own failures.
//
// Pebble panics, with locks held, when it cannot write or rotate its log, and
// asks its logger to end the process when it cannot write its manifest. So once
// the database is open, disk keeps failures of the log from Pebble: it reports
// them to the DB, which from then on refuses every commit and Sync, and lets
// Pebble write into nothing. And after any failure that ends writing, disk
// changes no file any more, so that nothing can be built on a state that is not
// on the medium.
type disk struct {
	vfs.FS
	dir   string      // the database's; files elsewhere (of a Checkpoint) are not its own
	armed atomic.Bool // the database is open: keep log failures from Pebble
	dead  atomic.Bool // writing has ended
	fail  func(operation string, err error)

	last    atomic.Pointer[failure] // the last error of a change, for causes Pebble only prints
	faultAt atomic.Int64            // when that was, UnixNano
	closing chan struct{}
	lock    *lockFile
}

// retryPause is how long a new table is delayed after an error of writing one:
// Pebble repeats flushes and merges without a pause.
const retryPause = 200 * time.Millisecond

var errDead = errors.New("writing has ended after an earlier failure")

func newDisk(fs vfs.FS, dir string, fail func(string, error)) *disk {
	dir = fs.PathDir(fs.PathJoin(dir, "file")) // as it comes back in names
	return &disk{FS: fs, dir: dir, fail: fail, closing: make(chan struct{})}
}

// close ends pauses.
func (d *disk) close() { close(d.closing) }

// kind is what a file of the database is for.
type kind int

const (
	otherKind kind = iota
	walKind        // log
	tableKind      // sorted file
)

func fileKind(name string) kind {
	switch {
	case strings.HasSuffix(name, ".log"):
		return walKind
	case strings.HasSuffix(name, ".sst"), strings.HasSuffix(name, ".blob"):
		return tableKind
	}
	return otherKind
}

// fault notes the error of a change and returns it.
func (d *disk) fault(err error) error {
	if err != nil && !errors.Is(err, errDead) {
		d.last.Store(&failure{err})
		d.faultAt.Store(time.Now().UnixNano())
	}
	return err
}

// lastFault is the last error of a change, nil if there was none.
func (d *disk) lastFault() error {
	if f := d.last.Load(); f != nil {
		return f.err
	}
	return nil
}

// change runs an operation that changes a file.
func (d *disk) change(op func() error) error { return d.fault(d.arrange(op)) }

// arrange runs an operation that changes the directory only. Some of these are
// tried by Pebble and may fail.
func (d *disk) arrange(op func() error) error {
	if d.dead.Load() {
		return errDead
	}
	return op()
}

// create runs an operation that makes the file called name.
func (d *disk) create(name string, op func() (vfs.File, error)) (vfs.File, error) {
	k := otherKind
	if d.FS.PathDir(name) == d.dir {
		k = fileKind(d.FS.PathBase(name))
	}
	if k == tableKind && (d.dead.Load() || time.Now().UnixNano()-d.faultAt.Load() < int64(retryPause)) {
		pause := time.NewTimer(retryPause)
		select {
		case <-pause.C:
		case <-d.closing:
		}
		pause.Stop()
	}
	if d.dead.Load() {
		if k == walKind {
			return hole{}, nil
		}
		return nil, errDead
	}
	f, err := op()
	if err != nil {
		d.fault(err)
		if k == walKind && d.armed.Load() {
			d.fail("create log", err)
			return hole{}, nil
		}
		return nil, err
	}
	return d.wrap(f, k), nil
}

func (d *disk) wrap(f vfs.File, k kind) vfs.File {
	if k == walKind {
		w := &walFile{File: f, d: d}
		if info, err := f.Stat(); err == nil {
			w.ready = info.Size() // an old log that is used again
		}
		return w
	}
	return changedFile{f, d}
}

func (d *disk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.create(name, func() (vfs.File, error) { return d.FS.Create(name, c) })
}

func (d *disk) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.create(newname, func() (vfs.File, error) { return d.FS.ReuseForWrite(oldname, newname, c) })
}

func (d *disk) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return d.create(name, func() (vfs.File, error) { return d.FS.OpenReadWrite(name, c, opts...) })
}

func (d *disk) OpenDir(name string) (vfs.File, error) {
	f, err := d.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	if d.FS.PathDir(d.FS.PathJoin(name, "file")) != d.dir {
		return f, nil
	}
	return &dirFile{walFile{File: f, d: d}}, nil
}

func (d *disk) Link(oldname, newname string) error {
	return d.arrange(func() error { return d.FS.Link(oldname, newname) })
}

func (d *disk) Remove(name string) error {
	return d.arrange(func() error { return d.FS.Remove(name) })
}

func (d *disk) RemoveAll(name string) error {
	return d.arrange(func() error { return d.FS.RemoveAll(name) })
}

func (d *disk) Rename(oldname, newname string) error {
	return d.change(func() error { return d.FS.Rename(oldname, newname) })
}

func (d *disk) MkdirAll(dir string, perm os.FileMode) error {
	return d.arrange(func() error { return d.FS.MkdirAll(dir, perm) })
}

// Lock implements vfs.FS.
func (d *disk) Lock(name string) (io.Closer, error) {
	c, err := d.FS.Lock(name)
	if err != nil {
		return nil, err
	}
	d.lock = &lockFile{Closer: c}
	return d.lock, nil
}

// lockFile is a lock that can be closed twice.
type lockFile struct {
	io.Closer
	once sync.Once
	err  error
}

func (l *lockFile) Close() error {
	l.once.Do(func() { l.err = l.Closer.Close() })
	return l.err
}

// Unwrap keeps Pebble from reaching around disk.
func (d *disk) Unwrap() vfs.FS { return nil }

// walFile is a log. Its errors go to the DB, never to Pebble.
//
// A flush of a file that has grown, or whose blocks the file system has allocated
// but never written, changes the file's metadata, too, and so costs a commit of
// the file system's own log: half of the time of a small flush. So the log is
// filled with zeros ahead of what is appended to it, in steps that grow while it is
// being flushed. Logs that are used again need none of it. What is read back ends
// at the zeros, as it does at the remains of an older log.
type walFile struct {
	vfs.File
	d *disk
	// Used by the goroutine that writes and flushes the log.
	written int64 // where the next append goes
	ready   int64 // up to where the file has blocks that have been written
	step    int64 // how much was prepared the last time
}

const (
	firstReady = 64 << 10
	mostReady  = 1 << 20
)

var zeros [firstReady]byte

// prepare writes zeros where the next appends will go, to be flushed with what
// has been appended.
func (f *walFile) prepare() {
	const near = 16 << 10 // a small flush
	if f.written == 0 || f.written+near <= f.ready || f.d.dead.Load() {
		return
	}
	f.step = min(max(2*f.step, firstReady), mostReady)
	from := max(f.written, f.ready)
	for at := from; at < from+f.step; at += int64(len(zeros)) {
		if _, err := f.File.WriteAt(zeros[:], at); err != nil {
			return // the append itself will tell
		}
		f.ready = at + int64(len(zeros))
	}
}

func (f *walFile) do(operation string, op func() error) error {
	if f.d.dead.Load() {
		return nil
	}
	err := op()
	if err == nil || !f.d.armed.Load() {
		return err
	}
	f.d.fault(err)
	f.d.fail(operation, err)
	return nil
}

func (f *walFile) Write(p []byte) (int, error) {
	n := len(p)
	err := f.do("write log", func() (err error) { n, err = f.File.Write(p); return err })
	if err != nil {
		return n, err
	}
	f.written += int64(len(p))
	return len(p), nil
}

func (f *walFile) Sync() error {
	f.prepare()
	return f.do("flush log", f.File.Sync)
}

func (f *walFile) SyncData() error {
	f.prepare()
	return f.do("flush log", f.File.SyncData)
}

func (f *walFile) SyncTo(length int64) (full bool, err error) {
	err = f.do("flush log", func() (err error) { full, err = f.File.SyncTo(length); return err })
	return full, err
}

func (f *walFile) Stat() (info vfs.FileInfo, err error) {
	info = emptyInfo{}
	err = f.do("look at log", func() error {
		i, err := f.File.Stat()
		if err == nil {
			info = i
		}
		return err
	})
	return info, err
}

// Close closes the file also after a failure: the descriptor must not leak.
func (f *walFile) Close() error {
	err := f.File.Close()
	return f.do("close log", func() error { return err })
}

// dirFile is a directory. Pebble flushes it when it rotates the log and when it
// puts a new manifest in place, and survives an error of neither.
type dirFile struct{ walFile }

func (f *dirFile) Sync() error { return f.do("flush directory", f.File.Sync) }

// changedFile is a file whose errors Pebble handles.
type changedFile struct {
	vfs.File
	d *disk
}

func (f changedFile) Write(p []byte) (n int, err error) {
	err = f.d.change(func() error { n, err = f.File.Write(p); return err })
	return n, err
}

func (f changedFile) Sync() error     { return f.d.change(f.File.Sync) }
func (f changedFile) SyncData() error { return f.d.change(f.File.SyncData) }

func (f changedFile) SyncTo(length int64) (full bool, err error) {
	err = f.d.change(func() error { full, err = f.File.SyncTo(length); return err })
	return full, err
}

// hole is the log that is written after writing has ended.
type hole struct{}

func (hole) Close() error                           { return nil }
func (hole) Read([]byte) (int, error)               { return 0, errDead }
func (hole) ReadAt([]byte, int64) (int, error)      { return 0, errDead }
func (hole) Write(p []byte) (int, error)            { return len(p), nil }
func (hole) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (hole) Preallocate(int64, int64) error         { return nil }
func (hole) Stat() (vfs.FileInfo, error)            { return emptyInfo{}, nil }
func (hole) Sync() error                            { return nil }
func (hole) SyncTo(int64) (bool, error)             { return true, nil }
func (hole) SyncData() error                        { return nil }
func (hole) Prefetch(int64, int64) error            { return nil }
func (hole) Fd() uintptr                            { return vfs.InvalidFd }

// emptyInfo describes an empty file.
type emptyInfo struct{}

func (emptyInfo) Name() string           { return "" }
func (emptyInfo) Size() int64            { return 0 }
func (emptyInfo) Mode() os.FileMode      { return 0 }
func (emptyInfo) ModTime() time.Time     { return time.Time{} }
func (emptyInfo) IsDir() bool            { return false }
func (emptyInfo) Sys() any               { return nil }
func (emptyInfo) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }

// engineLogger receives what Pebble says.
type engineLogger struct{ db *DB }

func (l engineLogger) Infof(format string, args ...any) {
	l.db.options.Logger.Debug(fmt.Sprintf(format, args...), "path", l.db.dir)
}

func (l engineLogger) Errorf(format string, args ...any) {
	l.db.options.Logger.Warn(fmt.Sprintf(format, args...), "path", l.db.dir)
}

// Fatalf is what Pebble calls where it wants the process to end: it could not
// commit, or not write its manifest. The process lives on without writing.
func (l engineLogger) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	if last := l.db.disk.lastFault(); last != nil {
		err = fmt.Errorf("%w: %w", err, last)
	}
	l.db.fail("storage engine", err)
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
