package block

import (
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Compression says how the frames of a block are compressed. The values are part
// of the format.
type Compression uint8

const (
	None Compression = 0
	LZ4  Compression = 1 // LZ4 block format
	Zstd Compression = 2 // one zstd frame (RFC 8878) for each frame
)

// ParseCompression returns the compression of that name: none, lz4, zstd.
func ParseCompression(name string) (Compression, error) {
	for c := None; c <= Zstd; c++ {
		if c.String() == name {
			return c, nil
		}
	}
	return None, fmt.Errorf("compression %q is not known (none, lz4, zstd)", name)
}

func (c Compression) String() string {
	switch c {
	case None:
		return "none"
	case LZ4:
		return "lz4"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("compression(%d)", uint8(c))
}

// worthwhile is the greatest stored length at which a compressed frame is kept: it
// must save an eighth, because a raw frame is cheaper to read in part.
func worthwhile(plain int) int { return plain - plain/8 - 1 }

var (
	lz4Pool = sync.Pool{New: func() any { return new(lz4.Compressor) }}

	// One encoder and one decoder serve all: EncodeAll and DecodeAll may be called
	// concurrently, and hold one set of tables for each call in progress.
	zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<maxFrameShift),
			zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) // only wrong options
		}
		return e
	})
	zstdDecoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(2<<maxFrameShift), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderConcurrency(0))
		if err != nil {
			panic(err)
		}
		return d
	})
)

// compress writes src compressed into dst, which has room for len(src) bytes and
// more, and returns the length, 0 if it is not worth while.
func (c Compression) compress(dst, src []byte) (int, error) {
	most := worthwhile(len(src))
	if most <= 0 {
		return 0, nil
	}
	switch c {
	case LZ4:
		z := lz4Pool.Get().(*lz4.Compressor)
		n, err := z.CompressBlock(src, dst[:most])
		lz4Pool.Put(z)
		if err == lz4.ErrInvalidSourceShortBuffer {
			return 0, nil
		}
		return n, err
	case Zstd:
		out := zstdEncoder().EncodeAll(src, dst[:0])
		if len(out) > most {
			return 0, nil
		}
		return copy(dst, out), nil // no-op where it was encoded in place
	}
	return 0, nil
}

// decompress fills dst with the plain bytes of src.
func (c Compression) decompress(dst, src []byte) error {
	switch c {
	case LZ4:
		n, err := lz4.UncompressBlock(src, dst)
		if err != nil {
			return damaged("lz4: %v", err)
		}
		if n != len(dst) {
			return damaged("lz4: frame has %d bytes, not %d", n, len(dst))
		}
		return nil
	case Zstd:
		out, err := zstdDecoder().DecodeAll(src, dst[:0:len(dst)])
		if err != nil {
			return damaged("zstd: %v", err)
		}
		if len(out) != len(dst) {
			return damaged("zstd: frame has %d bytes, not %d", len(out), len(dst))
		}
		if len(dst) > 0 && &out[0] != &dst[0] {
			copy(dst, out)
		}
		return nil
	}
	return damaged("frame is compressed with %v", c)
}
