package bucket

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/vfs"
	"github.com/massif-fs/massif/vfs/vfstest"
)

// lacks are the promises that no object store can keep.
func lacks(more ...vfstest.Feature) map[vfstest.Feature]string {
	m := map[vfstest.Feature]string{
		vfstest.HardLinks:    "an object has one key",
		vfstest.Devices:      "an object is a file, a link or a directory",
		vfstest.DirLinkCount: "counting the directories of a directory would be a listing",
		vfstest.RenameFlags:  "two objects cannot change places at once (NOREPLACE is possible)",
		vfstest.Pins:         "what is unlinked while nobody has it open is gone: keeping it would be a copy for each removal",
		vfstest.SeekHoles:    "an object has no holes",
		vfstest.SparseFiles:  "an object has no holes: the zeros would be sent",
		vfstest.Xattrs:       "metadata of objects have room for about 1 KiB of them (see TestXattrs)",
		vfstest.XattrTrusted: "as extended attributes",
		vfstest.ACLs:         "the metadata have no room for them",
		vfstest.ByteNames:    "keys of objects are UTF-8",
		vfstest.Tmpfile:      "an object has a name",
		vfstest.CopyRange:    "not offered: the kernel copies by reading and writing",
	}
	for _, f := range more {
		m[f] = "the server refuses them, or is too slow to be asked for them each time"
	}
	return m
}

// world is a store with a cache directory.
type world struct {
	store object.Store
	dir   string
	tune  func(*Config)
}

func (w *world) open(t testing.TB, more ...func(*Config)) *FS {
	t.Helper()
	cfg := Config{
		Store: w.store, Identity: "test", CacheDir: w.dir, CacheLimit: 1 << 30, Prefetch: 4, MaxFileSize: 1<<40 - 1,
		AttrTimeout: time.Minute, ListTimeout: time.Minute, NegativeTimeout: time.Minute,
		UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	if w.tune != nil {
		w.tune(&cfg)
	}
	for _, f := range more {
		f(&cfg)
	}
	fs, err := New(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fs.Close(); err != nil {
			t.Errorf("close: %v", err)
			_ = fs.ForceClose(context.Background())
		}
	})
	return fs
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(p))
	return len(p), nil
}

func newWorld(t testing.TB, tune func(*Config)) *world {
	return &world{store: mem.New(), dir: memoryDir(t), tune: tune}
}

// memoryDir is a directory in memory, where syncing takes no time, or else on the disk.
func memoryDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "massif-bucket-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// suite is the conformance suite over worlds.
func suite(t *testing.T, lacks map[vfstest.Feature]string, make func(testing.TB) *world) {
	worlds := map[vfs.FS]*world{}
	again := func(t testing.TB, fs vfs.FS, more ...func(*Config)) vfs.FS {
		w := worlds[fs]
		delete(worlds, fs)
		if err := fs.Close(); err != nil {
			t.Fatal(err)
		}
		fs = w.open(t, more...)
		worlds[fs] = w
		return fs
	}
	vfstest.Run(t, vfstest.Factory{
		New: func(t testing.TB) vfs.FS {
			w := make(t)
			fs := w.open(t)
			worlds[fs] = w
			return fs
		},
		Reopen: func(t testing.TB, fs vfs.FS) vfs.FS { return again(t, fs) },
		ReadOnly: func(t testing.TB, fs vfs.FS) vfs.FS {
			return again(t, fs, func(c *Config) { c.ReadOnly = true })
		},
		Lacks: lacks,
	})
}

func TestSuiteMem(t *testing.T) {
	suite(t, lacks(), func(t testing.TB) *world { return newWorld(t, nil) })
}
