package meta

import (
	"fmt"
	"sync"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/vfs"
)

func (v *testVolume) use(dir vfs.Ino) (bytes, inodes int64) {
	v.Helper()
	for _, q := range v.e.ListQuotas() {
		if q.Ino == dir {
			return q.UsedBytes, q.UsedInodes
		}
	}
	v.Fatalf("no quota of %d", dir)
	return 0, 0
}

func (v *testVolume) wantUse(dir vfs.Ino, bytes, inodes int64) {
	v.Helper()
	if b, n := v.use(dir); b != bytes || n != inodes {
		v.Fatalf("directory %d uses %d bytes and %d inodes instead of %d and %d", dir, b, n, bytes, inodes)
	}
	v.verify()
}

// tryWrite is write that may fail.
func (v *testVolume) tryWrite(ino vfs.Ino, off, n uint64) error {
	id, err := v.s.AllocBlocks(bg, 1)
	v.ok(err)
	_, err = v.s.Commit(bg, []Block{{ID: id, Size: uint32(n)}}, []FileWrite{{Ino: ino, Size: off + n,
		Chunks: []Chunk{{Index: uint32(off / chunk), Extents: []Extent{{Pos: uint32(off % chunk), Len: uint32(n), Block: id, Size: uint32(n)}}}}}})
	return err
}

func TestVolumeQuota(t *testing.T) {
	v := newVolume(t, func(f *Format) { f.QuotaBytes, f.QuotaInodes = 10*512, 4 })
	var a vfs.Attr
	f := v.file(vfs.Root, "f")
	v.file(vfs.Root, "g")
	v.file(vfs.Root, "h")
	v.want(v.s.Mkdir(bg, root, vfs.Root, "i", 0, &a), syscall.ENOSPC)
	v.want(v.s.Mknod(bg, root, vfs.Root, "i", syscall.S_IFREG, 0, &a), syscall.ENOSPC)
	v.write(f, 0, 9*512)
	v.ok(v.tryWrite(f, 9*512, 512))
	v.want(v.tryWrite(f, 10*512, 1), syscall.ENOSPC)
	v.ok(v.tryWrite(f, 0, 5000)) // overwriting is free
	v.verify()
	var st vfs.StatFS
	v.ok(v.s.StatFS(bg, root, vfs.Root, &st))
	if st.BlocksFree != 0 || st.Files != 4 || st.FilesFree != 0 || st.MaxName != 255 {
		t.Fatalf("%+v", st)
	}
	v.unlink(vfs.Root, "g")
	v.mkdir(vfs.Root, "i")
	v.truncate(f, 512)
	v.ok(v.tryWrite(f, 512, 9*512))
	v.ok(v.e.UpdateSettings(bg, func(f *Format) error { f.QuotaBytes = 1; return nil }))
	v.want(v.tryWrite(f, 10*512, 1), syscall.ENOSPC)
	v.ok(v.tryWrite(f, 0, 512))
	v.truncate(f, 100)
	v.ok(v.e.UpdateSettings(bg, func(f *Format) error { f.QuotaBytes, f.QuotaInodes = 0, 0; return nil }))
	v.ok(v.tryWrite(f, 0, chunk))
	v.ok(v.s.StatFS(bg, root, f, &st))
	if st.BlocksFree != unlimitedBytes/4096 {
		t.Fatalf("%+v", st)
	}
}

func TestDirectoryQuotas(t *testing.T) {
	v := newVolume(t)
	var a vfs.Attr
	outer := v.mkdir(vfs.Root, "outer")
	inner := v.mkdir(outer, "inner")
	f := v.file(inner, "f")
	v.write(f, 0, 1000)
	g := v.file(outer, "g")
	v.link(f, outer, "f2") // counts at home, in inner
	v.link(f, inner, "f3")
	v.ok(v.s.Symlink(bg, root, inner, "l", "t", &a))
	v.want(v.e.SetQuota(bg, f, 0, 0), syscall.ENOTDIR)
	v.want(v.e.SetQuota(bg, 999, 0, 0), syscall.ESTALE)
	v.ok(v.e.SetQuota(bg, outer, 10*512, 7))
	v.wantUse(outer, 1024, 4)
	v.ok(v.e.SetQuota(bg, inner, 5*512, 5))
	v.wantUse(inner, 1024, 2)

	v.want(v.tryWrite(f, 1000, 5*512), syscall.EDQUOT)
	v.ok(v.tryWrite(f, 0, 5*512))
	v.wantUse(inner, 5*512, 2)
	v.wantUse(outer, 5*512, 4)
	v.want(v.tryWrite(g, 0, 6*512), syscall.EDQUOT)
	v.ok(v.tryWrite(g, 0, 5*512))
	v.want(v.s.Allocate(bg, root, g, 0, 0, 6*512), syscall.EDQUOT)

	var st vfs.StatFS
	v.ok(v.s.StatFS(bg, root, inner, &st))
	if st.BlocksFree != 0 || st.Files != 5 || st.FilesFree != 3 {
		t.Fatalf("%+v", st)
	}
	v.ok(v.s.StatFS(bg, root, g, &st))
	if st.Files != 7 || st.FilesFree != 3 {
		t.Fatalf("%+v", st)
	}
	d := v.mkdir(inner, "d")
	sub := v.mkdir(d, "sub")
	h := v.file(sub, "h")
	v.wantUse(inner, 5*512, 5)
	v.want(v.s.Mkdir(bg, root, inner, "x", 0, &a), syscall.EDQUOT)
	v.want(v.s.Mknod(bg, root, outer, "x", syscall.S_IFREG, 0, &a), syscall.EDQUOT)

	// A subtree moves out of both and back.
	v.truncate(f, 512)
	v.ok(v.tryWrite(h, 0, 1024))
	v.wantUse(inner, 3*512, 5)
	_, err := v.rename(inner, "d", vfs.Root, "d", 0)
	v.ok(err)
	v.wantUse(inner, 512, 2)
	v.wantUse(outer, 6*512, 4)
	v.ok(v.tryWrite(h, 0, 20*512)) // outside now
	_, err = v.rename(vfs.Root, "d", outer, "d", 0)
	v.want(err, syscall.EDQUOT)
	v.truncate(h, 512)
	_, err = v.rename(vfs.Root, "d", outer, "d", 0)
	v.ok(err)
	v.wantUse(outer, 7*512, 7)
	v.wantUse(inner, 512, 2)
	// Exchange of a directory with a file between the two.
	_, err = v.rename(outer, "d", inner, "f", vfs.RenameExchange)
	v.ok(err)
	v.verify()
	_, err = v.rename(outer, "d", inner, "f", vfs.RenameExchange)
	v.ok(err)
	// The home name goes: the file moves to another one's directory.
	v.unlink(inner, "f")
	v.wantUse(inner, 512, 2)
	v.unlink(inner, "f3")
	v.wantUse(inner, 0, 1)
	v.wantUse(outer, 7*512, 7)
	// Files without a name count for the volume only.
	v.s.Open(g)
	v.unlink(outer, "g")
	v.wantUse(outer, 2*512, 6)
	v.ok(v.tryWrite(g, 0, 100*512))
	v.wantUse(outer, 2*512, 6)
	v.s.Release(g, 1)

	v.ok(v.e.SetQuota(bg, outer, 0, 0)) // a limit of 0 is none
	v.ok(v.tryWrite(h, 0, 100*512))
	v.ok(v.e.SetQuota(bg, outer, 512, 0)) // less than is used
	v.want(v.tryWrite(h, 100*512, 512), syscall.EDQUOT)
	v.ok(v.e.RemoveQuota(bg, outer))
	v.want(v.e.RemoveQuota(bg, outer), syscall.ENODATA)
	v.ok(v.tryWrite(h, 100*512, 512))
	v.unlink(inner, "l")
	v.ok(v.s.Rmdir(bg, root, outer, "inner")) // and its quota
	if got := v.e.ListQuotas(); len(got) != 0 {
		t.Fatal(got)
	}
}

func TestReserve(t *testing.T) {
	v := newVolume(t, func(f *Format) { f.QuotaBytes = 100 * 512 })
	d, e := v.mkdir(vfs.Root, "d"), v.mkdir(vfs.Root, "e")
	v.ok(v.e.SetQuota(bg, d, 10*512, 0))
	v.ok(v.e.SetQuota(bg, e, 20*512, 0))
	f := v.file(d, "f")
	held := func(volume, inD, inE int64) {
		t.Helper()
		qt := v.e.quotas
		qt.mu.Lock()
		defer qt.mu.Unlock()
		if qt.volume.heldBytes != volume || qt.dirs[d].heldBytes != inD || qt.dirs[e].heldBytes != inE {
			t.Fatalf("held: volume %d, d %d, e %d; want %d, %d, %d", qt.volume.heldBytes, qt.dirs[d].heldBytes, qt.dirs[e].heldBytes, volume, inD, inE)
		}
	}
	v.want(v.s.Reserve(bg, f, 10*512+1), syscall.EDQUOT)
	v.want(v.s.Reserve(bg, f, 100*512+1), syscall.ENOSPC)
	v.want(v.s.Reserve(bg, 999, 1), syscall.ESTALE)
	v.ok(v.s.Reserve(bg, f, 8*512))
	held(8*512, 8*512, 0)
	v.want(v.s.Reserve(bg, f, 3*512), syscall.EDQUOT)
	v.want(v.tryWrite(f, 0, 3*512), syscall.EDQUOT)
	v.s.Unreserve(f, 2*512)
	commit := func(n uint32, reserved int64) error {
		id, err := v.s.AllocBlocks(bg, 1)
		v.ok(err)
		_, err = v.s.Commit(bg, []Block{{id, n}}, []FileWrite{{Ino: f, Size: uint64(n), Reserved: reserved, Chunks: []Chunk{{Extents: []Extent{{Len: n, Block: id, Size: n}}}}}})
		return err
	}
	v.want(commit(11*512, 6*512), syscall.EDQUOT) // keeps the reservation
	held(6*512, 6*512, 0)
	v.ok(commit(10*512, 6*512))
	held(0, 0, 0)
	v.wantUse(d, 10*512, 1)
	// A reservation goes with the file.
	v.truncate(f, 0)
	v.ok(v.s.Reserve(bg, f, 512))
	_, err := v.rename(d, "f", e, "f", 0)
	v.ok(err)
	held(512, 512, 0) // where it was made
	v.ok(v.s.Reserve(bg, f, 512))
	held(1024, 0, 1024)
	_, err = v.rename(e, "f", d, "f", 0)
	v.ok(err)
	v.ok(commit(512, 2048)) // more than there is
	held(0, 0, 0)
	v.wantUse(d, 512, 1)
	// Of a file that is gone, and of a session that ends.
	v.ok(v.s.Reserve(bg, f, 512))
	v.unlink(d, "f")
	v.ok(commit(512, 512))
	held(0, 0, 0)
	f = v.file(d, "f")
	v.ok(v.s.Reserve(bg, f, 512))
	v.ok(v.s.Close())
	held(0, 0, 0)
}

// TestQuotaIsExact lets several goroutines fill a quota to the last block.
func TestQuotaIsExact(t *testing.T) {
	v := newVolume(t)
	d := v.mkdir(vfs.Root, "d")
	const limit = 100
	v.ok(v.e.SetQuota(bg, d, 0, limit))
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var a vfs.Attr
			for i := range limit {
				if err := v.s.Mknod(bg, root, d, fmt.Sprint(w, "-", i), syscall.S_IFREG, 0, &a); err != nil && vfs.ErrnoOf(err) != syscall.EDQUOT {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	v.wantUse(d, 0, limit)
}
