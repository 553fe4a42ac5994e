package vfstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// parallel runs n functions at once; their errors end the test.
func (e *env) parallel(n int, f func(i int) error) {
	e.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		e.Fatal(err)
	}
}

var concurrencyTests = []test{
	{"ParallelWriters", []Feature{RandomWrites}, func(e *env) {
		const writers, piece, each = 8, 3001, 40
		f, a := e.create(e.dir, "f")
		want := pattern(writers*piece*each, 11)
		e.parallel(writers, func(i int) error {
			w := f
			if i%2 == 1 {
				var err error
				if w, err = e.fs.Open(e.ctx, e.c, a.Ino, syscall.O_WRONLY); err != nil {
					return err
				}
				defer w.Close()
			}
			for k := range each {
				off := (k*writers + i) * piece
				if _, err := w.WriteAt(e.ctx, want[off:off+piece], int64(off)); err != nil {
					return fmt.Errorf("write at %d: %w", off, err)
				}
			}
			return nil
		})
		if !bytes.Equal(e.read(f, 0, len(want)+1), want) {
			e.Fatal("data differ")
		}
		e.close(f)
	}},
	{"ParallelAppend", []Feature{Append}, func(e *env) {
		const writers, each, size = 6, 50, 100
		a := e.file(e.dir, "f", nil)
		e.parallel(writers, func(i int) error {
			f, err := e.fs.Open(e.ctx, e.c, a.Ino, syscall.O_WRONLY|syscall.O_APPEND)
			if err != nil {
				return err
			}
			for range each {
				if _, err := f.WriteAt(e.ctx, bytes.Repeat([]byte{byte('A' + i)}, size), 0); err != nil {
					return err
				}
			}
			return errors.Join(f.Flush(e.ctx), f.Close())
		})
		got := e.content(a.Ino)
		if len(got) != writers*each*size {
			e.Fatalf("%d bytes, want %d", len(got), writers*each*size)
		}
		counts := map[byte]int{}
		for off := 0; off < len(got); off += size {
			rec := got[off : off+size]
			if !bytes.Equal(rec, bytes.Repeat(rec[:1], size)) {
				e.Fatalf("record at %d is mixed", off)
			}
			counts[rec[0]]++
		}
		for b, n := range counts {
			if n != each {
				e.Errorf("writer %c: %d records, want %d", b, n, each)
			}
		}
	}},
	{"ParallelCreate", nil, func(e *env) {
		const workers, each = 8, 60
		e.parallel(workers, func(i int) error {
			for k := range each {
				var a vfs.Attr
				f, err := e.fs.Create(e.ctx, e.c, e.dir, fmt.Sprintf("f%d-%d", i, k), 0o644, syscall.O_RDWR, &a)
				if err != nil {
					return err
				}
				if _, err := f.WriteAt(e.ctx, []byte{byte(i)}, 0); err != nil {
					return err
				}
				if err := errors.Join(f.Flush(e.ctx), f.Close()); err != nil {
					return err
				}
				if k%3 == 0 {
					if err := e.fs.Unlink(e.ctx, e.c, e.dir, fmt.Sprintf("f%d-%d", i, k)); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if n := len(e.list(e.dir)); n != workers*each*2/3 {
			e.Fatalf("%d entries, want %d", n, workers*each*2/3)
		}
	}},
	{"OneNameOneWinner", nil, func(e *env) {
		for round := range 20 {
			name := fmt.Sprint("n", round)
			var won atomic.Int32
			e.parallel(4, func(i int) error {
				var a vfs.Attr
				var err error
				switch {
				case i%2 == 0:
					err = e.fs.Mkdir(e.ctx, e.c, e.dir, name, 0o755, &a)
				default:
					err = e.fs.Mknod(e.ctx, e.c, e.dir, name, syscall.S_IFREG|0o644, 0, &a)
				}
				if err == nil {
					won.Add(1)
					return nil
				}
				if !errors.Is(err, syscall.EEXIST) {
					return err
				}
				return nil
			})
			if won.Load() != 1 {
				e.Fatalf("%d callers made %s", won.Load(), name)
			}
		}
	}},
	{"ParallelRename", nil, func(e *env) {
		// Files wander between directories; none is lost or doubled.
		const dirs, files = 4, 12
		var ino [dirs]vfs.Ino
		for i := range ino {
			ino[i] = e.mkdir(e.dir, fmt.Sprint("d", i)).Ino
		}
		for i := range files {
			e.file(ino[i%dirs], fmt.Sprint("f", i), []byte{byte(i)})
		}
		e.parallel(files, func(i int) error {
			at := i % dirs
			name := fmt.Sprint("f", i)
			for k := range 30 {
				to := (at + 1 + k%(dirs-1)) % dirs
				if err := e.rename(ino[at], name, ino[to], name, 0); err != nil {
					return err
				}
				at = to
			}
			return nil
		})
		seen := map[string]bool{}
		for i := range ino {
			for _, de := range e.list(ino[i]) {
				if seen[de.Name] {
					e.Errorf("%s is there twice", de.Name)
				}
				seen[de.Name] = true
				if got := e.content(de.Ino); len(got) != 1 || de.Name != fmt.Sprint("f", got[0]) {
					e.Errorf("%s has content %v", de.Name, got)
				}
			}
		}
		if len(seen) != files {
			e.Errorf("%d of %d files are left", len(seen), files)
		}
	}},
	{"NoCycles", []Feature{RenameDirs}, func(e *env) {
		// Two directories moved into each other at once: one move must fail.
		for round := range 20 {
			a, b := e.mkdir(e.dir, fmt.Sprint("a", round)), e.mkdir(e.dir, fmt.Sprint("b", round))
			var failed atomic.Int32
			e.parallel(2, func(i int) error {
				var err error
				if i == 0 {
					err = e.rename(e.dir, fmt.Sprint("a", round), b.Ino, "x", 0)
				} else {
					err = e.rename(e.dir, fmt.Sprint("b", round), a.Ino, "x", 0)
				}
				if err == nil {
					return nil
				}
				failed.Add(1)
				if !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
					return err
				}
				return nil
			})
			if failed.Load() != 1 {
				e.Fatalf("%d moves failed", failed.Load())
			}
		}
	}},
	{"Cancelled", nil, func(e *env) {
		// A cancelled context: the call is made, or refused with EINTR; never half.
		ctx, cancel := context.WithCancel(e.ctx)
		cancel()
		var a vfs.Attr
		err := e.fs.Mkdir(ctx, e.c, e.dir, "d", 0o755, &a)
		if err != nil {
			e.want(err, "mkdir", syscall.EINTR)
			e.absent(e.dir, "d")
		} else {
			e.lookup(e.dir, "d")
		}
		f, fa := e.create(e.dir, "f")
		n, err := f.WriteAt(ctx, []byte("hello"), 0)
		if err != nil {
			e.want(err, "write", syscall.EINTR)
		}
		if got := e.attr(fa.Ino); got.Size != uint64(n) {
			e.Errorf("%d bytes written, size %d", n, got.Size)
		}
		e.close(f)
	}},
}
