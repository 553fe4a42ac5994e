package fsx

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// file is a file under test and its shadow.
type file struct {
	index  int
	path   string
	shadow []byte // what it must hold; its length is the size
	direct bool   // O_DIRECT operations are wanted
	fd     int    // 0: closed (never the number of a file opened here)
	fdApp  int    // the same file, O_APPEND
	fdDir  int    // the same file, O_DIRECT; 0: not open
}

// wrongError says that the file is not what it must be.
type wrongError struct {
	what     string
	from, to int64
}

func (e *wrongError) Error() string { return e.what }

func wrong(format string, args ...any) error {
	return &wrongError{what: fmt.Sprintf(format, args...)}
}

func (f *file) size() int64 { return int64(len(f.shadow)) }

// open opens the descriptors.
func (f *file) open(flags int) (err error) {
	if f.fd, err = openFD(f.path, flags); err != nil {
		return err
	}
	if f.fdApp, err = openFD(f.path, os.O_RDWR|os.O_APPEND); err != nil {
		return err
	}
	return nil
}

// openDirect opens the O_DIRECT descriptor if it is not open.
func (f *file) openDirect() (err error) {
	if f.fdDir == 0 {
		f.fdDir, err = unix.Open(f.path, os.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	}
	return err
}

func openFD(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
		if err == nil {
			return fd, nil
		}
		if err != unix.EINTR {
			return 0, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// close closes the descriptors; they may be closed already.
func (f *file) close() error {
	var errs []error
	for _, fd := range []*int{&f.fd, &f.fdApp, &f.fdDir} {
		if *fd > 0 {
			if err := unix.Close(*fd); err != nil {
				errs = append(errs, fmt.Errorf("close: %w", err))
			}
		}
		*fd = 0
	}
	return errors.Join(errs...)
}

// reset empties the file.
func (f *file) reset() error {
	f.shadow = f.shadow[:0]
	return unix.Ftruncate(f.fd, 0)
}

// resize sets the size of the shadow; new bytes are zero.
func (f *file) resize(size int64) {
	old := f.size()
	f.shadow = f.shadow[:size]
	if size > old {
		clear(f.shadow[old:])
	}
}

// grow makes the shadow at least size bytes long.
func (f *file) grow(size int64) {
	if size > f.size() {
		f.resize(size)
	}
}

// checkSize compares the size.
func (f *file) checkSize() error {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return fmt.Errorf("fstat: %w", err)
	}
	if st.Size != f.size() {
		return wrong("the size is %#x, must be %#x", st.Size, f.size())
	}
	return nil
}

// check compares bytes read at off with the shadow.
func (f *file) check(got []byte, off int64) error {
	want := f.shadow[off : off+int64(len(got))]
	if string(got) == string(want) { // compiles to a plain memory compare
		return nil
	}
	first := 0
	for got[first] == want[first] {
		first++
	}
	last, n := first, 0
	for i := first; i < len(got); i++ {
		if got[i] != want[i] {
			last = i
			n++
		}
	}
	from, to := off+int64(first), off+int64(last)+1
	return &wrongError{
		what: fmt.Sprintf("%d wrong bytes in %#x..%#x: got % x, must be % x",
			n, from, to, got[first:min(first+8, last+1)], want[first:min(first+8, last+1)]),
		from: from, to: to,
	}
}

// compare reads the whole file and compares it.
func (f *file) compare(buf []byte) error {
	if err := f.checkSize(); err != nil {
		return err
	}
	for off := int64(0); off < f.size(); {
		n, err := f.read(f.fd, buf[:min(int64(len(buf)), f.size()-off)], off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

// read reads at off and compares; it must give exactly what lies before the end.
func (f *file) read(fd int, p []byte, off int64) (int, error) {
	n, err := retry(func() (int, error) { return unix.Pread(fd, p, off) })
	if err != nil {
		return 0, fmt.Errorf("read: %w", err)
	}
	if want := max(0, min(int64(len(p)), f.size()-off)); int64(n) != want {
		return 0, wrong("read gave %d bytes, must give %d", n, want)
	}
	if n > 0 {
		err = f.check(p[:n], off)
	}
	return n, err
}

// write writes p at off (fd is not in append mode) and into the shadow.
func (f *file) write(fd int, p []byte, off int64) error {
	n, err := retry(func() (int, error) { return unix.Pwrite(fd, p, off) })
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	f.grow(off + int64(n))
	copy(f.shadow[off:], p[:n])
	if n != len(p) {
		return wrong("write wrote %d bytes of %d", n, len(p))
	}
	return nil
}

// withMap maps the pages that hold the bytes off to off+n of the file and calls do
// with them; the byte at off is m[lead]. A fault there (SIGBUS) is an error.
func (f *file) withMap(prot int, off, n int64, do func(m []byte, lead int64) error) (err error) {
	page := int64(os.Getpagesize())
	lead := off & (page - 1)
	m, err := unix.Mmap(f.fd, off-lead, int((lead+n+page-1)&^(page-1)), prot, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	defer func() {
		if e := unix.Munmap(m); e != nil && err == nil {
			err = fmt.Errorf("munmap: %w", e)
		}
	}()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			fault, ok := p.(interface{ Addr() uintptr })
			if !ok {
				panic(p)
			}
			err = wrong("SIGBUS in the mapped range at address %#x: %v", fault.Addr(), p)
		}
	}()
	return do(m, lead)
}

// retry repeats a call that a signal interrupted before it did anything.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != syscall.EINTR {
			return n, err
		}
	}
}

// alignedBuffer is memory that begins at a page, as O_DIRECT wants it.
func alignedBuffer(n int64) []byte {
	size := (int(n) + 4095) &^ 4095
	m, err := unix.Mmap(-1, 0, max(size, 4096), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(fmt.Sprintf("fsx: no memory for a buffer: %v", err))
	}
	return m
}
