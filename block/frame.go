package block

import (
	"fmt"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// decoder turns stored frames back into plain bytes.
type decoder struct {
	sealer Sealer
	enc    *encoder // for its scratch memory
}

// verify checks the stored bytes of frame i.
func (h *header) verify(i int, stored []byte) error {
	f := h.frames[i]
	if h.direct(i) {
		return h.verifyUnits(uint64(i)<<(h.frameShift-unitShift), f.sum, stored)
	}
	if checksum(&h.volume, h.id, frameIndex(i), stored) != h.sums[f.sum] {
		return damaged("checksum of frame %d does not fit", i)
	}
	return nil
}

// verifyUnits checks whole units (and the last, short one of the block), the first
// of which has the given number in the block and the given index in the sums.
func (h *header) verifyUnits(unit uint64, sum uint32, p []byte) error {
	for len(p) > 0 {
		n := min(unitSize, len(p))
		if checksum(&h.volume, h.id, unit, p[:n]) != h.sums[sum] {
			return damaged("checksum of unit %d does not fit", unit)
		}
		p = p[n:]
		unit++
		sum++
	}
	return nil
}

// canOpen tells whether frames of h can be opened, or are not sealed.
func (d *decoder) canOpen(h *header) bool {
	return h.seal == 0 || d.sealer != nil && d.sealer.ID() == h.seal
}

// decode verifies the stored bytes of frame i and fills dst with its plain bytes.
func (d *decoder) decode(h *header, i int, dst, stored []byte) error {
	if err := h.verify(i, stored); err != nil {
		return err
	}
	raw := h.frames[i].raw()
	if h.seal == 0 {
		if raw {
			copy(dst, stored)
			return nil
		}
		return h.compression.decompress(dst, stored)
	}
	if !d.canOpen(h) {
		return vfs.WithErrno(syscall.ENOKEY, fmt.Errorf("block is sealed in way %d and the key for that is not here", h.seal))
	}
	var aad [64]byte
	bound := h.aad(aad[:0], i, raw)
	if raw {
		out, err := d.sealer.Open(dst[:0:len(dst)], stored, bound)
		if err != nil {
			return damaged("frame %d cannot be opened: %v", i, err)
		}
		if len(out) != len(dst) {
			return damaged("frame %d has %d bytes, not %d", i, len(out), len(dst))
		}
		if &out[0] != &dst[0] {
			copy(dst, out)
		}
		return nil
	}
	s := d.enc.scratch.Get().(*scratch)
	defer d.enc.scratch.Put(s)
	out, err := d.sealer.Open(s.out[:0], stored, bound)
	if err != nil {
		return damaged("frame %d cannot be opened: %v", i, err)
	}
	return h.compression.decompress(dst, out)
}
