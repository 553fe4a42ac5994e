package meta

import (
	"bytes"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/kv/faulty"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/vfs"
)

// TestMaintenanceFaults lets uses of the store fail within each operation of
// maintenance: it says so, everything still fits, and when the store works again so
// does the operation.
func TestMaintenanceFaults(t *testing.T) {
	operations := map[string]func(v *testVolume) error{
		"dead blocks": func(v *testVolume) error {
			dead, err := v.e.DeadBlocks(bg, v.clock.Now(), 100)
			if err == nil {
				err = v.e.ForgetBlocks(bg, dead)
			}
			return err
		},
		"expire": func(v *testVolume) error { _, err := v.e.Expire(bg, v.clock.Now()); return err },
		"purge":  func(v *testVolume) error { _, err := v.e.Purge(bg, v.clock.Now()); return err },
		"create snapshot": func(v *testVolume) error {
			_, err := v.e.CreateSnapshot(bg, "new")
			if vfs.ErrnoOf(err) == syscall.EEXIST {
				err = nil // only making it durable had failed
			}
			return err
		},
		"delete snapshot": func(v *testVolume) error {
			err := v.e.DeleteSnapshot(bg, "old")
			if vfs.ErrnoOf(err) == syscall.ENOENT {
				err = nil
			}
			return err
		},
		"clone": func(v *testVolume) error { _, err := v.e.Clone(bg, root, 2, vfs.Root, "copy", nil); return err },
		"restore": func(v *testVolume) error {
			past, err := v.e.AtSnapshot(bg, "old")
			if err != nil {
				return err
			}
			defer past.Close()
			_, err = v.e.Restore(bg, past, 2, vfs.Root, "back", nil)
			return err
		},
		"trash": func(v *testVolume) error { return v.e.Trash(bg, 0, func(TrashEntry) error { return nil }) },
		"fragmented": func(v *testVolume) error {
			return v.e.Fragmented(bg, 1, func(vfs.Ino, uint32, []Extent) bool { return true })
		},
		"find orphans": func(v *testVolume) error {
			_, err := v.e.FindOrphans(bg, fakeStore{1: v.clock.Now()}.walk, 0, mem.New(), func(StoreFinding) error { return nil })
			return err
		},
		"check blocks": func(v *testVolume) error { return v.e.CheckBlocks(bg, func(BlockRef) error { return nil }) },
		"dump": func(v *testVolume) error {
			_, err := v.e.Dump(bg, new(bytes.Buffer), DumpOptions{History: true})
			return err
		},
		"repair": func(v *testVolume) error {
			_, err := v.e.Repair(bg, mem.New(), func(Problem) {}, func(Problem) {})
			return err
		},
	}
	for name, run := range operations {
		t.Run(name, func(t *testing.T) {
			failed := 0
			for _, fault := range []faulty.Operation{faulty.Get, faulty.Scan, faulty.Next, faulty.Begin, faulty.Commit} {
				for n := 1; n < 2000; n += 1 + n/3 {
					db := faulty.New(mem.New(), 1)
					if err := Create(bg, db, hammerFormat(true)); err != nil {
						t.Fatal(err)
					}
					v := openVolume(t, db, newTestClock())
					d := v.mkdir(vfs.Root, "d")
					v.fill(d, 6)
					v.mkdir(d, "sub")
					_, err := v.e.CreateSnapshot(bg, "old")
					v.ok(err)
					v.ok(v.s.Unlink(bg, root, d, "f1", new(vfs.Attr)))
					v.write(d+1, 0, 5)
					v.clock.pass(2 * time.Hour)
					v.e.cancel() // the reaper's, lest it meet the fault
					v.e.tasks.Wait()
					db.Fail(fault, faulty.Nth(n), syscall.EIO)
					err = run(v)
					faults := db.Faults()
					db.Clear()
					if faults == 0 {
						v.ok(err)
						v.ok(v.e.Close())
						break
					}
					failed++
					if err == nil && name != "clone" && name != "restore" { // done, only their session could not be ended
						t.Errorf("fault %v %d is not told", fault, n)
					}
					v.settle()
					if _, err := v.e.Check(bg, func(p Problem) { t.Errorf("fault %v %d: %v", fault, n, p) }); err != nil {
						t.Fatal(err)
					}
					if err != nil {
						if err := run(v); err != nil {
							t.Fatalf("after fault %v %d: %v", fault, n, err)
						}
					}
					v.ok(v.e.Close())
				}
			}
			if failed == 0 {
				t.Error("nothing failed")
			}
		})
	}
}

// TestLoadFaults: a load that fails leaves nothing, or says so.
func TestLoadFaults(t *testing.T) {
	v := newVolume(t, withHistory)
	v.furnish()
	var b bytes.Buffer
	_, err := v.e.Dump(bg, &b, DumpOptions{History: true})
	v.ok(err)
	for _, fault := range []faulty.Operation{faulty.Get, faulty.Scan, faulty.Next, faulty.Begin, faulty.Commit, faulty.Sync} {
		for n := 1; n < 20000; n += 1 + n {
			db := faulty.New(mem.New(), 1)
			db.Fail(fault, faulty.Nth(n), syscall.EIO)
			_, err := Load(bg, db, bytes.NewReader(b.Bytes()), LoadOptions{})
			if db.Faults() == 0 {
				v.ok(err)
				break
			}
			if vfs.ErrnoOf(err) != syscall.EIO {
				t.Errorf("fault %v %d: %v", fault, n, err)
			}
			db.Clear()
			if left := records(t, db); len(left) > 0 && fault != faulty.Sync {
				t.Errorf("fault %v %d leaves %d records, such as %s", fault, n, len(left), slices.Min(left))
			}
		}
	}
}
