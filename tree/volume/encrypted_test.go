package volume

import (
	"bytes"
	"io"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/vfs"
)

// testKey is the key of the encrypted volumes of tests, testRecord its record: made
// once, because Argon2id takes its time.
var testRecord, testKey = func() (*seal.Record, *seal.Key) {
	r, k, _, err := seal.Create(seal.Passphrase("correct horse battery"))
	if err != nil {
		panic(err)
	}
	return r, k
}()

func encrypted(f *meta.Format) { f.Version, f.Seal = meta.EncryptedVersion, testRecord }

// TestEncryptedData writes all kinds of content and looks at what the store got.
func TestEncryptedData(t *testing.T) {
	w := newWorld(t, encrypted, nil)
	text := bytes.Repeat([]byte("SECRET text that compresses "), 30_000)
	noise := random(rand.New(rand.NewPCG(9, 9)), 600<<10)
	inos := map[vfs.Ino][]byte{}
	for name, data := range map[string][]byte{"text": text, "noise": noise, "small": text[:100], "medium": text[:20_000]} {
		f, ino := w.create(name)
		mustWrite(t, f, data, 0)
		inos[ino] = data
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.fs.Sync(bg); err != nil {
		t.Fatal(err)
	}
	w.reopen()
	for ino, data := range inos {
		if got := w.read(ino); !bytes.Equal(got, data) {
			t.Errorf("%d bytes read back wrong", len(data))
		}
	}
	page, err := w.store.List(bg, object.ListOptions{})
	if err != nil || len(page.Objects) < 3 {
		t.Fatalf("%d objects, %v", len(page.Objects), err)
	}
	var stored []string
	for _, o := range page.Objects {
		body := getObject(t, w.store, o.Key)
		for _, plain := range [][]byte{[]byte("SECRET"), noise[1000:1016], noise[300_000:300_016]} {
			if bytes.Contains(body, plain) {
				t.Errorf("object %s has plain text", o.Key)
			}
		}
		stored = append(stored, o.Key)
	}

	// Blocks exchanged in the store are EIO, not other content.
	a, b := getObject(t, w.store, stored[0]), getObject(t, w.store, stored[1])
	putObject(t, w.store, stored[0], b)
	putObject(t, w.store, stored[1], a)
	w.reopen()
	failed := 0
	for ino, data := range inos {
		f, err := w.fs.Open(bg, root, ino, syscall.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(data))
		for at := 0; at < len(got); at += 64 << 10 {
			n, err := f.ReadAt(bg, got[at:min(at+64<<10, len(got))], int64(at))
			switch {
			case err != nil:
				failed++
				if vfs.ErrnoOf(err) != syscall.EIO {
					t.Errorf("reading an exchanged block: %v", err)
				}
			case !bytes.Equal(got[at:at+n], data[at:at+n]):
				t.Error("an exchanged block was read")
			}
		}
		f.Close()
	}
	if failed == 0 {
		t.Error("nothing failed")
	}
}

func getObject(t *testing.T, s object.Store, key string) []byte {
	t.Helper()
	r, _, err := s.Get(bg, key, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func putObject(t *testing.T, s object.Store, key string, data []byte) {
	t.Helper()
	if _, err := s.Put(bg, key, bytes.NewReader(data), int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
}
