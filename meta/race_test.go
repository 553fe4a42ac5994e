package meta

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/internal/testseed"
	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/kv/pebble"
	"github.com/massif-fs/massif/vfs"
)

// expected are the errors that racing calls may give.
func expected(err error) bool {
	switch vfs.ErrnoOf(err) {
	case 0, syscall.ENOENT, syscall.EEXIST, syscall.ENOTEMPTY, syscall.EISDIR, syscall.ENOTDIR,
		syscall.ESTALE, syscall.EINVAL, syscall.EPERM, syscall.EMLINK, syscall.ENODATA, syscall.EDQUOT, syscall.ENOSPC:
		return !errors.Is(err, kv.ErrCorrupt)
	}
	return errors.Is(err, ErrLayout)
}

// hammer runs random calls on few names of few directories from several
// goroutines and sessions.
func hammer(t *testing.T, db kv.DB, change func(*testVolume)) {
	rounds := 500
	if n, err := strconv.Atoi(os.Getenv("META_HAMMER")); err == nil {
		rounds = n
	}
	if testing.Short() {
		rounds /= 4
	}
	v := openVolume(t, db, newTestClock())
	dirs := []vfs.Ino{vfs.Root}
	for i := range 3 {
		dirs = append(dirs, v.mkdir(dirs[len(dirs)-1], fmt.Sprint("dir", i)))
	}
	if change != nil {
		change(v)
	}
	other, err := v.e.NewSession(bg, SessionInfo{})
	v.ok(err)
	stop := other.Watch(func(vfs.Change) {})
	defer stop()
	const workers = 6
	seed := testseed.Of(t, 7)
	var wg sync.WaitGroup
	for w := range workers {
		s := v.s
		if w%2 == 1 {
			s = other
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			h := &hammerer{t: t, s: s, e: v.e, dirs: dirs, r: rand.New(rand.NewPCG(seed, uint64(w)))}
			for range rounds {
				if op, err := h.step(); !expected(err) {
					t.Errorf("%s: %v", op, err)
					return
				}
			}
			h.end()
		}()
	}
	wg.Wait()
	v.verify()
	if err := errors.Join(other.Close(), v.s.Close()); err != nil {
		t.Error(err)
	}
	v.verify()
	v.ok(v.e.Close())
	v.ok(db.Sync(bg))
	again := openVolume(t, db, v.clock)
	again.verify()
	for _, q := range again.e.quotas.dirs {
		if q.heldBytes != 0 || q.heldInodes != 0 {
			t.Errorf("held: %+v", q)
		}
	}
	again.ok(again.e.Close())
}

type hammerer struct {
	t    *testing.T
	s    Session
	e    *Engine
	dirs []vfs.Ino
	r    *rand.Rand
	open []vfs.Ino
}

func (h *hammerer) dir() vfs.Ino { return h.dirs[h.r.IntN(len(h.dirs))] }
func (h *hammerer) name() string { return string(rune('a' + h.r.IntN(6))) }

func (h *hammerer) any() vfs.Ino {
	var a vfs.Attr
	for range 4 {
		if h.s.Lookup(bg, root, h.dir(), h.name(), &a) == nil {
			return a.Ino
		}
	}
	return 2
}

func (h *hammerer) step() (op string, err error) {
	var a vfs.Attr
	s := h.s
	switch h.r.IntN(21) {
	case 0, 1, 2:
		return "mknod", s.Mknod(bg, root, h.dir(), h.name(), syscall.S_IFREG|0o644, 0, &a)
	case 3:
		return "mkdir", s.Mkdir(bg, root, h.dir(), h.name(), 0o755, &a)
	case 4:
		return "symlink", s.Symlink(bg, root, h.dir(), h.name(), "target", &a)
	case 5, 6:
		return "unlink", s.Unlink(bg, root, h.dir(), h.name(), &a)
	case 7:
		return "rmdir", s.Rmdir(bg, root, h.dir(), h.name())
	case 8, 9:
		return "link", s.Link(bg, root, h.any(), h.dir(), h.name(), &a)
	case 10, 11:
		return "rename", s.Rename(bg, root, h.dir(), h.name(), h.dir(), h.name(), 0, &a)
	case 12:
		return "exchange", s.Rename(bg, root, h.dir(), h.name(), h.dir(), h.name(), vfs.RenameExchange, &a)
	case 13: // move one of the directories itself
		i := 1 + h.r.IntN(len(h.dirs)-1)
		return "move", s.Rename(bg, root, h.dirs[i-1], fmt.Sprint("dir", i-1), h.dir(), fmt.Sprint("dir", i-1), 0, &a)
	case 14:
		ino := h.any()
		s.Open(ino)
		h.open = append(h.open, ino)
		if len(h.open) > 5 {
			s.Release(h.open[0], 1)
			h.open = h.open[1:]
		}
		return "open", nil
	case 15:
		return h.write(h.any())
	case 16:
		return "truncate", s.SetAttr(bg, root, h.any(), &vfs.SetAttr{Valid: vfs.SetSize, Size: h.r.Uint64N(MinChunkSize)}, &a)
	case 17:
		err := s.ReadDir(bg, root, h.dir(), 0, true, func(d *vfs.DirEntry) bool { return true })
		return "readdir", err
	case 20:
		if err := s.Tmpfile(bg, root, h.dir(), 0o600, true, &a); err != nil {
			return "tmpfile", err
		}
		h.open = append(h.open, a.Ino)
		ino := h.open[h.r.IntN(len(h.open))]
		return "link", s.Link(bg, root, ino, h.dir(), h.name(), &a)
	case 18:
		return "setxattr", s.SetXattr(bg, root, h.any(), "user."+h.name(), []byte("v"), 0)
	default:
		return "copy", s.CopyRange(bg, root, h.any(), 0, h.any(), h.r.Uint64N(MinChunkSize), 1+h.r.Uint64N(1000))
	}
}

func (h *hammerer) write(ino vfs.Ino) (string, error) {
	if h.r.IntN(2) == 0 {
		_, err := h.s.Commit(bg, nil, []FileWrite{{Ino: ino, SetInline: true, Inline: make([]byte, h.r.IntN(100))}})
		return "inline", err
	}
	id, err := h.s.AllocBlocks(bg, 1)
	if err != nil {
		return "alloc", err
	}
	n := uint32(1 + h.r.IntN(5000))
	pos := uint32(h.r.IntN(10000))
	w := FileWrite{Ino: ino, Size: uint64(pos + n), ClearInline: h.r.IntN(2) == 0,
		Chunks: []Chunk{{Extents: []Extent{{Pos: pos, Len: n, Block: id, Size: n}}}}}
	if h.s.Reserve(bg, ino, int64(n)) == nil {
		w.Reserved = int64(n)
	}
	if _, err = h.s.Commit(bg, []Block{{ID: id, Size: n}}, []FileWrite{w}); err != nil {
		h.s.Unreserve(ino, w.Reserved)
	}
	return "commit", err
}

func (h *hammerer) end() {
	for _, ino := range h.open {
		h.s.Release(ino, 1)
	}
}

func hammerFormat(retention bool) Format {
	f := testFormat()
	if retention {
		f.Retention = 1e9 * 3600
	}
	return f
}

func TestRaces(t *testing.T) {
	for _, driver := range []string{"mem", "pebble"} {
		for _, variant := range []string{"plain", "history", "quota"} {
			t.Run(driver+"/"+variant, func(t *testing.T) {
				var db kv.DB = mem.New()
				if driver == "pebble" {
					var err error
					if db, err = pebble.Open(t.TempDir(), pebble.Options{}); err != nil {
						t.Fatal(err)
					}
				}
				if err := Create(bg, db, hammerFormat(variant == "history")); err != nil {
					t.Fatal(err)
				}
				hammer(t, db, func(v *testVolume) {
					if variant != "quota" {
						return
					}
					v.ok(v.e.SetQuota(bg, 2, 20000, 8))
					v.ok(v.e.SetQuota(bg, 4, 10000, 4))
				})
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestWithoutLocks lets two engines work on one store, each with locks of its own,
// which never happens: that the records fit rests on the store's transactions
// alone.
func TestWithoutLocks(t *testing.T) {
	for _, driver := range []string{"mem", "pebble"} {
		t.Run(driver, func(t *testing.T) {
			var db kv.DB = mem.New()
			if driver == "pebble" {
				var err error
				if db, err = pebble.Open(t.TempDir(), pebble.Options{}); err != nil {
					t.Fatal(err)
				}
			}
			if err := Create(bg, db, testFormat()); err != nil {
				t.Fatal(err)
			}
			clock := newTestClock()
			var engines []*Engine
			for range 2 {
				e, err := Open(bg, db, Options{Logger: quiet, Clock: clock.Now})
				if err != nil {
					t.Fatal(err)
				}
				engines = append(engines, e)
			}
			dirs := []vfs.Ino{vfs.Root}
			seed := testseed.Of(t, 9)
			var wg sync.WaitGroup
			for w := range 4 {
				e := engines[w%2]
				s, err := e.NewSession(bg, SessionInfo{})
				if err != nil {
					t.Fatal(err)
				}
				for len(dirs) < 4 {
					v := &testVolume{TB: t, s: s}
					dirs = append(dirs, v.mkdir(dirs[len(dirs)-1], fmt.Sprint("dir", len(dirs)-1)))
				}
				wg.Add(1)
				go func() {
					defer wg.Done()
					h := &hammerer{t: t, s: s, e: e, dirs: dirs, r: rand.New(rand.NewPCG(seed, uint64(w)))}
					for range 500 {
						// The caches do not know of each other's changes.
						if op, err := h.step(); !expected(err) && !errors.Is(err, kv.ErrCorrupt) {
							t.Errorf("%s: %v", op, err)
						}
					}
					h.end()
				}()
			}
			wg.Wait()
			_, err := engines[0].Check(bg, func(p Problem) {
				if p.Rule != "orphan" { // an engine does not know what the other one's sessions use
					t.Errorf("check: %v", p)
				}
			})
			if err := errors.Join(err, engines[0].Close(), engines[1].Close()); err != nil {
				t.Error(err)
			}
			v := openVolume(t, db, clock)
			v.verify()
			if err := errors.Join(v.e.Close(), db.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}
