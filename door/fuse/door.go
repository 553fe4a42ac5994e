package fuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/massif-fs/massif/door/fuse/kernel"
	"github.com/massif-fs/massif/vfs"
)

// door answers the kernel's messages with calls of a tree: it is the
// kernel.Handler of a connection. The handlers stand in names.go, attr.go, data.go,
// dir.go, xattr.go and lock.go.
type door struct {
	fs     vfs.FS
	opts   Options
	policy vfs.Policy
	log    *slog.Logger
	epoch  time.Time

	// Abilities of the tree; nil where it has them not or the door does not use them.
	xattrs  vfs.XattrFS
	locks   vfs.LockFS
	copier  vfs.CopyFS
	tmpfile vfs.TmpfileFS
	leases  vfs.LeaseFS

	// What was decided from options, policy and kernel.
	readOnly    bool
	stateless   bool
	openDirs    bool // directories are opened with a message even if stateless
	writeback   bool
	passthrough bool
	acl         bool
	selinux     bool // the host runs it
	keepCache   bool
	longLived   bool // names and attributes are valid for ever
	entryValid  validity
	attrValid   validity
	negValid    validity
	kernelMinor uint32

	nodes   nodeTable
	handles handleTable

	// Of trees with leases.
	recalls   recallLog
	recalling pageRecalls
	locked    lockTable

	conn   *kernel.Conn
	notify notifier
	pruner pruner

	inflight    atomic.Int64
	waiters     sync.WaitGroup // of requests that may be interrupted
	lastRequest atomic.Int64   // time.Duration since epoch
	panics      atomic.Uint64
	backingOff  atomic.Bool // the kernel refuses passthrough
	closing     atomic.Bool // the connection is gone
	counts      [OpCount]opCounter
	complaints  complaints
	accessLog   atomic.Pointer[func(*Access)] // nil: none
}

// validity is a duration in the protocol's form.
type validity struct {
	sec  uint64
	nsec uint32
}

func validityOf(d time.Duration) validity {
	d = max(d, 0)
	return validity{uint64(d / time.Second), uint32(d % time.Second)}
}

func newDoor(fs vfs.FS, opts Options) (*door, error) {
	p := vfs.PolicyOf(fs)
	d := &door{
		fs: fs, opts: opts, policy: p, log: opts.Logger, epoch: time.Now(),
		entryValid: validityOf(p.EntryValid), attrValid: validityOf(p.AttrValid), negValid: validityOf(p.NegativeValid),
		keepCache: p.KeepCache,
		longLived: p.EntryValid >= vfs.Forever && p.AttrValid >= vfs.Forever,
	}
	if p.Leased {
		d.leases, _ = fs.(vfs.LeaseFS)
	}
	if opts.AccessLog != nil {
		d.accessLog.Store(&opts.AccessLog)
	}
	d.readOnly = opts.ReadOnly || p.ReadOnly
	d.opts.ReadOnly = d.readOnly

	stateless, canStateless := fs.(vfs.StatelessFS)
	pinner, _ := fs.(vfs.Pinner)
	switch opts.Stateless {
	case On:
		if !canStateless {
			return nil, errors.New("stateless mounts need a tree that serves files by inode number alone, which this one does not")
		}
		d.stateless = true
	case Auto:
		d.stateless = canStateless && (p.ReadOnly || p.Exclusive && pinner != nil)
		if _, locks := fs.(vfs.LockFS); locks && !p.Exclusive {
			d.stateless = false // locks end with CLOSE's FLUSH
		}
	}
	switch opts.WritebackCache {
	case On:
		if !p.Exclusive {
			return nil, errors.New("the write-back cache needs a tree that is changed through this mount only, which is not promised here")
		}
		d.writeback = true
	}
	if d.readOnly {
		d.writeback = false
	}
	switch opts.Passthrough {
	case On:
		if d.stateless || d.writeback {
			return nil, fmt.Errorf("passthrough excludes stateless mounts and the write-back cache")
		}
		d.passthrough = true
	case Auto:
		d.passthrough = !d.stateless && !d.writeback && os.Geteuid() == 0
	}

	if !opts.NoXattr {
		d.xattrs, _ = fs.(vfs.XattrFS)
	}
	d.acl = probeACL(d.xattrs)
	d.selinux = runsSELinux()
	if !p.Exclusive {
		d.locks, _ = fs.(vfs.LockFS)
	}
	if d.locks != nil && opts.Transport == TransportURing {
		return nil, errors.New("io_uring cannot be used for a tree whose locks come to the server: those that are waited for would use it up")
	}
	d.copier, _ = fs.(vfs.CopyFS)
	d.tmpfile, _ = fs.(vfs.TmpfileFS)

	var open func(context.Context, vfs.Ino) (vfs.File, error)
	if canStateless {
		open = stateless.OpenInode
	} else {
		open = func(context.Context, vfs.Ino) (vfs.File, error) { return nil, syscall.EBADF }
	}
	d.nodes.init(pinner, opts.MaxOpenInodes, open)
	d.handles.init()
	d.notify.door = d
	return d, nil
}

var _ kernel.Handler = (*door)(nil)

// settle takes note of what was agreed on with the kernel.
func (d *door) settle(init kernel.Init) {
	flags := init.Features
	d.kernelMinor = init.Minor
	if flags&kernel.NoOpenSupport == 0 { // before 3.15: the error would reach programs
		d.stateless = false
	}
	if flags&kernel.NoOpendirSupport == 0 { // before 5.1
		d.openDirs = true
	}
	if flags&kernel.Passthrough == 0 {
		d.passthrough = false
	}
	if flags&kernel.WritebackCache == 0 {
		d.writeback = false
	}
	if flags&kernel.PosixACL == 0 || flags&kernel.DontMask == 0 {
		d.acl = false
	}
}

// release gives all back to the tree when the kernel is gone.
func (d *door) release() {
	d.closing.Store(true)
	for _, h := range d.handles.takeAll() {
		d.closeHandle(h)
	}
	d.nodes.forgetAll()
	d.conn.Close()
}

// now is the time since the door was made, from the monotonic clock.
func (d *door) now() time.Duration { return time.Since(d.epoch) }

// Access implements kernel.Handler. The kernel checks permissions itself;
// ENOSYS makes it never ask again.
func (d *door) Access(q *kernel.Request, in *kernel.AccessIn) syscall.Errno {
	return syscall.ENOSYS
}

// Ioctl implements kernel.Handler. ENOSYS would be told to programs.
func (d *door) Ioctl(q *kernel.Request, in *kernel.IoctlIn) (code syscall.Errno) {
	r := d.begin(OpIoctl, q, "")
	defer r.end(&code)
	r.err = syscall.ENOTTY
	return
}

// SyncFs implements kernel.Handler. (Linux sends it on virtio-fs only, so far.)
func (d *door) SyncFs(q *kernel.Request) (code syscall.Errno) {
	r := d.begin(OpSyncFS, q, "")
	defer r.end(&code)
	r.err = d.fs.Sync(r)
	return
}
