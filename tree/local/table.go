package local

import (
	"hash/fnv"
	"math"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
)

// hostKey names an inode of the host while it exists.
type hostKey struct{ dev, ino uint64 }

// inode ties an inode number of the tree to an inode of the host. A descriptor
// (O_PATH) to it is open while it is in use, may stay open in a bounded cache, and
// is opened again by file handle (open_by_handle_at) otherwise.
type inode struct {
	ino    vfs.Ino
	gen    uint32
	typ    uint32 // S_IFMT bits
	key    hostKey
	handle handle // zero: there is none, the descriptor stays open

	// Guarded by the table's lock.
	fd    int // -1: closed
	refs  int // calls that use fd
	pins  int
	opens int // open Files and Dirs
	// orphan: the last name is gone, only fd still leads to the inode.
	orphan bool
	fds    links // in table.fds while fd is open and could be opened again
	idle   links // in table.idle while nobody needs the inode
}

func (n *inode) needed() bool { return n.refs > 0 || n.pins > 0 || n.opens > 0 }

// table knows the inodes that were looked up and are still needed, and as many
// of the others as it may keep.
type table struct {
	mu     sync.Mutex
	byIno  map[vfs.Ino]*inode
	byKey  map[hostKey]*inode
	fds    list // open descriptors that may be closed, least recently used first
	idle   list // inodes nobody needs, likewise
	next   vfs.Ino
	dev    uint64         // of the root
	mounts map[uint64]int // a directory descriptor per device, for handles

	maxFDs, maxIdle int
	closed          bool
}

// ownNumbers is where numbers start that are not the host's.
const ownNumbers vfs.Ino = 1 << 47

func (t *table) init(maxFDs, maxIdle int) {
	t.byIno = make(map[vfs.Ino]*inode)
	t.byKey = make(map[hostKey]*inode)
	t.mounts = make(map[uint64]int)
	t.next = ownNumbers
	t.maxFDs, t.maxIdle = maxFDs, maxIdle
	t.fds.of = func(n *inode) *links { return &n.fds }
	t.idle.of = func(n *inode) *links { return &n.idle }
}

// ref finds an inode by number and opens its descriptor until unref. ESTALE if the
// number means nothing (any more).
func (t *table) ref(ino vfs.Ino) (*inode, error) {
	t.mu.Lock()
	n := t.byIno[ino]
	if n == nil || t.closed {
		t.mu.Unlock()
		return nil, syscall.ESTALE
	}
	n.refs++
	t.idle.remove(n)
	if n.fd >= 0 {
		t.fds.touch(n)
		t.mu.Unlock()
		return n, nil
	}
	mount, ok := t.mounts[n.key.dev]
	t.mu.Unlock()
	if !ok {
		t.unref(n)
		return nil, syscall.ESTALE
	}
	fd, err := n.handle.open(mount)
	if err != nil {
		t.unref(n)
		return nil, err
	}
	t.adopt(n, fd)
	return n, nil
}

// adopt gives a referenced inode a descriptor, or closes it if there is one.
func (t *table) adopt(n *inode, fd int) {
	t.mu.Lock()
	var victim int = -1
	if n.fd >= 0 {
		victim = fd
	} else {
		n.fd = fd
		if t.reopenable(n) {
			t.fds.push(n)
			victim = t.evictFD()
		}
	}
	t.mu.Unlock()
	if victim >= 0 {
		unix.Close(victim)
	}
}

// reopenable tells whether an inode's descriptor may be closed, to be opened again
// by handle.
func (t *table) reopenable(n *inode) bool {
	_, mounted := t.mounts[n.key.dev]
	return mounted && n.handle.valid() && !n.orphan
}

func (t *table) unref(n *inode) {
	t.mu.Lock()
	n.refs--
	fds := t.settle(n)
	t.mu.Unlock()
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// settle puts an inode where it belongs after one of its counts fell; it returns
// descriptors to close.
func (t *table) settle(n *inode) (fds []int) {
	if n.needed() || t.byIno[n.ino] != n {
		if !n.needed() && n.fd >= 0 { // was dropped from the table meanwhile
			fds = append(fds, n.fd)
			n.fd = -1
			t.fds.remove(n)
		}
		return fds
	}
	if n.orphan {
		return t.drop(n)
	}
	t.idle.push(n)
	for t.idle.n > t.maxIdle {
		fds = append(fds, t.drop(t.idle.first())...)
	}
	return fds
}

// evictFD takes the least recently used descriptor that nobody uses, if there are
// too many; -1 if none.
func (t *table) evictFD() int {
	if t.fds.n <= t.maxFDs {
		return -1
	}
	for n := t.fds.first(); n != nil; n = n.fds.next {
		if n.refs == 0 {
			fd := n.fd
			n.fd = -1
			t.fds.remove(n)
			return fd
		}
	}
	return -1
}

// drop forgets an inode; it returns the descriptor to close.
func (t *table) drop(n *inode) (fds []int) {
	t.idle.remove(n)
	t.fds.remove(n)
	if t.byIno[n.ino] == n {
		delete(t.byIno, n.ino)
	}
	if t.byKey[n.key] == n {
		delete(t.byKey, n.key)
	}
	if n.fd >= 0 && n.refs == 0 {
		fds = append(fds, n.fd)
		n.fd = -1
	}
	return fds
}

// enter finds or makes the inode of an open O_PATH descriptor, which it takes
// over, and references it. st describes it.
func (t *table) enter(fd int, st *unix.Statx_t) (*inode, error) {
	key := hostKey{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}
	t.mu.Lock()
	n := t.byKey[key]
	if n != nil && n.fd >= 0 {
		// An open descriptor keeps the host from using the number again.
		n.refs++
		t.idle.remove(n)
		t.fds.touch(n)
		t.mu.Unlock()
		unix.Close(fd)
		return n, nil
	}
	t.mu.Unlock()

	h := handleOf(fd)
	gen := generation(h, st)
	var closing []int
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		unix.Close(fd)
		return nil, syscall.ESTALE
	}
	n = t.byKey[key]
	if n != nil && n.fd < 0 && n.handle != h {
		// The host has given the number to another file.
		delete(t.byKey, key)
		if !n.needed() {
			closing = t.drop(n)
		}
		n = nil
	}
	if n == nil {
		n = &inode{key: key, gen: gen, typ: uint32(st.Mode) & unix.S_IFMT, handle: h, fd: -1}
		n.ino = t.number(key)
		t.byIno[n.ino] = n
		t.byKey[key] = n
	}
	n.refs++
	t.idle.remove(n)
	_, mounted := t.mounts[key.dev]
	t.mu.Unlock()
	for _, c := range closing {
		unix.Close(c)
	}
	if h.valid() && !mounted {
		t.addMount(key.dev, fd, st)
	}
	t.adopt(n, fd)
	return n, nil
}

// addMount remembers a directory through which handles of a device are opened.
// Until one was seen, inodes there keep their descriptors.
func (t *table) addMount(dev uint64, fd int, st *unix.Statx_t) {
	if uint32(st.Mode)&unix.S_IFMT != unix.S_IFDIR {
		return
	}
	dir, err := unix.Open(procPath(fd), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	t.mu.Lock()
	if _, ok := t.mounts[dev]; ok || t.closed {
		t.mu.Unlock()
		unix.Close(dir)
		return
	}
	t.mounts[dev] = dir
	t.mu.Unlock()
}

// number chooses a free inode number: the host's where it fits.
func (t *table) number(key hostKey) vfs.Ino {
	if key.dev == t.dev && key.ino > uint64(vfs.Root) && key.ino < uint64(ownNumbers) {
		if _, taken := t.byIno[vfs.Ino(key.ino)]; !taken {
			return vfs.Ino(key.ino)
		}
	}
	for {
		ino := t.next
		if t.next++; t.next > vfs.MaxIno {
			t.next = ownNumbers
		}
		if _, taken := t.byIno[ino]; !taken {
			return ino
		}
	}
}

// numberOf tells the number that a listing shows for an entry not looked up.
func (t *table) numberOf(dev, ino uint64) vfs.Ino {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.byKey[hostKey{dev, ino}]; n != nil {
		return n.ino
	}
	if ino > uint64(vfs.Root) && ino < uint64(ownNumbers) {
		return vfs.Ino(ino)
	}
	return vfs.Ino(ino&uint64(ownNumbers-1)) | ownNumbers // as good as any
}

// generation tells inodes apart that had the same number one after the other.
func generation(h handle, st *unix.Statx_t) uint32 {
	f := fnv.New32a()
	if h.valid() {
		f.Write([]byte(h.bytes))
	} else {
		var b [12]byte
		for i := range 8 {
			b[i] = byte(st.Btime.Sec >> (8 * i))
		}
		for i := range 4 {
			b[8+i] = byte(st.Btime.Nsec >> (8 * i))
		}
		f.Write(b[:])
	}
	return f.Sum32()
}

// count changes pins or opens of an inode.
func (t *table) count(ino vfs.Ino, pins, opens int) {
	t.mu.Lock()
	n := t.byIno[ino]
	if n == nil {
		t.mu.Unlock()
		return
	}
	fds := t.countLocked(n, pins, opens)
	t.mu.Unlock()
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func (t *table) countLocked(n *inode, pins, opens int) (fds []int) {
	n.pins = max(n.pins+pins, 0)
	n.opens = max(n.opens+opens, 0)
	if n.needed() {
		t.idle.remove(n)
		return nil
	}
	fds = t.settle(n)
	if n.fd >= 0 && t.byIno[n.ino] == n && t.reopenable(n) {
		// A cached descriptor would keep the space of a file that somebody else deletes.
		fds = append(fds, n.fd)
		n.fd = -1
		t.fds.remove(n)
	}
	return fds
}

// opened counts an open File of a referenced inode; closed takes it back.
func (t *table) opened(n *inode) {
	t.mu.Lock()
	t.countLocked(n, 0, 1)
	t.mu.Unlock()
}

func (t *table) closedFile(n *inode) {
	t.mu.Lock()
	fds := t.countLocked(n, 0, -1)
	t.mu.Unlock()
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// victim finds the inode that a name is about to be taken from, if the table has
// it, and makes sure that its descriptor is open: afterwards there may be no
// other way to it. The caller calls bereave.
func (t *table) victim(dirfd int, name string) *inode {
	fd, err := unix.Openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil
	}
	t.mu.Lock()
	n := t.byKey[hostKey{st.Dev, st.Ino}]
	if n == nil || t.closed {
		t.mu.Unlock()
		unix.Close(fd)
		return nil
	}
	if n.fd < 0 && n.handle.valid() && handleOf(fd) != n.handle {
		t.mu.Unlock()
		unix.Close(fd)
		return nil
	}
	n.refs++
	t.idle.remove(n)
	t.mu.Unlock()
	t.adopt(n, fd)
	return n
}

// bereave ends what victim began; ok tells whether the name was removed.
func (t *table) bereave(n *inode, ok bool) {
	if n == nil {
		return
	}
	if ok {
		var st unix.Stat_t
		if n.typ == unix.S_IFDIR || unix.Fstat(n.fd, &st) == nil && st.Nlink == 0 {
			t.mu.Lock()
			n.orphan = true
			t.fds.remove(n)
			t.mu.Unlock()
		}
	}
	t.unref(n)
}

// named notes that an inode without a name has got one.
func (t *table) named(n *inode) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.orphan {
		n.orphan = false
		if t.reopenable(n) {
			t.fds.push(n)
		}
	}
}

// close drops everything.
func (t *table) close() {
	t.mu.Lock()
	t.closed = true
	var fds []int
	for _, n := range t.byIno {
		if n.fd >= 0 && n.refs == 0 {
			fds = append(fds, n.fd)
			n.fd = -1
		}
	}
	for _, fd := range t.mounts {
		fds = append(fds, fd)
	}
	clear(t.mounts)
	t.mu.Unlock()
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// handle is a file handle of name_to_handle_at(2): it finds an inode without its
// name.
type handle struct {
	typ   int32
	bytes string
}

func (h handle) valid() bool { return h.bytes != "" }

// handleOf makes the handle of a descriptor's inode, if its file system has any.
func handleOf(fd int) handle {
	if !handlesAllowed() {
		return handle{}
	}
	h, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return handle{}
	}
	return handle{h.Type(), string(h.Bytes())}
}

// open opens an O_PATH descriptor. mount is any directory of the file system.
// ESTALE if the inode is gone.
func (h handle) open(mount int) (int, error) {
	return unix.OpenByHandleAt(mount, unix.NewFileHandle(h.typ, []byte(h.bytes)), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
}

// handlesAllowed tells whether this process may open files by handle at all
// (CAP_DAC_READ_SEARCH).
var handlesAllowed = sync.OnceValue(func() bool {
	fd, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	// Without the right the answer is EPERM, whatever the handle.
	_, err = unix.OpenByHandleAt(fd, unix.NewFileHandle(math.MaxInt32, []byte{0, 0, 0, 0}), unix.O_PATH|unix.O_CLOEXEC)
	return err != unix.EPERM && err != unix.ENOSYS
})

// links and list: a doubly linked list of inodes.

type links struct {
	prev, next *inode
	in         bool
}

type list struct {
	head, tail *inode
	n          int
	of         func(*inode) *links
}

func (l *list) first() *inode { return l.head }

// push puts an inode at the end.
func (l *list) push(n *inode) {
	k := l.of(n)
	if k.in {
		return
	}
	*k = links{prev: l.tail, in: true}
	if l.tail != nil {
		l.of(l.tail).next = n
	} else {
		l.head = n
	}
	l.tail = n
	l.n++
}

func (l *list) remove(n *inode) {
	k := l.of(n)
	if !k.in {
		return
	}
	if k.prev != nil {
		l.of(k.prev).next = k.next
	} else {
		l.head = k.next
	}
	if k.next != nil {
		l.of(k.next).prev = k.prev
	} else {
		l.tail = k.prev
	}
	*k = links{}
	l.n--
}

// touch moves an inode to the end, if it is in the list.
func (l *list) touch(n *inode) {
	if l.of(n).in && l.tail != n {
		l.remove(n)
		l.push(n)
	}
}
