package block

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/zeebo/xxh3"
)

// The layout of an object is described in doc/block-format.md.
const (
	magic      = "MASSIFBK"
	version    = 1
	fixedBytes = 48 // the header before the frame table
	sumBytes   = 8

	// MaxSize is the number of plain bytes that a block can hold.
	MaxSize = 64 << 20

	defaultFrameShift = 16 // 64 KiB
	minFrameShift     = 12 // 4 KiB
	maxFrameShift     = 20 // 1 MiB
	unitShift         = 12 // 4 KiB
	unitSize          = 1 << unitShift

	// alignFrom is the plain size from which the header fills whole pages, so that
	// raw frames lie page-aligned in the object.
	alignFrom = 128 << 10

	rawFlag = 1 << 31
)

// What an index in a sum stands for, besides units and frames.
const headerSum = 1<<64 - 1

var errDamaged = errors.New("data is damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errDamaged, fmt.Sprintf(format, args...))
}

// header is the parsed header of an object.
type header struct {
	id          ID
	volume      [16]byte
	size        uint32 // plain bytes
	compression Compression
	seal        uint8
	frameShift  uint8
	length      uint32 // of the header
	object      uint32 // length of the whole object
	frames      []frameInfo
	sums        []uint64
}

// frameInfo says where a frame lies.
type frameInfo struct {
	off uint32 // in the object
	len uint32 // stored bytes; with rawFlag if not compressed
	sum uint32 // index of its first sum
}

func (f frameInfo) raw() bool      { return f.len&rawFlag != 0 }
func (f frameInfo) stored() uint32 { return f.len &^ rawFlag }
func (f frameInfo) end() uint32    { return f.off + f.stored() }

func frameCount(size uint32, shift uint8) int {
	return int((uint64(size) + 1<<shift - 1) >> shift)
}

// plain is the number of plain bytes of frame i.
func (h *header) plain(i int) int {
	return int(min(uint32(1)<<h.frameShift, h.size-uint32(i)<<h.frameShift))
}

// direct tells whether frame i is stored as it is, so that each of its units can
// be read and verified alone.
func (h *header) direct(i int) bool { return h.seal == 0 && h.frames[i].raw() }

// sumCount is the number of sums of frame i.
func sumCount(plain int, direct bool) int {
	if direct {
		return (plain + unitSize - 1) >> unitShift
	}
	return 1
}

// memory is about what the parsed header takes, in bytes.
func (h *header) memory() int64 {
	return int64(128 + 12*len(h.frames) + 8*len(h.sums))
}

// headerLength is the length of a header with the given numbers of frames and sums.
func headerLength(size uint32, frames, sums int) uint32 {
	n := uint32(fixedBytes + 4*frames + sumBytes*sums + sumBytes)
	if size >= alignFrom {
		return (n + 4095) &^ 4095
	}
	return (n + 7) &^ 7
}

// maxHeaderLength is the length of the longest header that a block of size plain
// bytes can have with frames of 1<<shift bytes.
func maxHeaderLength(size uint32, shift uint8) uint32 {
	return headerLength(size, frameCount(size, shift), int((uint64(size)+unitSize-1)>>unitShift))
}

// identity gives the word that ties sum number index to its block: a sum only fits
// at the place it was made for.
func identity(volume *[16]byte, id ID, index uint64) uint64 {
	x := uint64(id)*0x9e3779b97f4a7c15 ^ bits.RotateLeft64(index*0xd6e8feb86659fd93+1, 31)
	x ^= binary.LittleEndian.Uint64(volume[:8]) ^ bits.RotateLeft64(binary.LittleEndian.Uint64(volume[8:]), 17)
	// The finalizer of splitmix64.
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func checksum(volume *[16]byte, id ID, index uint64, p []byte) uint64 {
	return xxh3.Hash(p) ^ identity(volume, id, index)
}

// appendTo encodes the header. h.length and h.object must be set.
func (h *header) appendTo(dst []byte) []byte {
	start := len(dst)
	le := binary.LittleEndian
	dst = append(dst, magic...)
	dst = append(dst, version, byte(h.compression), h.seal, h.frameShift)
	dst = le.AppendUint32(dst, h.size)
	dst = le.AppendUint64(dst, uint64(h.id))
	dst = append(dst, h.volume[:]...)
	dst = le.AppendUint32(dst, h.length)
	dst = le.AppendUint32(dst, h.object)
	for _, f := range h.frames {
		dst = le.AppendUint32(dst, f.len)
	}
	for _, s := range h.sums {
		dst = le.AppendUint64(dst, s)
	}
	for len(dst)-start < int(h.length)-sumBytes {
		dst = append(dst, 0)
	}
	return le.AppendUint64(dst, checksum(&h.volume, h.id, headerSum, dst[start:]))
}

// parseHeader reads the header at the start of p, which must be that of the block
// r of the volume. p may be longer than the header, or shorter: errShortHeader
// then says how long it is.
func parseHeader(p []byte, volume [16]byte, r Ref) (*header, error) {
	if len(p) < fixedBytes {
		return nil, damaged("object of %d bytes has no header", len(p))
	}
	le := binary.LittleEndian
	if string(p[:8]) != magic {
		return nil, damaged("object does not begin as a block")
	}
	if p[8] != version {
		return nil, fmt.Errorf("block format version %d is not known to this program, or %w", p[8], errDamaged)
	}
	h := &header{
		compression: Compression(p[9]),
		seal:        p[10],
		frameShift:  p[11],
		size:        le.Uint32(p[12:]),
		id:          ID(le.Uint64(p[16:])),
		volume:      [16]byte(p[24:40]),
		length:      le.Uint32(p[40:]),
		object:      le.Uint32(p[44:]),
	}
	switch {
	case h.id != r.ID:
		return nil, damaged("object holds block %d", h.id)
	case h.volume != volume:
		return nil, damaged("object belongs to another volume")
	case h.size != r.Size:
		return nil, damaged("object holds %d bytes, not %d", h.size, r.Size)
	case h.frameShift < minFrameShift || h.frameShift > maxFrameShift:
		return nil, damaged("frame size 2^%d", h.frameShift)
	case h.length < fixedBytes+sumBytes || h.length > maxHeaderLength(h.size, h.frameShift) || h.length > h.object:
		return nil, damaged("header length %d", h.length)
	case h.compression > Zstd:
		return nil, damaged("compression %d", h.compression)
	}
	if int(h.length) > len(p) {
		return nil, &shortHeaderError{h.length}
	}
	p = p[:h.length]
	body := p[:h.length-sumBytes]
	if le.Uint64(p[len(body):]) != checksum(&h.volume, h.id, headerSum, body) {
		return nil, damaged("header checksum does not fit")
	}

	n := frameCount(h.size, h.frameShift)
	if fixedBytes+4*n > len(body) {
		return nil, damaged("frame table is cut off")
	}
	h.frames = make([]frameInfo, n)
	off, sums := uint64(h.length), 0
	for i := range h.frames {
		f := frameInfo{off: uint32(off), len: le.Uint32(body[fixedBytes+4*i:]), sum: uint32(sums)}
		plain := h.plain(i)
		if err := h.checkFrame(f, plain); err != nil {
			return nil, err
		}
		h.frames[i] = f
		sums += sumCount(plain, h.seal == 0 && f.raw())
		if off += uint64(f.stored()); off > uint64(h.object) {
			return nil, damaged("frames reach beyond the object")
		}
	}
	if off != uint64(h.object) {
		return nil, damaged("frames end at %d, the object at %d", off, h.object)
	}
	if headerLength(h.size, n, sums) != h.length {
		return nil, damaged("header length %d does not fit its table", h.length)
	}
	h.sums = make([]uint64, sums)
	for i := range h.sums {
		h.sums[i] = le.Uint64(body[fixedBytes+4*n+sumBytes*i:])
	}
	return h, nil
}

// checkFrame tells whether a frame's stored length is possible.
func (h *header) checkFrame(f frameInfo, plain int) error {
	stored := int(f.stored())
	switch {
	case h.seal == 0 && f.raw() && stored != plain,
		h.seal == 0 && !f.raw() && (stored == 0 || stored >= plain),
		h.seal != 0 && (stored == 0 || stored > plain+maxSealOverhead),
		!f.raw() && h.compression == None:
		return damaged("stored length %d of a frame of %d bytes", f.len, plain)
	}
	return nil
}

// shortHeaderError counts as damage where the caller has no more of the object.
type shortHeaderError struct{ length uint32 }

func (e *shortHeaderError) Unwrap() error { return errDamaged }

func (e *shortHeaderError) Error() string {
	return fmt.Sprintf("header of %d bytes is cut off", e.length)
}
