package fuse

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

var pageSize = os.Getpagesize()

// maxPagesLimit is how many pages one request may have (fs.fuse.max_pages_limit;
// 256 in kernels that cannot tell).
func maxPagesLimit() int {
	b, err := os.ReadFile("/proc/sys/fs/fuse/max_pages_limit")
	if err != nil {
		return 256
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n <= 0 {
		return 256
	}
	return n
}

// kernelMount makes the mount and returns the descriptor of its connection. The
// INIT message waits there.
func kernelMount(mountpoint string, o *Options) (fd int, err error) {
	if os.Geteuid() == 0 {
		fd, err = mountDirect(mountpoint, o)
		if err == nil || !errors.Is(err, syscall.EPERM) {
			return fd, err
		}
		// A root without CAP_SYS_ADMIN: the helper may be luckier.
		if _, lookErr := fusermount(); lookErr != nil {
			return -1, err
		}
	}
	return mountHelper(mountpoint, o)
}

func mountDirect(mountpoint string, o *Options) (int, error) {
	var st unix.Stat_t
	if err := unix.Stat(mountpoint, &st); err != nil {
		return -1, fmt.Errorf("mount point %s: %w", mountpoint, err)
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/fuse: %w (is the fuse module loaded?)", err)
	}
	opts := []string{
		fmt.Sprintf("fd=%d", fd),
		fmt.Sprintf("rootmode=%o", st.Mode&unix.S_IFMT),
		fmt.Sprintf("user_id=%d", os.Geteuid()),
		fmt.Sprintf("group_id=%d", os.Getegid()),
		fmt.Sprintf("max_read=%d", o.MaxWrite),
	}
	if !o.NoDefaultPermissions {
		opts = append(opts, "default_permissions")
	}
	if o.AllowOther {
		opts = append(opts, "allow_other")
	}
	var flags uintptr
	for _, f := range []struct {
		on   bool
		flag uintptr
	}{
		{o.ReadOnly, unix.MS_RDONLY}, {o.NoExec, unix.MS_NOEXEC}, {o.NoSuid, unix.MS_NOSUID},
		{o.NoDev, unix.MS_NODEV}, {o.NoAtime, unix.MS_NOATIME},
	} {
		if f.on {
			flags |= f.flag
		}
	}
	for _, e := range o.Extra {
		if f, ok := genericFlags[e]; ok {
			flags = flags&^f.clear | f.set
		} else {
			opts = append(opts, e)
		}
	}
	if err := unix.Mount(o.FsName, mountpoint, "fuse."+o.Subtype, flags, strings.Join(opts, ",")); err != nil {
		unix.Close(fd)
		if err == unix.EINVAL && len(o.Extra) > 0 {
			return -1, fmt.Errorf("mount %s: %w: the kernel does not know one of the options %s", mountpoint, err, strings.Join(o.Extra, ","))
		}
		return -1, fmt.Errorf("mount %s: %w", mountpoint, err)
	}
	return fd, nil
}

// genericFlags are mount options that the mount system call takes as flags.
var genericFlags = map[string]struct{ set, clear uintptr }{
	"ro": {unix.MS_RDONLY, 0}, "rw": {0, unix.MS_RDONLY},
	"nosuid": {unix.MS_NOSUID, 0}, "suid": {0, unix.MS_NOSUID},
	"nodev": {unix.MS_NODEV, 0}, "dev": {0, unix.MS_NODEV},
	"noexec": {unix.MS_NOEXEC, 0}, "exec": {0, unix.MS_NOEXEC},
	"noatime": {unix.MS_NOATIME, 0}, "atime": {0, unix.MS_NOATIME},
	"nodiratime": {unix.MS_NODIRATIME, 0}, "relatime": {unix.MS_RELATIME, 0}, "strictatime": {unix.MS_STRICTATIME, 0},
	"sync": {unix.MS_SYNCHRONOUS, 0}, "async": {0, unix.MS_SYNCHRONOUS}, "dirsync": {unix.MS_DIRSYNC, 0},
	"nosymfollow": {unix.MS_NOSYMFOLLOW, 0},
}

// fusermount finds the set-user-id helper of the fuse package.
func fusermount() (string, error) {
	for _, name := range []string{"fusermount3", "fusermount"} {
		if p, err := exec.LookPath(name); err == nil {
			return p, nil
		}
		for _, dir := range []string{"/bin", "/usr/bin"} {
			if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return p, nil
			}
		}
	}
	return "", errors.New("fusermount3 not found: install the package fuse3, or mount as root")
}

func mountHelper(mountpoint string, o *Options) (int, error) {
	bin, err := fusermount()
	if err != nil {
		return -1, err
	}
	esc := strings.NewReplacer(`\`, `\\`, `,`, `\,`)
	opts := []string{
		"fsname=" + esc.Replace(o.FsName), "subtype=" + esc.Replace(o.Subtype),
		fmt.Sprintf("max_read=%d", o.MaxWrite),
	}
	for _, f := range []struct {
		on   bool
		name string
	}{
		{!o.NoDefaultPermissions, "default_permissions"}, {o.AllowOther, "allow_other"}, {o.ReadOnly, "ro"},
		{o.NoExec, "noexec"}, {o.NoSuid, "nosuid"}, {o.NoDev, "nodev"}, {o.NoAtime, "noatime"},
	} {
		if f.on {
			opts = append(opts, f.name)
		}
	}
	opts = append(opts, o.Extra...)

	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("mount %s: socketpair: %w", mountpoint, err)
	}
	local, remote := os.NewFile(uintptr(pair[0]), "fusermount"), os.NewFile(uintptr(pair[1]), "fusermount")
	defer local.Close()
	cmd := exec.Command(bin, "-o", strings.Join(opts, ","), "--", mountpoint)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{remote}
	var said bytes.Buffer
	cmd.Stderr = &said
	err = cmd.Run()
	remote.Close()
	if err != nil {
		if s := strings.TrimSpace(said.String()); s != "" {
			return -1, fmt.Errorf("mount %s: %s", mountpoint, s)
		}
		return -1, fmt.Errorf("mount %s: %s: %w", mountpoint, bin, err)
	}
	return receiveDescriptor(local)
}

// receiveDescriptor takes the descriptor that the helper sends (SCM_RIGHTS).
func receiveDescriptor(f *os.File) (int, error) {
	c, err := net.FileConn(f)
	if err != nil {
		return -1, fmt.Errorf("fusermount: %w", err)
	}
	defer c.Close()
	var data [4]byte
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := c.(*net.UnixConn).ReadMsgUnix(data[:], oob)
	if err != nil {
		return -1, fmt.Errorf("fusermount: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return -1, fmt.Errorf("fusermount sent no descriptor (%d messages, %v)", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("fusermount sent no descriptor (%d, %v)", len(fds), err)
	}
	unix.CloseOnExec(fds[0])
	return fds[0], nil
}

// kernelUnmount removes the mount; EBUSY while it is in use, unless detach.
func kernelUnmount(mountpoint string, detach bool) error {
	if os.Geteuid() == 0 {
		flags := unix.UMOUNT_NOFOLLOW
		if detach {
			flags |= unix.MNT_DETACH
		}
		err := unix.Unmount(mountpoint, flags)
		if err == nil || !errors.Is(err, syscall.EPERM) {
			if err != nil {
				return fmt.Errorf("unmount %s: %w", mountpoint, err)
			}
			return nil
		}
	}
	bin, err := fusermount()
	if err != nil {
		return err
	}
	args := []string{"-u"}
	if detach {
		args = append(args, "-z")
	}
	var said bytes.Buffer
	cmd := exec.Command(bin, append(args, "--", mountpoint)...)
	cmd.Stderr = &said
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if err := cmd.Run(); err != nil {
		s := strings.TrimSpace(said.String())
		if strings.Contains(s, "busy") {
			return fmt.Errorf("unmount %s: %w", mountpoint, syscall.EBUSY)
		}
		if s != "" {
			return fmt.Errorf("unmount %s: %s", mountpoint, s)
		}
		return fmt.Errorf("unmount %s: %s: %w", mountpoint, bin, err)
	}
	return nil
}

// device is the device number of a mount, without asking its server.
type device struct{ major, minor uint32 }

// topMount finds the device of the uppermost mount at a path in
// /proc/self/mountinfo (see proc(5)); ok is false if nothing is mounted there.
func topMount(mountpoint string) (dev device, ok bool, err error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != mountpoint, false })
	if err != nil || len(mounts) == 0 {
		return dev, false, err
	}
	top := mounts[len(mounts)-1] // later ones lie above earlier ones
	return device{uint32(top.Major), uint32(top.Minor)}, true, nil
}

// setReadAhead raises the mount's readahead window; the kernel caps what INIT
// can ask for at 128 KiB.
func setReadAhead(dev device, bytes int) error {
	p := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", dev.major, dev.minor)
	return os.WriteFile(p, []byte(strconv.Itoa(bytes>>10)), 0)
}

// abortConnection makes all requests of a mount fail with ENOTCONN, now and for
// ever: by the fusectl file system where that is mounted, else by a forced unmount, for
// which the mount must be the uppermost at its place.
func abortConnection(mountpoint string, dev device) error {
	err := os.WriteFile(fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", dev.minor), []byte("1"), 0)
	if err == nil {
		return nil
	}
	if top, ok, e := topMount(mountpoint); e != nil || !ok || top != dev {
		return errors.Join(err, e)
	}
	if e := unix.Unmount(mountpoint, unix.MNT_FORCE|unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); e != nil {
		return fmt.Errorf("%w (and forced unmount: %v)", err, e)
	}
	return nil
}
