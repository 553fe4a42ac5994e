package meta

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/vfs"
)

// repair repairs and tells what was done and what is left.
func (v *testVolume) repair() (done, left []string, sum RepairSummary) {
	v.Helper()
	sum, err := v.e.Repair(bg, mem.New(), func(p Problem) { done = append(done, p.String()) }, func(p Problem) { left = append(left, p.String()) })
	v.ok(err)
	return done, left, sum
}

// edit changes records under the engine.
func (v *testVolume) edit(fn func(w kv.Txn)) {
	v.Helper()
	v.ok(v.db.Update(bg, func(w kv.Txn) error { fn(w); return nil }))
	v.e.cache = newAttrCache(1)
}

func (v *testVolume) readInode(ino vfs.Ino) (n inode) {
	v.Helper()
	v.ok(v.e.view(bg, func(w *view) error { return w.inode(ino, &n) }))
	return n
}

// TestRepairNothing: a sound volume is not changed.
func TestRepairNothing(t *testing.T) {
	v := newVolume(t, withHistory)
	v.furnish()
	before := v.tree(vfs.Root)
	done, left, sum := v.repair()
	if len(done)+len(left) > 0 || sum.Fixed != 0 {
		t.Fatalf("%q %q", done, left)
	}
	if !slices.Equal(v.tree(vfs.Root), before) {
		t.Error("it was changed")
	}
}

func TestRepair(t *testing.T) {
	for name, damage := range map[string]func(v *testVolume, w kv.Txn, d, f, l vfs.Ino){
		"counters": func(v *testVolume, w kv.Txn, d, f, l vfs.Ino) {
			w.Put(keyCounter(counterBytes), kv.CounterValue(77))
			w.Put(keyCounter(counterInodes), kv.CounterValue(-1))
			w.Put(appendUsageKey(nil, d, usageInodes), kv.CounterValue(99))
			w.Put(keyCounter(counterIno), kv.CounterValue(1))
			w.Put(keyCounter(counterBlock), kv.CounterValue(1))
		},
		"links": func(v *testVolume, w kv.Txn, d, f, l vfs.Ino) {
			n := v.readInode(l)
			n.nlink = 7
			w.Put(appendInodeKey(nil, l), n.encode(nil))
			n = v.readInode(d)
			n.nlink, n.entries, n.next = 99, 1, 4
			w.Put(appendInodeKey(nil, d), n.encode(nil))
			w.DeleteRange([]byte{kindLink}, []byte{kindLink + 1})
		},
		"names": func(v *testVolume, w kv.Txn, d, f, l vfs.Ino) { w.DeleteRange([]byte{kindName}, []byte{kindName + 1}) },
		"entries": func(v *testVolume, w kv.Txn, d, f, l vfs.Ino) {
			w.DeleteRange([]byte{kindEntry}, []byte{kindEntry + 1})
		},
		"attributes": func(v *testVolume, w kv.Txn, d, f, l vfs.Ino) { w.Put(appendInodeKey(nil, f), []byte("?")) },
		"directory":  func(v *testVolume, w kv.Txn, d, f, l vfs.Ino) { w.Delete(appendInodeKey(nil, d)) },
		"root":       func(v *testVolume, w kv.Txn, d, f, l vfs.Ino) { w.Delete(appendInodeKey(nil, vfs.Root)) },
		"everything of names": func(v *testVolume, w kv.Txn, d, f, l vfs.Ino) {
			w.DeleteRange([]byte{kindName}, []byte{kindName + 1})
			w.DeleteRange([]byte{kindEntry}, []byte{kindEntry + 1})
		},
		"blocks": func(v *testVolume, w kv.Txn, d, f, l vfs.Ino) {
			w.DeleteRange([]byte{kindBlock}, []byte{kindBlock + 1})
		},
		"queue": func(v *testVolume, w kv.Txn, d, f, l vfs.Ino) {
			w.DeleteRange([]byte{kindQueue}, []byte{kindQueue + 1})
		},
		"ring": func(v *testVolume, w kv.Txn, d, f, l vfs.Ino) {
			// d moves below its own subdirectory.
			a, err := v.lookup(d, "d0")
			v.ok(err)
			n := v.readInode(d)
			_ = n
			w.Delete(appendNameKey(nil, vfs.Root, "src"))
			w.Delete(appendEntryKey(nil, vfs.Root, n.cookie))
			ent := entry{ino: d, kind: syscall.S_IFDIR, cookie: 1000}
			w.Put(appendNameKey(nil, a.Ino, "up"), ent.encodeName(nil))
			w.Put(appendEntryKey(nil, a.Ino, 1000), ent.encodeEntry(nil, "up"))
			n.parent, n.cookie = a.Ino, 1000
			w.Put(appendInodeKey(nil, d), n.encode(nil))
		},
		"two names of a directory": func(v *testVolume, w kv.Txn, d, f, l vfs.Ino) {
			ent := entry{ino: d, kind: syscall.S_IFDIR, cookie: 1000}
			w.Put(appendNameKey(nil, vfs.Root, "again"), ent.encodeName(nil))
			w.Put(appendEntryKey(nil, vfs.Root, 1000), ent.encodeEntry(nil, "again"))
		},
		"orphan": func(v *testVolume, w kv.Txn, d, f, l vfs.Ino) {
			w.DeleteRange([]byte{kindOrphan}, []byte{kindOrphan + 1})
			w.Put(appendOrphanKey(nil, 77, f), nil)
		},
		"flags": func(v *testVolume, w kv.Txn, d, f, l vfs.Ino) {
			n := v.readInode(f)
			n.flags, n.alloc, n.size = flagXattr|flagACL, 5, 6
			w.Put(appendInodeKey(nil, f), n.encode(nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVolume(t)
			v.furnish()
			d, err := v.lookup(vfs.Root, "src")
			v.ok(err)
			f, err := v.lookup(d.Ino, "f")
			v.ok(err)
			l, err := v.lookup(d.Ino, "big")
			v.ok(err)
			v.ok(v.e.SetQuota(bg, d.Ino, 1<<40, 0))
			before := v.inodes()
			v.edit(func(w kv.Txn) { damage(v, w, d.Ino, f.Ino, l.Ino) })
			if sum, err := v.e.Check(bg, func(Problem) {}); err != nil || sum.Problems == 0 {
				t.Fatal("nothing is damaged", err)
			}
			done, left, sum := v.repair()
			if len(left) > 0 || len(done) == 0 || sum.Fixed != int64(len(done)) {
				t.Fatalf("done %q, left %q", done, left)
			}
			v.settle()
			// Nothing is gone but the file that had no content left and what was held.
			gone := before - v.inodes()
			if _, err := v.lookup(vfs.Root, LostFound); err == nil {
				gone++
			}
			if gone < 0 || gone > 2 {
				t.Errorf("%d inodes are gone", gone)
			}
			if _, left, _ := v.repair(); len(left) > 0 {
				t.Error(left)
			}
			v.file(vfs.Root, "new") // it can be used
			v.write(v.file(v.mkdir(vfs.Root, "dir"), "new"), 0, 100)
		})
	}
}

// TestRepairRandom removes and changes random records: the repaired volume is
// sound.
func TestRepairRandom(t *testing.T) {
	source := newVolume(t, withHistory)
	source.furnish()
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		source.ok(source.db.Sync(bg))
		v := openVolume(t, source.db.(*mem.DB).Crash(), source.clock)
		v.settle()
		var keys [][]byte
		v.ok(v.db.View(bg, func(reader kv.Reader) error {
			return reader.Scan([]byte("G"), nil, func(key, _ []byte) (bool, error) {
				keys = append(keys, bytes.Clone(key))
				return true, nil
			})
		}))
		var text []string
		v.edit(func(w kv.Txn) {
			for range 1 + r.IntN(20) {
				key := keys[r.IntN(len(keys))]
				if strings.ContainsRune("SHs", rune(key[0])) {
					continue // settings
				}
				value, err := w.Get(key)
				switch {
				case err != nil:
				case r.IntN(2) == 0 || len(value) == 0:
					w.Delete(key)
					text = append(text, fmt.Sprintf("- %q", key))
				default:
					value = bytes.Clone(value)
					value[r.IntN(len(value))] ^= byte(1 << r.IntN(8))
					w.Put(key, value)
					text = append(text, fmt.Sprintf("~ %q", key))
				}
			}
		})
		done, left, _ := v.repair()
		if len(left) > 0 {
			t.Fatalf("seed %d: damage\n%s\nrepaired\n%s\nleft\n%s", seed, strings.Join(text, "\n"), strings.Join(done, "\n"), strings.Join(left, "\n"))
		}
		v.settle()
		if _, err := v.e.Check(bg, func(p Problem) { t.Error(seed, p) }); err != nil {
			t.Error(seed, err)
		}
		v.tree(vfs.Root)
		v.ok(v.e.Close())
	}
}
