package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func openDisk(t testing.TB, dir string, limit int64) *Disk {
	t.Helper()
	d, err := OpenDisk(DiskConfig{Dir: dir, Limit: limit, MinFree: 1, Identity: "v", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func rangeData(id uint64, slot, n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(id), byte(id >> 8), byte(slot), byte(n)})
	r.Read(p)
	return p
}

func fillDisk(t testing.TB, d *Disk, id uint64, slots int, n int) {
	t.Helper()
	<-d.scanned
	for i := range slots {
		d.Add(id, slots, []Range{{i, rangeData(id, i, n)}}, nil)
	}
	if err := d.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// check reads ranges, which may be there or not but must be right, and returns how
// many are there.
func checkDisk(t testing.TB, d *Disk, id uint64, slots int, n int) (there int) {
	t.Helper()
	p := make([]byte, n+10)
	for i := range slots {
		if k, ok := d.Read(id, i, p); ok {
			there++
			if !bytes.Equal(p[:k], rangeData(id, i, n)) {
				t.Errorf("block %d slot %d: wrong bytes", id, i)
			}
		}
	}
	return there
}

func TestDiskRestart(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, 10<<20)
	for id := uint64(1); id <= 20; id++ {
		fillDisk(t, d, id, 5, 3000)
		if n := checkDisk(t, d, id, 5, 3000); n != 5 {
			t.Fatal(n)
		}
	}
	if _, ok := d.Read(1, 0, make([]byte, 2999)); ok {
		t.Error("a range was cut")
	}
	if _, ok := d.Read(1, 5, make([]byte, 3000)); ok {
		t.Error("a slot beyond the table was found")
	}
	if _, err := OpenDisk(DiskConfig{Dir: dir, Limit: 1}); !errors.Is(err, syscall.EBUSY) {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}

	d = openDisk(t, dir, 10<<20)
	for id := uint64(1); id <= 20; id++ {
		if n := checkDisk(t, d, id, 5, 3000); n != 5 {
			t.Fatal(id, n)
		}
	}
	<-d.scanned
	if st := d.Stats(); st.Blocks != 20 || st.Bytes != 20*16384 || st.Hits != 100 || st.Damaged != 0 {
		t.Errorf("%+v", st)
	}
	d.Drop(3, 99)
	if n := checkDisk(t, d, 3, 5, 3000); n != 0 {
		t.Error(n)
	}
	fillDisk(t, d, 3, 5, 3000)
	if n := checkDisk(t, d, 3, 5, 3000); n != 5 {
		t.Error(n)
	}
	d.DropAll()
	if st := d.Stats(); st.Blocks != 0 || st.Bytes != 0 {
		t.Errorf("%+v", st)
	}
	d.Close()

	// A smaller limit shrinks what is there.
	d = openDisk(t, dir, 10<<20)
	for id := uint64(1); id <= 20; id++ {
		fillDisk(t, d, id, 5, 3000)
	}
	d.Close()
	d = openDisk(t, dir, 100<<10)
	<-d.scanned
	if st := d.Stats(); st.Bytes > 100<<10 || st.Bytes < 50<<10 {
		t.Errorf("%+v", st)
	}
	d.Close()

	// The cache of another volume is of no use.
	d, err := OpenDisk(DiskConfig{Dir: dir, Limit: 10 << 20, Identity: "other", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	<-d.scanned
	if st := d.Stats(); st.Blocks != 0 {
		t.Errorf("%+v", st)
	}
	d.Close()
}

func TestDiskEviction(t *testing.T) {
	const limit = 1 << 20
	dir := t.TempDir()
	d := openDisk(t, dir, limit)
	defer d.Close()
	hot := func() {
		for id := uint64(1); id <= 8; id++ {
			if checkDisk(t, d, id, 2, 8000) == 0 {
				fillDisk(t, d, id, 2, 8000)
			}
		}
	}
	for id := uint64(100); id < 400; id++ {
		if id%5 == 0 && id < 250 {
			hot()
		}
		fillDisk(t, d, id, 2, 8000)
		if st := d.Stats(); st.Bytes > limit {
			t.Fatalf("%+v", st)
		}
	}
	kept := 0
	for id := uint64(1); id <= 8; id++ {
		kept += checkDisk(t, d, id, 2, 8000)
	}
	if kept < 12 {
		t.Errorf("%d of 16 hot ranges survived a scan", kept)
	}
	var onDisk int64
	filepath.Walk(dir, func(_ string, i os.FileInfo, err error) error {
		if err == nil && i.Mode().IsRegular() {
			onDisk += diskUse(i.Size())
		}
		return nil
	})
	if onDisk > limit+8192 {
		t.Errorf("%d bytes on disk", onDisk)
	}
	// What is larger than the cache is left out.
	<-d.scanned
	d.Add(7777, 1, []Range{{0, make([]byte, limit)}}, nil)
	d.Flush(context.Background())
	if d.Has(7777, 0) {
		t.Error("cached more than the limit")
	}
}

// TestDiskDamage changes every part of cache files, between and during runs.
func TestDiskDamage(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for round := range 60 {
		dir := t.TempDir()
		d := openDisk(t, dir, 10<<20)
		fillDisk(t, d, 1, 4, 2000)
		fillDisk(t, d, 2, 4, 2000)
		name := d.path(1)
		live := round%2 == 0
		if !live {
			d.Close()
		}
		p, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		switch round / 2 % 5 {
		case 0: // a flipped bit
			p[rnd.IntN(len(p))] ^= 1 << rnd.IntN(8)
			err = os.WriteFile(name, p, 0o600)
		case 1: // cut off
			err = os.Truncate(name, int64(rnd.IntN(len(p))))
		case 2: // a hole of zeros, as after a power failure
			at := rnd.IntN(len(p))
			clear(p[at:min(len(p), at+500)])
			err = os.WriteFile(name, p, 0o600)
		case 3: // another block's file
			if p, err = os.ReadFile(d.path(2)); err == nil {
				err = os.WriteFile(name, p, 0o600)
			}
		case 4: // ranges changed places
			q := bytes.Clone(p)
			copy(q[diskHeader:], p[diskHeader+entryBytes:diskHeader+2*entryBytes])
			copy(q[diskHeader+entryBytes:], p[diskHeader:diskHeader+entryBytes])
			err = os.WriteFile(name, q, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if !live {
			d = openDisk(t, dir, 10<<20)
		}
		checkDisk(t, d, 1, 4, 2000)
		checkDisk(t, d, 1, 4, 2000)
		if n := checkDisk(t, d, 2, 4, 2000); n != 4 {
			t.Errorf("damage to one block spoiled another: %d of 4", n)
		}
		fillDisk(t, d, 1, 4, 2000)
		if n := checkDisk(t, d, 1, 4, 2000); n != 4 {
			t.Errorf("round %d: %d of 4 ranges after they were filled again", round, n)
		}
		d.Close()
	}
}

// TestDiskFull: a full disk makes the cache smaller and writing pause, and is no
// error for anybody.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("massif-test", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skip("no tmpfs:", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	d := openDisk(t, dir, 100<<20)
	defer d.Close()
	for id := uint64(1); id <= 100; id++ {
		fillDisk(t, d, id, 1, 100_000)
		checkDisk(t, d, id, 1, 100_000)
	}
	st := d.Stats()
	if !st.Paused || st.Failed == 0 {
		t.Errorf("%+v", st)
	}
	// The floor of free space is kept.
	d.mu.Lock()
	d.cfg.MinFree = 1 << 20
	d.pausing, d.checked = d.checked, d.checked.AddDate(-1, 0, 0)
	d.mu.Unlock()
	fillDisk(t, d, 1000, 1, 1000)
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < 1<<20 {
		t.Errorf("%d bytes free", free)
	}
	if checkDisk(t, d, 1000, 1, 1000) != 1 {
		t.Error("writing did not go on")
	}
}

func TestDiskConcurrent(t *testing.T) {
	d := openDisk(t, t.TempDir(), 600<<10)
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rnd := rand.New(rand.NewPCG(uint64(w), 3))
			for range 300 {
				id := uint64(rnd.IntN(200) + 1)
				switch rnd.IntN(4) {
				case 0:
					d.Add(id, 4, []Range{{0, rangeData(id, 0, 2000)}, {3, rangeData(id, 3, 2000)}}, nil)
				case 1:
					d.Drop(id)
				default:
					checkDisk(t, d, id, 4, 2000)
				}
			}
		}()
	}
	wg.Wait()
	if st := d.Stats(); st.Bytes > 600<<10 {
		t.Errorf("%+v", st)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// FuzzDiskFile reads arbitrary cache files: whatever they hold, only what was
// cached comes back.
func FuzzDiskFile(f *testing.F) {
	dir := f.TempDir()
	d := openDisk(f, dir, 1<<30)
	fillDisk(f, d, 5, 3, 700)
	whole, err := os.ReadFile(d.path(5))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { d.Close() })
	f.Add(whole)
	f.Add(whole[:100])
	f.Add([]byte(diskMagic))
	huge := bytes.Clone(whole)
	huge[14] = 0xff
	f.Add(huge)
	f.Fuzz(func(t *testing.T, p []byte) {
		d.Drop(5)
		d.mu.Lock()
		d.addFile(5, int64(len(p)), false)
		d.mu.Unlock()
		if err := os.WriteFile(d.path(5), p, 0o600); err != nil {
			t.Fatal(err)
		}
		checkDisk(t, d, 5, 4, 700)
	})
}

func BenchmarkDiskRead(b *testing.B) {
	d := openDisk(b, b.TempDir(), 1<<30)
	defer d.Close()
	const slots, n = 64, 64 << 10
	for id := uint64(1); id <= 4; id++ {
		fillDisk(b, d, id, slots, n)
	}
	p := make([]byte, n)
	b.SetBytes(n)
	i := 0
	for b.Loop() {
		if _, ok := d.Read(uint64(i%4+1), i/4%slots, p); !ok {
			b.Fatal(fmt.Sprint("missing ", i))
		}
		i++
	}
}
