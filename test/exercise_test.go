package test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/massif-fs/massif/internal/fsx"
	"github.com/massif-fs/massif/internal/fsxtree"
	"github.com/massif-fs/massif/internal/testseed"
)

// settings are ways to make and mount a volume that take different paths through
// the code.
var settings = []struct {
	name string
	options
}{
	{"defaults", options{}},
	{"no inline, small blocks, zstd", options{create: []string{"--inline-limit", "0", "--block-size", "256KiB", "--compression", "zstd"}}},
	{"uncompressed, little memory", options{create: []string{"--compression", "none", "--block-size", "1MiB"}, mount: []string{"--memory-limit", "64MiB"}}},
	{"writeback", options{create: []string{"--block-size", "256KiB"}, mount: []string{"--writeback"}}},
	{"encrypted", options{create: []string{"--block-size", "256KiB", "--encrypt"}, env: []string{"MASSIF_PASSPHRASE=correct horse battery"}}},
}

// TestFsx does 1,000,000 operations in all (20,000 with -short).
func TestFsx(t *testing.T) {
	ops := 200_000
	if testing.Short() {
		ops = 4_000
	}
	runs := []struct {
		setting int
		fsx.Config
	}{
		{0, fsx.Config{Ops: ops * 5 / 4, Seed: 1, SyncEvery: 1000}},
		{0, fsx.Config{Ops: ops / 2, Seed: 2, SyncEvery: 1000, Files: 3, Direct: true, MaxSize: 10 << 20, MaxLen: 256 << 10}},
		{1, fsx.Config{Ops: ops, Seed: 3, SyncEvery: 300, MaxSize: 1 << 20}},
		{2, fsx.Config{Ops: ops, Seed: 4, SyncEvery: 1000, Files: 2, MaxSize: 3 << 20}},
		{3, fsx.Config{Ops: ops * 5 / 4, Seed: 5, SyncEvery: 300, Files: 2, MaxSize: 1 << 20}},
		{4, fsx.Config{Ops: ops / 4, Seed: 6, SyncEvery: 300, Files: 2, MaxSize: 1 << 20}},
	}
	for _, run := range runs {
		set := settings[run.setting]
		t.Run(strings.ReplaceAll(set.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			v := newVolume(t, set.options)
			cfg := run.Config
			cfg.Seed = testseed.Of(t, cfg.Seed)
			cfg.Path = v.path("file")
			cfg.Require = []string{"punch", "zero", "falloc", "copy", "seek"}
			cfg.RemountEvery = ops/4 + 1
			cfg.Remount = func() error { v.remount(); return nil }
			res, err := fsx.Run(context.Background(), cfg)
			if err != nil {
				t.Fatalf("%v\n%s", err, v.said())
			}
			t.Logf("%d operations in %s: %v", res.Ops, res.Took, res.Done)
		})
	}
}

// TestNamespace exercises names, with a comparison of everything after each
// remount.
func TestNamespace(t *testing.T) {
	ops := 8_000
	if testing.Short() {
		ops = 800
	}
	for i, set := range settings {
		t.Run(strings.ReplaceAll(set.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			v := newVolume(t, set.options)
			e, err := fsxtree.New(fsxtree.Config{Dir: v.mnt, Seed: testseed.Of(t, uint64(100+i))})
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if err := e.Run(context.Background(), ops/3); err != nil {
					t.Fatal(err)
				}
				if err := e.Check(); err != nil {
					t.Fatal(err)
				}
				if err := e.CloseAll(); err != nil {
					t.Fatal(err)
				}
				before, err := fsxtree.Take(v.mnt)
				if err != nil {
					t.Fatal(err)
				}
				v.remount()
				if err := e.Check(); err != nil {
					t.Fatalf("after a remount: %v", err)
				}
				after, err := fsxtree.Take(v.mnt)
				if err != nil {
					t.Fatal(err)
				}
				if diff := fsxtree.Diff(before, after, fsxtree.What{}); diff != "" {
					t.Fatalf("a remount changed:\n%s", diff)
				}
			}
			t.Logf("%d names at the end", e.Names())
			if err := os.RemoveAll(filepath.Join(v.mnt, "w0")); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPosix runs pjdfstest, on which doc/posix.md says more, if MASSIF_PJDFSTEST names
// the built suite.
func TestPosix(t *testing.T) {
	if os.Getenv("MASSIF_PJDFSTEST") == "" {
		t.Skip("MASSIF_PJDFSTEST does not name the built suite, see doc/posix.md")
	}
	t.Run("volume", func(t *testing.T) {
		t.Parallel()
		runPosix(t, newVolume(t, options{}))
	})
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		runPosix(t, mountLocal(t))
	})
}
