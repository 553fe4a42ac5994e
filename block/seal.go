package block

import "encoding/binary"

// Sealer encrypts and authenticates frames. Methods may be called concurrently.
type Sealer interface {
	// Overhead is by how many bytes a sealed frame is longer, at most 64.
	Overhead() int
	// Seal appends the sealed plain to dst, bound to aad. It chooses the nonce.
	Seal(dst, plain, aad []byte) []byte
	// Open appends the plain bytes to dst. An error means that sealed or aad is
	// not what Seal made.
	Open(dst, sealed, aad []byte) ([]byte, error)
	// ID names the way of sealing in the header of a block; 0 stands for none.
	ID() uint8
}

const maxSealOverhead = 64

// parse reads the header of block r. Where blocks are sealed, one that is not was
// not written by whoever has the key: its checksums are ones that everybody can make.
func (s *Store) parse(p []byte, r Ref) (*header, error) {
	h, err := parseHeader(p, s.volume, r)
	if err == nil && s.sealer != nil && h.seal == 0 {
		return nil, damaged("block is not sealed, as all of an encrypted volume are")
	}
	return h, err
}

// aad is what a sealed frame is bound to: nothing of a block can be moved, cut or
// relabelled without Open noticing.
func (h *header) aad(dst []byte, frame int, raw bool) []byte {
	le := binary.LittleEndian
	dst = append(dst, magic...)
	dst = append(dst, version, h.seal, h.frameShift)
	how := byte(h.compression)
	if raw {
		how = 0
	}
	dst = append(dst, how)
	dst = append(dst, h.volume[:]...)
	dst = le.AppendUint64(dst, uint64(h.id))
	dst = le.AppendUint32(dst, h.size)
	return le.AppendUint32(dst, uint32(frame))
}
