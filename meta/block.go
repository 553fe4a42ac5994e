package meta

import (
	"encoding/binary"
)

// blockRecord is the value of `b`: a block that the store holds for the volume.
type blockRecord struct {
	size    uint32 // plain bytes
	refs    uint64 // extents that point into it
	live    uint64 // bytes of it that they cover, each counted
	created uint64 // stamp of the commit that brought it
	retired uint64 // stamp of the commit that took its last reference; only if refs is 0
}

func (r blockRecord) encode(dst []byte) []byte {
	dst = append(dst, recordVersion)
	dst = binary.AppendUvarint(dst, uint64(r.size))
	dst = binary.AppendUvarint(dst, r.refs)
	dst = binary.AppendUvarint(dst, r.live)
	dst = binary.AppendUvarint(dst, r.created)
	if r.refs == 0 {
		dst = binary.AppendUvarint(dst, r.retired)
	}
	return dst
}

func decodeBlock(b []byte) (r blockRecord, err error) {
	d := newDecoder(b)
	r.size, r.refs, r.live, r.created = d.uint32(), d.uint64(), d.uint64(), d.uint64()
	if r.refs == 0 {
		r.retired = d.uint64()
	}
	return r, d.finish("block")
}

// queueRecord is the value of `q`: a block to delete. Its key says since when.
type queueRecord struct {
	size    uint32
	created uint64
}

func (r queueRecord) encode(dst []byte) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(append(dst, recordVersion), uint64(r.size)), r.created)
}

func decodeQueue(b []byte) (r queueRecord, err error) {
	d := newDecoder(b)
	r.size, r.created = d.uint32(), d.uint64()
	return r, d.finish("delete queue")
}

// limitRecord is the value of `Q`: what a directory quota allows; 0: no limit.
type limitRecord struct {
	bytes, inodes uint64
}

func (r limitRecord) encode(dst []byte) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(append(dst, recordVersion), r.bytes), r.inodes)
}

func decodeLimit(b []byte) (r limitRecord, err error) {
	d := newDecoder(b)
	r.bytes, r.inodes = d.uint64(), d.uint64()
	return r, d.finish("quota")
}
