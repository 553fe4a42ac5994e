package pebble_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/pebble"
)

func TestReadOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	if _, err := pebble.Open(dir, pebble.Options{Logger: quiet, ReadOnly: true}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(fmt.Sprint(err), dir) {
		t.Errorf("Open of a database that is not there: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a read-only Open made the directory")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := pebble.Open(dir, pebble.Options{Logger: quiet, ReadOnly: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of an empty directory: %v", err)
	}

	db, reopen := openDir(t, dir, pebble.Options{})
	if err := step(db, 0, 10); err != nil {
		t.Fatal(err)
	}
	closeIfOpen(t, db)
	ro, err := pebble.Open(dir, pebble.Options{Logger: quiet, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if n := steps(t, ro, 10); n != 1 {
		t.Errorf("%d commits", n)
	}
	if err := step(ro, 1, 10); !errors.Is(err, syscall.EROFS) {
		t.Errorf("Update: %v, want EROFS", err)
	}
	if err := ro.Sync(ctx); err != nil {
		t.Errorf("Sync: %v", err)
	}
	if err := ro.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if n := steps(t, reopen(), 10); n != 1 {
		t.Errorf("%d commits afterwards", n)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		file:                          syscall.ENOTDIR,
		filepath.Join(file, "below"):  syscall.ENOTDIR,
		"/proc/massif-test/not/there": fs.ErrNotExist,
		filepath.Join(dir, "x\x00 y"): syscall.EINVAL,
	} {
		if db, err := pebble.Open(path, pebble.Options{Logger: quiet}); !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), path) {
			t.Errorf("Open(%q): %v, want %v and the path", path, err, want)
			if db != nil {
				closeIfOpen(t, db)
			}
		}
	}
	// The directory must be the user's alone: names of files are in it.
	db, _ := openDir(t, filepath.Join(dir, "new", "db"), pebble.Options{})
	if info, err := os.Stat(filepath.Join(dir, "new", "db")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", info.Mode(), err)
	}
	closeIfOpen(t, db)
}

func TestCheckpoint(t *testing.T) {
	dir := t.TempDir()
	db, err := pebble.Open(filepath.Join(dir, "db"), pebble.Options{Logger: quiet, MemTableBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer closeIfOpen(t, db)
	for n := range 500 {
		if err := step(db, n, 500); err != nil {
			t.Fatal(err)
		}
	}
	copied := filepath.Join(dir, "copy")
	if err := db.Checkpoint(copied); err != nil {
		t.Fatal(err)
	}
	if err := db.Checkpoint(copied); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Checkpoint to a directory that is there: %v", err)
	}
	for n := 500; n < 800; n++ {
		if err := step(db, n, 500); err != nil {
			t.Fatal(err)
		}
	}
	again, _ := openDir(t, copied, pebble.Options{})
	if n := steps(t, again, 500); n != 500 {
		t.Errorf("%d commits in the copy, want 500", n)
	}
	if err := step(again, 500, 500); err != nil {
		t.Errorf("the copy cannot be written: %v", err)
	}
	if n := steps(t, db, 500); n != 800 {
		t.Errorf("%d commits, want 800", n)
	}
	// A copy that fails does no harm to the database.
	if err := db.Checkpoint("/proc/massif-test/not/there"); err == nil {
		t.Error("Checkpoint to an impossible place is no error")
	}
	if err := errors.Join(step(db, 800, 500), db.Sync(ctx)); err != nil {
		t.Errorf("after a failed Checkpoint: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	db := mustOpen(t, vfs.NewMem())
	for n := range 300 {
		if err := step(db, n, 1000); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	// Flushes run on their own.
	var m pebble.Metrics
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if m = db.Metrics(); m.Flushes > 0 {
			break
		}
	}
	if m.Commits != 300 || m.LogFlushes != 1 || m.Flushes == 0 || m.DiskBytes == 0 || m.LogWritten == 0 || m.MemTableBytes == 0 || m.Full || m.Failed != "" {
		t.Errorf("metrics: %+v", m)
	}
	closeIfOpen(t, db)
	if m := db.Metrics(); m != (pebble.Metrics{}) {
		t.Errorf("metrics of a closed database: %+v", m)
	}
}

// TestValueSizes reads values of all sizes as the first thing in a view and in a
// transaction: around the sizes at which their memory is got in another way.
func TestValueSizes(t *testing.T) {
	db, err := pebble.Open(t.TempDir(), pebble.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer closeIfOpen(t, db)
	for _, n := range []int{0, 1, 4095, 4096, 4097, 6211, 8191, 8192, 8193, 100_000} {
		want := bytes.Repeat([]byte{byte(n)}, n)
		if err := db.Update(ctx, func(tx kv.Txn) error { tx.Put([]byte("k"), want); return nil }); err != nil {
			t.Fatal(err)
		}
		read := func(r kv.Reader) error {
			got, err := r.Get([]byte("k"))
			if err == nil && !bytes.Equal(got, want) {
				err = fmt.Errorf("%d bytes came back as %d", n, len(got))
			}
			return err
		}
		if err := db.View(ctx, read); err != nil {
			t.Error(err)
		}
		if err := db.Update(ctx, func(tx kv.Txn) error { return read(tx) }); err != nil {
			t.Error(err)
		}
	}
}
