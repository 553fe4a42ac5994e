package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/meta"
)

func testDump(t testing.TB, records int) []byte {
	t.Helper()
	db := mem.New()
	defer db.Close()
	err := db.Update(context.Background(), func(w kv.Txn) error {
		for i := range records {
			w.Put(fmt.Appendf(nil, "key%06d", i), bytes.Repeat([]byte{byte(i)}, i%300))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	format := meta.Format{Version: meta.FormatVersion, Name: "v", UUID: newUUID(), Created: time.Now(), ChunkSize: meta.DefaultChunkSize, Compression: "lz4", Store: "file:///x"}
	var b bytes.Buffer
	n, err := writeDump(context.Background(), &b, db, DumpHeader{Time: time.Now(), Format: format}, func(any) {})
	if err != nil || n != int64(records) {
		t.Fatalf("%d records, %v", n, err)
	}
	return b.Bytes()
}

// readAll reads a dump to its end.
func readAll(data []byte) (records int, err error) {
	d, err := openDump(bytes.NewReader(data))
	if err != nil {
		return 0, err
	}
	defer d.close()
	for {
		_, _, err := d.next()
		if err == io.EOF {
			return records, nil
		}
		if err != nil {
			return records, err
		}
		records++
	}
}

func TestDump(t *testing.T) {
	for _, n := range []int{0, 1, 2500} {
		if got, err := readAll(testDump(t, n)); err != nil || got != n {
			t.Errorf("%d records, %v; want %d", got, err, n)
		}
	}
}

// A dump that is cut off or changed anywhere is refused, whatever zstd thinks of it.
func TestDamagedDump(t *testing.T) {
	whole := testDump(t, 50)
	for n := range len(whole) {
		if _, err := readAll(whole[:n]); !errors.Is(err, errDump) {
			t.Fatalf("cut off at %d of %d: %v", n, len(whole), err)
		}
	}
	z, err := zstd.NewReader(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	z.Close()
	if err != nil {
		t.Fatal(err)
	}
	pack, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range plain {
		changed := bytes.Clone(plain)
		changed[i] ^= 1
		if _, err := readAll(pack.EncodeAll(changed, nil)); err == nil {
			t.Fatalf("a change at byte %d of %d goes unnoticed", i, len(plain))
		}
	}
	if _, err := readAll(pack.EncodeAll(append(plain, 0), nil)); err == nil {
		t.Error("a byte behind the end goes unnoticed")
	}
}

func FuzzDump(f *testing.F) {
	f.Add(testDump(f, 3))
	f.Add([]byte("MASSIFDP\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		readAll(data)
		// Also as the content of a well-formed stream.
		z, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		readAll(z.EncodeAll(data, nil))
	})
}

func TestParsePast(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	for in, want := range map[string]time.Time{
		"2026-01-31T10:00:00": time.Date(2026, 1, 31, 10, 0, 0, 0, time.Local), "2026-01-31 10:00": time.Date(2026, 1, 31, 10, 0, 0, 0, time.Local),
		"2026-01-31": time.Date(2026, 1, 31, 0, 0, 0, 0, time.Local), "2h": now.Add(-2 * time.Hour),
		"2026-01-31T10:00:00Z": time.Date(2026, 1, 31, 10, 0, 0, 0, time.UTC),
	} {
		if at, snapshot := ParsePast(in, now); at == nil || !at.Equal(want) || snapshot != "" {
			t.Errorf("ParsePast(%q) = %v, %q; want %v", in, at, snapshot, want)
		}
	}
	if at, snapshot := ParsePast("before-upgrade", now); at != nil || snapshot != "before-upgrade" {
		t.Errorf("a snapshot's name: %v, %q", at, snapshot)
	}
}
