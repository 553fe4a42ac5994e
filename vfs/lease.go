package vfs

// Leases are what of an inode may be kept and used again without asking.
type Leases uint8

const (
	// LeaseAttr: its attributes and extended attributes.
	LeaseAttr Leases = 1 << iota
	// LeaseNames: the names in a directory, found and not found, and its listing.
	// It says nothing of the attributes of what they name.
	LeaseNames
	// LeaseData: the bytes of a file. Its size is an attribute.
	LeaseData
)

// Has tells whether all of k is there.
func (l Leases) Has(k Leases) bool { return l&k == k }

// LeaseFS is implemented by trees that others change too, but that hear of each such
// change before it is made. It is in force where Policy.Leased says so. What such a tree has told may be kept without an end,
// whatever its Policy says, under two conditions: Leased says so after the call, and
// no recall of it has come between the beginning of the call and Leased's answer. What
// may not be kept is true of the moment of the call only.
//
// The own changes of a tree are no recalls: whoever asked for them knows.
type LeaseFS interface {
	// Leased tells what may be kept of an inode. It is quick and does not wait.
	Leased(ino Ino) Leases
	// Recalls calls fn with each change that somebody else is about to make to what
	// is leased; it is as Watchable.Watch, but before the change: see Change.Ack. Whoever
	// keeps anything must watch.
	Recalls(fn func(Change)) (stop func())
}
