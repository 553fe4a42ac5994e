package shared

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/testseed"
	"golang.org/x/sys/unix"
)

// TestOppositeUnlinks: mounts that remove each other's names from one directory wait
// for each other's kernels, which hold that directory's lock. None must wait until
// somebody gives up.
func TestOppositeUnlinks(t *testing.T) {
	onMounts(t, 4, func(t *testing.T, dirs []string) {
		const files = 40
		for i := range dirs {
			for k := range files {
				check(t, os.WriteFile(filepath.Join(dirs[0], fmt.Sprintf("f%d-%d", i, k)), nil, 0o644))
			}
		}
		for _, dir := range dirs { // all names in all kernels
			for i := range dirs {
				for k := range files {
					_, err := os.Stat(filepath.Join(dir, fmt.Sprintf("f%d-%d", i, k)))
					check(t, err)
				}
			}
		}
		var slowest atomic.Int64
		var wg sync.WaitGroup
		for i, dir := range dirs {
			wg.Go(func() {
				for k := range files {
					begin := time.Now()
					// Its neighbour's files: all mounts know them.
					if err := os.Remove(filepath.Join(dir, fmt.Sprintf("f%d-%d", (i+1)%len(dirs), k))); err != nil {
						t.Error(err)
					}
					took := int64(time.Since(begin))
					for was := slowest.Load(); took > was && !slowest.CompareAndSwap(was, took); was = slowest.Load() {
					}
				}
			})
		}
		wg.Wait()
		t.Logf("slowest removal: %v", time.Duration(slowest.Load()))
		if d := time.Duration(slowest.Load()); d > 4*time.Second {
			t.Errorf("a removal took %v: only the end of somebody's patience ended it", d)
		}
		for _, dir := range dirs {
			entries, err := os.ReadDir(dir)
			check(t, err)
			if len(entries) != 0 {
				t.Errorf("%d entries are left in %s", len(entries), dir)
			}
		}
	})
}

// TestRenameStorm: renames of a few names in two directories on all mounts at once.
// Each file has exactly one name at the end, the same on all mounts.
func TestRenameStorm(t *testing.T) {
	onMounts(t, 3, func(t *testing.T, dirs []string) {
		const files = 6
		rounds := 400
		if testing.Short() {
			rounds = 100
		}
		for _, d := range []string{"x", "y"} {
			check(t, os.Mkdir(filepath.Join(dirs[0], d), 0o755))
		}
		for k := range files {
			check(t, os.WriteFile(filepath.Join(dirs[0], "x", fmt.Sprint("n", k)), []byte(fmt.Sprint(k)), 0o644))
		}
		seed := testseed.Of(t, 1)
		var done atomic.Bool
		var movers, watchers sync.WaitGroup
		for i, dir := range dirs {
			movers.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, uint64(i)))
				for range rounds {
					from := filepath.Join(dir, string("xy"[rnd.IntN(2)]), fmt.Sprint("n", rnd.IntN(2*files)))
					to := filepath.Join(dir, string("xy"[rnd.IntN(2)]), fmt.Sprint("n", rnd.IntN(2*files)))
					err := rename(from, to)
					if err != nil && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.EEXIST) {
						t.Errorf("rename: %v", err)
						return
					}
				}
			})
			watchers.Go(func() {
				for !done.Load() {
					for _, d := range []string{"x", "y"} {
						entries, err := os.ReadDir(filepath.Join(dir, d))
						if err != nil {
							t.Errorf("listing: %v", err)
							return
						}
						for _, e := range entries { // some are gone by now
							os.Stat(filepath.Join(dir, d, e.Name()))
						}
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
		movers.Wait()
		done.Store(true)
		watchers.Wait()
		var first string
		for _, dir := range dirs {
			got := picture(t, dir)
			if first == "" {
				first = got
			} else if got != first {
				t.Errorf("mounts differ:\n%s\n%s", first, got)
			}
		}
		for k := range files {
			if n := strings.Count(first, fmt.Sprintf("=%q\n", fmt.Sprint(k))); n != 1 {
				t.Errorf("file %d has %d names:\n%s", k, n, first)
			}
		}
	})
}

// rename is renameat2 with RENAME_NOREPLACE.
func rename(from, to string) error {
	return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
}

// picture describes everything below a directory, as lookups, listings, attributes and
// contents show it.
func picture(t testing.TB, dir string) string {
	t.Helper()
	var out []string
	var walk func(rel string)
	walk = func(rel string) {
		entries, err := os.ReadDir(filepath.Join(dir, rel))
		check(t, err)
		for _, e := range entries {
			path := filepath.Join(rel, e.Name())
			var st syscall.Stat_t
			check(t, syscall.Lstat(filepath.Join(dir, path), &st))
			line := fmt.Sprintf("%s ino %d mode %o links %d size %d mtime %d", path, st.Ino, st.Mode, st.Nlink, st.Size, st.Mtim.Nano())
			switch st.Mode & syscall.S_IFMT {
			case syscall.S_IFREG:
				data, err := os.ReadFile(filepath.Join(dir, path))
				check(t, err)
				if len(data) > 40 {
					line += fmt.Sprintf(" sum %x", crc32.ChecksumIEEE(data))
				} else {
					line += fmt.Sprintf("=%q", data)
				}
			case syscall.S_IFLNK:
				target, err := os.Readlink(filepath.Join(dir, path))
				check(t, err)
				line += " -> " + target
			}
			out = append(out, line+"\n")
			if e.IsDir() {
				walk(path)
			}
		}
	}
	walk("")
	slices.Sort(out)
	return strings.Join(out, "")
}

// TestListingUnderChange: an entry that stays is in each listing exactly once, on every
// mount, whatever the others make and remove meanwhile.
func TestListingUnderChange(t *testing.T) {
	onMounts(t, 3, func(t *testing.T, dirs []string) {
		const stay = 200
		for k := range stay {
			check(t, os.WriteFile(filepath.Join(dirs[0], fmt.Sprint("stay", k)), nil, 0o644))
		}
		rounds := 30
		if testing.Short() {
			rounds = 8
		}
		var done atomic.Bool
		var changers, listers sync.WaitGroup
		for i, dir := range dirs {
			changers.Go(func() {
				for k := 0; !done.Load(); k++ {
					name := filepath.Join(dir, fmt.Sprintf("go%d-%d", i, k%50))
					if err := os.WriteFile(name, nil, 0o644); err != nil {
						t.Error(err)
						return
					}
					if err := os.Remove(name); err != nil {
						t.Error(err)
						return
					}
				}
			})
			listers.Go(func() {
				for range rounds {
					entries, err := os.ReadDir(dir)
					if err != nil {
						t.Error(err)
						return
					}
					found := 0
					for _, e := range entries {
						if strings.HasPrefix(e.Name(), "stay") {
							found++
						}
					}
					if found != stay {
						t.Errorf("%d of %d entries", found, stay)
						return
					}
				}
			})
		}
		listers.Wait()
		done.Store(true)
		changers.Wait()
		for _, dir := range dirs {
			entries, err := os.ReadDir(dir)
			check(t, err)
			if len(entries) != stay {
				t.Errorf("%d entries are left, want %d", len(entries), stay)
			}
		}
	})
}

// TestCrowd: on each mount many programs at once change the names that the others
// know, and read and write one file, so that more requests wait for other mounts than a
// mount has threads. Recalls must be answered all the same.
func TestCrowd(t *testing.T) {
	onMounts(t, 3, func(t *testing.T, dirs []string) {
		const crowd = 40
		rounds := 6
		if testing.Short() {
			rounds = 2
		}
		check(t, os.WriteFile(filepath.Join(dirs[0], "file"), make([]byte, 100_000), 0o644))
		for d := range 4 {
			check(t, os.Mkdir(filepath.Join(dirs[0], fmt.Sprint("d", d)), 0o755))
		}
		var slowest atomic.Int64
		timed := func(what string, fn func() error) {
			begin := time.Now()
			if err := fn(); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %v", what, err)
			}
			took := int64(time.Since(begin))
			for was := slowest.Load(); took > was && !slowest.CompareAndSwap(was, took); was = slowest.Load() {
			}
		}
		var wg sync.WaitGroup
		for i, dir := range dirs {
			for k := range crowd {
				wg.Go(func() {
					f, err := os.OpenFile(filepath.Join(dir, "file"), os.O_RDWR, 0)
					if err != nil {
						t.Error(err)
						return
					}
					defer f.Close()
					for r := range rounds {
						sub := fmt.Sprint("d", (k+r)%4)
						name := filepath.Join(sub, fmt.Sprintf("n%d", (k*rounds+r)%(crowd*2)))
						switch (i + k + r) % 4 {
						case 0:
							timed("write", func() error { return os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644) })
						case 1:
							timed("remove", func() error { return os.Remove(filepath.Join(dir, name)) })
						case 2:
							timed("list", func() error { _, err := os.ReadDir(filepath.Join(dir, sub)); return err })
						default:
							timed("overwrite", func() error {
								_, err := f.WriteAt([]byte("y"), int64(k*2000))
								return errors.Join(err, f.Sync())
							})
						}
						timed("read", func() error { _, err := f.ReadAt(make([]byte, 3000), int64(k*2000)); return err })
					}
				})
			}
		}
		wg.Wait()
		t.Logf("slowest call: %v", time.Duration(slowest.Load()))
		if d := time.Duration(slowest.Load()); d > 4500*time.Millisecond {
			t.Errorf("a call took %v: only the end of somebody's patience ended it", d)
		}
		first := picture(t, dirs[0])
		for _, dir := range dirs[1:] {
			if got := picture(t, dir); got != first {
				t.Errorf("the mounts differ:\n%s\n%s", first, got)
			}
		}
	})
}
