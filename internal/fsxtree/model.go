package fsxtree

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// inode is a file of any type in the model.
type inode struct {
	typ      uint32 // S_IFMT bits
	perm     uint32
	nlink    uint64
	data     []byte
	target   string
	xattrs   map[string]string
	children map[string]*inode // of directories
	parent   *inode            // of directories
}

func newInode(typ, perm uint32) *inode {
	n := &inode{typ: typ, perm: perm, nlink: 1, xattrs: map[string]string{}}
	if typ == unix.S_IFDIR {
		n.nlink = 2
		n.children = map[string]*inode{}
	}
	return n
}

func (n *inode) isDir() bool { return n != nil && n.typ == unix.S_IFDIR }

// holds tells whether directory n is d or above d.
func (n *inode) holds(d *inode) bool {
	for ; d != nil; d = d.parent {
		if d == n {
			return true
		}
	}
	return false
}

// put gives child a name in directory n.
func (n *inode) put(name string, child *inode) {
	n.children[name] = child
	if child.isDir() {
		child.parent = n
		n.nlink++
	}
}

// take removes a name and returns what it named.
func (n *inode) take(name string) *inode {
	child := n.children[name]
	delete(n.children, name)
	if child.isDir() {
		child.parent = nil
		n.nlink--
	}
	return child
}

// rename does what renameat2 must do and returns the errno it must give, in the
// order in which Linux checks.
func rename(from *inode, oldName string, to *inode, newName string, flags uint) error {
	old, target := from.children[oldName], to.children[newName]
	exchange := flags&unix.RENAME_EXCHANGE != 0
	switch {
	case old == nil:
		return unix.ENOENT
	case flags&unix.RENAME_NOREPLACE != 0 && target != nil:
		return unix.EEXIST
	case exchange && target == nil:
		return unix.ENOENT
	case old.isDir() && old.holds(to):
		return unix.EINVAL
	case target.isDir() && target != from.children[oldName] && target.holds(from):
		if exchange {
			return unix.EINVAL
		}
		return unix.ENOTEMPTY
	case old == target:
		return nil
	case exchange:
		from.take(oldName)
		to.take(newName)
		from.put(oldName, target)
		to.put(newName, old)
		return nil
	case old.isDir() && target != nil && !target.isDir():
		return unix.ENOTDIR
	case !old.isDir() && target.isDir():
		return unix.EISDIR
	case target.isDir() && len(target.children) > 0:
		return unix.ENOTEMPTY
	}
	if target != nil {
		to.take(newName).nlink--
	}
	to.put(newName, from.take(oldName))
	return nil
}

// snapshot is the Snapshot that a directory must give.
func (n *inode) snapshot() Snapshot {
	s := Snapshot{}
	n.snap(s, map[*inode]string{}, ".")
	return s
}

func (n *inode) snap(s Snapshot, first map[*inode]string, rel string) {
	node := Node{Mode: n.typ | n.perm, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Nlink: n.nlink, Xattrs: n.xattrText()}
	if !n.isDir() {
		if same, ok := first[n]; ok {
			node.SameAs = same
		} else {
			first[n] = rel
		}
	}
	switch n.typ {
	case unix.S_IFREG:
		h := sha256.Sum256(n.data)
		node.Size, node.Sum = int64(len(n.data)), hex.EncodeToString(h[:16])
	case unix.S_IFLNK:
		node.Size, node.Target = int64(len(n.target)), n.target
	case unix.S_IFDIR:
		for _, name := range n.names() {
			n.children[name].snap(s, first, path.Join(rel, name))
		}
	}
	s[rel] = node
}

// names lists a directory, sorted.
func (n *inode) names() []string {
	names := make([]string, 0, len(n.children))
	for name := range n.children {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (n *inode) xattrText() string {
	var lines []string
	for name, value := range n.xattrs {
		lines = append(lines, fmt.Sprintf("%s=%q", name, value))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
