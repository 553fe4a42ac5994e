package meta

import (
	"encoding/binary"
	"fmt"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// Kinds of records: the first byte of each key. doc/metadata.md describes them.
const (
	kindFormat     = 'F'
	kindCounter    = 'c'
	kindInode      = 'a'
	kindName       = 'n'
	kindEntry      = 'e'
	kindTarget     = 'l'
	kindLink       = 'p'
	kindXattr      = 'x'
	kindInline     = 'd'
	kindChunk      = 'k'
	kindBlock      = 'b'
	kindQueue      = 'q'
	kindOrphan     = 'o'
	kindSession    = 's'
	kindQuota      = 'Q'
	kindUsage      = 'u'
	kindSnapshot   = 'S'
	kindHistory    = 'h'
	kindSince      = 'H'
	kindCopy       = 'm'
	kindReplay     = 'r'
	kindAllocation = 'A'
	kindPending    = 'w'
	kindEarly      = 'E'
)

// Names of the counters.
const (
	counterBytes   = "bytes"   // allocated bytes, each file rounded up to 512
	counterInodes  = "inodes"  // inodes, the root among them
	counterIno     = "ino"     // the next inode number
	counterBlock   = "block"   // the next block id
	counterSession = "session" // the next session id
)

// Counters of a directory quota's use.
const (
	usageBytes  = 'b'
	usageInodes = 'i'
)

func appendIno(dst []byte, kind byte, ino vfs.Ino) []byte {
	return binary.BigEndian.AppendUint64(append(dst, kind), uint64(ino))
}

func keyFormat() []byte { return []byte{kindFormat} }

// keySince is the key of the time from which on history is complete.
func keySince() []byte { return []byte{kindSince} }

func keyCounter(name string) []byte { return append([]byte{kindCounter}, name...) }

func appendInodeKey(dst []byte, ino vfs.Ino) []byte { return appendIno(dst, kindInode, ino) }

func appendNameKey(dst []byte, parent vfs.Ino, name string) []byte {
	return append(appendIno(dst, kindName, parent), name...)
}

func appendEntryKey(dst []byte, parent vfs.Ino, cookie uint64) []byte {
	return binary.BigEndian.AppendUint64(appendIno(dst, kindEntry, parent), cookie)
}

func appendTargetKey(dst []byte, ino vfs.Ino) []byte { return appendIno(dst, kindTarget, ino) }

func appendLinkKey(dst []byte, ino, parent vfs.Ino, name string) []byte {
	return append(binary.BigEndian.AppendUint64(appendIno(dst, kindLink, ino), uint64(parent)), name...)
}

func appendXattrKey(dst []byte, ino vfs.Ino, name string) []byte {
	return append(appendIno(dst, kindXattr, ino), name...)
}

func appendInlineKey(dst []byte, ino vfs.Ino) []byte { return appendIno(dst, kindInline, ino) }

func appendChunkKey(dst []byte, ino vfs.Ino, index uint32) []byte {
	return binary.BigEndian.AppendUint32(appendIno(dst, kindChunk, ino), index)
}

func appendBlockKey(dst []byte, id uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, kindBlock), id)
}

func appendPendingKey(dst []byte, id uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, kindPending), id)
}

func appendQueueKey(dst []byte, stamp, id uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(append(dst, kindQueue), stamp), id)
}

func appendOrphanKey(dst []byte, session uint64, ino vfs.Ino) []byte {
	return binary.BigEndian.AppendUint64(appendSessionRecords(dst, kindOrphan, session), uint64(ino))
}

func appendSessionKey(dst []byte, id uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, kindSession), id)
}

func appendQuotaKey(dst []byte, ino vfs.Ino) []byte { return appendIno(dst, kindQuota, ino) }

func appendUsageKey(dst []byte, ino vfs.Ino, which byte) []byte {
	return append(appendIno(dst, kindUsage, ino), which)
}

func keySnapshot(name string) []byte { return append([]byte{kindSnapshot}, name...) }

// versioned tells whether history is kept of records of a kind.
func versioned(kind byte) bool {
	switch kind {
	case kindInode, kindName, kindEntry, kindTarget, kindLink, kindXattr, kindInline, kindChunk:
		return true
	}
	return false
}

// fixedKey returns the length of all keys of a kind, or 0 if they end in a name.
func fixedKey(kind byte) int {
	switch kind {
	case kindInode, kindTarget, kindInline, kindBlock, kindSession, kindQuota, kindPending:
		return 9
	case kindChunk, kindReplay:
		return 13
	case kindEntry, kindQueue, kindOrphan, kindCopy, kindAllocation:
		return 17
	case kindUsage:
		return 10
	}
	return 0
}

// appendHistoryKey appends the key under which the value lies that key had until
// stamp. Names hold no NUL, so one ends a key of variable length: records of a
// key lie together and keys keep their order.
func appendHistoryKey(dst, key []byte, stamp uint64) []byte {
	return binary.BigEndian.AppendUint64(appendHistoryPrefix(dst, key), stamp)
}

func appendHistoryPrefix(dst, key []byte) []byte {
	dst = append(append(dst, kindHistory), key...)
	if fixedKey(key[0]) == 0 {
		dst = append(dst, 0)
	}
	return dst
}

// splitHistoryKey is the inverse of appendHistoryKey. The returned key is a part of
// h.
func splitHistoryKey(h []byte) (key []byte, stamp uint64, err error) {
	if len(h) < 1+9+8 || h[0] != kindHistory || !versioned(h[1]) {
		return nil, 0, badKey(h)
	}
	key, stamp = h[1:len(h)-8], binary.BigEndian.Uint64(h[len(h)-8:])
	if n := fixedKey(key[0]); n == 0 {
		if key[len(key)-1] != 0 {
			return nil, 0, badKey(h)
		}
		key = key[:len(key)-1]
	} else if len(key) != n {
		return nil, 0, badKey(h)
	}
	return key, stamp, nil
}

func badKey(key []byte) error { return fmt.Errorf("record with key %q: %w", key, kv.ErrCorrupt) }

// keyIno returns the inode number after the kind, where a key has one.
func keyIno(key []byte) (vfs.Ino, error) {
	if len(key) < 9 {
		return 0, badKey(key)
	}
	return vfs.Ino(binary.BigEndian.Uint64(key[1:])), nil
}

func splitNameKey(key []byte) (parent vfs.Ino, name []byte, err error) {
	if len(key) < 10 {
		return 0, nil, badKey(key)
	}
	return vfs.Ino(binary.BigEndian.Uint64(key[1:])), key[9:], nil
}

func splitEntryKey(key []byte) (parent vfs.Ino, cookie uint64, err error) {
	if len(key) != 17 {
		return 0, 0, badKey(key)
	}
	return vfs.Ino(binary.BigEndian.Uint64(key[1:])), binary.BigEndian.Uint64(key[9:]), nil
}

func splitLinkKey(key []byte) (ino, parent vfs.Ino, name []byte, err error) {
	if len(key) < 18 {
		return 0, 0, nil, badKey(key)
	}
	return vfs.Ino(binary.BigEndian.Uint64(key[1:])), vfs.Ino(binary.BigEndian.Uint64(key[9:])), key[17:], nil
}

func splitXattrKey(key []byte) (ino vfs.Ino, name []byte, err error) { return splitNameKey(key) }

func splitChunkKey(key []byte) (ino vfs.Ino, index uint32, err error) {
	if len(key) != 13 {
		return 0, 0, badKey(key)
	}
	return vfs.Ino(binary.BigEndian.Uint64(key[1:])), binary.BigEndian.Uint32(key[9:]), nil
}

func splitBlockKey(key []byte) (id uint64, err error) {
	if len(key) != 9 {
		return 0, badKey(key)
	}
	return binary.BigEndian.Uint64(key[1:]), nil
}

func splitQueueKey(key []byte) (stamp, id uint64, err error) {
	if len(key) != 17 {
		return 0, 0, badKey(key)
	}
	return binary.BigEndian.Uint64(key[1:]), binary.BigEndian.Uint64(key[9:]), nil
}

func splitOrphanKey(key []byte) (session uint64, ino vfs.Ino, err error) {
	if len(key) != 17 {
		return 0, 0, badKey(key)
	}
	return binary.BigEndian.Uint64(key[1:]), vfs.Ino(binary.BigEndian.Uint64(key[9:])), nil
}
