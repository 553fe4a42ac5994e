package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sync"
	"time"

	"github.com/massif-fs/massif/internal/crashpoint"
	"github.com/massif-fs/massif/object"
	"golang.org/x/sys/unix"
)

// Put implements object.Store.
func (s *Store) Put(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	const op = "put"
	if err := s.beginWrite(ctx, op, key); err != nil {
		return object.Info{}, err
	}
	if opts == nil {
		opts = &object.PutOptions{}
	}
	if err := s.checkPut(opts); err != nil {
		return object.Info{}, wrap(op, key, err)
	}
	info, err := s.create(ctx, key, opts, attrsOf(opts), func(w *tempFile) error {
		return w.readFrom(ctx, body, size)
	})
	return info, wrap(op, key, err)
}

func (s *Store) checkPut(opts *object.PutOptions) error {
	if err := opts.Validate(); err != nil {
		return err
	}
	if opts.IfMatch != "" && !s.can.locks || opts.IfAbsent && !s.can.ifAbsent() {
		return fmt.Errorf("%w: the file system has no locks for conditions", object.ErrUnsupported)
	}
	if opts.StorageClass != "" {
		return fmt.Errorf("%w: a directory has no storage classes", object.ErrUnsupported)
	}
	if !s.can.xattr && !attrsOf(opts).empty() {
		return fmt.Errorf("%w: the file system has no extended attributes for content type and metadata", object.ErrUnsupported)
	}
	return nil
}

// create makes the object key of what write puts into the file it is given. It
// returns when the object is durable.
func (s *Store) create(ctx context.Context, key string, opts *object.PutOptions, a attrs, write func(*tempFile) error) (object.Info, error) {
	rel := pathOf(key)
	d, err := s.dirs.acquire(path.Dir(rel))
	if err != nil {
		return object.Info{}, err
	}
	defer func() { s.dirs.release(d) }()
	base := path.Base(rel)
	if opts.IfAbsent { // only to spare the body; link decides
		var st unix.Stat_t
		if unix.Fstatat(d.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			return object.Info{}, object.ErrExists
		}
	}
	w, err := s.newTemp(d)
	if err != nil {
		return object.Info{}, err
	}
	defer w.close()
	if err := write(w); err != nil {
		return object.Info{}, err
	}
	crashpoint.Hit("object.file.written")
	if !a.empty() {
		p, err := a.encode()
		if err != nil {
			return object.Info{}, err
		}
		if err := retry(func() error { return unix.Fsetxattr(w.fd, attrName, p, 0) }); err != nil {
			return object.Info{}, err
		}
	}
	st, err := w.finish()
	if err != nil {
		return object.Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return object.Info{}, err
	}
	crashpoint.Hit("object.file.synced")
	for try := 0; ; try++ {
		err := w.publish(ctx, d, base, key, opts)
		if err == unix.ENOENT && try < maxTries {
			contend(try)
			// The directory was removed, because it had become empty: make it again.
			s.dirs.forget(d)
			again, err := s.dirs.acquire(d.path)
			if err != nil {
				return object.Info{}, err
			}
			s.dirs.release(d)
			d = again
			continue
		}
		if err != nil {
			return object.Info{}, err
		}
		break
	}
	crashpoint.Hit("object.file.published")
	if err := s.syncDir(d); err != nil {
		return object.Info{}, err
	}
	return infoOf(key, st, a), nil
}

// tempFile is a file on its way to become an object.
type tempFile struct {
	s    *Store
	f    *os.File
	fd   int    // of f
	name string // in .massif/tmp; "" while the file is nameless
	size int64  // written so far

	direct  bool  // the descriptor is set to direct I/O
	flushed int64 // up to where the kernel was told to begin writing to the disk
}

// newTemp makes an empty file for an object in d.
func (s *Store) newTemp(d *dir) (*tempFile, error) {
	w := &tempFile{s: s}
	var err error
	if s.can.tmpfile {
		err = retry(func() (err error) {
			w.fd, err = unix.Openat(d.fd, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o666)
			return err
		})
		if err == unix.ENOENT || err == unix.EPERM { // d was removed (ext4: EPERM); publish will see to that
			err = retry(func() (err error) {
				w.fd, err = unix.Openat(s.temp.fd, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o666)
				return err
			})
		}
	} else {
		w.name = s.tempName()
		err = retry(func() (err error) {
			w.fd, err = unix.Openat(s.temp.fd, w.name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o666)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	w.f = os.NewFile(uintptr(w.fd), "object")
	return w, nil
}

// close drops the file, unless it was published.
func (w *tempFile) close() {
	_ = w.f.Close() // what matters was said by fsync
	if w.name != "" {
		_ = unix.Unlinkat(w.s.temp.fd, w.name, 0) // else Open removes it one day
	}
}

const (
	copyBuffer = 512 << 10
	// writeBehind is how much of a long body may wait in the page cache before the
	// disk is set to work, so that the fsync at the end finds little to do.
	writeBehind = 8 << 20
	// maxAtOnce bounds what is written without a look at the context.
	maxAtOnce = 64 << 20
)

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

// readFrom writes the body, which must have size bytes unless size is negative.
func (w *tempFile) readFrom(ctx context.Context, body io.Reader, size int64) error {
	out := &bodyWriter{w: w, ctx: ctx, left: size, sized: size >= 0, size: size}
	if m, ok := body.(object.MemoryBody); ok && m.Len() <= maxAtOnce {
		if err := object.CheckLength(m, size); err != nil {
			return err
		}
		if p, ok := m.(object.PiecesBody); ok && m.Len() >= directSize && w.s.direct.Load() {
			return w.writePieces(p)
		}
		return w.writeMemory(m)
	}
	if from, ok := body.(io.WriterTo); ok {
		if _, err := from.WriteTo(out); err != nil {
			return err
		}
		if out.sized && out.left > 0 {
			return fmt.Errorf("body ended %d bytes before the %d announced: %w", out.left, size, io.ErrUnexpectedEOF)
		}
		return nil
	}
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	_, err := io.CopyBuffer(out, readerOnly{object.Sized(body, size)}, *buf)
	return err
}

type readerOnly struct{ io.Reader }

// writeMemory writes a body in memory, which gives itself to an *os.File without a
// copy and in as few calls as it can.
func (w *tempFile) writeMemory(m object.MemoryBody) error {
	want := int64(m.Len())
	n, err := m.WriteTo(w.f)
	w.size += n
	if err == nil && n != want {
		err = io.ErrShortWrite
	}
	return err
}

// bodyWriter writes a body of a given size and not one byte more.
type bodyWriter struct {
	w     *tempFile
	ctx   context.Context
	sized bool
	size  int64
	left  int64
}

func (b *bodyWriter) Write(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if b.sized {
		if int64(len(p)) > b.left {
			return 0, fmt.Errorf("%w: body is longer than the %d bytes announced", object.ErrInvalid, b.size)
		}
		b.left -= int64(len(p))
	}
	return b.w.Write(p)
}

// Write appends to the file.
func (w *tempFile) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Write(w.fd, p[done:])
		if n > 0 {
			done += n
			w.size += int64(n)
		}
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return done, err
		}
	}
	w.writeBehind()
	return done, nil
}

func (w *tempFile) writeBehind() {
	if w.s.opts.NoSync || w.size-w.flushed < writeBehind {
		return
	}
	// Only a hint: finish waits for everything and gets the errors.
	_ = unix.SyncFileRange(w.fd, w.flushed, w.size-w.flushed, unix.SYNC_FILE_RANGE_WRITE)
	w.flushed = w.size
}

// finish stamps the file and makes its content durable.
func (w *tempFile) finish() (*unix.Stat_t, error) {
	if err := w.stamp(); err != nil {
		return nil, err
	}
	if !w.s.opts.NoSync {
		if err := fsync(w.fd); err != nil {
			return nil, err
		}
	}
	st := new(unix.Stat_t)
	if err := retry(func() error { return unix.Fstat(w.fd, st) }); err != nil {
		return nil, err
	}
	if st.Size != w.size {
		return nil, fmt.Errorf("%w: file has %d bytes, %d were written", object.ErrCorrupt, st.Size, w.size)
	}
	return st, nil
}

// stamp gives the file a modification time that this store has given to no other.
func (w *tempFile) stamp() error {
	now := time.Now().UnixNano()
	for {
		last := w.s.stamped.Load()
		now = max(now, last+1)
		if w.s.stamped.CompareAndSwap(last, now) {
			break
		}
	}
	ts := [2]unix.Timespec{unix.NsecToTimespec(now), unix.NsecToTimespec(now)}
	return retry(func() error { return futimens(w.fd, &ts) })
}

// publish gives the file its name in d, under the conditions of opts.
func (w *tempFile) publish(ctx context.Context, d *dir, base, key string, opts *object.PutOptions) error {
	s := w.s
	if opts.IfMatch == "" {
		switch err := w.link(ctx, d, base, key); {
		case err == nil:
			return nil
		case err != unix.EEXIST:
			return err
		case opts.IfAbsent:
			return object.ErrExists
		}
	}
	unlock, err := s.locks.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	if opts.IfMatch != "" {
		var st unix.Stat_t
		err := retry(func() error { return unix.Fstatat(d.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW) })
		switch {
		case err == unix.ENOENT, err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG:
			return object.ErrPrecondition
		case err != nil:
			return err
		case etagOf(&st) != opts.IfMatch:
			return object.ErrPrecondition
		}
	}
	if err := w.nameIt(); err != nil {
		return err
	}
	crashpoint.Hit("object.file.named")
	if err := retry(func() error { return unix.Renameat(s.temp.fd, w.name, d.fd, base) }); err != nil {
		return err
	}
	w.name = ""
	s.files.forget(key)
	return nil
}

// link gives the file its name in d if there is none such: else EEXIST.
func (w *tempFile) link(ctx context.Context, d *dir, base, key string) error {
	s := w.s
	switch {
	case w.name == "":
		return w.linkNameless(d, base)
	case s.can.noReplace:
		err := retry(func() error { return unix.Renameat2(s.temp.fd, w.name, d.fd, base, unix.RENAME_NOREPLACE) })
		if err == nil {
			w.name = ""
		}
		return err
	case s.can.hardLinks:
		return retry(func() error { return unix.Linkat(s.temp.fd, w.name, d.fd, base, 0) })
	}
	// Neither: then the lock must do, which all who write hold.
	unlock, err := s.locks.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstatat(d.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW) }); err != unix.ENOENT {
		if err == nil {
			err = unix.EEXIST
		}
		return err
	}
	err = retry(func() error { return unix.Renameat(s.temp.fd, w.name, d.fd, base) })
	if err == nil {
		w.name = ""
	}
	return err
}

func (w *tempFile) linkNameless(d *dir, base string) error {
	if w.s.can.linkEmpty {
		return retry(func() error { return unix.Linkat(w.fd, "", d.fd, base, unix.AT_EMPTY_PATH) })
	}
	return retry(func() error {
		return unix.Linkat(unix.AT_FDCWD, procPath(w.fd), d.fd, base, unix.AT_SYMLINK_FOLLOW)
	})
}

// nameIt gives a nameless file a name in .massif/tmp, from which it can be
// renamed over another file.
func (w *tempFile) nameIt() error {
	if w.name != "" {
		return nil
	}
	name := w.s.tempName()
	if err := w.linkNameless(w.s.temp, name); err != nil {
		return err
	}
	w.name = name
	return nil
}

// Copy implements object.Store. On file systems that can, the copy shares the
// blocks of its source.
func (s *Store) Copy(ctx context.Context, dst, src string, opts *object.PutOptions) (object.Info, error) {
	const op = "copy"
	if err := s.beginWrite(ctx, op, src, dst); err != nil {
		return object.Info{}, err
	}
	if opts == nil {
		opts = &object.PutOptions{}
	}
	err := s.checkPut(opts)
	if dst == src {
		err = fmt.Errorf("%w: copy onto itself", object.ErrInvalid)
	}
	if err != nil {
		return object.Info{}, wrap(op, src, err)
	}
	from, st, err := s.openObject(src)
	if err != nil {
		return object.Info{}, wrap(op, src, err)
	}
	defer unix.Close(from)
	a := attrsOf(opts)
	if s.can.xattr && (a.ContentType == "" || a.Metadata == nil) {
		old, err := readAttrs(from)
		if err != nil {
			return object.Info{}, wrap(op, src, err)
		}
		if a.ContentType == "" {
			a.ContentType = old.ContentType
		}
		if a.Metadata == nil {
			a.Metadata = old.Metadata
		}
	}
	info, err := s.create(ctx, dst, opts, a, func(w *tempFile) error {
		if unix.IoctlFileClone(w.fd, from) == nil {
			w.size = st.Size
			return nil
		}
		return w.appendFile(ctx, from, st.Size)
	})
	return info, wrap(op, dst, err)
}

// appendFile appends the first size bytes of the file from, inside the kernel
// where it can.
func (w *tempFile) appendFile(ctx context.Context, from int, size int64) error {
	var off int64
	for off < size {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := unix.CopyFileRange(from, &off, w.fd, nil, int(min(size-off, writeBehind)), 0)
		switch {
		case err == unix.EINTR:
		case err == unix.EXDEV || err == unix.EINVAL || err == unix.ENOSYS || err == unix.EOPNOTSUPP:
			return w.readFrom(ctx, io.NewSectionReader(fdReader(from), off, size-off), size-off)
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("file ended %d bytes early: %w", size-off, io.ErrUnexpectedEOF)
		default:
			w.size += int64(n)
			w.writeBehind()
		}
	}
	return nil
}

// fdReader reads a descriptor at offsets.
type fdReader int

func (fd fdReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := preadFull(int(fd), p, off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// preadFull reads until p is full or the file ends.
func preadFull(fd int, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(fd, p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return done, err
		case n == 0:
			return done, nil
		default:
			done += n
		}
	}
	return done, nil
}

// Rename implements object.Renamer.
func (s *Store) Rename(ctx context.Context, dst, src string) error {
	const op = "rename"
	if err := s.beginWrite(ctx, op, src, dst); err != nil {
		return err
	}
	if dst == src {
		_, err := s.Head(ctx, src)
		return err
	}
	if err := s.rename(ctx, dst, src); err != nil {
		return wrap(op, src, err)
	}
	return nil
}

func (s *Store) rename(ctx context.Context, dst, src string) error {
	from, to := pathOf(src), pathOf(dst)
	unlock, err := s.locks.lock(ctx, src, dst)
	if err != nil {
		return err
	}
	defer func() { unlock() }()
	var st unix.Stat_t
	err = retry(func() error { return unix.Fstatat(s.root, from, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = unix.ENOENT
	}
	if err != nil {
		return err
	}
	var d *dir
	for try := 0; ; try++ {
		if d, err = s.dirs.acquire(path.Dir(to)); err != nil {
			return err
		}
		err = retry(func() error { return unix.Renameat(s.root, from, d.fd, path.Base(to)) })
		if err == nil {
			break
		}
		// src cannot vanish under the lock, so that it is d that has gone.
		if err == unix.ENOENT {
			s.dirs.forget(d)
		}
		s.dirs.release(d)
		if err != unix.ENOENT || try == maxTries {
			return err
		}
		contend(try)
	}
	defer s.dirs.release(d)
	s.files.forget(src)
	s.files.forget(dst)
	crashpoint.Hit("object.file.renamed")
	unlock()
	unlock = func() {}
	return errors.Join(s.syncDir(d), s.removed(path.Dir(from)))
}
