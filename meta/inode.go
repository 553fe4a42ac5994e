package meta

import (
	"encoding/binary"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// inode is the decoded attribute record of an inode. It is comparable, so that a
// transaction finds out what has changed.
type inode struct {
	flags  inodeFlags
	mode   uint32 // type and permission bits
	nlink  uint32
	uid    uint32
	gid    uint32
	gen    uint32
	rdev   uint32
	size   uint64 // of files and symbolic links; 0 of others
	alloc  uint64 // bytes covered by extents, or length of inline content
	parent vfs.Ino
	cookie uint64 // of its name in parent, if it has exactly one

	// Of directories only:
	next    uint64 // the cookie that the next entry gets
	entries uint64

	atime, mtime, ctime, btime vfs.Time
}

// The parent of an inode is the directory its name is in; of a file with several
// names it is one of theirs, its home: the quotas that hold there are charged. An
// inode without a name has none (0); the root is its own, with cookie 0.

type inodeFlags uint8

const (
	flagInline     inodeFlags = 1 << iota // has inline content (a `d` record)
	flagXattr                             // has extended attributes
	flagACL                               // one of them is an access ACL
	flagDefaultACL                        // one of them is a default ACL
	flagLinkable                          // made without a name, and may be given one

	// In records only: a time equals ctime and is left out.
	sameMtime
	sameAtime
	sameBtime

	knownFlags = 1<<iota - 1
	timeFlags  = sameMtime | sameAtime | sameBtime
)

func (n *inode) kind() uint32    { return n.mode & syscall.S_IFMT }
func (n *inode) isDir() bool     { return n.kind() == syscall.S_IFDIR }
func (n *inode) isRegular() bool { return n.kind() == syscall.S_IFREG }
func (n *inode) isSymlink() bool { return n.kind() == syscall.S_IFLNK }
func (n *inode) isDevice() bool {
	return n.kind() == syscall.S_IFCHR || n.kind() == syscall.S_IFBLK
}

// usage is what the inode counts for in quotas: its allocated bytes in whole
// units of 512, as st_blocks shows them.
func (n *inode) usage() int64 { return int64((n.alloc + 511) &^ 511) }

// hasChunks tells whether the content lies in chunks: extents have at least a
// byte, so allocated bytes that are not inline are theirs.
func (n *inode) hasChunks() bool { return n.alloc > 0 && n.flags&flagInline == 0 }

// directorySize is the st_size of each directory: a file system's block, as
// programs expect one.
const directorySize = 4096

// preferredIO is the st_blksize: big enough that buffered programs do not send a
// request for each page, small enough for a buffer in each open file.
const preferredIO = 64 << 10

func (n *inode) fill(ino vfs.Ino, a *vfs.Attr) {
	*a = vfs.Attr{
		Ino: ino, Gen: n.gen, Mode: n.mode, Nlink: n.nlink, UID: n.uid, GID: n.gid, Rdev: n.rdev,
		Size: n.size, Blocks: (n.alloc + 511) >> 9, BlockSize: preferredIO,
		Atime: n.atime, Mtime: n.mtime, Ctime: n.ctime, Btime: n.btime,
		NoXattrs: n.flags&flagXattr == 0,
	}
	if n.isDir() {
		a.Size = directorySize
	}
}

func (n *inode) encode(dst []byte) []byte {
	flags := n.flags
	if n.mtime == n.ctime {
		flags |= sameMtime
	}
	if n.atime == n.ctime {
		flags |= sameAtime
	}
	if n.btime == n.ctime {
		flags |= sameBtime
	}
	dst = append(dst, recordVersion)
	dst = binary.AppendUvarint(dst, uint64(flags))
	dst = binary.AppendUvarint(dst, uint64(n.mode))
	dst = binary.AppendUvarint(dst, uint64(n.nlink))
	dst = binary.AppendUvarint(dst, uint64(n.uid))
	dst = binary.AppendUvarint(dst, uint64(n.gid))
	dst = binary.AppendUvarint(dst, uint64(n.gen))
	dst = binary.AppendUvarint(dst, uint64(n.parent))
	dst = binary.AppendUvarint(dst, n.cookie)
	switch {
	case n.isDir():
		dst = binary.AppendUvarint(dst, n.next)
		dst = binary.AppendUvarint(dst, n.entries)
	case n.isRegular():
		dst = binary.AppendUvarint(dst, n.size)
		dst = binary.AppendUvarint(dst, n.alloc)
	case n.isSymlink():
		dst = binary.AppendUvarint(dst, n.size)
	case n.isDevice():
		dst = binary.AppendUvarint(dst, uint64(n.rdev))
	}
	dst = appendTime(dst, n.ctime)
	if flags&sameMtime == 0 {
		dst = appendTime(dst, n.mtime)
	}
	if flags&sameAtime == 0 {
		dst = appendTime(dst, n.atime)
	}
	if flags&sameBtime == 0 {
		dst = appendTime(dst, n.btime)
	}
	return dst
}

func (n *inode) decode(b []byte) error {
	d := newDecoder(b)
	flags := d.uint64()
	if flags&^knownFlags != 0 {
		d.bad = true
	}
	*n = inode{
		flags: inodeFlags(flags) &^ timeFlags,
		mode:  d.uint32(), nlink: d.uint32(), uid: d.uint32(), gid: d.uint32(), gen: d.uint32(), parent: d.ino(), cookie: d.uint64(),
	}
	switch {
	case n.isDir():
		n.next, n.entries = d.uint64(), d.uint64()
	case n.isRegular():
		n.size, n.alloc = d.uint64(), d.uint64()
	case n.isSymlink():
		n.size = d.uint64()
	case n.isDevice():
		n.rdev = d.uint32()
	}
	n.ctime = d.time()
	n.mtime, n.atime, n.btime = n.ctime, n.ctime, n.ctime
	if flags&uint64(sameMtime) == 0 {
		n.mtime = d.time()
	}
	if flags&uint64(sameAtime) == 0 {
		n.atime = d.time()
	}
	if flags&uint64(sameBtime) == 0 {
		n.btime = d.time()
	}
	if n.size > 1<<63-1 || n.alloc > 1<<63-1 || n.next > 1<<63-1 || n.cookie > 1<<63-1 {
		d.bad = true
	}
	return d.finish("attribute")
}
