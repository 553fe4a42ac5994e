package file

import (
	"io"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/object"
)

// Large objects go from the caller's memory to the disk past the page cache
// (O_DIRECT) where the file system can: copying them there costs more processor
// time than all else that happens to them, the fsync at the end would have to
// wait for all of it, and whoever reads through a mount has the kernel's cache of
// that mount.

const (
	// directSize is the size from which that is worth while: below it, the write
	// and the fsync wait for the disk one after the other.
	directSize = 1 << 20
	// directAlign is the alignment of offset, length and memory: the block of all
	// usual file systems, so that none has to read or zero parts of one.
	directAlign = 4096
)

// canDirect tells whether the file system of an open file takes direct I/O at
// directAlign. Those that do not say (before Linux 6.1, most network file
// systems) are not tried.
func canDirect(fd int) bool {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	fits := func(align uint32) bool { return align > 0 && directAlign%align == 0 }
	return err == nil && st.Mask&unix.STATX_DIOALIGN != 0 && fits(st.Dio_mem_align) && fits(st.Dio_offset_align)
}

// writePieces writes a large body that lies in pieces: as they are, as far as they
// are aligned, the rest by way of a buffer that is.
func (w *tempFile) writePieces(body object.PiecesBody) error {
	return body.Pieces(func(pieces [][]byte) error {
		if w.setDirect(true) != nil {
			return w.writeAll(pieces)
		}
		var aligned [][]byte
		for len(pieces) > 0 {
			p := pieces[0]
			n := len(p) &^ (directAlign - 1)
			if n == 0 || uintptr(unsafe.Pointer(unsafe.SliceData(p)))%directAlign != 0 {
				break
			}
			aligned = append(aligned, p[:n:n])
			if n < len(p) {
				pieces = append([][]byte{p[n:]}, pieces[1:]...)
				break
			}
			pieces = pieces[1:]
		}
		if err := w.writeAll(aligned); err != nil {
			return err
		}
		return w.writeCopied(pieces)
	})
}

// writeCopied writes pieces through an aligned buffer, and their end past it.
func (w *tempFile) writeCopied(pieces [][]byte) error {
	if len(pieces) == 0 {
		return nil
	}
	buf := copyBuffers.Get().(*[]byte) // so large that it begins on a page
	defer copyBuffers.Put(buf)
	have := 0
	for _, p := range pieces {
		for len(p) > 0 {
			n := copy((*buf)[have:], p)
			p, have = p[n:], have+n
			if have == len(*buf) {
				if err := w.writeAll([][]byte{*buf}); err != nil {
					return err
				}
				have = 0
			}
		}
	}
	if n := have &^ (directAlign - 1); n > 0 {
		if err := w.writeAll([][]byte{(*buf)[:n]}); err != nil {
			return err
		}
		copy(*buf, (*buf)[n:have])
		have -= n
	}
	if have == 0 {
		return nil
	}
	if err := w.setDirect(false); err != nil {
		return err
	}
	return w.writeAll([][]byte{(*buf)[:have]})
}

// setDirect switches direct I/O on or off.
func (w *tempFile) setDirect(on bool) error {
	flags := 0
	if on {
		flags = unix.O_DIRECT
	}
	_, err := unix.FcntlInt(uintptr(w.fd), unix.F_SETFL, flags)
	w.direct = on && err == nil
	return err
}

// writeAll appends pieces to the file. Where direct I/O turns out not to work, it
// goes on without.
func (w *tempFile) writeAll(pieces [][]byte) error {
	const most = 1024 // pieces in one call: IOV_MAX
	for len(pieces) > 0 {
		n, err := unix.Writev(w.fd, pieces[:min(len(pieces), most)])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EINVAL && w.direct:
			w.s.direct.Store(false)
			if err := w.setDirect(false); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		case n == 0:
			return io.ErrShortWrite
		}
		w.size += int64(n)
		for n > 0 {
			k := min(n, len(pieces[0]))
			n -= k
			if k == len(pieces[0]) {
				pieces = pieces[1:]
				continue
			}
			pieces = append([][]byte{pieces[0][k:]}, pieces[1:]...)
			if w.direct && k%directAlign != 0 {
				if err := w.setDirect(false); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
