package meta

import (
	"encoding/binary"
	"fmt"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// recordVersion is the first byte of each binary record.
const recordVersion = 1

// decoder reads a record's varints. After the first value that is not there or
// out of bounds every value is 0 and finish returns an error, so that callers check
// once.
type decoder struct {
	b   []byte
	bad bool
}

func newDecoder(b []byte) decoder {
	if len(b) == 0 || b[0] != recordVersion {
		return decoder{bad: true}
	}
	return decoder{b: b[1:]}
}

func (d *decoder) uint64() uint64 {
	if len(d.b) > 0 && d.b[0] < 0x80 { // most are small
		v := d.b[0]
		d.b = d.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.b, d.bad = nil, true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint32() uint32 {
	v := d.uint64()
	if v > 1<<32-1 {
		d.b, d.bad = nil, true
		return 0
	}
	return uint32(v)
}

func (d *decoder) int64() int64 {
	v := d.uint64()
	return int64(v>>1) ^ -int64(v&1)
}

func (d *decoder) ino() vfs.Ino {
	v := d.uint64()
	if v > uint64(vfs.MaxIno) {
		d.b, d.bad = nil, true
		return 0
	}
	return vfs.Ino(v)
}

func (d *decoder) time() vfs.Time {
	t := vfs.Time{Sec: d.int64(), Nsec: d.uint32()}
	if t.Nsec > 999_999_999 {
		d.b, d.bad = nil, true
	}
	return t
}

// rest returns what is left of the record, as its last field.
func (d *decoder) rest() []byte {
	b := d.b
	d.b = nil
	return b
}

// finish returns an error if the record was damaged or has bytes left over.
func (d *decoder) finish(what string) error {
	if d.bad || len(d.b) != 0 {
		return fmt.Errorf("%s record is unreadable: %w", what, kv.ErrCorrupt)
	}
	return nil
}

func appendInt64(dst []byte, v int64) []byte {
	return binary.AppendUvarint(dst, uint64(v)<<1^uint64(v>>63))
}

func appendTime(dst []byte, t vfs.Time) []byte {
	return binary.AppendUvarint(appendInt64(dst, t.Sec), uint64(t.Nsec))
}

// corrupt is the error of records that contradict each other.
func corrupt(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, kv.ErrCorrupt)...)
}

func missing(ino vfs.Ino, name string) error {
	return corrupt("inode %d, which %q means, does not exist", ino, name)
}
