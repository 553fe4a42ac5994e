// Package vfstest checks that a tree keeps the promises of package vfs.
//
// [Run] calls a tree's methods directly, [RunMounted] does the same kind of things
// with system calls below a mount point, where doors, the kernel and its caches
// take part. Every tree runs both:
//
//	func TestTree(t *testing.T) {
//		vfstest.Run(t, vfstest.Factory{New: func(t testing.TB) vfs.FS { … }})
//	}
//
// A tree that cannot keep a promise says so in Factory.Lacks, with the reason,
// which is shown as the reason of the skipped tests. A reason is documentation:
// it belongs into the tree's package comment, too.
//
// Tests use one tree, each in a directory of its own, so that what one test
// leaves behind (free space, freed numbers, cached things) meets the next.
// Random tests draw the same each time, unless MASSIF_SEED is set (a number, or
// "random"; see internal/testseed); VFSTEST_ROUNDS (a factor, default 1) makes
// them longer.
package vfstest

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/internal/testseed"
	"github.com/massif-fs/massif/vfs"
)

// Feature is something that a tree may lack.
type Feature string

const (
	HardLinks     Feature = "hard links"
	Symlinks      Feature = "symbolic links"
	Devices       Feature = "fifos, sockets and devices"
	Owners        Feature = "owners and permission bits"
	SetIDs        Feature = "set-id bits and their inheritance"
	NanoTimes     Feature = "times in nanoseconds"
	TimeRange     Feature = "times from 1901 to 2446"
	DirLinkCount  Feature = "link counts of directories"
	RenameFlags   Feature = "rename with NOREPLACE and EXCHANGE"
	RenameDirs    Feature = "rename of directories with content"
	UnlinkedOpen  Feature = "files that are open but unlinked"
	Pins          Feature = "pins"
	Append        Feature = "atomic appends"
	Truncate      Feature = "truncation to any size"
	RandomWrites  Feature = "writes at any place"
	Allocate      Feature = "fallocate"
	PunchHole     Feature = "punching of holes"
	ZeroRange     Feature = "zeroing of ranges"
	SeekHoles     Feature = "finding of holes"
	SparseFiles   Feature = "files with holes of any size"
	Xattrs        Feature = "extended attributes"
	XattrTrusted  Feature = "trusted attributes"
	ACLs          Feature = "POSIX ACLs"
	StableReaddir Feature = "listings that are stable under change"
	ByteNames     Feature = "names that are not UTF-8"
	OddNames      Feature = "names with control characters, backslashes, and dots at the end"
	Umask         Feature = "the caller's umask"
	Tmpfile       Feature = "nameless files"
	CopyRange     Feature = "copying of ranges"
	Feed          Feature = "a change feed of its own changes"
	StatFSSpace   Feature = "figures of free space"
	NarrowInos    Feature = "inode numbers of 48 bits"
	// Mounted only.
	MmapShared Feature = "shared writable mappings"
	Locks      Feature = "locks"
	DirectIO   Feature = "direct I/O"
)

// Factory makes the trees of a suite.
type Factory struct {
	// New makes an empty writable tree. Clean-up goes through t.Cleanup and includes
	// closing it.
	New func(t testing.TB) vfs.FS
	// Reopen, if not nil, closes a tree and opens the same storage again.
	Reopen func(t testing.TB, fs vfs.FS) vfs.FS
	// ReadOnly, if not nil, opens the storage of a tree of New (which it closes)
	// so that changes are refused.
	ReadOnly func(t testing.TB, fs vfs.FS) vfs.FS
	// Pair, if not nil, makes two trees of one storage which both may be changed at the
	// same time: for vfs.LeaseFS.
	Pair func(t testing.TB) (one, two vfs.FS)
	// Lacks tells what the tree cannot do, and why.
	Lacks map[Feature]string
}

// test is a part of the suite. It is skipped where the tree lacks what it needs.
type test struct {
	name  string
	needs []Feature
	run   func(e *env)
}

// Run checks a tree in process.
func Run(t *testing.T, f Factory) {
	fs := f.New(t)
	for _, group := range [][]test{
		rootTests, nameTests, inodeTests, attrTests, linkTests, renameTests, dataTests, allocateTests,
		modelTests, concurrencyTests, dirTests, xattrTests, aclTests, abilityTests,
	} {
		for _, tc := range group {
			t.Run(tc.name, func(t *testing.T) {
				f.skip(t, tc.needs)
				e := newEnv(t, fs)
				e.lacks = f.Lacks
				e.own(tc.name)
				tc.run(e)
			})
		}
	}
	t.Run("Closed", func(t *testing.T) { testClosed(newEnv(t, f.New(t))) })
	t.Run("Reopen", func(t *testing.T) {
		if f.Reopen == nil {
			t.Skip("the factory cannot reopen")
		}
		testReopen(t, f)
	})
	t.Run("Leases", func(t *testing.T) {
		if f.Pair == nil {
			t.Skip("the factory makes no pairs")
		}
		testLeases(t, f)
	})
	t.Run("ReadOnly", func(t *testing.T) {
		if f.ReadOnly == nil {
			t.Skip("the factory has no read-only trees")
		}
		testReadOnly(t, f)
	})
}

func (f *Factory) skip(t *testing.T, needs []Feature) {
	for _, n := range needs {
		if why, lacks := f.Lacks[n]; lacks {
			t.Skipf("the tree lacks %s: %s", n, why)
		}
	}
}

// env is what a test works with. Its helpers end the test when something fails.
type env struct {
	*testing.T
	fs    vfs.FS
	ctx   context.Context
	c     *vfs.Caller
	dir   vfs.Ino // the test's own directory
	lacks map[Feature]string
}

func newEnv(t *testing.T, fs vfs.FS) *env {
	return &env{
		T: t, fs: fs, ctx: context.Background(), dir: vfs.Root,
		c: &vfs.Caller{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), PID: uint32(os.Getpid())},
	}
}

func (e *env) has(f Feature) bool {
	_, lacks := e.lacks[f]
	return !lacks
}

// own makes the test's directory.
func (e *env) own(name string) {
	e.Helper()
	e.dir = e.mkdir(vfs.Root, "t-"+name).Ino
	if p, ok := e.fs.(vfs.Pinner); ok {
		p.Pin(e.dir)
		e.Cleanup(func() { p.Unpin(e.dir) })
	}
}

// ok ends the test if err is not nil.
func (e *env) ok(err error, what string) {
	e.Helper()
	if err != nil {
		e.Fatalf("%s: %v", what, err)
	}
}

// want ends the test if err has none of the given errnos.
func (e *env) want(err error, what string, errnos ...syscall.Errno) {
	e.Helper()
	if err == nil {
		e.Fatalf("%s: no error, want %v", what, errnos)
	}
	for _, n := range errnos {
		if vfs.ErrnoOf(err) == n && errors.Is(err, n) {
			return
		}
	}
	e.Fatalf("%s: %v (errno %d), want %v", what, err, vfs.ErrnoOf(err), errnos)
}

func (e *env) mkdir(parent vfs.Ino, name string) vfs.Attr {
	e.Helper()
	var a vfs.Attr
	e.ok(e.fs.Mkdir(e.ctx, e.c, parent, name, 0o755, &a), "mkdir "+short(name))
	return a
}

// create makes a file and leaves it open for reading and writing.
func (e *env) create(parent vfs.Ino, name string) (vfs.File, vfs.Attr) {
	e.Helper()
	var a vfs.Attr
	f, err := e.fs.Create(e.ctx, e.c, parent, name, 0o644, syscall.O_RDWR, &a)
	e.ok(err, "create "+short(name))
	return f, a
}

// file makes a file with content.
func (e *env) file(parent vfs.Ino, name string, data []byte) vfs.Attr {
	e.Helper()
	f, _ := e.create(parent, name)
	e.write(f, data, 0)
	e.ok(f.Flush(e.ctx), "flush")
	e.ok(f.Close(), "close")
	return e.lookup(parent, name)
}

func (e *env) open(ino vfs.Ino, flags int) vfs.File {
	e.Helper()
	f, err := e.fs.Open(e.ctx, e.c, ino, flags)
	e.ok(err, "open")
	return f
}

func (e *env) close(f vfs.File) {
	e.Helper()
	e.ok(f.Flush(e.ctx), "flush")
	e.ok(f.Close(), "close")
}

func (e *env) write(f vfs.File, data []byte, off int64) {
	e.Helper()
	n, err := f.WriteAt(e.ctx, data, off)
	if err != nil || n != len(data) {
		e.Fatalf("write of %d bytes at %d: %d, %v", len(data), off, n, err)
	}
}

func (e *env) read(f vfs.File, off int64, n int) []byte {
	e.Helper()
	p := make([]byte, n)
	k, err := f.ReadAt(e.ctx, p, off)
	e.ok(err, "read")
	return p[:k]
}

// content reads a whole file by inode number.
func (e *env) content(ino vfs.Ino) []byte {
	e.Helper()
	f := e.open(ino, syscall.O_RDONLY)
	data := e.read(f, 0, int(e.attr(ino).Size)+10)
	e.close(f)
	return data
}

func (e *env) attr(ino vfs.Ino) vfs.Attr {
	e.Helper()
	var a vfs.Attr
	e.ok(e.fs.GetAttr(e.ctx, e.c, ino, &a), "getattr")
	if a.Ino != ino {
		e.Fatalf("getattr of inode %d says it is %d", ino, a.Ino)
	}
	return a
}

func (e *env) set(ino vfs.Ino, s vfs.SetAttr) vfs.Attr {
	e.Helper()
	var a vfs.Attr
	e.ok(e.fs.SetAttr(e.ctx, e.c, ino, &s, &a), "setattr")
	return a
}

func (e *env) lookup(parent vfs.Ino, name string) vfs.Attr {
	e.Helper()
	var a vfs.Attr
	e.ok(e.fs.Lookup(e.ctx, e.c, parent, name, &a), "lookup "+short(name))
	return a
}

func (e *env) absent(parent vfs.Ino, name string) {
	e.Helper()
	var a vfs.Attr
	e.want(e.fs.Lookup(e.ctx, e.c, parent, name, &a), "lookup of absent "+short(name), syscall.ENOENT)
}

func (e *env) unlink(parent vfs.Ino, name string) {
	e.Helper()
	e.ok(e.fs.Unlink(e.ctx, e.c, parent, name), "unlink "+short(name))
}

func (e *env) rename(p1 vfs.Ino, n1 string, p2 vfs.Ino, n2 string, flags uint32) error {
	return e.fs.Rename(e.ctx, e.c, p1, n1, p2, n2, flags)
}

// names lists a directory in order.
func (e *env) list(ino vfs.Ino) []vfs.DirEntry {
	e.Helper()
	return e.listPlus(ino, false)
}

func (e *env) listPlus(ino vfs.Ino, plus bool) []vfs.DirEntry {
	e.Helper()
	d, err := e.fs.OpenDir(e.ctx, e.c, ino)
	e.ok(err, "opendir")
	defer func() { e.ok(d.Close(), "closedir") }()
	var all []vfs.DirEntry
	var cookie uint64
	for {
		before := len(all)
		err := d.Read(e.ctx, cookie, plus, func(de *vfs.DirEntry) bool {
			all = append(all, *de)
			cookie = de.Cookie
			return true
		})
		e.ok(err, "readdir")
		if len(all) == before {
			return all
		}
	}
}

func short(name string) string {
	if len(name) > 20 {
		return strconv.Quote(name[:20]) + "…"
	}
	return strconv.Quote(name)
}

// rng returns a random source.
func rng(t testing.TB) *rand.Rand {
	t.Helper()
	return rand.New(rand.NewPCG(testseed.Of(t, 1), 0x6d6173736966))
}

// rounds scales the length of random tests.
func rounds(n int) int {
	if f, err := strconv.ParseFloat(os.Getenv("VFSTEST_ROUNDS"), 64); err == nil && f > 0 {
		return max(int(float64(n)*f), 1)
	}
	if testing.Short() {
		return max(n/10, 1)
	}
	return n
}

// pattern makes n bytes that differ from place to place and seed to seed.
func pattern(n int, seed byte) []byte {
	p := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range p {
		x = x*1664525 + 1013904223
		p[i] = byte(x>>24) | 1 // never 0: holes show
	}
	return p
}
