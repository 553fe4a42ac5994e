package meta

import (
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// How a transaction writes records, each kind in one place, with their history.

// put writes a record, and its history if it has one.
func (t *txn) put(key, value []byte) error {
	if err := t.remember(key); err != nil {
		return err
	}
	t.w.Put(key, value)
	return nil
}

// del removes a record, and writes its history if it has one.
func (t *txn) del(key []byte) error {
	if err := t.remember(key); err != nil {
		return err
	}
	t.w.Delete(key)
	return nil
}

// keeps tells whether there is to be history of a record.
func (t *txn) keeps(key []byte) bool { return t.e.historyOn.Load() && versioned(key[0]) }

// remember writes what a versioned record was before this transaction.
func (t *txn) remember(key []byte) error {
	if !t.keeps(key) {
		return nil
	}
	old, err := t.view.value(key)
	if err != nil {
		return err
	}
	return t.rememberAs(key, old)
}

// hadNone is the value of a history record for a record that did not exist.
var hadNone = []byte{0}

// rememberAs is remember where the present value is known; nil: there is none.
func (t *txn) rememberAs(key, old []byte) error {
	if !t.keeps(key) {
		return nil
	}
	t.hkey = appendHistoryKey(t.hkey[:0], key, t.stamp)
	if t.mayHaveWritten(key) {
		if b, err := t.view.value(t.hkey); err != nil || b != nil {
			return err // this transaction has changed it before
		}
	}
	if old == nil {
		t.w.Put(t.hkey, hadNone)
		return nil
	}
	t.hvalue = append(append(t.hvalue[:0], 1), old...)
	t.w.Put(t.hkey, t.hvalue)
	return nil
}

// writtenMax is how many written keys a transaction remembers: enough for all but
// those that change many records, which look in the store.
const writtenMax = 32

var writtenSeed = maphash.MakeSeed()

// mayHaveWritten notes that the transaction writes key, and tells whether it may
// have before.
func (t *txn) mayHaveWritten(key []byte) bool {
	h := maphash.Bytes(writtenSeed, key)
	if len(t.written) == writtenMax || slices.Contains(t.written, h) {
		return true
	}
	t.written = append(t.written, h)
	return false
}

// putName gives a directory an entry, with a new cookie if it has none: there must
// be none of this name then, else one with the cookie.
func (t *txn) putName(dir *node, name string, e *entry) error {
	put := t.put
	if e.cookie == 0 {
		e.cookie = dir.next
		dir.next++
		put = t.putNew
	}
	t.value = e.encodeName(t.value[:0])
	t.key = appendNameKey(t.key[:0], dir.ino, name)
	if err := put(t.key, t.value); err != nil {
		return err
	}
	t.value = e.encodeEntry(t.value[:0], name)
	t.key = appendEntryKey(t.key[:0], dir.ino, e.cookie)
	return put(t.key, t.value)
}

// putNew is put of a record that is known not to be there.
func (t *txn) putNew(key, value []byte) error {
	if err := t.rememberAs(key, nil); err != nil {
		return err
	}
	t.w.Put(key, value)
	return nil
}

// delName removes an entry, which is as it was read.
func (t *txn) delName(dir *node, name string, e entry) error {
	t.key = appendNameKey(t.key[:0], dir.ino, name)
	t.old = e.encodeName(t.old[:0])
	if err := t.rememberAs(t.key, t.old); err != nil {
		return err
	}
	t.w.Delete(t.key)
	t.key = appendEntryKey(t.key[:0], dir.ino, e.cookie)
	t.old = e.encodeEntry(t.old[:0], name)
	if err := t.rememberAs(t.key, t.old); err != nil {
		return err
	}
	t.w.Delete(t.key)
	return nil
}

func (t *txn) putLink(ino, parent vfs.Ino, name string) error {
	t.key = appendLinkKey(t.key[:0], ino, parent, name)
	return t.put(t.key, nil)
}

func (t *txn) delLink(ino, parent vfs.Ino, name string) error {
	t.key = appendLinkKey(t.key[:0], ino, parent, name)
	return t.del(t.key)
}

func (t *txn) putTarget(ino vfs.Ino, target string) error {
	t.key = appendTargetKey(t.key[:0], ino)
	t.value = append(t.value[:0], target...)
	return t.putNew(t.key, t.value)
}

func (t *txn) putXattr(ino vfs.Ino, name string, value []byte) error {
	t.key = appendXattrKey(t.key[:0], ino, name)
	return t.put(t.key, value)
}

func (t *txn) delXattr(ino vfs.Ino, name string) error {
	t.key = appendXattrKey(t.key[:0], ino, name)
	return t.del(t.key)
}

// putInline makes data, which is not empty, the inline content of a file.
func (t *txn) putInline(n *node, data []byte) error {
	size, err := t.e.format.Load().inlineSize(data)
	if err != nil {
		return err
	}
	n.flags |= flagInline
	n.alloc = size
	t.key = appendInlineKey(t.key[:0], n.ino)
	return t.put(t.key, data)
}

func (t *txn) delInline(n *node) error {
	n.flags &^= flagInline
	n.alloc = 0
	t.key = appendInlineKey(t.key[:0], n.ino)
	return t.del(t.key)
}

// putChunk makes list, which replaces old, the layout of a chunk: allocated bytes
// and block references follow.
func (t *txn) putChunk(n *node, index uint32, old, list []Extent) error {
	went, came := differing(old, list)
	for _, x := range came {
		if x.Block != 0 {
			t.refer(x.Block, 1, int64(x.Len))
		}
	}
	for _, x := range went {
		if x.Block != 0 {
			t.refer(x.Block, -1, -int64(x.Len))
		}
	}
	before, after := sumExtents(went), sumExtents(came)
	if n.alloc+after < before {
		return fmt.Errorf("allocated bytes of inode %d are fewer than its chunk %d has: %w", n.ino, index, kv.ErrCorrupt)
	}
	n.alloc = n.alloc + after - before
	t.key = appendChunkKey(t.key[:0], n.ino, index)
	if len(list) == 0 {
		if len(old) == 0 {
			return nil
		}
		return t.del(t.key)
	}
	t.value = encodeChunk(t.value[:0], list)
	return t.put(t.key, t.value)
}

func (t *txn) putOrphan(session uint64, ino vfs.Ino) {
	t.key = appendOrphanKey(t.key[:0], session, ino)
	if t.e.absent.has(session) { // it may use the inode or not: what is known stays
		if _, err := t.r.Get(t.key); err != nil {
			t.w.Put(t.key, orphanPerhaps)
		}
		return
	}
	t.w.Put(t.key, nil)
}

func (t *txn) delOrphan(session uint64, ino vfs.Ino) {
	t.key = appendOrphanKey(t.key[:0], session, ino)
	t.w.Delete(t.key)
}
