package meta

import (
	"bytes"
	"slices"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

func FuzzInode(f *testing.F) {
	at := vfs.Time{Sec: 1_700_000_000, Nsec: 5}
	for _, n := range []inode{
		{mode: syscall.S_IFREG | 0o644, nlink: 2, size: 1 << 40, alloc: 4096, parent: 7, ctime: at, mtime: vfs.Time{Sec: -1, Nsec: 1}},
		{mode: syscall.S_IFDIR | 0o755, nlink: 2, next: 3, entries: 9, parent: 1, cookie: 8, flags: flagXattr},
		{mode: syscall.S_IFLNK | 0o777, nlink: 1, size: 10},
		{mode: syscall.S_IFBLK, nlink: 1, rdev: 1 << 31},
	} {
		b := n.encode(nil)
		var got inode
		if err := got.decode(b); err != nil || got != n {
			f.Fatalf("%+v became %+v: %v", n, got, err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
		f.Add(append(b, 0))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var n, again inode
		if n.decode(b) != nil {
			return
		}
		if err := again.decode(n.encode(nil)); err != nil || again != n {
			t.Fatalf("%+v became %+v: %v", n, again, err)
		}
	})
}

func FuzzChunk(f *testing.F) {
	f.Add(encodeChunk(nil, []Extent{{0, 10, 5, 100, 3}, {10, 1, 0, 0, 0}, {100, 5, 4, 5, 0}}))
	f.Add(encodeChunk(nil, []Extent{{0, MaxChunkSize, 1<<63 - 1, MaxChunkSize, 0}}))
	f.Add(encodeChunk(nil, nil))
	f.Add([]byte{1, 255, 255, 255, 255, 15})
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := decodeChunk(nil, b)
		if err != nil {
			return
		}
		if err := checkExtents(list, MaxChunkSize); err != nil {
			t.Fatal(err)
		}
		again, err := decodeChunk(nil, encodeChunk(nil, list))
		if err != nil || !slices.Equal(again, list) {
			t.Fatalf("%v became %v: %v", list, again, err)
		}
	})
}

// FuzzRecords decodes the short records.
func FuzzRecords(f *testing.F) {
	ent := entry{ino: 5, kind: syscall.S_IFREG, cookie: 3}
	f.Add(ent.encodeName(nil))
	f.Add(ent.encodeEntry(nil, "name"))
	f.Add(blockRecord{size: 5, refs: 1, live: 3, created: 1 << 60}.encode(nil))
	f.Add(blockRecord{size: 5, created: 1, retired: 2}.encode(nil))
	f.Add(queueRecord{size: 5, created: 1}.encode(nil))
	f.Add(limitRecord{bytes: 5, inodes: 1}.encode(nil))
	f.Add([]byte{})
	f.Add([]byte{2, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := decodeName(b); err == nil {
			if again, err := decodeName(e.encodeName(nil)); err != nil || again != e {
				t.Fatalf("%+v became %+v: %v", e, again, err)
			}
		}
		if e, name, err := decodeEntry(b); err == nil {
			if again, n, err := decodeEntry(e.encodeEntry(nil, string(name))); err != nil || again != e || !bytes.Equal(n, name) {
				t.Fatalf("%+v became %+v: %v", e, again, err)
			}
		}
		if r, err := decodeBlock(b); err == nil {
			if again, err := decodeBlock(r.encode(nil)); err != nil || again != r {
				t.Fatalf("%+v became %+v: %v", r, again, err)
			}
		}
		if r, err := decodeQueue(b); err == nil {
			if again, err := decodeQueue(r.encode(nil)); err != nil || again != r {
				t.Fatalf("%+v became %+v: %v", r, again, err)
			}
		}
		if r, err := decodeLimit(b); err == nil {
			if again, err := decodeLimit(r.encode(nil)); err != nil || again != r {
				t.Fatalf("%+v became %+v: %v", r, again, err)
			}
		}
	})
}

// FuzzHistoryKey checks that history keys are the inverse of what they are made
// of, and keep the order.
func FuzzHistoryKey(f *testing.F) {
	f.Add(appendNameKey(nil, 1, "a"), appendNameKey(nil, 1, "ab"), uint64(5))
	f.Add(appendInodeKey(nil, 1), appendChunkKey(nil, 1, 7), uint64(1)<<63)
	f.Add([]byte{kindHistory, kindName}, []byte{kindHistory}, uint64(0))
	f.Fuzz(func(t *testing.T, a, b []byte, stamp uint64) {
		if key, stamp, err := splitHistoryKey(a); err == nil {
			if !bytes.Equal(appendHistoryKey(nil, key, stamp), a) {
				t.Fatalf("%q and %d are not of %q", key, stamp, a)
			}
		}
		for _, key := range [][]byte{a, b} {
			if len(key) < 10 || len(key) > kv.MaxKey/2 || !versioned(key[0]) || bytes.IndexByte(key[9:], 0) >= 0 && fixedKey(key[0]) == 0 ||
				fixedKey(key[0]) != 0 && len(key) != fixedKey(key[0]) {
				return
			}
		}
		ha, hb := appendHistoryKey(nil, a, stamp), appendHistoryKey(nil, b, ^stamp)
		if key, s, err := splitHistoryKey(ha); err != nil || s != stamp || !bytes.Equal(key, a) {
			t.Fatalf("%q: %q, %d, %v", ha, key, s, err)
		}
		if c := bytes.Compare(a, b); c != 0 && c != bytes.Compare(ha, hb) {
			t.Fatalf("%q and %q change their order", a, b)
		}
	})
}

func FuzzACL(f *testing.F) {
	f.Add(aclOf(userObj(7), groupObj(5), others(0)))
	f.Add(aclOf(userObj(7), user(1, 6), groupObj(5), group(3, 1), mask(6), others(0)))
	f.Add([]byte{2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseACL(b)
		if err != nil || a == nil {
			return
		}
		again, err := parseACL(a.encode())
		if err != nil || !slices.Equal(again, a) {
			t.Fatalf("%v became %v: %v", a, again, err)
		}
		for _, mode := range []uint32{0, 0o777, 0o750, a.mode()} {
			if a.chmod(mode); a.mode() != mode {
				t.Fatalf("mode %o became %o", mode, a.mode())
			}
		}
	})
}
