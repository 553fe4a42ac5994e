package meta

import (
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// tally is what names say of an inode.
type tally struct {
	names   uint32
	entries uint64 // as a directory: entries in it
	subdirs uint32
	last    uint64 // highest cookie in it
	parent  vfs.Ino
	cookie  uint64
	kind    uint32
	links   uint32 // `p` records
}

// tree compares names, entries and links with the inodes, for as many inodes at a
// time as tallyLimit allows.
func (c *checker) tree() error {
	parts := vfs.Ino(c.Inodes/tallyLimit + 1)
	for part := vfs.Ino(0); part < parts; part++ {
		if err := c.treePart(part, parts); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) treePart(part, parts vfs.Ino) error {
	tallies := make(map[vfs.Ino]*tally)
	of := func(ino vfs.Ino) *tally {
		if ino%parts != part {
			return new(tally) // another part's
		}
		x := tallies[ino]
		if x == nil {
			x = new(tally)
			tallies[ino] = x
		}
		return x
	}
	if err := c.namesPart(of, part, parts); err != nil {
		return err
	}
	err := c.each(kindEntry, func(key, value []byte) error {
		parent, cookie, err := splitEntryKey(key)
		if err == nil && parent%parts == part {
			x := of(parent)
			x.entries++
			x.last = max(x.last, cookie)
		}
		return err
	})
	if err != nil {
		return err
	}
	err = c.each(kindLink, func(key, _ []byte) error {
		ino, parent, name, err := splitLinkKey(key)
		if err != nil || ino%parts != part {
			return err
		}
		of(ino).links++
		ent, err := c.in.entry(parent, string(name))
		if err == syscall.ENOENT || err == nil && ent.ino != ino {
			c.problem("link", ino, "its recorded name %q in directory %d is not there", c.v.e.shownName(parent, string(name)), parent)
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	err = c.each(kindInode, func(key, value []byte) error {
		ino, err := keyIno(key)
		if err != nil || ino%parts != part {
			return err
		}
		var n inode
		if n.decode(value) != nil {
			return nil // reported already
		}
		x := of(ino)
		delete(tallies, ino)
		return c.links(ino, &n, x)
	})
	for ino := range tallies {
		c.problem("name", ino, "has names, entries or links, but does not exist")
	}
	return err
}

// namesPart counts names and compares each with its entry.
func (c *checker) namesPart(of func(vfs.Ino) *tally, part, parts vfs.Ino) error {
	return c.each(kindName, func(key, value []byte) error {
		parent, name, err := splitNameKey(key)
		if err != nil {
			return err
		}
		ent, err := decodeName(value)
		if err != nil {
			c.problem("record", parent, "name %q: %v", c.v.e.shownName(parent, string(name)), err)
			return nil
		}
		if ent.ino%parts == part {
			x := of(ent.ino)
			if x.names++; x.names > 1 && x.kind != ent.kind {
				c.problem("name", ent.ino, "names of different types")
			}
			x.parent, x.cookie, x.kind = parent, ent.cookie, ent.kind
		}
		if parent%parts != part {
			return nil
		}
		if ent.kind == syscall.S_IFDIR {
			of(parent).subdirs++
		}
		// Each name has an entry of its own; that there are as many of either is
		// compared with the directory's count.
		b, err := c.in.value(appendEntryKey(nil, parent, ent.cookie))
		if err != nil {
			return err
		}
		other, othersName, err := decodeEntry(b)
		if err != nil || other.ino != ent.ino || other.kind != ent.kind || string(othersName) != string(name) {
			c.problem("name", parent, "name %q of inode %d has no entry like it at cookie %d", c.v.e.shownName(parent, string(name)), ent.ino, ent.cookie)
		}
		return nil
	})
}

// links compares an inode with its tally.
func (c *checker) links(ino vfs.Ino, n *inode, x *tally) error {
	if n.isDir() {
		names, err := c.countNames(ino)
		if err != nil {
			return err
		}
		if n.entries != x.entries || names != x.entries {
			c.problem("name", ino, "counts %d entries, has %d and %d names", n.entries, x.entries, names)
		}
		if n.next < firstCookie || x.last >= n.next {
			c.problem("name", ino, "the next cookie is %d, the last entry's %d", n.next, x.last)
		}
		return c.directory(ino, n, x)
	}
	if x.entries > 0 || x.subdirs > 0 {
		c.problem("name", ino, "has entries but is no directory")
	}
	if n.nlink != x.names {
		c.problem("link", ino, "counts %d links, has %d names", n.nlink, x.names)
	}
	if want := x.names; want > 1 && x.links != want || want <= 1 && x.links != 0 {
		c.problem("link", ino, "has %d names but %d records of them", want, x.links)
	}
	switch {
	case x.names > 0 && x.kind != n.kind():
		c.problem("name", ino, "its name has type %o, it has %o", x.kind, n.kind())
	case x.names == 0 && (n.parent != 0 || n.cookie != 0):
		c.problem("link", ino, "has no name but parent %d", n.parent)
	case x.names == 1 && (n.parent != x.parent || n.cookie != x.cookie):
		c.problem("link", ino, "its name is at %d/%d, not %d/%d", x.parent, x.cookie, n.parent, n.cookie)
	case x.names > 1:
		return c.home(ino, n)
	}
	return nil
}

func (c *checker) countNames(dir vfs.Ino) (count uint64, err error) {
	err = c.in.scan(kindName, dir, func(_, _ []byte) (bool, error) {
		count++
		return true, nil
	})
	return count, err
}

// home checks that a file with several names has one in its home.
func (c *checker) home(ino vfs.Ino, n *inode) error {
	found := false
	err := c.in.links(ino, func(parent vfs.Ino, _ []byte) (bool, error) {
		found = parent == n.parent
		return !found, nil
	})
	if err == nil && (!found || n.cookie != 0) {
		c.problem("link", ino, "has several names, but none in its home %d (cookie %d)", n.parent, n.cookie)
	}
	return err
}

func (c *checker) directory(ino vfs.Ino, n *inode, x *tally) error {
	if x.links != 0 {
		c.problem("link", ino, "is a directory but has records of several names")
	}
	if ino == vfs.Root {
		if x.names != 0 || n.parent != vfs.Root || n.nlink != 2+x.subdirs {
			c.problem("link", ino, "root with %d names, parent %d, %d links, %d subdirectories", x.names, n.parent, n.nlink, x.subdirs)
		}
		return nil
	}
	if n.nlink == 0 {
		if x.names != 0 || n.parent != 0 { // entries it has as a copy that is not finished
			c.problem("link", ino, "directory without links, but with %d names and parent %d", x.names, n.parent)
		}
		return nil
	}
	if x.names != 1 || n.nlink != 2+x.subdirs || n.parent != x.parent || n.cookie != x.cookie || x.kind != syscall.S_IFDIR {
		c.problem("link", ino, "directory with %d names (at %d/%d, it says %d/%d), %d links, %d subdirectories",
			x.names, x.parent, x.cookie, n.parent, n.cookie, n.nlink, x.subdirs)
	}
	// Up from here is the root, or this is a ring.
	at, seen := n.parent, ino
	for depth := 1; at != vfs.Root; depth++ {
		var up inode
		if err := c.in.inode(at, &up); err == syscall.ESTALE || at == seen || err == nil && !up.isDir() {
			c.problem("name", ino, "is not below the root")
			return nil
		} else if err != nil {
			return err
		}
		if up.nlink == 0 && up.parent == 0 {
			return nil // below a copy that is not finished
		}
		if depth&(depth-1) == 0 { // sooner or later this one is in the ring, and the next is beyond it
			seen = at
		}
		at = up.parent
	}
	return nil
}
