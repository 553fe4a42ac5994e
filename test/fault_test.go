package test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/internal/testserver"
)

// dataOf makes the contents of file i: a MiB or two that nothing else has.
func dataOf(i int) []byte {
	p := make([]byte, 700_000+i*123_457%1_500_000)
	rand.NewChaCha8([32]byte{byte(i), byte(i >> 8), 7}).Read(p)
	return p
}

// writeData writes file i durably.
func (v *volume) writeData(i int) error {
	f, err := os.Create(v.path(fmt.Sprintf("data%03d", i)))
	if err != nil {
		return err
	}
	_, err = f.Write(dataOf(i))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// readData reads file i. Bytes that are not right are the one thing that must never
// be: the error for that is no errno.
func (v *volume) readData(i int) error {
	got, err := os.ReadFile(v.path(fmt.Sprintf("data%03d", i)))
	if err == nil && !bytes.Equal(got, dataOf(i)) {
		return fmt.Errorf("WRONG BYTES: data%03d, %d bytes, must be %d", i, len(got), len(dataOf(i)))
	}
	return err
}

// blockFiles lists the objects of a directory store that hold blocks.
func (v *volume) blockFiles() []string {
	v.t.Helper()
	var names []string
	err := filepath.WalkDir(v.store, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		st, err := d.Info()
		if err == nil && st.Size() > 10_000 {
			names = append(names, path)
		}
		return err
	})
	if err != nil || len(names) < 2 {
		v.t.Fatalf("%d blocks in the store, %v", len(names), err)
	}
	return names
}

// TestDamagedStore damages every block in some way: reading gives EIO, never wrong
// bytes; once the blocks are as they were, everything is there again, on the same
// mount.
func TestDamagedStore(t *testing.T) {
	t.Parallel()
	const files = 6
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	v := newVolume(t, options{})
	for i := range files {
		must(v.writeData(i))
	}
	change := func(do func(b []byte) []byte) func(names []string) {
		return func(names []string) {
			for _, name := range names {
				b, err := os.ReadFile(name)
				must(err)
				must(os.WriteFile(name, do(bytes.Clone(b)), 0o644))
			}
		}
	}
	for _, harm := range []struct {
		name string
		do   func(names []string)
	}{
		{"one bit in the middle", change(func(b []byte) []byte { b[len(b)/2] ^= 0x10; return b })},
		{"first byte", change(func(b []byte) []byte { b[0]++; return b })},
		{"last byte", change(func(b []byte) []byte { b[len(b)-1]++; return b })},
		{"cut by one byte", change(func(b []byte) []byte { return b[:len(b)-1] })},
		{"cut in half", change(func(b []byte) []byte { return b[:len(b)/2] })},
		{"empty", change(func(b []byte) []byte { return nil })},
		{"zeros", change(func(b []byte) []byte { return make([]byte, len(b)) })},
		{"gone", func(names []string) {
			for _, name := range names {
				must(os.Remove(name))
			}
		}},
		{"a directory instead", func(names []string) {
			for _, name := range names {
				must(os.Remove(name))
				must(os.Mkdir(name, 0o755))
			}
		}},
		{"exchanged for each other", func(names []string) {
			for i := 0; i+1 < len(names); i += 2 {
				must(unix.Renameat2(unix.AT_FDCWD, names[i], unix.AT_FDCWD, names[i+1], unix.RENAME_EXCHANGE))
			}
		}},
	} {
		v.remount() // nothing cached
		names := v.blockFiles()
		saved := map[string][]byte{}
		for _, name := range names {
			b, err := os.ReadFile(name)
			must(err)
			saved[name] = b
		}
		harm.do(names)
		failed := 0
		for i := range files {
			err := v.readData(i)
			if err == nil {
				continue
			}
			failed++
			if !errors.Is(err, syscall.EIO) {
				t.Errorf("%s: data%03d: %v, must be EIO", harm.name, i, err)
			}
		}
		if failed < files-1 { // the last of an odd number is not exchanged
			t.Errorf("%s: only %d of %d files gave an error", harm.name, failed, files)
		}
		if !mounted(v.mnt) {
			t.Fatalf("%s: the mount is gone\n%s", harm.name, v.said())
		}
		for name, b := range saved {
			if st, err := os.Lstat(name); err == nil && st.IsDir() {
				must(os.Remove(name))
			}
			must(os.WriteFile(name, b, 0o644))
		}
		for i := range files {
			if err := v.readData(i); err != nil {
				t.Errorf("%s: after the repair: %v", harm.name, err)
			}
		}
	}
}

// smallDisk mounts a file system of so many bytes.
func smallDisk(t testing.TB, size int) string {
	t.Helper()
	needMount(t)
	dir, err := os.MkdirTemp("", "mdisk-")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Unmount(dir, unix.MNT_DETACH)
		os.Remove(dir)
	})
	return dir
}

// fill writes files until there is no room, and returns how many were written
// durably and the error.
func (v *volume) fill(t testing.TB, from int) (int, error) {
	t.Helper()
	for i := from; i < from+200; i++ {
		if err := v.writeData(i); err != nil {
			return i, err
		}
	}
	t.Fatal("the disk does not get full")
	return 0, nil
}

// full tells whether an error says that there is no room.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) }

// TestFullStore fills the disk that the blocks lie on: ENOSPC, nothing lost that
// was durable, and room again once files are deleted.
func TestFullStore(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, 40<<20)
	v := newVolume(t, options{store: "file://" + filepath.Join(disk, "store")})
	n, err := v.fill(t, 0)
	if !full(err) {
		t.Errorf("a full store gave %v, must give ENOSPC", err)
	}
	if n < 10 {
		t.Errorf("full after %d files", n)
	}
	v.readThem(t, 0, n, "with the disk full")
	// Room again: some may need the delete queue, which works in the background.
	for i := range n / 2 {
		if err := os.Remove(v.path(fmt.Sprintf("data%03d", i))); err != nil {
			t.Fatalf("no room to delete: %v", err)
		}
	}
	v.writeOnceThereIsRoom(t, 500)
	v.remount()
	v.readThem(t, n/2, n, "after a remount")
	v.readThem(t, 500, 501, "after a remount")
}

// readThem reads files that must be right.
func (v *volume) readThem(t testing.TB, from, to int, when string) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := v.readData(i); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
}

// writeOnceThereIsRoom writes a file, which may fail with ENOSPC for some seconds.
func (v *volume) writeOnceThereIsRoom(t testing.TB, i int) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := v.writeData(i)
		if err == nil {
			return
		}
		if !full(err) || time.Now().After(deadline) {
			t.Fatalf("no room again after two minutes: %v\n%s", err, v.said())
		}
	}
}

// TestFullJournal fills the disk that metadata and write-back journal lie on, while
// the server is away: ENOSPC; everything that was fsynced is in the store once
// the server is back.
func TestFullJournal(t *testing.T) {
	t.Parallel()
	needMount(t)
	endpoint, bucket, creds := testserver.S3(t)
	proxy := testserver.NewProxy(t, strings.TrimPrefix(endpoint, "http://"))
	disk := smallDisk(t, 64<<20)
	v := newVolume(t, options{
		store: s3URL("http://"+proxy.Addr(), bucket),
		env:   append(s3Env(creds), "MASSIF_HOME="+filepath.Join(disk, "home")),
		mount: []string{"--cache-size", "0", "--writeback"},
	})
	proxy.Set(testserver.Fault{Refuse: true})
	n, err := v.fill(t, 0)
	if !full(err) {
		t.Errorf("a full journal gave %v, must give ENOSPC", err)
	}
	t.Logf("full after %d files", n)
	v.readThem(t, 0, n, "with the journal full")
	proxy.Set(testserver.Fault{})
	v.writeOnceThereIsRoom(t, 500)
	v.kill()
	v.clear()
	v.start()
	v.readThem(t, 0, n, "after a crash")
	v.remount()
	v.readThem(t, 0, n, "after a remount")
	v.readThem(t, 500, 501, "after a remount")
}

// TestFullMetadata fills the disk that the metadata lies on.
func TestFullMetadata(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, 48<<20)
	v := newVolume(t, options{meta: "pebble://" + filepath.Join(disk, "meta")})
	content := bytes.Repeat([]byte("inline "), 500)
	rand.NewChaCha8([32]byte{9}).Read(content)
	var err error
	var durable []int // files that were fsynced
	name := func(i int) string { return v.path(fmt.Sprintf("d%d/f%06d", i/1000, i)) }
	write := func(i int) error {
		if i%1000 == 0 {
			if err := os.Mkdir(filepath.Dir(name(i)), 0o755); err != nil {
				return err
			}
		}
		f, err := os.Create(name(i))
		if err != nil {
			return err
		}
		_, err = f.Write(content)
		if err == nil && i%50 == 49 {
			err = f.Sync()
		}
		return errors.Join(err, f.Close())
	}
	for i := range 100_000 {
		if err = write(i); err != nil {
			break
		}
		if i%50 == 49 {
			durable = append(durable, i)
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full metadata disk gave %v, must give ENOSPC\n%s", err, v.said())
	}
	t.Logf("full after %d fsyncs", len(durable))
	verify := func(when string) {
		t.Helper()
		for _, i := range durable {
			got, err := os.ReadFile(name(i))
			if err != nil {
				t.Fatalf("%s: %v\n%s", when, err, v.said())
			}
			if !bytes.Equal(got, content) {
				t.Fatalf("%s: %s holds wrong bytes", when, name(i))
			}
		}
	}
	if mounted(v.mnt) {
		verify("while full")
	}
	// The disk grows: all is well again, at the latest after a new start.
	if err := unix.Mount("tmpfs", disk, "", unix.MS_REMOUNT, "size=1G"); err != nil {
		t.Fatal(err)
	}
	v.kill()
	v.clear()
	v.start()
	verify("with room again")
	if err := write(200_000); err != nil {
		t.Errorf("writing with room again: %v", err)
	}
}

// TestFaultyServer puts faults between massif and an S3 server.
func TestFaultyServer(t *testing.T) {
	t.Parallel()
	needMount(t)
	endpoint, bucket, creds := testserver.S3(t)
	proxy := testserver.NewProxy(t, strings.TrimPrefix(endpoint, "http://"))
	v := newVolume(t, options{
		store: s3URL("http://"+proxy.Addr(), bucket), env: s3Env(creds),
		mount: []string{"--cache-size", "0"},
	})
	const files = 4
	for i := range files {
		if err := v.writeData(i); err != nil {
			t.Fatal(err)
		}
	}
	readAll := func(when string) {
		t.Helper()
		for i := range files {
			if err := v.readData(i); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
	}
	for _, f := range []struct {
		name  string
		fault testserver.Fault
	}{
		{"refused", testserver.Fault{Refuse: true}},
		{"cut", testserver.Fault{CutAnswer: 50_000}},
		{"flipped", testserver.Fault{Flip: 70_000}},
		{"slow", testserver.Fault{Delay: 20 * time.Millisecond}},
	} {
		// A passing fault is not noticed.
		v.remount()
		proxy.SetTimes(f.fault, 1)
		readAll(f.name + ", once")
		proxy.SetTimes(f.fault, 1)
		if err := v.writeData(100); err != nil {
			t.Errorf("writing, %s, once: %v", f.name, err)
		}
		if err := v.readData(100); err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
	}
	// A stalled server: nothing wrong is read, and all goes on when it does.
	for _, stall := range []testserver.Fault{{StallAnswer: -1}, {StallAnswer: 30_000}, {StallRequest: 20_000}} {
		v.remount()
		proxy.Set(stall)
		done := make(chan error, 2)
		go func() { done <- v.readData(1) }()
		go func() { done <- v.writeData(101) }()
		time.Sleep(2 * time.Second)
		proxy.Set(testserver.Fault{})
		for range 2 {
			select {
			case err := <-done:
				if err != nil && !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ETIMEDOUT) {
					t.Errorf("stalled: %v", err)
				}
			case <-time.After(3 * time.Minute):
				t.Fatalf("still stalled long after the server went on\n%s", v.said())
			}
		}
		readAll("after a stall")
		if err := v.writeData(102); err != nil {
			t.Errorf("writing after a stall: %v", err)
		}
	}
}

// TestServerAway: with the server gone for good a call ends with EIO or ETIMEDOUT; names
// and small files go on.
func TestServerAway(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	t.Parallel()
	needMount(t)
	endpoint, bucket, creds := testserver.S3(t)
	proxy := testserver.NewProxy(t, strings.TrimPrefix(endpoint, "http://"))
	v := newVolume(t, options{
		store: s3URL("http://"+proxy.Addr(), bucket), env: s3Env(creds),
		mount: []string{"--cache-size", "0"},
	})
	if err := v.writeData(0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(v.path("small"), []byte("in the metadata"), 0o644); err != nil {
		t.Fatal(err)
	}
	v.remount()
	proxy.Set(testserver.Fault{Refuse: true})
	if b, err := os.ReadFile(v.path("small")); err != nil || string(b) != "in the metadata" {
		t.Errorf("a small file: %q, %v", b, err)
	}
	if err := os.Mkdir(v.path("dir"), 0o755); err != nil {
		t.Error(err)
	}
	// That the calls end, with the server away as ever, is the point.
	inParallel(t, 2, func(i int) error {
		err := v.readData(0)
		if i == 1 {
			err = v.writeData(1)
		}
		if !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ETIMEDOUT) {
			return fmt.Errorf("without a server: %w", err)
		}
		return nil
	})
	proxy.Set(testserver.Fault{})
	if err := v.readData(0); err != nil {
		t.Errorf("with the server back: %v", err)
	}
	if err := v.writeData(1); err != nil {
		t.Errorf("with the server back: %v", err)
	}
	if err := v.readData(1); err != nil {
		t.Errorf("with the server back: %v", err)
	}
}
