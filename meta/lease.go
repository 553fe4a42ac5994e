package meta

import "github.com/massif-fs/massif/vfs"

// Leases are what a session may keep and use again without asking, until it is
// recalled. They are shared: any number of sessions may hold one. A change that
// another session makes to what is leased is made only after every holder has
// acknowledged the recall, or has lost all its leases by being silent for too long.
type Leases uint8

const (
	// LeaseAttr: the attributes of an inode, its extended attributes and the
	// target of a symbolic link. The access time may be older than another session's
	// reads (Touch).
	LeaseAttr Leases = 1 << iota
	// LeaseNames: the names in a directory: those found, those not found, and
	// the listing. It says nothing of the attributes of what the names mean.
	LeaseNames
	// LeaseData: the content of a file: inline data, extents, and the bytes they
	// stand for. The size is an attribute.
	LeaseData
)

// Has tells whether all of k is held.
func (l Leases) Has(k Leases) bool { return l&k == k }

// Recall tells that leases have ended.
type Recall struct {
	// Kind has the leases on Ino that have ended: more than one, if one change
	// ends them together.
	Kind Leases
	Ino  vfs.Ino
	// Name is the name in directory Ino that is about to change, where Kind is
	// LeaseNames and one name is all that changes: other names, found and not
	// found, that were learned before may be kept, and the lease stays held, as it
	// does for the rest of the file with Off and Len. Empty: all names.
	Name string
	// Off and Len are the bytes of Ino about to change, where Kind has LeaseData;
	// Len < 0: to the end.
	Off, Len int64
	// All: every lease of the session has ended, the other fields are zero.
	All bool
}

// LeasedSession is a Session that holds leases. Calls bring them implicitly:
//
//   - GetAttr, SetAttr, Readlink, calls for extended attributes, and the inodes that
//     Lookup, ReadDir with plus, and calls that make something return: LeaseAttr;
//   - Lookup, also one that finds nothing, and ReadDir: LeaseNames on the directory;
//   - Inline and Extents: LeaseData.
//
// None of them is sure to: while a change by somebody else is under way, or where
// several sessions keep changing the same thing, calls answer without a lease. The
// session's own changes do not end its leases: what it then has cached is for itself
// to correct.
//
// A caller that keeps what a call returned (in the kernel's caches, say) must make
// sure that no recall of it came while the call was on its way: it may be kept if
// Leased says so after the call, and no Recall of it has been handed to OnRecall's
// function between before the call and after Leased.
type LeasedSession interface {
	Session

	// Leased tells which leases the session holds on an inode now. It does not
	// wait, and is cheap.
	Leased(ino vfs.Ino) Leases

	// OnRecall sets the function that is told of recalls. The change that ends the
	// lease waits until it has returned, so it must see to it that nothing that was
	// cached under the lease is used afterwards. It may block (for the kernel), but
	// not for calls of this session that change something; calls are made on
	// goroutines of the session, several at a time for different inodes, in order
	// for each inode. Without a function the session holds no leases. It is called
	// once, before the session is used.
	OnRecall(fn func(Recall))
}
