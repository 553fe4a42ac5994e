package fsx

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// apply does an operation on the file and on its shadow and compares what can
// be compared.
func (r *runner) apply(f *file, op Op) error {
	if op.Len == 0 {
		switch op.Kind {
		case opTruncate, opSeek, opSync, opDrop, opReopen, opRemount:
		default:
			return nil // nothing would happen
		}
	}
	var err error
	switch op.Kind {
	case opRead:
		_, err = f.read(f.fd, r.buf[:op.Len], op.Off)
		r.res.Bytes += op.Len
	case opReadVec:
		err = r.readVec(f, op)
	case opWrite:
		err = f.write(f.fd, r.pattern(op), op.Off)
	case opAppend:
		err = r.append(f, op)
	case opTruncate:
		if err = unix.Ftruncate(f.fd, op.Off); err == nil {
			f.resize(op.Off)
		}
	case opMapRead:
		err = r.mapRead(f, op)
	case opMapWrite:
		err = r.mapWrite(f, op)
	case opPunch, opZero, opFalloc:
		err = r.fallocate(f, op)
	case opCopy:
		err = r.copy(f, op)
	case opSeek:
		err = f.checkHoles()
	case opSync:
		if op.Flag {
			err = unix.Fdatasync(f.fd)
		} else {
			err = unix.Fsync(f.fd)
		}
	case opDrop:
		// Dirty pages stay: what is written back is read anew from then on.
		err = unix.Fadvise(f.fd, 0, 0, unix.FADV_DONTNEED)
	case opReopen:
		if err = f.close(); err == nil {
			err = f.open(unix.O_RDWR)
		}
	case opDirectRead:
		if err = f.openDirect(); err == nil {
			_, err = f.read(f.fdDir, r.buf[:op.Len], op.Off)
		}
	case opDirectWrite:
		if err = f.openDirect(); err == nil {
			err = f.write(f.fdDir, r.pattern(op), op.Off)
		}
	case opRemount:
		return r.remount()
	}
	if err != nil {
		return err
	}
	if op.N%4 == 0 || op.Kind != opRead && op.Kind != opMapRead {
		return f.checkSize()
	}
	return nil
}

// pattern fills the buffer with bytes that tell operation and place, so that
// stale bytes never look right.
func (r *runner) pattern(op Op) []byte {
	p := r.buf[:op.Len]
	fillPattern(p, uint64(op.N)<<8|uint64(op.File))
	r.res.Bytes += op.Len
	return p
}

func fillPattern(p []byte, seed uint64) {
	x := seed*0x9e3779b97f4a7c15 + 1
	for len(p) >= 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(p, x)
		p = p[8:]
	}
	for i := range p {
		p[i] = byte(x>>(8*i)) | 1
	}
}

// readVec reads into two buffers by one preadv.
func (r *runner) readVec(f *file, op Op) error {
	p := r.buf[:op.Len]
	cut := len(p) / 3
	n, err := retry(func() (int, error) { return unix.Preadv(f.fd, [][]byte{p[:cut], p[cut:]}, op.Off) })
	if err != nil {
		return fmt.Errorf("preadv: %w", err)
	}
	if want := max(0, min(op.Len, f.size()-op.Off)); int64(n) != want {
		return wrong("preadv gave %d bytes, must give %d", n, want)
	}
	return f.check(p[:n], op.Off)
}

func (r *runner) append(f *file, op Op) error {
	p := r.pattern(op)
	n, err := retry(func() (int, error) { return unix.Write(f.fdApp, p) })
	if err != nil {
		return fmt.Errorf("append: %w", err)
	}
	if n != len(p) {
		return wrong("append wrote %d bytes of %d", n, len(p))
	}
	f.grow(op.Off + op.Len)
	copy(f.shadow[op.Off:], p)
	return nil
}

func (r *runner) mapRead(f *file, op Op) error {
	// Pages wholly behind the end must not be touched.
	n := min(op.Len, f.size()-op.Off)
	if n <= 0 {
		return nil
	}
	r.res.Bytes += n
	return f.withMap(unix.PROT_READ, op.Off, n, func(m []byte, lead int64) error {
		if err := f.check(m[lead:lead+n], op.Off); err != nil || op.Off+n != f.size() {
			return err
		}
		// The rest of the file's last page is zero.
		for i, b := range m[lead+n:] {
			if b != 0 {
				return wrong("byte %#x, behind the end in the last page, is %#x, must be 0", f.size()+int64(i), b)
			}
		}
		return nil
	})
}

func (r *runner) mapWrite(f *file, op Op) error {
	// A map does not extend a file: do so first, as programs that map do.
	if end := op.Off + op.Len; end > f.size() {
		if err := unix.Ftruncate(f.fd, end); err != nil {
			return fmt.Errorf("truncate before mmap: %w", err)
		}
		f.resize(end)
	}
	p := r.pattern(op)
	return f.withMap(unix.PROT_READ|unix.PROT_WRITE, op.Off, op.Len, func(m []byte, lead int64) error {
		copy(m[lead:], p)
		copy(f.shadow[op.Off:], p)
		if op.Flag && op.N%16 == 0 { // as dear as an fsync
			if err := unix.Msync(m, unix.MS_SYNC); err != nil {
				return fmt.Errorf("msync: %w", err)
			}
		}
		return nil
	})
}

func (r *runner) fallocate(f *file, op Op) error {
	end := op.Off + op.Len
	var mode uint32
	switch op.Kind {
	case opPunch:
		mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	case opZero:
		mode = unix.FALLOC_FL_ZERO_RANGE
	}
	if op.Flag {
		mode |= unix.FALLOC_FL_KEEP_SIZE
	}
	if err := unix.Fallocate(f.fd, mode, op.Off, op.Len); err != nil {
		return fmt.Errorf("fallocate: %w", err)
	}
	if mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
		f.grow(end)
	}
	if op.Kind != opFalloc && op.Off < f.size() {
		clear(f.shadow[op.Off:min(end, f.size())])
	}
	return nil
}

// copy does copy_file_range until all is copied or the source ends.
func (r *runner) copy(f *file, op Op) error {
	to := r.files[op.ToFile]
	in, out := op.Off, op.To
	for left := op.Len; left > 0; {
		n, err := unix.CopyFileRange(f.fd, &in, to.fd, &out, int(left), 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("copy_file_range: %w", err)
		}
		if n == 0 {
			break
		}
		left -= int64(n)
	}
	n := min(op.Len, f.size()-op.Off)
	if got := in - op.Off; got != max(n, 0) {
		return wrong("copy_file_range copied %d bytes, must copy %d", got, max(n, 0))
	}
	if n > 0 {
		to.grow(op.To + n)
		copy(to.shadow[op.To:op.To+n], f.shadow[op.Off:])
	}
	return to.checkSize()
}

// checkHoles walks the file by SEEK_DATA and SEEK_HOLE: the two must alternate
// up to the size, and holes must be zero in the shadow.
func (f *file) checkHoles() error {
	size := f.size()
	if _, err := unix.Seek(f.fd, size, unix.SEEK_DATA); err != unix.ENXIO {
		return wrong("SEEK_DATA at the end gave %v, must give ENXIO", err)
	}
	for off := int64(0); off < size; {
		data, err := unix.Seek(f.fd, off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			data = size
		} else if err != nil {
			return fmt.Errorf("SEEK_DATA: %w", err)
		}
		if data < off || data > size {
			return wrong("SEEK_DATA at %#x gave %#x, the size is %#x", off, data, size)
		}
		for i, b := range f.shadow[off:data] {
			if b != 0 {
				return &wrongError{fmt.Sprintf("SEEK_DATA at %#x gave %#x, but there is data at %#x", off, data, off+int64(i)), off, data}
			}
		}
		if data == size {
			return nil
		}
		hole, err := unix.Seek(f.fd, data, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("SEEK_HOLE: %w", err)
		}
		if hole <= data || hole > size {
			return wrong("SEEK_HOLE at %#x (data) gave %#x, the size is %#x", data, hole, size)
		}
		off = hole
	}
	return nil
}

// remount closes all files, has the caller remount, and compares all files.
func (r *runner) remount() error {
	for _, f := range r.files {
		if err := f.close(); err != nil {
			return err
		}
	}
	if err := r.cfg.Remount(); err != nil {
		return fmt.Errorf("remount: %w", err)
	}
	for _, f := range r.files {
		if err := f.open(unix.O_RDWR); err != nil {
			return err
		}
		if err := f.compare(r.buf); err != nil {
			return fmt.Errorf("file %d after a remount: %w", f.index, err)
		}
	}
	return nil
}
