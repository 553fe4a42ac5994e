// Package file keeps objects as files of a directory, safely: an object is there
// whole or not at all, whatever crashes, and when Put returns it is on the disk.
// Any number of processes may have one directory open.
//
// # Layout
//
// A key is a path below the directory, by the rules in name.go; an ordinary key
// such as "chunks/12/345" is chunks+/12+/345. The store's own files are in
// .massif:
//
//	.massif/format   names the layout, so that an older program refuses a newer store
//	.massif/lock     byte-range locks, see keyLocks
//	.massif/tmp      files being written, where the file system needs names for them
//	.massif/upload   multipart uploads in progress, see multipart.go
//
// Content type and user metadata are in the extended attribute user.massif of the
// file, none where an object has none. On file systems without extended
// attributes the store lacks the Metadata capability.
//
// # How an object is written
//
// Its bytes go to a file without a name (O_TMPFILE) in the directory of the
// object, and to the disk (fsync). Then it gets its name: by linkat(2), which
// fails if the name is taken, and so decides between writers with IfAbsent; or,
// when it replaces an object, by a name in .massif/tmp and rename(2). At last the
// directory goes to the disk, by one fsync for all the puts into it that wait
// (syncer). A crash at any moment leaves nothing behind that a listing would show,
// and at most a nameless file, which the file system removes itself. Where it
// knows no O_TMPFILE the file is made in .massif/tmp, and Open removes those that
// crashes left.
//
// # What an ETag is
//
// Inode number, size and modification time, which Put sets to the nanosecond and
// never twice to the same within a process. So it costs no hashing, changes with
// every put, and is the same for every process. It changes when the directory is
// copied, which callers that keep ETags must expect.
package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/massif-fs/massif/object"
	"golang.org/x/sys/unix"
)

// Options say how to open a directory. The zero Options are right for production.
type Options struct {
	// Create makes the directory, and those above it, if missing.
	Create bool
	// ReadOnly opens without changing anything, so also what is write protected.
	// Calls that would change something fail with EROFS.
	ReadOnly bool
	// NoSync leaves it to the kernel when data reaches the disk: a crash of the
	// machine may lose or damage objects that were put shortly before. For tests
	// and for what can be made again.
	NoSync bool
	// OpenFiles is the number of descriptors kept open for ReadRange; 0: 256.
	OpenFiles int
	// TempAge is the age from which Open takes a file in .massif/tmp for one that
	// a crash left, rather than one that another process is writing; 0: a day.
	TempAge time.Duration
}

const (
	own       = ".massif"
	ownFormat = own + "/format"
	ownLock   = own + "/lock"
	ownTemp   = own + "/tmp"
	ownUpload = own + "/upload"

	format = "massif objects 1\n"
)

// Store is an open directory. It implements object.Store, object.RangeReader,
// object.Renamer and object.Multipart.
type Store struct {
	path string // absolute
	opts Options
	can  abilities

	root  int // descriptor of the directory
	temp  *dir
	dirs  dirs
	files openFiles
	locks keyLocks

	walks   walks
	unique  string        // begins the names of this store's temporary files
	serial  atomic.Uint64 // of the temporary file made last
	stamped atomic.Int64  // modification time given last, ns
	direct  atomic.Bool   // large objects are written past the page cache
	closed  atomic.Bool
}

// abilities are those of the file system, found out by Open.
type abilities struct {
	xattr     bool // user.* extended attributes
	tmpfile   bool // O_TMPFILE
	linkEmpty bool // linkat with AT_EMPTY_PATH; else by way of /proc
	noReplace bool // renameat2 with RENAME_NOREPLACE
	hardLinks bool
	locks     bool // between processes
}

// ifAbsent reports whether one of several processes wins that create a file.
func (a abilities) ifAbsent() bool { return a.tmpfile || a.noReplace || a.hardLinks || a.locks }

var (
	_ object.Store       = (*Store)(nil)
	_ object.RangeReader = (*Store)(nil)
	_ object.Renamer     = (*Store)(nil)
	_ object.Multipart   = (*Store)(nil)
)

// Open opens the store in directory path. Its error says what is wrong with the
// directory and wraps the errno, and object.ErrNotFound for a missing one or
// object.ErrAccess for one that may not be written.
func Open(path string, opts Options) (*Store, error) {
	s, err := open(path, opts, nil)
	if err != nil {
		return nil, wrap("open", "", fmt.Errorf("directory %s: %w", path, err))
	}
	return s, nil
}

// open lets tests pretend that the file system can do less.
func open(path string, opts Options, limit func(*abilities)) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if opts.OpenFiles <= 0 {
		opts.OpenFiles = 256
	}
	if opts.TempAge <= 0 {
		opts.TempAge = 24 * time.Hour
	}
	if opts.Create && !opts.ReadOnly {
		if err := makeDirs(path, !opts.NoSync); err != nil {
			return nil, err
		}
	}
	s := &Store{path: path, opts: opts, root: -1}
	s.locks.fd = -1
	s.dirs = dirs{s: s, most: 512, all: make(map[string]*dir)}
	s.files.init(opts.OpenFiles)
	s.unique = fmt.Sprintf("%x-%x-", os.Getpid(), time.Now().UnixNano())
	err = retry(func() (err error) {
		s.root, err = unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	switch err {
	case nil:
	case unix.ENOENT:
		return nil, fmt.Errorf("it does not exist: %w", err)
	case unix.ENOTDIR:
		return nil, fmt.Errorf("it is not a directory: %w: %w", object.ErrInvalid, err)
	default:
		return nil, err
	}
	if err := s.checkFormat(); err != nil {
		s.Close()
		return nil, err
	}
	if opts.ReadOnly {
		s.can.xattr = true // reading them where there are none is no error
		return s, nil
	}
	if err := s.prepare(); err != nil {
		s.Close()
		return nil, err
	}
	if limit != nil {
		limit(&s.can)
	}
	return s, nil
}

// makeDirs makes path and its missing parents, durably.
func makeDirs(path string, sync bool) error {
	if _, err := os.Stat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if err := makeDirs(parent, sync); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if !sync {
		return nil
	}
	d, err := os.Open(parent)
	if err != nil {
		return err
	}
	defer d.Close()
	return (&dir{fd: int(d.Fd())}).fsync()
}

func (s *Store) checkFormat() error {
	got, err := os.ReadFile(filepath.Join(s.path, ownFormat))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case string(got) != format:
		return fmt.Errorf("%w: %s/%s says %.40q, this program reads %q", object.ErrInvalid, s.path, ownFormat, got, format)
	}
	return nil
}

// prepare makes the store's own files and finds out what the file system can do.
func (s *Store) prepare() error {
	for _, p := range []string{own, ownTemp, ownUpload} {
		err := retry(func() error { return unix.Mkdirat(s.root, p, 0o777) })
		if err != nil && err != unix.EEXIST {
			return fmt.Errorf("it cannot be written: %w", err)
		}
	}
	var err error
	if s.temp, err = s.dirs.acquire(ownTemp); err != nil {
		return err
	}
	err = retry(func() (err error) {
		s.locks.fd, err = unix.Openat(s.root, ownLock, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o666)
		return err
	})
	if err != nil {
		return fmt.Errorf("it cannot be written: %s: %w", ownLock, err)
	}
	if s.can.locks = s.locks.work(); !s.can.locks {
		unix.Close(s.locks.fd)
		s.locks.fd = -1 // those within the process still work
	}
	if err := s.probe(); err != nil {
		return fmt.Errorf("it cannot be written: %w", err)
	}
	if err := s.writeFormat(); err != nil {
		return fmt.Errorf("it cannot be written: %w", err)
	}
	s.removeLeftovers()
	return nil
}

// probe finds out what the file system can do, with real files.
func (s *Store) probe() error {
	name, other := s.tempName(), s.tempName()
	defer func() {
		_ = unix.Unlinkat(s.temp.fd, name, 0)
		_ = unix.Unlinkat(s.temp.fd, other, 0)
	}()
	fd, err := unix.Openat(s.temp.fd, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o666)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte("x")); err != nil {
		return err
	}
	s.direct.Store(!s.opts.NoSync && canDirect(fd))
	s.can.xattr = unix.Fsetxattr(fd, attrName, []byte("{}"), 0) == nil
	s.can.hardLinks = unix.Linkat(s.temp.fd, name, s.temp.fd, other, 0) == nil
	_ = unix.Unlinkat(s.temp.fd, other, 0)
	if unix.Renameat2(s.temp.fd, name, s.temp.fd, other, unix.RENAME_NOREPLACE) == nil {
		s.can.noReplace = true
		_ = unix.Unlinkat(s.temp.fd, other, 0)
	}
	nameless, err := unix.Openat(s.temp.fd, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o666)
	if err != nil {
		return nil
	}
	defer unix.Close(nameless)
	if unix.Linkat(nameless, "", s.temp.fd, other, unix.AT_EMPTY_PATH) == nil {
		s.can.tmpfile, s.can.linkEmpty = true, true
	} else if unix.Linkat(unix.AT_FDCWD, procPath(nameless), s.temp.fd, other, unix.AT_SYMLINK_FOLLOW) == nil {
		s.can.tmpfile = true
	}
	return nil
}

func (s *Store) writeFormat() error {
	name := filepath.Join(s.path, ownFormat)
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	temp := filepath.Join(s.path, ownTemp, s.tempName())
	if err := os.WriteFile(temp, []byte(format), 0o666); err != nil {
		return err
	}
	f, err := os.Open(temp)
	if err != nil {
		return err
	}
	defer f.Close()
	if !s.opts.NoSync {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := os.Rename(temp, name); err != nil {
		return err
	}
	d, err := s.dirs.acquire(own)
	if err != nil {
		return err
	}
	defer s.dirs.release(d)
	return s.syncDir(d)
}

// removeLeftovers removes what is in .massif/tmp so old that no process can be using
// it. What it cannot remove it leaves to the next Open.
func (s *Store) removeLeftovers() {
	entries, err := os.ReadDir(filepath.Join(s.path, ownTemp))
	if err != nil {
		return
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && time.Since(info.ModTime()) > s.opts.TempAge {
			_ = os.RemoveAll(filepath.Join(s.path, ownTemp, e.Name())) // also uploads that were ending
		}
	}
}

func (s *Store) tempName() string {
	return fmt.Sprintf("%s%x", s.unique, s.serial.Add(1))
}

func (s *Store) openDirAt(p string) (fd int, err error) {
	err = retry(func() (err error) {
		fd, err = unix.Openat(s.root, p, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	return fd, err
}

// String returns the file URL of the directory.
func (s *Store) String() string { return "file://" + s.path }

// Path returns the absolute path of the directory.
func (s *Store) Path() string { return s.path }

// Capabilities implements object.Store.
func (s *Store) Capabilities() object.Capabilities {
	return object.Capabilities{PutIfAbsent: s.can.ifAbsent(), PutIfMatch: s.can.locks, Metadata: s.can.xattr}
}

// Close closes the descriptors. It must not be called while other calls run.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.files.closeAll()
	s.walks.closeAll()
	if s.temp != nil {
		s.dirs.release(s.temp)
	}
	s.dirs.closeAll()
	for _, fd := range []int{s.locks.fd, s.root} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	s.locks.fd, s.root = -1, -1
	return nil
}

// begin is what every operation on keys begins with.
func (s *Store) begin(ctx context.Context, op string, keys ...string) error {
	for _, key := range keys {
		if err := object.ValidKey(key); err != nil {
			return &object.Error{Op: op, Key: key, Err: err}
		}
	}
	if err := ctx.Err(); err != nil {
		return &object.Error{Op: op, Key: strings.Join(keys, " → "), Err: err}
	}
	if s.closed.Load() {
		return &object.Error{Op: op, Key: keys[0], Err: errClosed}
	}
	return nil
}

var errClosed = fmt.Errorf("%w: the store is closed", object.ErrInvalid)

// beginWrite is begin for operations that change something.
func (s *Store) beginWrite(ctx context.Context, op string, keys ...string) error {
	if err := s.begin(ctx, op, keys...); err != nil {
		return err
	}
	if s.opts.ReadOnly {
		return wrap(op, keys[0], unix.EROFS)
	}
	return nil
}

// procPath names an open file for linkat(2), where AT_EMPTY_PATH is not allowed.
func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
