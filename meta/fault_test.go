package meta

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/faulty"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/vfs"
)

// records returns everything in a database, but the bound on stamps and the
// counters of batches, which move on even when nothing else does.
func records(t testing.TB, db kv.DB) (list []string) {
	t.Helper()
	err := db.View(bg, func(r kv.Reader) error {
		list = nil
		return r.Scan([]byte{0}, nil, func(key, value []byte) (bool, error) {
			switch string(key) {
			case "cstamp", "cino", "cblock":
				return true, nil
			}
			list = append(list, fmt.Sprintf("%q=%q", key, value))
			return true, nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestEachFault lets, for each kind of call, each use of the store fail once: the
// call is done wholly or not at all, and everything still fits.
func TestEachFault(t *testing.T) {
	var a vfs.Attr
	type fixture struct {
		*testVolume
		from, to, f, big vfs.Ino
		block            uint64
	}
	calls := map[string]func(x *fixture) error{
		"mknod":   func(x *fixture) error { return x.s.Mknod(bg, root, x.from, "new", syscall.S_IFREG, 0, &a) },
		"mkdir":   func(x *fixture) error { return x.s.Mkdir(bg, root, x.from, "new", 0, &a) },
		"symlink": func(x *fixture) error { return x.s.Symlink(bg, root, x.from, "new", "t", &a) },
		"link":    func(x *fixture) error { return x.s.Link(bg, root, x.f, x.to, "new", &a) },
		"unlink":  func(x *fixture) error { return x.s.Unlink(bg, root, x.from, "f", &a) },
		"unlink open": func(x *fixture) error {
			x.s.Open(x.big)
			defer x.s.Release(x.big, 1)
			return x.s.Unlink(bg, root, x.from, "big", &a)
		},
		"tmpfile": func(x *fixture) error { return x.s.Tmpfile(bg, root, x.from, 0, true, &a) },
		"rmdir":   func(x *fixture) error { return x.s.Rmdir(bg, root, x.from, "empty") },
		"rename": func(x *fixture) error {
			return x.s.Rename(bg, root, x.from, "f", x.to, "target", 0, &a)
		},
		"rename directory": func(x *fixture) error {
			return x.s.Rename(bg, root, vfs.Root, "d", x.to, "moved", 0, &a)
		},
		"exchange": func(x *fixture) error {
			return x.s.Rename(bg, root, x.from, "f", x.to, "target", vfs.RenameExchange, &a)
		},
		"truncate": func(x *fixture) error {
			return x.s.SetAttr(bg, root, x.big, &vfs.SetAttr{Valid: vfs.SetSize, Size: 5}, &a)
		},
		"chmod":       func(x *fixture) error { return x.s.SetAttr(bg, root, x.f, &vfs.SetAttr{Valid: vfs.SetMode}, &a) },
		"setxattr":    func(x *fixture) error { return x.s.SetXattr(bg, root, x.f, "user.y", nil, 0) },
		"removexattr": func(x *fixture) error { return x.s.RemoveXattr(bg, root, x.f, "user.x") },
		"allocate":    func(x *fixture) error { return x.s.Allocate(bg, root, x.big, 0, 100, 3*chunk) },
		"punch": func(x *fixture) error {
			return x.s.Allocate(bg, root, x.big, fallocPunchHole|fallocKeepSize, 100, 2*chunk)
		},
		"copy": func(x *fixture) error { return x.s.CopyRange(bg, root, x.big, 0, x.big, 5*chunk, chunk) },
		"commit": func(x *fixture) error {
			_, err := x.s.Commit(bg, []Block{{x.block, 9}}, []FileWrite{
				{Ino: x.big, Size: 100, Chunks: []Chunk{{Extents: []Extent{{5, 9, x.block, 9, 0}}}}},
				{Ino: x.f, SetInline: true, Inline: []byte("data")},
			})
			return err
		},
		"set quota":    func(x *fixture) error { return x.e.SetQuota(bg, x.from, 1000, 1000) },
		"remove quota": func(x *fixture) error { return x.e.RemoveQuota(bg, x.to) },
		"settings": func(x *fixture) error {
			return x.e.UpdateSettings(bg, func(f *Format) error { f.Retention++; return nil })
		},
		"touch": func(x *fixture) error { return x.s.Touch(bg, x.f) },
	}
	faults := []faulty.Operation{faulty.Get, faulty.Scan, faulty.Next, faulty.Begin, faulty.Commit}
	build := func(t *testing.T) (*fixture, *faulty.DB) {
		db := faulty.New(mem.New(), 1)
		if err := Create(bg, db, hammerFormat(true)); err != nil {
			t.Fatal(err)
		}
		x := &fixture{testVolume: openVolume(t, db, newTestClock())}
		x.from, x.to = x.mkdir(vfs.Root, "d"), x.mkdir(vfs.Root, "e")
		x.f, x.big = x.file(x.from, "f"), x.file(x.from, "big")
		x.mkdir(x.from, "empty")
		x.file(x.to, "target")
		x.ok(x.s.SetXattr(bg, root, x.f, "user.x", nil, 0))
		for i := range uint64(3) {
			x.write(x.big, i*chunk, chunk)
		}
		x.ok(x.e.SetQuota(bg, x.to, 1<<40, 1000))
		var err error
		x.block, err = x.s.AllocBlocks(bg, 1)
		x.ok(err)
		return x, db
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			for _, fault := range faults {
				for n := 1; ; n++ {
					x, db := build(t)
					before := records(t, db)
					faults0 := db.Faults()
					db.Fail(fault, faulty.Nth(n), syscall.EIO)
					err := call(x)
					hit := db.Faults() > faults0
					db.Clear()
					if err != nil {
						if vfs.ErrnoOf(err) != syscall.EIO {
							t.Fatalf("%v %d: %v", fault, n, err)
						}
						if after := records(t, db); !slices.Equal(before, after) {
							t.Fatalf("%v %d: %v, but it changed\n%q\nto\n%q", fault, n, err, before, after)
						}
					}
					x.verify()
					// What is left for later is done then.
					if err == nil || name == "unlink open" {
						x.ok(x.e.Close())
						again := openVolume(t, db, x.clock)
						if sum := again.verify(); name == "unlink open" && err == nil && sum.Inodes > 6 {
							t.Fatalf("%v %d: %+v", fault, n, sum)
						}
						x = &fixture{testVolume: again}
					} else {
						x.ok(call(x)) // it can be repeated
						x.verify()
					}
					x.ok(x.e.Close())
					if !hit {
						break
					}
					if n > 200 {
						t.Fatal("endless")
					}
				}
			}
		})
	}
}

// TestFaultsAndConflicts runs random calls on a store that fails and conflicts now
// and then.
func TestFaultsAndConflicts(t *testing.T) {
	db := faulty.New(mem.New(), 42)
	if err := Create(bg, db, hammerFormat(true)); err != nil {
		t.Fatal(err)
	}
	v := openVolume(t, db, newTestClock())
	d := v.mkdir(vfs.Root, "d")
	v.ok(v.e.SetQuota(bg, d, 100000, 20))
	h := &hammerer{t: t, s: v.s, e: v.e, dirs: []vfs.Ino{vfs.Root, d}, r: rand.New(rand.NewPCG(8, 8))}
	failed := 0
	for range 30 {
		db.Repeat(faulty.Chance(0.3))
		for _, op := range []faulty.Operation{faulty.Get, faulty.Scan, faulty.Next, faulty.Begin, faulty.Commit} {
			db.Fail(op, faulty.Chance(0.02), syscall.EIO)
		}
		for range 100 {
			op, err := h.step()
			if errors.Is(err, syscall.EIO) {
				failed++
			} else if !expected(err) {
				t.Fatal(op, err)
			}
		}
		db.Clear()
		v.verify()
	}
	if failed == 0 {
		t.Error("nothing failed")
	}
	h.end()
	v.ok(v.e.Close())
	again := openVolume(t, db, v.clock)
	again.verify()
	again.ok(again.e.Close())
}

// unknownDB commits, and then says that it does not know.
type unknownDB struct {
	kv.DB
	unknown bool
}

func (db *unknownDB) Update(ctx context.Context, fn func(kv.Txn) error) error {
	err := db.DB.Update(ctx, fn)
	if err == nil && db.unknown {
		db.unknown = false
		return kv.ErrUnknown
	}
	return err
}

func TestUnknownOutcome(t *testing.T) {
	db := &unknownDB{DB: mem.New()}
	if err := Create(bg, db, testFormat()); err != nil {
		t.Fatal(err)
	}
	v := openVolume(t, db, newTestClock())
	d := v.mkdir(vfs.Root, "d")
	v.ok(v.e.SetQuota(bg, d, 1<<20, 10))
	f := v.file(d, "f")
	id, err := v.s.AllocBlocks(bg, 1)
	v.ok(err)
	var a vfs.Attr
	for _, call := range []func() error{
		func() error { return v.s.Mknod(bg, root, d, "g", syscall.S_IFREG, 0, &a) },
		func() error {
			_, err := v.s.Commit(bg, []Block{{id, 1000}}, []FileWrite{{Ino: f, Size: 1000, Chunks: []Chunk{{Extents: []Extent{{Len: 1000, Block: id, Size: 1000}}}}}})
			return err
		},
		func() error { return v.s.Unlink(bg, root, d, "f", &a) },
		func() error { return v.e.SetQuota(bg, d, 5, 5) },
		func() error { return v.e.RemoveQuota(bg, d) },
		func() error { return v.e.SetQuota(bg, d, 5, 5) },
	} {
		v.attr(d) // into the cache
		db.unknown = true
		v.want(call(), syscall.EIO)
		v.verify()
	}
	v.ok(v.e.Close())
}
