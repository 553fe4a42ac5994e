package metarpc

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// op says what a call does. The numbers are part of the protocol.
type op uint8

const (
	opStatFS       op = 1
	opLookup       op = 2
	opGetAttr      op = 3
	opSetAttr      op = 4
	opReadlink     op = 5
	opMknod        op = 6
	opMkdir        op = 7
	opSymlink      op = 8
	opLink         op = 9
	opTmpfile      op = 10
	opUnlink       op = 11
	opRmdir        op = 12
	opRename       op = 13
	opReadDir      op = 14
	opGetXattr     op = 15
	opSetXattr     op = 16
	opListXattr    op = 17
	opRemoveXattr  op = 18
	opTouch        op = 19
	opInline       op = 20
	opExtents      op = 21
	opAllocBlocks  op = 22
	opCommit       op = 23
	opReplace      op = 24
	opReserve      op = 25
	opUnreserve    op = 26
	opAllocate     op = 27
	opSeek         op = 28
	opCopyRange    op = 29
	opGetLock      op = 30
	opSetLock      op = 31
	opReleaseLocks op = 32
	opSync         op = 33
	opWatch        op = 34
	opCommand      op = 35
	opCreate       op = 36
)

// traits of an op.
type traits struct {
	name string
	// slot: the call has a slot, so that it is done once however often it is sent.
	slot bool
	// durable: its reply waits until what it did is on stable storage.
	durable bool
	// leased: the reply begins with what the client may keep of it.
	leased bool
	// change: it changes the volume: a read-only session may not make it.
	change bool
	// early: its reply may come before it is durable, if the client can make it again.
	early bool
}

var ops = [...]traits{
	opStatFS:       {name: "statfs"},
	opLookup:       {name: "lookup", leased: true},
	opGetAttr:      {name: "stat", leased: true},
	opSetAttr:      {name: "set attributes", slot: true, durable: true, change: true, early: true},
	opReadlink:     {name: "readlink", leased: true},
	opMknod:        {name: "mknod", slot: true, durable: true, change: true, early: true},
	opMkdir:        {name: "mkdir", slot: true, durable: true, change: true, early: true},
	opSymlink:      {name: "symlink", slot: true, durable: true, change: true, early: true},
	opLink:         {name: "link", slot: true, durable: true, change: true, early: true},
	opTmpfile:      {name: "tmpfile", slot: true, durable: true, change: true, early: true},
	opUnlink:       {name: "unlink", slot: true, durable: true, change: true, early: true},
	opRmdir:        {name: "rmdir", slot: true, durable: true, change: true, early: true},
	opRename:       {name: "rename", slot: true, durable: true, change: true, early: true},
	opReadDir:      {name: "read directory", leased: true},
	opGetXattr:     {name: "get xattr", leased: true},
	opSetXattr:     {name: "set xattr", slot: true, durable: true, change: true, early: true},
	opListXattr:    {name: "list xattrs"},
	opRemoveXattr:  {name: "remove xattr", slot: true, durable: true, change: true, early: true},
	opTouch:        {name: "touch", slot: true, change: true},
	opInline:       {name: "read inline content", leased: true},
	opExtents:      {name: "read extents", leased: true},
	opAllocBlocks:  {name: "allocate block ids", slot: true, durable: true, change: true},
	opCommit:       {name: "commit", slot: true, durable: true, change: true, early: true},
	opReplace:      {name: "replace extents", slot: true, durable: true, change: true},
	opReserve:      {name: "reserve space", slot: true, change: true},
	opUnreserve:    {name: "give back space", slot: true, change: true},
	opAllocate:     {name: "allocate", slot: true, durable: true, change: true},
	opSeek:         {name: "seek"},
	opCopyRange:    {name: "copy range", slot: true, durable: true, change: true},
	opGetLock:      {name: "find lock", slot: true},
	opSetLock:      {name: "lock", slot: true},
	opReleaseLocks: {name: "release locks", slot: true},
	opSync:         {name: "sync", slot: true},
	opWatch:        {name: "watch"},
	opCommand:      {name: "command", slot: true},
	opCreate:       {name: "create", slot: true, durable: true, change: true, early: true},
}

// used tells that the server has counted a use of what the call has made.
func (o op) used() bool { return o == opTmpfile || o == opCreate }

func (o op) known() bool { return int(o) < len(ops) && ops[o].name != "" }

func (o op) String() string {
	if o.known() {
		return ops[o].name
	}
	return fmt.Sprintf("operation %d", uint8(o))
}

// Replies begin with a status.
const (
	statusOK    = 0
	statusError = 1
)

// Flags of an error, beside its errno.
const (
	errorLayout  = 1 << iota // meta.ErrLayout
	errorCorrupt             // kv.ErrCorrupt
)

// maxErrorText bounds the text of an error.
const maxErrorText = 4 << 10

func (e *encoder) error(err error) {
	e.uint(uint64(vfs.ErrnoOf(err)))
	var flags uint8
	if errors.Is(err, meta.ErrLayout) {
		flags |= errorLayout
	}
	if errors.Is(err, kv.ErrCorrupt) {
		flags |= errorCorrupt
	}
	e.u8(flags)
	if _, bare := err.(syscall.Errno); bare {
		e.str("")
		return
	}
	text := err.Error()
	e.str(text[:min(len(text), maxErrorText)])
}

// error reads what encoder.error wrote: an error with the same errno and text.
func (d *decoder) error() error {
	errno, flags, text := syscall.Errno(d.most(4095)), d.u8(), d.str(maxErrorText)
	switch {
	case d.bad:
		return errMalformed
	case flags&errorLayout != 0:
		return meta.ErrLayout
	case errno == 0:
		errno = syscall.EIO
	}
	if text == "" {
		return errno
	}
	err := vfs.WithErrno(errno, errors.New(text))
	if flags&errorCorrupt != 0 {
		err = &remoteDamage{err}
	}
	return err
}

// remoteDamage is an error of the server's that wrapped kv.ErrCorrupt.
type remoteDamage struct{ error }

func (e *remoteDamage) Unwrap() []error { return []error{e.error, kv.ErrCorrupt} }
