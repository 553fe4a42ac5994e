package crashtest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
)

// smalls makes and deletes many small files. One that was fsynced must be there,
// whole; one whose deletion was made durable must not.
type smalls struct {
	w     *loader
	file  uint64
	files map[int]*small
	next  int
}

type small struct {
	size    int
	durable bool // fsynced: name and data must be there
	deleted bool // unlinked, not yet durably
	gone    bool // unlinked, durably: must not be there
}

func newSmalls(w *loader) *smalls {
	return &smalls{w: w, file: w.rng.Uint64(), files: map[int]*small{}}
}

func (s *smalls) path(n int) string { return s.w.path(fmt.Sprintf("small%06d", n)) }

// sizes are below, at and above what volumes keep inline or pack.
func (s *smalls) size() int {
	switch s.w.rng.IntN(5) {
	case 0:
		return s.w.rng.IntN(64)
	case 1:
		return 4090 + s.w.rng.IntN(12)
	case 2:
		return s.w.rng.IntN(100_000)
	}
	return s.w.rng.IntN(6000)
}

func (s *smalls) act() error {
	if len(s.files) > 120 {
		return s.delete()
	}
	for range 1 + s.w.rng.IntN(6) {
		s.next++
		n := s.next
		f := &small{size: s.size()}
		s.files[n] = f
		h, err := os.OpenFile(s.path(n), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		if f.size > 0 {
			_, err = h.Write(fillRange(make([]byte, f.size), s.file, uint64(n), 0))
		}
		if s.w.rng.IntN(6) == 0 {
			err = errors.Join(err, h.Close()) // never synced: all or nothing is asked of it
		} else {
			err = s.w.syncClose(h, err)
			f.durable = err == nil
		}
		if err != nil {
			return err
		}
		s.w.did(1)
	}
	return nil
}

func (s *smalls) delete() error {
	var doomed []*small
	for n, f := range s.files {
		if f.deleted || f.gone || s.w.rng.IntN(3) != 0 {
			continue
		}
		f.deleted = true
		if err := os.Remove(s.path(n)); err != nil {
			return err
		}
		doomed = append(doomed, f)
		s.w.did(1)
	}
	if err := s.w.syncDir(s.w.dir); err != nil {
		return err
	}
	for n, f := range s.files {
		if slices.Contains(doomed, f) {
			f.gone = true
		}
		if f.deleted && s.w.rng.IntN(2) == 0 && f.gone {
			delete(s.files, n)
		}
	}
	return nil
}

func (s *smalls) verify() error {
	for n, f := range s.files {
		data, err := readAll(s.path(n))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if f.durable && !f.deleted {
				return wrongf(s.path(n), "was fsynced (%d bytes) and is not there", f.size)
			}
			delete(s.files, n)
			continue
		case err != nil:
			return err
		case f.gone:
			return wrongf(s.path(n), "was deleted durably and is there")
		}
		s.w.check()
		if !f.durable && (len(data) == 0 || s.w.load.cfg.Torn && len(data) < f.size) {
			// Created, nothing written back yet, or not all.
			if err := os.Remove(s.path(n)); err != nil {
				return err
			}
			f.deleted = true
			continue
		}
		if err := checkWhole(s.path(n), data, s.file, uint64(n), f.size); err != nil {
			return fmt.Errorf("%w (durable %v, deleted %v)", err, f.durable, f.deleted)
		}
		f.durable, f.deleted = true, false
	}
	return nil
}

// appender appends to a log. What was fsynced must be there; what follows must be
// right as far as it goes.
type appender struct {
	w       *loader
	name    string
	file    uint64
	durable int64 // bytes
	end     int64 // bytes attempted
	made    bool  // durably
}

func newAppender(w *loader) *appender {
	id := w.rng.Uint64()
	return &appender{w: w, name: fmt.Sprintf("log%04x", id&0xffff), file: id}
}

func (a *appender) act() error {
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if a.end > 3<<20 {
		// Begin anew: truncation must not resurrect anything later.
		flags |= os.O_TRUNC
		a.durable = 0
	}
	f, err := os.OpenFile(a.w.path(a.name), flags, 0o644)
	if err != nil {
		return err
	}
	at := a.end
	if flags&os.O_TRUNC != 0 {
		at = 0
	} else if st, err := f.Stat(); err != nil {
		return errors.Join(err, f.Close())
	} else if st.Size() != at {
		return errors.Join(wrongf(f.Name(), "has %d bytes, %d were appended", st.Size(), at), f.Close())
	}
	for range 1 + a.w.rng.IntN(4) {
		n := 1 + a.w.rng.IntN(9000)
		if a.w.rng.IntN(20) == 0 {
			n = 1 + a.w.rng.IntN(300_000)
		}
		a.end = max(a.end, at+int64(n))
		if _, err := f.Write(streamBytes(a.file, at, n)); err != nil {
			return errors.Join(err, f.Close())
		}
		at += int64(n)
		a.w.did(1)
	}
	if err := a.w.syncClose(f, nil); err != nil {
		return err
	}
	a.durable, a.end, a.made = at, at, true
	return nil
}

func (a *appender) verify() error {
	path := a.w.path(a.name)
	data, err := readAll(path)
	if errors.Is(err, fs.ErrNotExist) && !a.made {
		return nil
	}
	if err != nil {
		return err
	}
	a.w.check()
	n := int64(len(data))
	if n < a.durable || n > a.end {
		return wrongf(path, "has %d bytes; %d were fsynced, %d written", n, a.durable, a.end)
	}
	want := streamBytes(a.file, 0, len(data))
	for i := range data {
		if data[i] != want[i] {
			return wrongf(path, "wrong bytes at %d of %d (%d were fsynced): %s", i, n, a.durable, describe(data[i:]))
		}
	}
	a.durable, a.end, a.made = n, n, true
	return nil
}

// bigs writes large files from begin to end and fsyncs them.
type bigs struct {
	w     *loader
	file  uint64
	files map[int]*small
	next  int
}

func newBigs(w *loader) *bigs {
	return &bigs{w: w, file: w.rng.Uint64(), files: map[int]*small{}}
}

func (b *bigs) path(n int) string { return b.w.path(fmt.Sprintf("big%05d", n)) }

func (b *bigs) act() error {
	if b.w.rng.IntN(4) != 0 {
		return nil // seldom: it takes long
	}
	for n, f := range b.files {
		if len(b.files) < 2 {
			break
		}
		again := f.deleted // a deletion that is not durable yet
		f.deleted = true
		if err := os.Remove(b.path(n)); err != nil && !(again && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
		if err := b.w.syncDir(b.w.dir); err != nil {
			return err
		}
		delete(b.files, n)
	}
	b.next++
	n := b.next
	f := &small{size: 1<<20 + b.w.rng.IntN(b.w.load.cfg.Bigs)}
	b.files[n] = f
	h, err := os.OpenFile(b.path(n), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	for off := 0; off < f.size && err == nil; off += len(buf) {
		p := buf[:min(len(buf), f.size-off)]
		_, err = h.Write(fillRange(p, b.file, uint64(n), uint64(off/pageSize)))
	}
	if err := b.w.syncClose(h, err); err != nil {
		return err
	}
	f.durable = true
	b.w.did(1)
	return nil
}

func (b *bigs) verify() error {
	for n, f := range b.files {
		data, err := readAll(b.path(n))
		if errors.Is(err, fs.ErrNotExist) {
			if f.durable && !f.deleted {
				return wrongf(b.path(n), "was fsynced (%d bytes) and is not there", f.size)
			}
			delete(b.files, n)
			continue
		}
		if err != nil {
			return err
		}
		b.w.check()
		if f.durable {
			if err := checkWhole(b.path(n), data, b.file, uint64(n), f.size); err != nil {
				return err
			}
			f.deleted = false
			continue
		}
		if err := b.verifyPart(n, f, data); err != nil {
			return err
		}
	}
	return nil
}

// verifyPart checks a file whose fsync was not acknowledged. The kernel writes
// pages back in any order, so there may be holes; but a page is right or a hole.
func (b *bigs) verifyPart(n int, f *small, data []byte) error {
	if len(data) > f.size {
		return wrongf(b.path(n), "has %d bytes, only %d were written", len(data), f.size)
	}
	for i := 0; i < len(data); i += pageSize {
		p := data[i:min(i+pageSize, len(data))]
		if _, ok := versionOf(p, b.file, uint64(i/pageSize), []uint64{uint64(n), 0}); !ok {
			return wrongf(b.path(n), "wrong bytes in page %d, not fsynced: %s", i/pageSize, describe(p))
		}
	}
	f.deleted = true // from now on it may go at any time
	return os.Remove(b.path(n))
}

// overwriter overwrites pages of a file at random, truncates and extends it. Each page
// must be one whole version among those it may be.
type overwriter struct {
	w       *loader
	file    uint64
	made    bool
	version uint64
	pages   [][]uint64 // by page: versions it may have, the newest last
	sizes   []int64    // sizes it may have, in pages
}

func newOverwriter(w *loader) *overwriter {
	return &overwriter{w: w, file: w.rng.Uint64(), sizes: []int64{0}}
}

const overwriterPages = 700 // spans a few of the smallest chunks

func (o *overwriter) size() int64 { return o.sizes[len(o.sizes)-1] }

func (o *overwriter) setSize(pages int64) {
	o.sizes = append(o.sizes, pages)
	// Bytes cut off may show as before or as zeros, until durable.
	for i := range o.pages {
		if int64(i) >= pages {
			o.pages[i] = append(o.pages[i], 0)
		}
	}
}

// allow notes that a page may have a version from now on.
func (o *overwriter) allow(page int64, version uint64) {
	for int64(len(o.pages)) <= page {
		o.pages = append(o.pages, []uint64{0})
	}
	o.pages[page] = append(o.pages[page], version)
}

// durable notes that an fsync returned.
func (o *overwriter) durable() {
	o.sizes = []int64{o.size()}
	for i, v := range o.pages {
		o.pages[i] = v[len(v)-1:]
	}
	o.made = true
}

func (o *overwriter) act() error {
	f, err := os.OpenFile(o.w.path("database"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	for range 1 + o.w.rng.IntN(24) {
		if o.w.rng.IntN(40) == 0 {
			pages := o.w.rng.Int64N(overwriterPages)
			o.setSize(pages)
			err = f.Truncate(pages * pageSize)
		} else {
			err = o.write(f)
		}
		if err != nil {
			return errors.Join(err, f.Close())
		}
		o.w.did(1)
	}
	if err := o.w.syncClose(f, nil); err != nil {
		return err
	}
	o.durable()
	return nil
}

func (o *overwriter) write(f io.WriterAt) error {
	o.version++
	n := int64(1)
	if o.w.rng.IntN(8) == 0 {
		n = 1 + o.w.rng.Int64N(64)
	}
	from := o.w.rng.Int64N(overwriterPages - n)
	if end := from + n; end > o.size() {
		o.sizes = append(o.sizes, end)
	}
	for i := range n {
		o.allow(from+i, o.version)
	}
	_, err := f.WriteAt(fillRange(make([]byte, n*pageSize), o.file, o.version, uint64(from)), from*pageSize)
	return err
}

func (o *overwriter) verify() error {
	path := o.w.path("database")
	data, err := readAll(path)
	if errors.Is(err, fs.ErrNotExist) && !o.made {
		o.pages, o.sizes = nil, []int64{0}
		return nil
	}
	if err != nil {
		return err
	}
	o.w.check()
	size := int64(len(data)) / pageSize
	if int64(len(data))%pageSize != 0 || !o.sizeAllowed(size) {
		return wrongf(path, "has %d bytes; it may have as many pages as %v", len(data), o.sizes)
	}
	for i := range size {
		allowed := []uint64{0}
		if i < int64(len(o.pages)) {
			allowed = o.pages[i]
			if len(allowed) > 1 && !slices.Contains(allowed, 0) {
				// Behind the end of some size that it may have had: a hole.
				if slices.Min(o.sizes) <= i {
					allowed = append(slices.Clone(allowed), 0)
				}
			}
		}
		v, ok := versionOf(data[i*pageSize:][:pageSize], o.file, uint64(i), allowed)
		if !ok {
			return wrongf(path, "page %d is none of the versions %v: %s", i, allowed, describe(data[i*pageSize:]))
		}
		if i < int64(len(o.pages)) {
			o.pages[i] = []uint64{v}
		}
	}
	if int64(len(o.pages)) > size {
		o.pages = o.pages[:size]
	}
	o.sizes, o.made = []int64{size}, true
	return nil
}

// sizeAllowed tells whether the file may have so many pages. While writes that
// extend it are pending, the kernel may have sent any part of them.
func (o *overwriter) sizeAllowed(size int64) bool {
	if slices.Contains(o.sizes, size) {
		return true
	}
	return len(o.sizes) > 1 && size > slices.Min(o.sizes) && size < slices.Max(o.sizes)
}
