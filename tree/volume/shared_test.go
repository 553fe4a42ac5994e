package volume

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// countingSession counts the calls that would go to a metadata server. before, if not
// nil, is called before some changes; an error of it is theirs.
type countingSession struct {
	meta.LeasedSession
	calls  atomic.Int64
	before func(op string) error
}

func (s *countingSession) meddle(op string) error {
	if s.before == nil {
		return nil
	}
	return s.before(op)
}

func (s *countingSession) Allocate(ctx context.Context, c *vfs.Caller, ino vfs.Ino, mode uint32, off, length uint64) error {
	if err := s.meddle("allocate"); err != nil {
		return err
	}
	return s.LeasedSession.Allocate(ctx, c, ino, mode, off, length)
}

func (s *countingSession) CopyRange(ctx context.Context, c *vfs.Caller, in vfs.Ino, inOff uint64, out vfs.Ino, outOff, n uint64) error {
	if err := s.meddle("copy"); err != nil {
		return err
	}
	return s.LeasedSession.CopyRange(ctx, c, in, inOff, out, outOff, n)
}

func (s *countingSession) GetAttr(ctx context.Context, c *vfs.Caller, ino vfs.Ino, out *vfs.Attr) error {
	s.calls.Add(1)
	return s.LeasedSession.GetAttr(ctx, c, ino, out)
}

func (s *countingSession) Inline(ctx context.Context, ino vfs.Ino) ([]byte, bool, error) {
	s.calls.Add(1)
	return s.LeasedSession.Inline(ctx, ino)
}

func (s *countingSession) Extents(ctx context.Context, ino vfs.Ino, index uint32, dst []meta.Extent) ([]meta.Extent, error) {
	s.calls.Add(1)
	return s.LeasedSession.Extents(ctx, ino, index, dst)
}

func (s *countingSession) Touch(ctx context.Context, ino vfs.Ino) error {
	s.calls.Add(1)
	return s.LeasedSession.Touch(ctx, ino)
}

func (s *countingSession) Commit(ctx context.Context, blocks []meta.Block, writes []meta.FileWrite) ([]bool, error) {
	s.calls.Add(1)
	if err := s.meddle("commit"); err != nil {
		return nil, err
	}
	return s.LeasedSession.Commit(ctx, blocks, writes)
}

// pair is a volume with two trees, whose flushers wait for ever.
func pair(t *testing.T) (w *world, one, two *FS, calls *atomic.Int64) {
	t.Helper()
	var s *countingSession
	var cfg Config
	w = newWorld(t, nil, func(c *Config) {
		s = &countingSession{LeasedSession: c.Session.(meta.LeasedSession)}
		c.Session, c.Exclusive, c.NoAtime, c.FlushInterval = s, false, true, time.Hour
		cfg = *c
	})
	second, err := w.engine.NewSession(bg, meta.SessionInfo{Host: "two"})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Session, cfg.Maintainer, cfg.DirtyLimit = second, nil, 4<<20
	two, err = New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := two.Close(); err != nil {
			t.Error(err)
		}
	})
	return w, w.fs, two, &s.calls
}

func mustOpen(t *testing.T, fs *FS, ino vfs.Ino, flags int) vfs.File {
	t.Helper()
	f, err := fs.Open(bg, root, ino, flags)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func all(t *testing.T, fs *FS, ino vfs.Ino) []byte {
	t.Helper()
	f := mustOpen(t, fs, ino, syscall.O_RDONLY)
	defer f.Close()
	p := make([]byte, 4<<20)
	n, err := f.ReadAt(bg, p, 0)
	if err != nil {
		t.Fatal(err)
	}
	return p[:n]
}

func put(t *testing.T, f vfs.File, p []byte, off int64) {
	t.Helper()
	if n, err := f.WriteAt(bg, p, off); err != nil || n != len(p) {
		t.Fatal(n, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Opening and reading a small file again asks nobody, until somebody else changes it.
func TestSharedCachedOpen(t *testing.T) {
	_, one, two, calls := pair(t)
	var a vfs.Attr
	f, err := one.Create(bg, root, vfs.Root, "f", 0o644, syscall.O_RDWR, &a)
	must(t, err)
	put(t, f, []byte("hello"), 0)
	must(t, f.Flush(bg))
	must(t, f.Close())
	all(t, one, a.Ino)
	calls.Store(0)
	for range 10 {
		if got := all(t, one, a.Ino); string(got) != "hello" {
			t.Fatalf("%q", got)
		}
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("%d calls for reading a cached file", n)
	}
	g := mustOpen(t, two, a.Ino, syscall.O_RDWR)
	put(t, g, []byte("J"), 0)
	must(t, g.Flush(bg))
	must(t, g.Close())
	if got := all(t, one, a.Ino); string(got) != "Jello" {
		t.Errorf("%q after the other's write", got)
	}
	if calls.Load() == 0 {
		t.Error("the other's write was seen without asking")
	}
}

// Dirty data lies over what another mount has made of the file: nothing of it is lost,
// and nothing that was cut comes back.
func TestSharedTruncateAndWrite(t *testing.T) {
	for _, size := range []int{2000, 700_000} {
		_, one, two, _ := pair(t)
		var a vfs.Attr
		f, err := one.Create(bg, root, vfs.Root, "f", 0o644, syscall.O_RDWR, &a)
		must(t, err)
		put(t, f, bytes.Repeat([]byte("x"), size), 0)
		must(t, f.Flush(bg))
		g := mustOpen(t, two, a.Ino, syscall.O_RDWR)
		if got := all(t, two, a.Ino); len(got) != size {
			t.Fatal(len(got))
		}
		put(t, g, []byte("dirty"), 3)
		must(t, f.Truncate(bg, 100)) // the other one does not know yet
		if err := two.GetAttr(bg, root, a.Ino, &a); err != nil || a.Size != 100 {
			t.Errorf("size %d, %v", a.Size, err)
		}
		must(t, g.Flush(bg))
		want := append([]byte("xxxdirty"), bytes.Repeat([]byte("x"), 92)...)
		if got := all(t, one, a.Ino); !bytes.Equal(got, want) {
			t.Errorf("%d bytes %.30q", len(got), got)
		}
		// What is dirty behind the cut was written after it.
		put(t, g, []byte("far"), 500)
		must(t, f.Truncate(bg, 10))
		must(t, g.Flush(bg))
		want = append(append(want[:10:10], make([]byte, 490)...), "far"...)
		for _, fs := range []*FS{one, two} {
			if got := all(t, fs, a.Ino); !bytes.Equal(got, want) {
				t.Errorf("%d bytes %.30q", len(got), got)
			}
		}
		must(t, f.Close())
		must(t, g.Close())
	}
}

// Appends that collide move, also over the border of a chunk; what lies before them stays.
func TestSharedAppendMoves(t *testing.T) {
	_, one, two, _ := pair(t)
	var a vfs.Attr
	f, err := one.Create(bg, root, vfs.Root, "f", 0o644, syscall.O_WRONLY|syscall.O_APPEND, &a)
	must(t, err)
	g := mustOpen(t, two, a.Ino, syscall.O_WRONLY|syscall.O_APPEND)
	var want []byte
	chunk := int(one.chunk)
	for round, n := range []int{10, 3000, chunk - 5000, 7000, 2 * chunk, 20, chunk / 2} {
		x, y := bytes.Repeat([]byte{byte('a' + round)}, n), bytes.Repeat([]byte{byte('A' + round)}, n+1)
		put(t, f, x, 0)
		put(t, g, y, 0)
		put(t, f, x, 0)
		must(t, f.Flush(bg))
		must(t, g.Flush(bg))
		got := all(t, one, a.Ino)
		if !bytes.Equal(got, all(t, two, a.Ino)) {
			t.Fatalf("round %d: the mounts differ", round)
		}
		// In which order is open: full chunks are flushed early.
		found := false
		for _, order := range [][]byte{slices.Concat(x, x, y), slices.Concat(x, y, x), slices.Concat(y, x, x)} {
			found = found || bytes.Equal(got, slices.Concat(want, order))
		}
		if !found {
			t.Fatalf("round %d: %d bytes, want %d in one of three orders", round, len(got), len(want)+3*n+1)
		}
		want = got
	}
	must(t, f.Close())
	must(t, g.Close())
}

// Nodes that nobody uses are kept in bounded number.
func TestSharedIdleBounded(t *testing.T) {
	_, one, _, _ := pair(t)
	for i := range 3 * maxIdle * len(one.shards) {
		var a vfs.Attr
		f, err := one.Create(bg, root, vfs.Root, fmt.Sprint(i), 0o644, syscall.O_RDWR, &a)
		must(t, err)
		must(t, f.Close())
	}
	total := 0
	for i := range one.shards {
		s := &one.shards[i]
		if s.idle.count > maxIdle || len(s.nodes) != s.idle.count {
			t.Fatalf("%d idle nodes of %d", s.idle.count, len(s.nodes))
		}
		total += s.idle.count
	}
	if total == 0 {
		t.Error("no node was kept")
	}
}
