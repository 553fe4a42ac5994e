package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	kib, mib  = 1 << 10, 1 << 20
	blockSize = 4 * kib
	perDir    = 1000 // files a directory
)

// work is one row under way.
type work struct {
	in      *inputs
	dir     string
	scale   float64
	threads int
	limit   time.Duration
	start   time.Time
	capped  bool
}

func (w *work) begin() { w.start = time.Now() }

func (w *work) over() bool { return time.Since(w.start) > w.limit }

// amount scales a number of things, at least 64.
func (w *work) amount(n int) int { return max(64, int(float64(n)*w.scale)) }

func (w *work) metaFiles() int  { return w.amount(10_000) }
func (w *work) smallFiles() int { return w.amount(5_000) }

// bigSize is the size of the large file, whole MiB.
func (w *work) bigSize() int64 { return int64(max(8, 1024*w.scale)) * mib }

// each calls do for 0 to n-1 from the row's threads and returns the rate.
func (w *work) each(n int, do func(i int) error) (float64, error) {
	var next, done atomic.Int64
	var capped atomic.Bool
	errs := make([]error, w.threads)
	var wg sync.WaitGroup
	w.begin()
	for t := range w.threads {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n || errs[t] != nil {
					return
				}
				if w.over() {
					capped.Store(true)
					return
				}
				if errs[t] = do(i); errs[t] == nil {
					done.Add(1)
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(w.start).Seconds()
	w.capped = capped.Load()
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	return float64(done.Load()) / took, nil
}

func (w *work) metaName(i int, prefix string) string {
	return filepath.Join(w.dir, fmt.Sprintf("d%03d", i/perDir), fmt.Sprintf("%s%06d", prefix, i))
}

func (w *work) makeDirs(n int) error {
	for i := 0; i < n; i += perDir {
		if err := os.MkdirAll(filepath.Dir(w.metaName(i, "f")), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func create(w *work) (float64, error) {
	n := w.metaFiles()
	if err := w.makeDirs(n); err != nil {
		return 0, err
	}
	return w.each(n, func(i int) error {
		f, err := os.OpenFile(w.metaName(i, "f"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		return f.Close()
	})
}

func stat(w *work) (float64, error) {
	return w.each(w.metaFiles(), func(i int) error {
		_, err := os.Lstat(w.metaName(i, "f"))
		return err
	})
}

// list is what ls -l does: read a directory and look at each file.
func list(w *work) (float64, error) {
	n := w.metaFiles()
	dirs := (n + perDir - 1) / perDir
	var seen atomic.Int64
	rate, err := w.each(dirs, func(i int) error {
		dir := filepath.Dir(w.metaName(i*perDir, "f"))
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if _, err := e.Info(); err != nil {
				return err
			}
		}
		seen.Add(int64(len(entries)))
		return nil
	})
	if err == nil && !w.capped && seen.Load() != int64(n) {
		err = fmt.Errorf("%d entries are listed, there are %d", seen.Load(), n)
	}
	return rate / float64(dirs) * float64(seen.Load()), err
}

func rename(w *work) (float64, error) {
	return w.each(w.metaFiles(), func(i int) error { return os.Rename(w.metaName(i, "f"), w.metaName(i, "r")) })
}

func remove(w *work) (float64, error) {
	return w.each(w.metaFiles(), func(i int) error { return syscall.Unlink(w.metaName(i, "r")) })
}

func writeSmall(w *work) (float64, error)     { return w.writeSmallFiles(w.smallFiles(), false) }
func writeSmallSync(w *work) (float64, error) { return w.writeSmallFiles(w.amount(500), true) }

func (w *work) writeSmallFiles(n int, sync bool) (float64, error) {
	if err := w.makeDirs(n); err != nil {
		return 0, err
	}
	return w.each(n, func(i int) error {
		f, err := os.OpenFile(w.metaName(i, "s"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		var buf [blockSize]byte
		w.in.fill(buf[:], uint64(i), 0)
		if _, err = f.Write(buf[:]); err == nil && sync {
			err = f.Sync()
		}
		return errors.Join(err, f.Close())
	})
}

func readSmall(w *work) (float64, error) {
	return w.each(w.smallFiles(), func(i int) error {
		name := w.metaName(i, "s")
		b, err := os.ReadFile(name)
		if err == nil && (len(b) != blockSize || !right(b, uint64(i), 0)) {
			err = fmt.Errorf("%s holds wrong bytes", name)
		}
		return err
	})
}

// untar unpacks the input archive.
func untar(w *work) (float64, error) {
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		return 0, err
	}
	r := tar.NewReader(bytes.NewReader(w.in.tree))
	n := 0
	w.begin()
	for !w.over() {
		h, err := r.Next()
		if err == io.EOF {
			return float64(n) / time.Since(w.start).Seconds(), nil
		}
		if err != nil {
			return 0, err
		}
		name := filepath.Join(w.dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(name, 0o755); err != nil {
				return 0, err
			}
			continue
		}
		if err := unpack(name, h, r); err != nil {
			return 0, err
		}
		n++
	}
	w.capped = true
	return float64(n) / time.Since(w.start).Seconds(), nil
}

// unpack does what tar does for a file: create, write, set mode and time, close.
func unpack(name string, h *tar.Header, r io.Reader) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Chmod(fs.FileMode(h.Mode).Perm())
	}
	if err == nil {
		t := unix.NsecToTimespec(h.ModTime.UnixNano())
		err = unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{t, t}, 0)
	}
	return errors.Join(err, f.Close())
}

// find looks at every file of the tree.
func find(w *work) (float64, error) {
	n := 0
	w.begin()
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && w.over() {
			w.capped = true
			return filepath.SkipAll
		}
		if err != nil || d.IsDir() {
			return err
		}
		n++
		_, err = d.Info()
		return err
	})
	return float64(n) / time.Since(w.start).Seconds(), err
}

// grep reads every file of the tree and compares its length and checksum.
func grep(w *work) (float64, error) {
	n := 0
	w.begin()
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && w.over() {
			w.capped = true
			return filepath.SkipAll
		}
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(w.dir, path)
		if err == nil && w.in.sums[rel] != sumOf(b) {
			err = fmt.Errorf("%s holds wrong bytes", path)
		}
		n++
		return err
	})
	if err == nil && !w.capped && n != len(w.in.sums) {
		err = fmt.Errorf("%d files are there, must be %d", n, len(w.in.sums))
	}
	return float64(n) / time.Since(w.start).Seconds(), err
}

func removeAll(w *work) (float64, error) {
	w.begin()
	if err := os.RemoveAll(w.dir); err != nil {
		return 0, err
	}
	return float64(len(w.in.sums)) / time.Since(w.start).Seconds(), nil
}

func (w *work) bigName() string { return filepath.Join(w.dir, "big") }

// seqWrite writes the large file and makes it durable.
func seqWrite(w *work) (float64, error) {
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		return 0, err
	}
	f, err := os.OpenFile(w.bigName(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, mib)
	size := w.bigSize()
	off := int64(0)
	w.begin()
	for ; off < size && !w.over(); off += mib {
		for i := int64(0); i < mib; i += blockSize {
			w.in.fill(buf[i:i+blockSize], uint64(off+i)/blockSize, 0)
		}
		if _, err := f.Write(buf); err != nil {
			return 0, err
		}
	}
	w.capped = off < size
	if err := f.Sync(); err != nil {
		return 0, err
	}
	return float64(off/mib) / time.Since(w.start).Seconds(), f.Close()
}

// seqRead reads the large file from begin to end.
func seqRead(w *work) (float64, error) {
	f, err := os.Open(w.bigName())
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, mib)
	off := int64(0)
	w.begin()
	for !w.over() {
		n, err := io.ReadFull(f, buf)
		for i := 0; i+blockSize <= n; i += blockSize {
			if !right(buf[i:i+blockSize], uint64(off+int64(i))/blockSize, anyGeneration) {
				return 0, fmt.Errorf("%s holds wrong bytes at %d", f.Name(), off+int64(i))
			}
		}
		off += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			if off == 0 {
				return 0, errors.New("the file is empty")
			}
			return float64(off) / mib / time.Since(w.start).Seconds(), nil
		}
		if err != nil {
			return 0, err
		}
	}
	w.capped = true
	return float64(off) / mib / time.Since(w.start).Seconds(), nil
}

// randRead reads single blocks, past the kernel's cache where O_DIRECT works.
func randRead(w *work) (float64, error) {
	f, err := os.OpenFile(w.bigName(), os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		if f, err = os.Open(w.bigName()); err != nil {
			return 0, err
		}
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	blocks := int(st.Size() / blockSize)
	order := rand.New(rand.NewPCG(7, 7)).Perm(blocks)
	bufs := sync.Pool{New: func() any { b := alignedBlock(); return &b }}
	return w.each(min(w.amount(4000), blocks), func(i int) error {
		b := order[i]
		p := bufs.Get().(*[]byte)
		defer bufs.Put(p)
		buf := *p
		if _, err := f.ReadAt(buf, int64(b)*blockSize); err != nil {
			return err
		}
		if !right(buf, uint64(b), anyGeneration) {
			return fmt.Errorf("block %d holds wrong bytes", b)
		}
		return nil
	})
}

// randWrite overwrites single blocks with an fsync after every so many.
func randWrite(every int) func(*work) (float64, error) {
	return func(w *work) (float64, error) {
		f, err := os.OpenFile(w.bigName(), os.O_RDWR, 0)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return 0, err
		}
		blocks := uint64(st.Size() / blockSize)
		rng := rand.New(rand.NewPCG(11, uint64(every)))
		var buf [blockSize]byte
		rate, err := w.each(w.amount(512*min(every, 8))/every, func(int) error {
			for range every {
				b := rng.Uint64N(blocks)
				w.in.fill(buf[:], b, uint64(every))
				if _, err := f.WriteAt(buf[:], int64(b)*blockSize); err != nil {
					return err
				}
			}
			return f.Sync()
		})
		return rate * float64(every), errors.Join(err, f.Close())
	}
}
