package block

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/vfs"
)

// TestTamperedSealedBlocks plays an attacker who can write to the store and knows the
// format, so that all checksums fit, but not the key.
func TestTamperedSealedBlocks(t *testing.T) {
	_, key, _, err := seal.Create(seal.Passphrase("correct horse battery"))
	if err != nil {
		t.Fatal(err)
	}
	_, other, _, err := seal.Create(seal.Passphrase("another passphrase"))
	if err != nil {
		t.Fatal(err)
	}
	for _, compression := range []Compression{None, LZ4} {
		t.Run(compression.String(), func(t *testing.T) {
			ctx := t.Context()
			objects := mem.New()
			defer objects.Close()
			sealed := func(s Sealer) func(*Config) { return func(c *Config) { c.Sealer, c.Compression = s, compression } }
			s := open(t, objects, sealed(key.Blocks()))
			defer s.shut(t)
			const size = 300_000
			var want [3][]byte
			for i := range want {
				want[i] = bytes.Repeat([]byte(fmt.Sprintf("SECRET %d ", i)), size/9+1)[:size]
				if err := s.Put(ctx, ID(i+1), want[i]); err != nil {
					t.Fatal(err)
				}
				if bytes.Contains(rawGet(t, objects, s.key(ID(i+1))), []byte("SECRET")) {
					t.Error("a sealed block has plain text")
				}
			}
			read := func(what string, id ID, want syscall.Errno) {
				t.Helper()
				if err := s.DropCaches(); err != nil {
					t.Fatal(err)
				}
				for _, at := range []uint32{0, 70_000, size - 4096} {
					err := s.ReadAt(ctx, Ref{id, size}, make([]byte, 4096), at)
					if vfs.ErrnoOf(err) != want {
						t.Errorf("%s: read at %d: %v, want %v", what, at, err, want)
					}
				}
			}
			read("untouched", 1, 0)
			good := rawGet(t, objects, s.key(1))
			relabel := func(p []byte, change func(h *header, frames [][]byte)) []byte {
				t.Helper()
				h, err := parseHeader(p, s.volume, Ref{1, size})
				if errors.Is(err, errDamaged) { // another block's
					h, err = parseHeader(p, s.volume, Ref{2, size})
				}
				if err != nil {
					t.Fatal(err)
				}
				var frames [][]byte
				for _, f := range h.frames {
					frames = append(frames, bytes.Clone(p[f.off:f.end()]))
				}
				change(h, frames)
				var body []byte
				for i, f := range frames {
					raw := h.frames[i].len & rawFlag
					h.frames[i].len = uint32(len(f)) | raw
					h.sums[i] = checksum(&h.volume, h.id, frameIndex(i), f)
					body = append(body, f...)
				}
				h.object = h.length + uint32(len(body))
				return append(h.appendTo(nil), body...)
			}
			put := func(what string, p []byte) {
				t.Helper()
				rawPut(t, objects, s.key(1), p)
				read(what, 1, syscall.EIO)
			}
			put("a changed bit in every frame", relabel(good, func(_ *header, frames [][]byte) {
				for _, f := range frames {
					f[30] ^= 1
				}
			}))
			put("another block under this number", relabel(rawGet(t, objects, s.key(2)), func(h *header, _ [][]byte) { h.id = 1 }))
			put("frames in another order", relabel(good, func(_ *header, frames [][]byte) {
				for i := range 2 {
					frames[i], frames[i+1] = frames[i+1], frames[i]
				}
				frames[4], frames[3] = frames[3], frames[4]
			}))

			// Plain blocks with right checksums, and blocks under another key.
			plain := open(t, objects, func(c *Config) { c.Compression = compression })
			forged := bytes.Repeat([]byte("forged "), size/7+1)[:size]
			if err := plain.Put(ctx, 1, forged); err != nil {
				t.Fatal(err)
			}
			plain.shut(t)
			read("a block that is not sealed", 1, syscall.EIO)
			if err := s.Verify(ctx, Ref{1, size}); !errors.Is(err, ErrDamaged) {
				t.Errorf("Verify of a block that is not sealed: %v", err)
			}
			strange := open(t, objects, sealed(other.Blocks()))
			if err := strange.Put(ctx, 1, forged); err != nil {
				t.Fatal(err)
			}
			strange.shut(t)
			read("a block under another key", 1, syscall.EIO)

			rawPut(t, objects, s.key(1), good)
			read("untouched", 1, 0)
			locked := open(t, objects, func(c *Config) { c.Compression = compression })
			defer locked.shut(t)
			if err := locked.ReadAt(ctx, Ref{1, size}, make([]byte, 10), 0); vfs.ErrnoOf(err) != syscall.ENOKEY {
				t.Errorf("reading without the key: %v", err)
			}
			if err := locked.Verify(ctx, Ref{1, size}); err != nil {
				t.Errorf("verifying without the key: %v", err)
			}
		})
	}
}

// BenchmarkSealed compares encoding and reading with and without a sealer, of data
// that do not compress.
func BenchmarkSealed(b *testing.B) {
	_, key, _, err := seal.Create(seal.Passphrase("correct horse battery"))
	if err != nil {
		b.Fatal(err)
	}
	const size = 4 << 20
	for _, sealed := range []bool{false, true} {
		change := func(c *Config) {
			if sealed {
				c.Sealer = key.Blocks()
			}
		}
		name := fmt.Sprintf("sealed=%t", sealed)
		b.Run("encode/"+name, func(b *testing.B) {
			s := benchStore(b, change)
			data := [][]byte{content(1, 0, size)}
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				e, err := s.enc.encode(b.Context(), 1, data)
				if err != nil {
					b.Fatal(err)
				}
				e.close()
			}
		})
		b.Run("read/"+name, func(b *testing.B) {
			s := benchStore(b, change)
			if err := s.Put(b.Context(), 1, content(1, 0, size)); err != nil {
				b.Fatal(err)
			}
			p := make([]byte, size)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				if err := s.ReadAt(b.Context(), Ref{1, size}, p, 0); err != nil {
					b.Fatal(err)
				}
				if err := s.DropCaches(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
