package meta

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/vfs"
)

// crash leaves an engine as the end of its process would.
func (v *testVolume) crash() {
	v.e.cancel()
	v.e.tasks.Wait()
}

// TestCrash reopens after each number of commits since the last sync that a crash
// may have left.
func TestCrash(t *testing.T) {
	db := mem.NewWithHistory()
	if err := Create(bg, db, testFormat()); err != nil {
		t.Fatal(err)
	}
	v := openVolume(t, db, newTestClock())
	d := v.mkdir(vfs.Root, "d")
	open := v.file(d, "open")
	v.write(open, 0, 1000)
	v.s.Open(open)
	v.ok(v.s.Sync(bg))
	const later = 20
	for i := range later / 2 {
		f := v.file(d, fmt.Sprint(i))
		v.write(f, 0, 100)
	}
	v.unlink(d, "open")
	v.crash()
	unsynced := db.Unsynced()
	if unsynced < later {
		t.Fatal(unsynced)
	}
	for extra := range unsynced + 1 {
		w := openVolume(t, db.CrashAt(extra), v.clock)
		sum := w.verify()
		_, err := w.lookup(d, "open")
		if extra == unsynced { // the unlink, too: nobody has it open any more
			w.want(err, syscall.ENOENT)
			var a vfs.Attr
			w.want(w.s.GetAttr(bg, root, open, &a), syscall.ESTALE)
			if got := w.queued(); len(got) != 1 || sum.Inodes != 2+later/2 {
				t.Fatal(got, sum)
			}
		} else if err != nil {
			t.Fatal(extra, err)
		}
		// Numbers are not given out again.
		if f := w.file(vfs.Root, "after"); uint64(f) <= uint64(open)+later/2 {
			t.Fatalf("inode number %d was used before the crash", f)
		}
		if n := len(w.e.Sessions()); n != 1 {
			t.Fatal(n)
		}
		w.ok(w.e.Close())
	}
}

func TestReadOnly(t *testing.T) {
	db := mem.New()
	if err := Create(bg, db, testFormat()); err != nil {
		t.Fatal(err)
	}
	v := openVolume(t, db, newTestClock())
	f := v.file(vfs.Root, "f")
	v.s.Open(f)
	v.unlink(vfs.Root, "f") // a crash leaves it: not for a reader to clean up
	v.mkdir(vfs.Root, "d")
	v.crash()
	before := records(t, db)
	e, err := Open(bg, db, Options{Logger: quiet, ReadOnly: true})
	v.ok(err)
	s, err := e.NewSession(bg, SessionInfo{})
	v.ok(err)
	w := &testVolume{TB: t, db: db, e: e, s: s}
	w.attr(f)
	if got := w.list(vfs.Root); len(got) != 1 {
		t.Fatal(got)
	}
	var a vfs.Attr
	w.want(s.Mknod(bg, root, vfs.Root, "x", syscall.S_IFREG, 0, &a), syscall.EROFS)
	w.want(s.Mkdir(bg, root, vfs.Root, "x", 0, &a), syscall.EROFS)
	w.want(s.Rmdir(bg, root, vfs.Root, "d"), syscall.EROFS)
	w.want(s.SetXattr(bg, root, f, "user.x", nil, 0), syscall.EROFS)
	w.want(s.Reserve(bg, f, 1), syscall.EROFS)
	_, err = s.Commit(bg, nil, nil)
	w.want(err, syscall.EROFS)
	w.want(e.SetQuota(bg, vfs.Root, 1, 1), syscall.EROFS)
	s.Open(f)
	s.Release(f, 1)
	w.ok(e.Close())
	if after := records(t, db); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Error("a read-only engine has written")
	}
}

// TestClose checks that an engine and its sessions can be closed in any order,
// and refuse what comes after.
func TestClose(t *testing.T) {
	db := mem.New()
	if err := Create(bg, db, testFormat()); err != nil {
		t.Fatal(err)
	}
	v := openVolume(t, db, newTestClock())
	f := v.file(vfs.Root, "f")
	v.s.Open(f)
	v.ok(v.e.Close())
	v.ok(v.e.Close())
	v.ok(v.s.Close())
	v.s.Open(f)
	v.s.Release(f, 1)
	v.want(v.s.Reserve(bg, f, 1), syscall.EIO)
	var a vfs.Attr
	v.want(v.s.Mknod(bg, root, vfs.Root, "g", syscall.S_IFREG, 0, &a), syscall.EIO)
	_, err := v.s.AllocBlocks(bg, 3*blockBatch/4)
	if err == nil {
		_, err = v.s.AllocBlocks(bg, 3*blockBatch/4)
	}
	v.want(err, syscall.EIO)
	_, err = v.e.NewSession(bg, SessionInfo{})
	v.want(err, syscall.EIO)
	if d := db.Unsynced(); d != 0 {
		t.Errorf("%d commits are not durable", d)
	}
}
