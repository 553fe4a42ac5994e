package mount

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/meta"
)

// testDump is a dump of a volume that has nothing but its root.
func testDump(t testing.TB) []byte {
	t.Helper()
	ctx := context.Background()
	db := mem.New()
	defer db.Close()
	format := meta.Format{Name: "v", UUID: newUUID(), ChunkSize: meta.DefaultChunkSize, Compression: "lz4", Store: "file:///x"}
	if err := meta.Create(ctx, db, format); err != nil {
		t.Fatal(err)
	}
	engine, err := meta.Open(ctx, db, meta.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := engine.Dump(ctx, z, meta.DumpOptions{History: true}); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// load reads a dump file into an empty database.
func load(data []byte) (*dumpReader, error) {
	d, err := openDump(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	defer d.close()
	db := mem.New()
	defer db.Close()
	_, err = meta.Load(context.Background(), db, d, meta.LoadOptions{})
	return d, err
}

func TestDump(t *testing.T) {
	whole := testDump(t)
	d, err := load(whole)
	if err != nil || d.Format.Name != "v" || d.Format.Store != "file:///x" || time.Since(d.Time) > time.Hour {
		t.Errorf("%+v, %v", d, err)
	}
	for n := range len(whole) {
		if _, err := load(whole[:n]); err == nil {
			t.Fatalf("a dump cut off at %d of %d loads", n, len(whole))
		}
	}
	for i := range whole {
		changed := bytes.Clone(whole)
		changed[i] ^= 1
		// A flag bit of the compression may mean nothing; then all must be the same.
		if d, err := load(changed); err == nil && d.Format.UUID == "" {
			t.Errorf("a change at byte %d goes unnoticed", i)
		}
	}
	if _, err := load([]byte("something else")); !errors.Is(err, errDump) {
		t.Errorf("something else: %v", err)
	}
	pack, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "\n", "{}\n", `{"massif": {}}` + "\n", string(bytes.Repeat([]byte{'x'}, 2*maxDumpHeader))} {
		if _, err := load(pack.EncodeAll([]byte(text), nil)); !errors.Is(err, errDump) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

func FuzzDump(f *testing.F) {
	whole := testDump(f)
	f.Add(whole)
	z, err := zstd.NewReader(bytes.NewReader(whole))
	if err != nil {
		f.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	z.Close()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Fuzz(func(t *testing.T, data []byte) {
		load(data)
		z, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		load(z.EncodeAll(data, nil)) // as the content of a well-formed stream
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
