package local

import (
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
)

// identity lets a thread make files in a caller's name while it keeps the
// process's capabilities: the door has already decided that the caller may.
type identity struct {
	uid, gid  int
	effective [2]uint32
}

// newIdentity returns nil if the process may not take on other identities.
func newIdentity() *identity {
	id := &identity{uid: unix.Geteuid(), gid: unix.Getegid()}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) != nil {
		return nil
	}
	for _, c := range []uint{unix.CAP_SETUID, unix.CAP_SETGID} {
		if data[c/32].Effective&(1<<(c%32)) == 0 {
			return nil
		}
	}
	id.effective = [2]uint32{data[0].Effective, data[1].Effective}
	return id
}

// do runs f as the caller.
func (id *identity) do(c *vfs.Caller, f func() error) error {
	if id == nil || int(c.UID) == id.uid && int(c.GID) == id.gid {
		return f()
	}
	runtime.LockOSThread()
	if err := id.become(int(c.UID), int(c.GID)); err != nil {
		return err // the thread stays locked, and ends with its goroutine
	}
	err := f()
	if back := id.become(id.uid, id.gid); back != nil {
		if err == nil {
			err = back
		}
		return err // likewise
	}
	runtime.UnlockOSThread()
	return err
}

// become changes the thread's file system identity (setfsuid(2)). Leaving user 0
// drops capabilities from the effective set, not from the permitted one: they are
// raised again.
func (id *identity) become(uid, gid int) error {
	if err := unix.Setfsgid(gid); err != nil {
		return err
	}
	if err := unix.Setfsuid(uid); err != nil {
		return err
	}
	if got, _ := unix.SetfsuidRetUid(-1); got != uid {
		return unix.EPERM
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err
	}
	if data[0].Effective == id.effective[0] && data[1].Effective == id.effective[1] {
		return nil
	}
	data[0].Effective, data[1].Effective = id.effective[0], id.effective[1]
	return unix.Capset(&hdr, &data[0])
}
