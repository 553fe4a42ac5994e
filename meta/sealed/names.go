package sealed

import (
	"strings"
	"sync/atomic"

	"github.com/zeebo/xxh3"

	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/vfs"
)

// nameCache remembers names with their sealed forms: programs name a file several
// times in a row, and list directories again. What it says is always true, because
// a name in a directory has one form for ever. It has a fixed number of places, which
// names share by their hashes; the newest stays.
type nameCache struct {
	plain, sealed [cachePlaces]atomic.Pointer[cachedName]
}

// cachePlaces is a power of two: the cache takes up to about 1.5 MiB.
const cachePlaces = 1 << 12

type cachedName struct {
	dir           uint64
	plain, sealed string
}

func placeOf(dir uint64, text string) uint64 {
	return (xxh3.HashString(text) ^ dir*0x9e3779b97f4a7c15) % cachePlaces
}

func (c *nameCache) put(n *cachedName) {
	c.plain[placeOf(n.dir, n.plain)].Store(n)
	c.sealed[placeOf(n.dir, n.sealed)].Store(n)
}

// seal returns the sealed form of a possible name.
func (c *nameCache) seal(keys *seal.Meta, dir uint64, name string) string {
	if n := c.plain[placeOf(dir, name)].Load(); n != nil && n.dir == dir && n.plain == name {
		return n.sealed
	}
	n := &cachedName{dir: dir, plain: strings.Clone(name), sealed: keys.Name(dir, name)}
	c.put(n)
	return n.sealed
}

// open is the inverse of seal.
func (c *nameCache) open(keys *seal.Meta, dir uint64, sealed string) (string, error) {
	if n := c.sealed[placeOf(dir, sealed)].Load(); n != nil && n.dir == dir && n.sealed == sealed {
		return n.plain, nil
	}
	name, err := keys.OpenName(dir, sealed)
	if err != nil {
		return "", err
	}
	c.put(&cachedName{dir: dir, plain: name, sealed: strings.Clone(sealed)})
	return name, nil
}

// name seals a name in a directory.
func (s *session) name(dir vfs.Ino, name string) (string, error) {
	if err := vfs.CheckName(name); err != nil {
		return "", err
	}
	return s.names.seal(s.keys, s.place(dir), name), nil
}

// openName is the inverse of name.
func (s *session) openName(dir, ino vfs.Ino, sealed string) (string, error) {
	name, err := s.names.open(s.keys, s.place(dir), sealed)
	if err != nil {
		return "", damaged("the name of inode %d in directory %d cannot be read: %w", ino, dir, err)
	}
	return name, nil
}
