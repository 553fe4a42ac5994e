package block

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"
)

func TestBody(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 2))
	for range 30 {
		want := content(rnd.Uint64(), 0, 1+rnd.IntN(600_000))
		parts := pieces(rnd, want)
		for i := 0; i < len(want) && len(parts) < 40; i += 3000 { // many small ones
			parts = parts[:0]
			for p := want; len(p) > 0; {
				n := min(len(p), 1+rnd.IntN(9000))
				parts = append(parts, p[:n])
				p = p[n:]
			}
		}
		b := newBody(parts)
		if b.Size() != int64(len(want)) {
			t.Fatal(b.Size())
		}
		if err := iotest.TestReader(b, want); err != nil {
			t.Fatal(err)
		}
		// What is left from any position, to a file and to another writer.
		at := rnd.Int64N(int64(len(want)))
		if _, err := b.Seek(at, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		var buf bytes.Buffer
		if n, err := b.WriteTo(&buf); err != nil || n != b.Size()-at || !bytes.Equal(buf.Bytes(), want[at:]) {
			t.Fatal(n, err)
		}
		if _, err := b.Seek(at, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := b.WriteTo(f); err != nil || n != b.Size()-at {
			t.Fatal(n, err)
		}
		f.Close()
		if !bytes.Equal(readFile(t, f.Name()), want[at:]) {
			t.Fatal("wrong bytes")
		}
		if _, err := b.Seek(at, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		refuse := errors.New("not now")
		if err := b.Pieces(func([][]byte) error { return refuse }); err != refuse || int64(b.Len()) != b.Size()-at {
			t.Fatal(err, b.Len())
		}
		if err := b.Pieces(func(p [][]byte) error {
			if !bytes.Equal(bytes.Join(p, nil), want[at:]) {
				t.Error("wrong pieces")
			}
			return nil
		}); err != nil || b.Len() != 0 {
			t.Fatal(err, b.Len())
		}
		b.close()
		if err := b.Pieces(func([][]byte) error { return nil }); err == nil {
			t.Error("a closed body shows its pieces")
		}
		if _, err := b.Seek(0, io.SeekStart); err == nil {
			t.Error("a closed body can be read")
		}
		if n, err := b.Read(make([]byte, 1)); n > 0 || err == nil || err == io.EOF {
			t.Error("a closed body can be read")
		}
	}
}
