package vfstest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/vfs"
)

var dirTests = []test{
	{"ReadDir", nil, func(e *env) {
		if l := e.list(e.dir); len(l) != 0 {
			e.Fatalf("an empty directory has %v", l)
		}
		want := map[string]vfs.Attr{}
		for i := range 100 {
			name := fmt.Sprint("entry", i)
			if i%3 == 0 {
				want[name] = e.mkdir(e.dir, name)
			} else {
				want[name] = e.file(e.dir, name, nil)
			}
		}
		for _, plus := range []bool{false, true} {
			l := e.listPlus(e.dir, plus)
			if len(l) != len(want) {
				e.Fatalf("%d entries, want %d", len(l), len(want))
			}
			seen := map[string]bool{}
			for _, de := range l {
				a, ok := want[de.Name]
				if !ok || seen[de.Name] {
					e.Fatalf("entry %q", de.Name)
				}
				seen[de.Name] = true
				if de.Ino != a.Ino || de.Mode != a.Type() {
					e.Errorf("%s: %+v, want inode %d type %o", de.Name, de, a.Ino, a.Type())
				}
				if de.Cookie < 3 || de.Cookie >= 1<<63 {
					e.Errorf("%s: cookie %d", de.Name, de.Cookie)
				}
				if de.HasAttr && de.Attr.Ino != a.Ino {
					e.Errorf("%s: attributes of inode %d", de.Name, de.Attr.Ino)
				}
			}
		}
	}},
	{"ReadDirPlusIsLookup", nil, func(e *env) {
		for i := range 20 {
			e.file(e.dir, fmt.Sprint("f", i), make([]byte, i*100))
		}
		for _, de := range e.listPlus(e.dir, true) {
			if a := e.lookup(e.dir, de.Name); de.HasAttr && de.Attr != a {
				e.Errorf("listing has %+v\nlookup %+v", de.Attr, a)
			}
		}
	}},
	{"Cookies", nil, func(e *env) {
		// A walk can go on behind any entry, in any Dir, and stop anywhere.
		for i := range 60 {
			e.file(e.dir, fmt.Sprint("f", i), nil)
		}
		all := e.list(e.dir)
		d, err := e.fs.OpenDir(e.ctx, e.c, e.dir)
		e.ok(err, "opendir")
		r := rng(e)
		for range 100 {
			i := r.IntN(len(all) + 1)
			n := 1 + r.IntN(10)
			var cookie uint64
			if i > 0 {
				cookie = all[i-1].Cookie
			}
			var got []string
			e.ok(d.Read(e.ctx, cookie, r.IntN(2) == 0, func(de *vfs.DirEntry) bool {
				if len(got) == n {
					return false // not taken: it comes again
				}
				got = append(got, de.Name)
				return true
			}), "readdir")
			want := all[i:min(i+n, len(all))]
			if len(got) != len(want) {
				e.Fatalf("behind entry %d: %d entries, want %d", i, len(got), len(want))
			}
			for k := range want {
				if got[k] != want[k].Name {
					e.Fatalf("behind entry %d: %v", i, got)
				}
			}
			if r.IntN(10) == 0 {
				e.ok(d.Close(), "closedir")
				d, err = e.fs.OpenDir(e.ctx, e.c, e.dir)
				e.ok(err, "opendir")
			}
		}
		e.ok(d.Close(), "closedir")
	}},
	{"RewindFromEnd", nil, func(e *env) {
		// A Dir whose first read is at the end of the directory.
		for i := range 60 {
			e.file(e.dir, fmt.Sprint("f", i), nil)
		}
		all := e.list(e.dir)
		d, err := e.fs.OpenDir(e.ctx, e.c, e.dir)
		e.ok(err, "opendir")
		for _, walk := range []struct {
			from uint64
			want int
		}{{all[len(all)-1].Cookie, 0}, {0, len(all)}} {
			n := 0
			e.ok(d.Read(e.ctx, walk.from, false, func(*vfs.DirEntry) bool { n++; return true }), "readdir")
			if n != walk.want {
				e.Errorf("behind cookie %d: %d entries, want %d", walk.from, n, walk.want)
			}
		}
		e.ok(d.Close(), "closedir")
	}},
	{"RemoveWhileReading", nil, func(e *env) {
		// As rm -r: read some, remove them, go on.
		const n = 700
		for i := range n {
			e.file(e.dir, fmt.Sprint("f", i), nil)
		}
		d, err := e.fs.OpenDir(e.ctx, e.c, e.dir)
		e.ok(err, "opendir")
		removed := 0
		var cookie uint64
		for {
			var names []string
			e.ok(d.Read(e.ctx, cookie, false, func(de *vfs.DirEntry) bool {
				if len(names) == 30 {
					return false
				}
				names = append(names, de.Name)
				cookie = de.Cookie
				return true
			}), "readdir")
			if len(names) == 0 {
				break
			}
			for _, name := range names {
				e.unlink(e.dir, name)
				removed++
			}
		}
		e.ok(d.Close(), "closedir")
		if removed != n || len(e.list(e.dir)) != 0 {
			e.Fatalf("removed %d of %d", removed, n)
		}
	}},
	{"StableUnderChange", []Feature{StableReaddir}, func(e *env) {
		// Entries that stay are given exactly once, whatever comes and goes.
		stay := 5000
		if testing.Short() {
			stay = 1000
		}
		for i := range stay {
			var a vfs.Attr
			e.ok(e.fs.Mknod(e.ctx, e.c, e.dir, fmt.Sprint("stay", i), syscall.S_IFREG|0o644, 0, &a), "mknod")
		}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for w := range 2 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(w), 1))
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					var a vfs.Attr
					name := fmt.Sprintf("w%d-%d", w, r.IntN(300))
					if e.fs.Mknod(e.ctx, e.c, e.dir, name, syscall.S_IFREG|0o644, 0, &a) != nil {
						if i%2 == 0 {
							e.fs.Unlink(e.ctx, e.c, e.dir, name)
						} else {
							e.rename(e.dir, name, e.dir, fmt.Sprintf("w%d-%d", w, r.IntN(300)), 0)
						}
					}
				}
			})
		}
		for walk := range 3 {
			seen := map[string]int{}
			d, err := e.fs.OpenDir(e.ctx, e.c, e.dir)
			e.ok(err, "opendir")
			var cookie uint64
			for more := true; more; {
				more = false
				k := 0
				e.ok(d.Read(e.ctx, cookie, walk%2 == 1, func(de *vfs.DirEntry) bool {
					if k++; k > 100 {
						return false
					}
					seen[de.Name]++
					cookie = de.Cookie
					more = true
					return true
				}), "readdir")
				if walk == 2 { // and in a new Dir each time
					e.ok(d.Close(), "closedir")
					d, err = e.fs.OpenDir(e.ctx, e.c, e.dir)
					e.ok(err, "opendir")
				}
			}
			e.ok(d.Close(), "closedir")
			for i := range stay {
				if n := seen[fmt.Sprint("stay", i)]; n != 1 {
					e.Errorf("walk %d gave stay%d %d times", walk, i, n)
				}
			}
			if e.Failed() {
				break
			}
		}
		close(stop)
		wg.Wait()
		for _, de := range e.list(e.dir) {
			e.unlink(e.dir, de.Name)
		}
	}},
	{"SeesOwnChanges", nil, func(e *env) {
		// An entry made or removed before a walk begins is in it or not.
		for i := range 50 {
			name := fmt.Sprint("f", i)
			e.file(e.dir, name, nil)
			if n := len(e.list(e.dir)); n != 1 {
				e.Fatalf("%d entries after a create", n)
			}
			e.unlink(e.dir, name)
			if n := len(e.list(e.dir)); n != 0 {
				e.Fatalf("%d entries after an unlink", n)
			}
		}
	}},
}
