package fuse

import (
	"io"
	"log"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// goFuseNull is nullFS for the raw interface of go-fuse, the library most file systems
// in Go are made with: what benchmarks of this door are compared with.
type goFuseNull struct {
	gofuse.RawFileSystem
	files int
	valid uint64 // seconds that names and attributes are valid
	made  atomic.Uint64
}

func (n *goFuseNull) attr(ino uint64, out *gofuse.Attr) {
	*out = gofuse.Attr{Ino: ino, Mode: syscall.S_IFREG | 0o666, Nlink: 1, Size: 1 << 30, Blksize: 4096}
	if ino == gofuse.FUSE_ROOT_ID {
		out.Mode, out.Size, out.Nlink = syscall.S_IFDIR|0o777, 0, 2
	}
}

func (n *goFuseNull) entry(ino uint64, out *gofuse.EntryOut) {
	out.NodeId, out.EntryValid, out.AttrValid = ino, n.valid, n.valid
	n.attr(ino, &out.Attr)
}

func (n *goFuseNull) Lookup(cancel <-chan struct{}, h *gofuse.InHeader, name string, out *gofuse.EntryOut) gofuse.Status {
	k, err := strconv.Atoi(name)
	if err != nil || k >= n.files {
		return gofuse.ENOENT
	}
	n.entry(uint64(k+10), out)
	return gofuse.OK
}

func (n *goFuseNull) GetAttr(cancel <-chan struct{}, in *gofuse.GetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	out.AttrValid = n.valid
	n.attr(in.NodeId, &out.Attr)
	return gofuse.OK
}

func (n *goFuseNull) Open(cancel <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	return gofuse.OK
}

func (n *goFuseNull) Create(cancel <-chan struct{}, in *gofuse.CreateIn, name string, out *gofuse.CreateOut) gofuse.Status {
	n.entry(1<<30+n.made.Add(1), &out.EntryOut)
	return gofuse.OK
}

func (n *goFuseNull) Flush(cancel <-chan struct{}, in *gofuse.FlushIn) gofuse.Status {
	return gofuse.OK
}

func (n *goFuseNull) Read(cancel <-chan struct{}, in *gofuse.ReadIn, buf []byte) (gofuse.ReadResult, gofuse.Status) {
	return gofuse.ReadResultData(buf[:in.Size]), gofuse.OK
}

func (n *goFuseNull) Write(cancel <-chan struct{}, in *gofuse.WriteIn, data []byte) (uint32, gofuse.Status) {
	return uint32(len(data)), gofuse.OK
}

func (n *goFuseNull) OpenDir(cancel <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	return gofuse.OK
}

func (n *goFuseNull) ReadDir(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	for k := int(in.Offset); k < n.files; k++ {
		if !out.AddDirEntry(gofuse.DirEntry{Name: strconv.Itoa(k), Ino: uint64(k + 10), Mode: syscall.S_IFREG, Off: uint64(k + 1)}) {
			break
		}
	}
	return gofuse.OK
}

func (n *goFuseNull) ReadDirPlus(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	for k := int(in.Offset); k < n.files; k++ {
		e := out.AddDirLookupEntry(gofuse.DirEntry{Name: strconv.Itoa(k), Ino: uint64(k + 10), Mode: syscall.S_IFREG, Off: uint64(k + 1)})
		if e == nil {
			break
		}
		n.entry(uint64(k+10), e)
	}
	return gofuse.OK
}

// mountGoFuseNull mounts one for a benchmark, as a user of the library would who wants it
// fast.
func mountGoFuseNull(b *testing.B, valid uint64) string {
	b.Helper()
	mnt := b.TempDir()
	fs := &goFuseNull{RawFileSystem: gofuse.NewDefaultRawFileSystem(), files: 2000, valid: valid}
	srv, err := gofuse.NewServer(fs, mnt, &gofuse.MountOptions{
		DirectMount: true, AllowOther: true, MaxWrite: 1 << 20, MaxBackground: 64, DisableSplice: true,
		DisableXAttrs: true, Options: []string{"default_permissions"}, Logger: log.New(io.Discard, "", 0),
	})
	if err != nil {
		b.Skip(err)
	}
	go srv.Serve()
	if err := srv.WaitMount(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := srv.Unmount(); err != nil {
			b.Error(err)
		}
	})
	return mnt
}
