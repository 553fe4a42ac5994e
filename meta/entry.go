package meta

import (
	"encoding/binary"

	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/vfs"
)

// entry is a name in a directory: the value of `n`, and with the name of `e`.
type entry struct {
	ino    vfs.Ino
	kind   uint32 // type bits (S_IFMT) of the inode
	cookie uint64
}

func (e entry) encodeName(dst []byte) []byte {
	dst = append(dst, recordVersion)
	dst = binary.AppendUvarint(dst, uint64(e.ino))
	dst = append(dst, byte(e.kind>>12))
	return binary.AppendUvarint(dst, e.cookie)
}

func decodeName(b []byte) (e entry, err error) {
	d := newDecoder(b)
	e.ino = d.ino()
	e.kind = d.kind()
	e.cookie = d.uint64()
	return e, d.finish("name")
}

func (e entry) encodeEntry(dst []byte, name string) []byte {
	dst = append(dst, recordVersion)
	dst = binary.AppendUvarint(dst, uint64(e.ino))
	dst = append(dst, byte(e.kind>>12))
	return append(dst, name...)
}

// decodeEntry leaves the cookie, which is in the key, 0. The name is a part of b.
func decodeEntry(b []byte) (e entry, name []byte, err error) {
	d := newDecoder(b)
	e.ino = d.ino()
	e.kind = d.kind()
	name = d.rest()
	if len(name) == 0 || len(name) > seal.MaxText {
		d.bad = true
	}
	return e, name, d.finish("entry")
}

// kind reads type bits, kept in one byte.
func (d *decoder) kind() uint32 {
	if len(d.b) == 0 || d.b[0] > 15 {
		d.b, d.bad = nil, true
		return 0
	}
	v := uint32(d.b[0]) << 12
	d.b = d.b[1:]
	return v
}
