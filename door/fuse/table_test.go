package fuse

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/door/fuse/kernel"
	"github.com/massif-fs/massif/vfs"
)

// pinChecker checks that Pin and Unpin alternate for each inode.
type pinChecker struct {
	t    *testing.T
	mu   sync.Mutex
	pins map[vfs.Ino]int
}

func (p *pinChecker) change(ino vfs.Ino, by int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pins[ino] += by
	if n := p.pins[ino]; n < 0 || n > 1 {
		p.t.Errorf("inode %d is pinned %d times", ino, n)
	}
}

func (p *pinChecker) Pin(ino vfs.Ino)   { p.change(ino, 1) }
func (p *pinChecker) Unpin(ino vfs.Ino) { p.change(ino, -1) }

// countedFile knows whether it is open.
type countedFile struct {
	nullFile
	open   *atomic.Int64
	closed atomic.Bool
}

func (f *countedFile) Close() error {
	if f.closed.Swap(true) {
		panic("closed twice")
	}
	f.open.Add(-1)
	return nil
}

// TestNodeTable: learning, forgetting and using inodes from many goroutines.
func TestNodeTable(t *testing.T) {
	pins := &pinChecker{t: t, pins: map[vfs.Ino]int{}}
	var open atomic.Int64
	var table nodeTable
	table.init(pins, 2*nodeShards, func(ctx context.Context, ino vfs.Ino) (vfs.File, error) {
		if ino%7 == 0 {
			return nil, syscall.EIO
		}
		open.Add(1)
		return &countedFile{open: &open}, nil
	})
	const inos = 1000
	var told [inos]atomic.Int64 // what the kernel has been told of and not forgotten
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for range 20_000 {
				ino := uint64(r.IntN(inos))
				switch r.IntN(4) {
				case 0, 1:
					table.learn(ino)
					told[ino].Add(1)
				case 2:
					if n := told[ino].Swap(0); n > 0 {
						table.forget(ino, uint64(n))
					}
				default:
					n, err := table.acquire(context.Background(), ino)
					if err != nil {
						if ino%7 != 0 {
							t.Error(err)
						}
						continue
					}
					if n.file.(*countedFile).closed.Load() {
						t.Error("a closed File is in use")
					}
					table.release(n)
				}
			}
		})
	}
	wg.Wait()
	if n := open.Load(); n > 3*nodeShards {
		t.Errorf("%d Files are open", n)
	}
	for ino := range told {
		if n := told[ino].Load(); n > 0 {
			table.forget(uint64(ino), uint64(n)+5) // a kernel that knows of more
		}
	}
	table.forgetAll()
	for ino, n := range pins.pins {
		if n != 0 {
			t.Errorf("inode %d is still pinned", ino)
		}
	}
	if open.Load() != 0 || table.inUse() != 0 || table.files.Load() != 0 || table.total.Load() != 0 {
		t.Errorf("%d Files, %d nodes and %d inodes are left", open.Load(), table.inUse(), table.total.Load())
	}
}

// TestPlain: the door believes in the absence of set-id bits only while nobody sets
// the mode.
func TestPlain(t *testing.T) {
	var table nodeTable
	table.init(nil, 1, nil)
	table.setPlain(5, 0)
	if table.isPlain(5) {
		t.Error("an inode that the kernel does not know is plain")
	}
	table.learn(5)
	table.learn(5)
	seen := table.modes(5)
	table.setPlain(5, seen)
	if !table.isPlain(5) {
		t.Error("not plain")
	}
	table.modeChange(5)
	if table.isPlain(5) {
		t.Error("plain after a change")
	}
	table.setPlain(5, seen)
	if table.isPlain(5) {
		t.Error("plain by what was seen before the change")
	}
	for range 1<<15 + 3 {
		table.modeChange(5)
	}
	if n := table.shard(5).told[5].count(); n != 2 {
		t.Errorf("the changes of the mode made the count %d", n)
	}
	table.setPlain(5, table.modes(5))
	table.forget(5, 1)
	if !table.isPlain(5) || table.total.Load() != 1 {
		t.Error("forgotten too early")
	}
	table.forget(5, 1)
	if table.isPlain(5) || table.known(5) {
		t.Error("not forgotten")
	}
}

// TestHandlesOfPredecessor: a handle that another process has given works.
func TestHandlesOfPredecessor(t *testing.T) {
	file := &kernel.Request{Header: kernel.Header{NodeID: 10}}
	root := &kernel.Request{Header: kernel.Header{NodeID: kernel.RootID}}
	old, successor := nullDoor(t, Off), nullDoor(t, Off)
	for successor.handles.epoch == old.handles.epoch {
		successor.handles.init()
	}
	var out kernel.OpenOut
	old.Open(file, &kernel.OpenIn{Flags: syscall.O_WRONLY | syscall.O_APPEND}, &out)
	var dir kernel.OpenOut
	old.OpenDir(root, &kernel.OpenIn{}, &dir)

	file.Local, root.Local = nil, nil // another door
	if n, code := successor.Write(file, &kernel.WriteIn{Fh: out.Fh}, []byte("x")); n != 1 || code != 0 {
		t.Errorf("write: %d, %v", n, code)
	}
	list := kernel.NewDirList(make([]byte, 4096))
	if code := successor.ReadDir(root, &kernel.ReadIn{Fh: dir.Fh}, list); code != 0 || len(list.Bytes()) == 0 {
		t.Errorf("readdir: %v", code)
	}
	if n := successor.handles.count(); n != 2 {
		t.Errorf("%d handles", n)
	}
	successor.Release(file, &kernel.ReleaseIn{Fh: out.Fh})
	successor.ReleaseDir(root, &kernel.ReleaseIn{Fh: dir.Fh})
	if n := successor.handles.count(); n != 0 {
		t.Errorf("%d handles after release", n)
	}
	// One that this process never gave is wrong.
	if _, code := successor.Write(file, &kernel.WriteIn{Fh: successor.handles.epoch | 12345}, nil); code != syscall.EBADF {
		t.Errorf("write with a made-up handle: %v", code)
	}
}

func TestHandleFlags(t *testing.T) {
	for _, f := range []int{
		syscall.O_RDONLY, syscall.O_WRONLY, syscall.O_RDWR, syscall.O_RDWR | syscall.O_APPEND, syscall.O_RDONLY | syscall.O_DIRECT,
		syscall.O_WRONLY | syscall.O_SYNC, syscall.O_WRONLY | syscall.O_DSYNC | syscall.O_APPEND | syscall.O_DIRECT,
	} {
		if got := fhFlags(packFlags(uint32(f)) << fhFlagShift); got != f {
			t.Errorf("flags %x became %x", f, got)
		}
		if packFlags(uint32(f))<<fhFlagShift&fhDirectory != 0 {
			t.Errorf("flags %x look like a directory", f)
		}
	}
}

func TestMountHelper(t *testing.T) {
	if _, err := fusermount(); err != nil {
		t.Skip(err)
	}
	o, err := (&Options{FsName: "with, comma", NoSuid: true}).withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	mnt := t.TempDir()
	fd, err := mountHelper(mnt, &o)
	if err != nil {
		t.Skipf("fusermount3 cannot mount here: %v", err)
	}
	defer syscall.Close(fd)
	if _, ok, err := topMount(mnt); !ok || err != nil {
		t.Errorf("not in mountinfo: %v", err)
	}
	if err := kernelUnmount(mnt, true); err != nil {
		t.Error(err)
	}
	if _, ok, _ := topMount(mnt); ok {
		t.Error("still mounted")
	}
}

// TestDerivedContexts: contexts made of a request's follow it, and never a later
// one that uses the same memory.
func TestDerivedContexts(t *testing.T) {
	d := nullDoor(t, On)
	q := &kernel.Request{Header: kernel.Header{NodeID: 10}}
	for i := range 200 {
		cancel := make(chan struct{})
		var code syscall.Errno
		r := d.begin(OpSetLock, q, "")
		r.cancel, r.prompt = cancel, true
		ctx, stop := context.WithCancel(r)
		if i%2 == 0 {
			close(cancel)
			<-ctx.Done()
		} else if ctx.Err() != nil {
			t.Fatal("cancelled by nobody")
		}
		r.end(&code)
		next := d.begin(OpGetAttr, q, "") // the same memory
		if i%2 == 1 {
			if ctx.Err() != nil {
				t.Fatal("cancelled by another request")
			}
		}
		stop()
		next.end(&code)
	}
	d.waiters.Wait()
}
