package file

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/massif-fs/massif/object"
	"golang.org/x/sys/unix"
)

// pieces is a body in pieces.
type pieces struct {
	*bytes.Reader
	list [][]byte
}

func (p *pieces) Pieces(fn func([][]byte) error) error {
	if err := fn(p.list); err != nil {
		return err
	}
	_, err := p.Seek(0, io.SeekEnd)
	return err
}

// cut makes a body of size bytes of pieces that begin at page borders of memory
// and have the given lengths, one after the other; with shift they begin behind
// the border.
func cut(rng *rand.Rand, size int, shift int, lengths ...int) *pieces {
	var list [][]byte
	var all []byte
	for i := 0; len(all) < size; i++ {
		n := min(lengths[i%len(lengths)], size-len(all))
		room := make([]byte, n+3*directAlign)
		p := align(room)[shift : shift+n : shift+n]
		for j := range p {
			p[j] = byte(rng.Uint32())
		}
		list, all = append(list, p), append(all, p...)
	}
	return &pieces{bytes.NewReader(all), list}
}

// TestDirect puts large bodies whose pieces are aligned, or not, or only at first,
// with direct I/O and with file systems that refuse it.
func TestDirect(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, refused := range []bool{false, true} {
		s, err := Open(t.TempDir(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if !s.direct.Load() {
			t.Log("this file system takes no direct I/O: only the fall-back is tested")
		}
		for i, body := range []*pieces{
			cut(rng, 4<<20, 0, 1<<20),
			cut(rng, 4<<20+12<<10, 0, 12<<10, 1<<20),
			cut(rng, 2<<20+1, 0, 1<<20),
			cut(rng, 1<<20, 0, 1<<20-1, 1),
			cut(rng, 3<<20+777, 0, 64<<10, 100, 8<<10),
			cut(rng, 2<<20+9, 0, 1000),
			cut(rng, 2<<20, 1, 1<<20),
			cut(rng, 1<<20+4096, 512, 4096),
			cut(rng, 5<<20, 0, directAlign), // more than one call takes
			cut(rng, 1<<20, 0, 600<<10+13),
		} {
			if refused {
				s.direct.Store(true) // whatever the file system says of itself
			}
			key := fmt.Sprintf("body/%d", i)
			info, err := s.Put(context.Background(), key, body, int64(body.Len()), nil)
			if err != nil {
				t.Fatalf("body %d: %v", i, err)
			}
			want := bytes.Join(body.list, nil)
			if info.Size != int64(len(want)) {
				t.Errorf("body %d: size %d, want %d", i, info.Size, len(want))
			}
			got := make([]byte, len(want))
			n, err := s.ReadRange(context.Background(), key, got, 0)
			if err != nil {
				t.Errorf("body %d: %v", i, err)
			}
			if !bytes.Equal(got[:n], want) {
				t.Errorf("body %d: other bytes came back", i)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestDirectRefused writes misaligned memory with direct I/O, which the kernel
// refuses: the body goes on without.
func TestDirectRefused(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !s.direct.Load() {
		t.Skip("the file system of the temporary directory takes no direct I/O")
	}
	d, err := s.dirs.acquire(filepath.Dir("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.dirs.release(d)
	w, err := s.newTemp(d)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if err := w.setDirect(true); err != nil {
		t.Fatal(err)
	}
	body := cut(rand.New(rand.NewPCG(2, 2)), 10_000, 0, 4096, 1000)
	if err := w.writeAll(body.list); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 10_000)
	if _, err := unix.Pread(w.fd, got, 0); err != nil || !bytes.Equal(got, bytes.Join(body.list, nil)) {
		t.Errorf("other bytes came back (%v)", err)
	}
	if w.direct || s.direct.Load() {
		t.Error("direct I/O goes on after the kernel refused it")
	}
}

var _ object.PiecesBody = (*pieces)(nil)

// align returns the part of room that begins at a page.
func align(room []byte) []byte {
	off := int(uintptr(unsafe.Pointer(unsafe.SliceData(room))) % directAlign)
	return room[(directAlign-off)%directAlign:]
}
