package fuse_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/massif-fs/massif/door/fuse"
	"github.com/massif-fs/massif/tree/local"
	"github.com/massif-fs/massif/vfs"
)

// hookFS is a local tree that tests can make behave.
type hookFS struct {
	*local.FS
	vfs.Feed
	policy  vfs.Policy
	pins    sync.Map // vfs.Ino → *atomic.Int64
	onRead  func(ctx context.Context) error
	onNames func(name string)
	onWait  func(ctx context.Context, name string) error
}

func (h *hookFS) Policy() vfs.Policy { return h.policy }

func (h *hookFS) pinCount(ino vfs.Ino) *atomic.Int64 {
	c, _ := h.pins.LoadOrStore(ino, new(atomic.Int64))
	return c.(*atomic.Int64)
}

func (h *hookFS) Pin(ino vfs.Ino) {
	h.pinCount(ino).Add(1)
	h.FS.Pin(ino)
}

func (h *hookFS) Unpin(ino vfs.Ino) {
	h.pinCount(ino).Add(-1)
	h.FS.Unpin(ino)
}

func (h *hookFS) Lookup(ctx context.Context, c *vfs.Caller, parent vfs.Ino, name string, out *vfs.Attr) error {
	if h.onNames != nil {
		h.onNames(name)
	}
	if h.onWait != nil {
		if err := h.onWait(ctx, name); err != nil {
			return err
		}
	}
	return h.FS.Lookup(ctx, c, parent, name, out)
}

func (h *hookFS) Open(ctx context.Context, c *vfs.Caller, ino vfs.Ino, flags int) (vfs.File, error) {
	f, err := h.FS.Open(ctx, c, ino, flags)
	if err != nil {
		return nil, err
	}
	return &hookFile{f, h}, nil
}

func (h *hookFS) OpenInode(ctx context.Context, ino vfs.Ino) (vfs.File, error) {
	f, err := h.FS.OpenInode(ctx, ino)
	if err != nil {
		return nil, err
	}
	return &hookFile{f, h}, nil
}

type hookFile struct {
	vfs.File
	fs *hookFS
}

func (f *hookFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if f.fs.onRead != nil {
		if err := f.fs.onRead(ctx); err != nil {
			return 0, err
		}
	}
	return f.File.ReadAt(ctx, p, off)
}

// mountHook mounts a hookFS over a fresh directory.
func mountHook(t testing.TB, h *hookFS, o fuse.Options) (mnt, dir string, s *fuse.Server) {
	t.Helper()
	needFUSE(t)
	dir, mnt = t.TempDir(), t.TempDir()
	tree, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h.FS = tree
	s, err = fuse.Mount(h, mnt, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
			s.Abort()
		}
		tree.Close()
	})
	return mnt, dir, s
}

// logBuffer keeps what was logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// cached is a policy under which the kernel asks nothing twice.
var cached = vfs.Policy{EntryValid: vfs.Forever, AttrValid: vfs.Forever, NegativeValid: vfs.Forever, KeepCache: true}

func exclusive() vfs.Policy {
	p := cached
	p.Exclusive = true
	return p
}

// eventually waits for something that a notification brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in 10 s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
