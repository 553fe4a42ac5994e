package fuse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/door/fuse/kernel"
	"github.com/massif-fs/massif/vfs"
)

// nullFS does nothing as fast as possible: what a benchmark on it takes is the
// kernel's and the door's. Names are decimal numbers, inode n+10 is named n; the
// first made ones exist.
type nullFS struct {
	vfs.FS // what is not needed panics
	policy vfs.Policy
	files  int
	made   atomic.Int64
}

func (n *nullFS) attr(ino vfs.Ino, out *vfs.Attr) {
	*out = vfs.Attr{Ino: ino, Mode: syscall.S_IFREG | 0o666, Nlink: 1, Size: 1 << 30, BlockSize: 4096}
	if ino == vfs.Root {
		out.Mode, out.Size, out.Nlink = syscall.S_IFDIR|0o777, 0, 2
	}
}

func (n *nullFS) Policy() vfs.Policy { return n.policy }

func (n *nullFS) Lookup(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error {
	k, err := strconv.Atoi(name)
	if err != nil || k >= n.files {
		return syscall.ENOENT
	}
	n.attr(vfs.Ino(k+10), out)
	return nil
}

func (n *nullFS) GetAttr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, out *vfs.Attr) error {
	n.attr(ino, out)
	return nil
}

func (n *nullFS) SetAttr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, set *vfs.SetAttr, out *vfs.Attr) error {
	n.attr(ino, out)
	return nil
}

func (n *nullFS) Mknod(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode, rdev uint32, out *vfs.Attr) error {
	n.attr(vfs.Ino(1<<30+n.made.Add(1)), out)
	return nil
}

func (n *nullFS) Create(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, mode uint32, flags int, out *vfs.Attr) (vfs.File, error) {
	return nullFile{}, n.Mknod(ctx, c, parent, name, mode, 0, out)
}

func (n *nullFS) Unlink(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string) error {
	return nil
}

func (n *nullFS) Open(ctx context.Context, c *vfs.Caller, ino vfs.Ino, flags int) (vfs.File, error) {
	return nullFile{}, nil
}

func (n *nullFS) OpenInode(ctx context.Context, ino vfs.Ino) (vfs.File, error) {
	return nullFile{}, nil
}

func (n *nullFS) OpenDir(ctx context.Context, c *vfs.Caller, ino vfs.Ino) (vfs.Dir, error) {
	return &nullDir{fs: n}, nil
}

func (n *nullFS) Pin(vfs.Ino)   {}
func (n *nullFS) Unpin(vfs.Ino) {}

type nullFile struct{ vfs.File }

func (nullFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error)  { return len(p), nil }
func (nullFile) WriteAt(ctx context.Context, p []byte, off int64) (int, error) { return len(p), nil }
func (nullFile) Flush(context.Context) error                                   { return nil }
func (nullFile) Close() error                                                  { return nil }

type nullDir struct {
	fs *nullFS
	e  vfs.DirEntry
}

func (d *nullDir) Read(ctx context.Context, cookie uint64, plus bool, emit func(*vfs.DirEntry) bool) error {
	k := 0
	if cookie > 0 {
		k = int(cookie - 9)
	}
	for ; k < d.fs.files; k++ {
		d.e = vfs.DirEntry{Name: strconv.Itoa(k), Ino: vfs.Ino(k + 10), Mode: syscall.S_IFREG, Cookie: uint64(k + 10)}
		if plus {
			d.e.HasAttr = true
			d.fs.attr(d.e.Ino, &d.e.Attr)
		}
		if !emit(&d.e) {
			return nil
		}
	}
	return nil
}

func (d *nullDir) Sync(context.Context) error { return nil }
func (d *nullDir) Close() error               { return nil }

// nullDoor makes a door without a mount, to be called directly.
func nullDoor(t testing.TB, stateless Tristate) *door {
	t.Helper()
	o, err := (&Options{Stateless: stateless, Passthrough: Off, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}).withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDoor(&nullFS{files: 1000, policy: vfs.Policy{EntryValid: vfs.Forever, AttrValid: vfs.Forever, Exclusive: true, KeepCache: true}}, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestNoAllocations: the common requests make no garbage in the door.
func TestNoAllocations(t *testing.T) {
	buf := make([]byte, 1<<16)
	for _, stateless := range []Tristate{Off, On} {
		d := nullDoor(t, stateless)
		file := &kernel.Request{Header: kernel.Header{NodeID: 10, Unique: 2}}
		root := &kernel.Request{Header: kernel.Header{NodeID: kernel.RootID, Unique: 4}}
		var fh uint64
		if stateless == Off {
			var out kernel.OpenOut
			if code := d.Open(file, &kernel.OpenIn{Flags: syscall.O_RDWR}, &out); code != 0 {
				t.Fatal(code)
			}
			fh = out.Fh
		}
		var entry kernel.EntryOut
		var attr kernel.AttrOut
		var getattr kernel.GetAttrIn
		setattr := kernel.SetAttrIn{Valid: kernel.SetAttrMtime}
		read := kernel.ReadIn{Fh: fh, Size: uint32(len(buf))}
		write := kernel.WriteIn{Fh: fh, Size: uint32(len(buf)), WriteFlags: kernel.WriteKillSUIDGID}
		for name, f := range map[string]func(){
			"lookup":  func() { d.Lookup(root, "0", &entry) },
			"absent":  func() { d.Lookup(root, "none", &entry) },
			"getattr": func() { d.GetAttr(file, &getattr, &attr) },
			"setattr": func() { d.SetAttr(file, &setattr, &attr) },
			"read": func() {
				if n, code := d.Read(file, &read, buf); code != 0 || n != len(buf) {
					t.Fatal(n, code)
				}
			},
			"write": func() {
				if n, code := d.Write(file, &write, buf); code != 0 || n != len(buf) {
					t.Fatal(n, code)
				}
			},
		} {
			allowed := 0.0
			if name == "absent" {
				allowed = 2 // strconv's error
			}
			f()
			if n := testing.AllocsPerRun(500, f); n > allowed {
				t.Errorf("stateless %v: %s makes %v allocations", stateless, name, n)
			}
		}
	}
}

// TestPrune: the kernel is kept from remembering too much.
func TestPrune(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	mnt := t.TempDir()
	tree := &nullFS{files: 3000, policy: vfs.Policy{EntryValid: vfs.Forever, AttrValid: vfs.Forever}}
	s, err := Mount(tree, mnt, Options{MaxNodes: 500, Passthrough: Off})
	if err != nil {
		t.Skip(err)
	}
	defer func() {
		if err := s.Unmount(); err != nil {
			t.Error(err)
		}
	}()
	if s.Stats().KernelMinor < pruneMinor {
		t.Skip("the kernel cannot be asked")
	}
	kept, err := os.Open(filepath.Join(mnt, "7"))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	if l, err := os.ReadDir(mnt); err != nil || len(l) != 3000 {
		t.Fatal(len(l), err)
	}
	for i := range 3000 {
		if _, err := os.Stat(filepath.Join(mnt, strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(15 * time.Second)
	for s.Stats().Nodes > 500 {
		if time.Now().After(deadline) {
			t.Fatalf("the kernel still knows %d inodes", s.Stats().Nodes)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Logf("%d are left", s.Stats().Nodes)
	if _, err := kept.ReadAt(make([]byte, 10), 0); err != nil {
		t.Error(err)
	}
	if !s.door.nodes.known(17) {
		t.Error("an open file was forgotten")
	}
}

// mountNull mounts a nullFS for a benchmark.
func mountNull(b *testing.B, p vfs.Policy, o Options) string {
	b.Helper()
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	mnt := b.TempDir()
	o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	s, err := Mount(&nullFS{files: 2000, policy: p}, mnt, o)
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() {
		if err := s.Unmount(); err != nil {
			b.Error(err)
			s.Abort()
		}
	})
	return mnt
}

var benchModes = []struct {
	name string
	p    vfs.Policy
	o    Options
}{
	{"uncached", vfs.Policy{}, Options{Passthrough: Off}},
	{"stateful", vfs.Policy{EntryValid: vfs.Forever, AttrValid: vfs.Forever, KeepCache: true, Exclusive: true}, Options{Stateless: Off, Passthrough: Off}},
	{"stateless", vfs.Policy{EntryValid: vfs.Forever, AttrValid: vfs.Forever, KeepCache: true, Exclusive: true}, Options{Stateless: On}},
	{"uring-uncached", vfs.Policy{}, Options{Passthrough: Off, Transport: TransportURing}},
	{"uring-stateless", vfs.Policy{EntryValid: vfs.Forever, AttrValid: vfs.Forever, KeepCache: true, Exclusive: true}, Options{Stateless: On, Transport: TransportURing}},
}

// benchmark runs f on a mount in each mode, and on go-fuse.
func benchmark(b *testing.B, f func(b *testing.B, mnt string)) {
	run := func(name string, mount func(b *testing.B) string) {
		b.Run(name, func(b *testing.B) {
			mnt := mount(b)
			b.ResetTimer()
			f(b, mnt)
		})
	}
	for _, m := range benchModes {
		run(m.name, func(b *testing.B) string { return mountNull(b, m.p, m.o) })
	}
	run("go-fuse-uncached", func(b *testing.B) string { return mountGoFuseNull(b, 0) })
	run("go-fuse-stateful", func(b *testing.B) string { return mountGoFuseNull(b, 1<<20) })
}

// benchmarkClient does b.N times what clientOps names, in another process: programs that
// use a mount are not the one that serves it, and share no scheduler with it.
func benchmarkClient(b *testing.B, op string, callers int) {
	benchmark(b, func(b *testing.B, mnt string) {
		cmd := exec.Command(os.Args[0], "-test.run", "^$")
		cmd.Env = append(os.Environ(), "MASSIF_NULL_CLIENT="+strings.Join([]string{op, strconv.Itoa(callers), strconv.Itoa(b.N)}, " "), "MASSIF_NULL_MOUNT="+mnt)
		var said strings.Builder
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			b.Fatal(err, said.String())
		}
		ns, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(ns)/float64(b.N), "ns/op")
	})
}

func init() {
	task, ok := os.LookupEnv("MASSIF_NULL_CLIENT")
	if !ok {
		return
	}
	if err := nullClient(task, os.Getenv("MASSIF_NULL_MOUNT")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// nullClient is the other process. It says how long it took, in nanoseconds.
func nullClient(task, mnt string) error {
	var op string
	var callers, n int
	if _, err := fmt.Sscan(task, &op, &callers, &n); err != nil {
		return err
	}
	f := clientOps[op]
	if f == nil {
		return errors.New("unknown operation " + op)
	}
	if err := os.Chdir(mnt); err != nil {
		return err
	}
	start := time.Now()
	var wg sync.WaitGroup
	errs := make([]error, callers)
	for c := range callers {
		wg.Go(func() {
			runtime.LockOSThread()
			errs[c] = f(c, (n+callers-1-c)/callers)
		})
	}
	wg.Wait()
	fmt.Println(time.Since(start).Nanoseconds())
	return errors.Join(errs...)
}

// clientOps are loops of n operations, by relative path.
var clientOps = map[string]func(caller, n int) error{
	"stat": func(caller, n int) error {
		p := strconv.Itoa(7 + caller)
		var st syscall.Stat_t
		for range n {
			if err := syscall.Stat(p, &st); err != nil {
				return err
			}
		}
		return nil
	},
	"open": func(caller, n int) error {
		p := strconv.Itoa(7 + caller)
		for range n {
			fd, err := syscall.Open(p, syscall.O_RDWR, 0)
			if err != nil {
				return err
			}
			syscall.Close(fd)
		}
		return nil
	},
	"create": func(caller, n int) error {
		for i := range n {
			fd, err := syscall.Open(fmt.Sprintf("new%d-%d", caller, i), syscall.O_CREAT|syscall.O_EXCL|syscall.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			syscall.Close(fd)
		}
		return nil
	},
	// readdir lists 2,000 entries.
	"readdir": func(caller, n int) error {
		for range n {
			l, err := os.ReadDir(".")
			if err != nil || len(l) != 2000 {
				return fmt.Errorf("%d entries: %w", len(l), err)
			}
		}
		return nil
	},
	"read4k": func(caller, n int) error { return readLoop(caller, n, 4096) },
	"read1m": func(caller, n int) error { return readLoop(caller, n, 1<<20) },
	"write4k": func(caller, n int) error {
		fd, err := syscall.Open(strconv.Itoa(7+caller), syscall.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer syscall.Close(fd)
		buf := make([]byte, 4096)
		for range n {
			if k, err := syscall.Pwrite(fd, buf, 0); k != len(buf) {
				return fmt.Errorf("wrote %d: %w", k, err)
			}
		}
		return nil
	},
}

// readLoop reads past the page cache.
func readLoop(caller, n, size int) error {
	fd, err := syscall.Open(strconv.Itoa(7+caller), syscall.O_RDONLY|syscall.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	buf, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer syscall.Munmap(buf)
	for range n {
		if k, err := syscall.Pread(fd, buf, 0); k != size {
			return fmt.Errorf("read %d: %w", k, err)
		}
	}
	return nil
}

func BenchmarkStat(b *testing.B)     { benchmarkClient(b, "stat", 1) }
func BenchmarkStat2(b *testing.B)    { benchmarkClient(b, "stat", 2) }
func BenchmarkStat4(b *testing.B)    { benchmarkClient(b, "stat", 4) }
func BenchmarkOpen(b *testing.B)     { benchmarkClient(b, "open", 1) }
func BenchmarkOpen2(b *testing.B)    { benchmarkClient(b, "open", 2) }
func BenchmarkCreate(b *testing.B)   { benchmarkClient(b, "create", 1) }
func BenchmarkCreate2(b *testing.B)  { benchmarkClient(b, "create", 2) }
func BenchmarkReadDir(b *testing.B)  { benchmarkClient(b, "readdir", 1) }
func BenchmarkReadDir2(b *testing.B) { benchmarkClient(b, "readdir", 2) }
func BenchmarkRead4K(b *testing.B)   { benchmarkClient(b, "read4k", 1) }
func BenchmarkRead4K4(b *testing.B)  { benchmarkClient(b, "read4k", 4) }
func BenchmarkRead1M(b *testing.B)   { benchmarkClient(b, "read1m", 1) }
func BenchmarkRead1M2(b *testing.B)  { benchmarkClient(b, "read1m", 2) }
func BenchmarkWrite4K(b *testing.B)  { benchmarkClient(b, "write4k", 1) }
func BenchmarkWrite4K4(b *testing.B) { benchmarkClient(b, "write4k", 4) }

// BenchmarkHandlers calls the door without a kernel.
func BenchmarkHandlers(b *testing.B) {
	d := nullDoor(b, On)
	root := &kernel.Request{Header: kernel.Header{NodeID: kernel.RootID}}
	file := &kernel.Request{Header: kernel.Header{NodeID: 10}}
	buf := make([]byte, 4096)
	b.Run("getattr", func(b *testing.B) {
		b.ReportAllocs()
		var in kernel.GetAttrIn
		var out kernel.AttrOut
		for b.Loop() {
			d.GetAttr(file, &in, &out)
		}
	})
	b.Run("lookup+forget", func(b *testing.B) {
		b.ReportAllocs()
		var out kernel.EntryOut
		for b.Loop() {
			d.Lookup(root, "0", &out)
			d.Forget(10, 1)
		}
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		in := kernel.ReadIn{Size: 4096}
		for b.Loop() {
			d.Read(file, &in, buf)
		}
	})
	b.Run("readdirplus", func(b *testing.B) {
		b.ReportAllocs()
		list := kernel.NewDirList(make([]byte, 1<<17))
		var in kernel.ReadIn
		for b.Loop() {
			list.Reset()
			d.ReadDirPlus(root, &in, list)
		}
	})
}
