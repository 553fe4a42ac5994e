package mount

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/meta"
)

// A dump is a copy of a volume's metadata database in one file, of one moment. It
// is a zstd stream of
//
//	"MASSIFDP" and a version byte, 1
//	uvarint length, header (JSON: DumpHeader)
//	for each record in order of keys: uvarint length of the key (at least 1), key, uvarint length of the value, value
//	uvarint 0, uvarint number of records, XXH3 of all that came before (8 bytes, little-endian)
//
// It holds the names of files and small files whole, so it is as private as the
// volume. Blocks are not in it: they are immutable, and a dump stays good as long as
// the store keeps the blocks that it names, that is, until gc after the volume's
// retention.

const (
	dumpMagic     = "MASSIFDP"
	dumpVersion   = 1
	maxDumpHeader = 1 << 20
)

// DumpHeader describes a dump.
type DumpHeader struct {
	Time   time.Time   `json:"time"`
	Format meta.Format `json:"format"`
}

// errDump is wrapped by the errors of a file that is no dump, or a damaged one.
var errDump = errors.New("not a dump of a volume, or a damaged one")

type dumpArgs struct {
	File string `json:"file"`
}

// DumpResult tells what a dump holds.
type DumpResult struct {
	Records int64 `json:"records"`
	Bytes   int64 `json:"bytes"` // of the file
}

func init() {
	registerOp("dump", func(ctx context.Context, v *Volume, a dumpArgs, progress func(any)) (any, error) {
		if !filepath.IsAbs(a.File) {
			return nil, fmt.Errorf("dump %s: write an absolute path", a.File)
		}
		if v.point != "" && within(a.File, v.point) {
			return nil, fmt.Errorf("dump %s: it lies on the mount itself", a.File)
		}
		if err := v.sync(ctx); err != nil {
			return nil, fmt.Errorf("dump: what is written cannot be stored: %w", err)
		}
		return v.dump(ctx, a.File, progress)
	})
}

// dump writes a dump to a file, which is there whole or not at all.
func (v *Volume) dump(ctx context.Context, file string, progress func(any)) (r DumpResult, err error) {
	temp := file + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return r, fmt.Errorf("dump: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			err = errors.Join(fmt.Errorf("dump: %w", err), os.Remove(temp))
		}
	}()
	buffered := bufio.NewWriterSize(f, 1<<20)
	header := DumpHeader{Time: time.Now().UTC(), Format: v.Engine.Settings()}
	if r.Records, err = writeDump(ctx, buffered, v.DB, header, progress); err != nil {
		return r, err
	}
	if err := errors.Join(buffered.Flush(), f.Sync()); err != nil {
		return r, err
	}
	info, err := f.Stat()
	if err != nil {
		return r, err
	}
	r.Bytes = info.Size()
	if err := f.Close(); err != nil {
		return r, err
	}
	if err := os.Rename(temp, file); err != nil {
		return r, err
	}
	return r, syncDir(filepath.Dir(file))
}

// writeDump writes one state of a database.
func writeDump(ctx context.Context, to io.Writer, db kv.DB, header DumpHeader, progress func(any)) (records int64, err error) {
	z, err := zstd.NewWriter(to, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return 0, err
	}
	hash := xxh3.New()
	w := bufio.NewWriterSize(io.MultiWriter(z, hash), 256<<10) // its first error stays
	text, err := json.Marshal(header)
	if err != nil {
		return 0, err
	}
	w.WriteString(dumpMagic)
	w.WriteByte(dumpVersion)
	writeBytes(w, text)
	err = db.View(ctx, func(r kv.Reader) error {
		return r.Scan([]byte{0}, nil, func(key, value []byte) (bool, error) {
			if records++; records%10_000 == 0 {
				if ctx.Err() != nil {
					return false, ctx.Err()
				}
				progress(Progress{Stage: "dump", Unit: "records", Done: records})
			}
			writeBytes(w, key)
			return true, writeBytes(w, value)
		})
	})
	if err != nil {
		return records, errors.Join(err, z.Close())
	}
	w.Write(binary.AppendUvarint(nil, 0))
	w.Write(binary.AppendUvarint(nil, uint64(records)))
	if err := w.Flush(); err != nil {
		return records, errors.Join(err, z.Close())
	}
	_, err = z.Write(binary.LittleEndian.AppendUint64(nil, hash.Sum64()))
	return records, errors.Join(err, z.Close())
}

func writeBytes(w *bufio.Writer, p []byte) error {
	var b [binary.MaxVarintLen64]byte
	w.Write(b[:binary.PutUvarint(b[:], uint64(len(p)))])
	_, err := w.Write(p)
	return err
}

// dumpReader reads a dump.
type dumpReader struct {
	DumpHeader
	z    *zstd.Decoder
	r    *bufio.Reader
	hash *xxh3.Hasher
	last []byte // key read last
	n    uint64
}

// openDump reads the beginning of a dump.
func openDump(from io.Reader) (*dumpReader, error) {
	z, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDump, err)
	}
	d := &dumpReader{z: z, r: bufio.NewReaderSize(z, 256<<10), hash: xxh3.New()}
	magic := make([]byte, len(dumpMagic)+1)
	if err := d.full(magic); err != nil {
		z.Close()
		return nil, err
	}
	if string(magic[:len(dumpMagic)]) != dumpMagic {
		z.Close()
		return nil, errDump
	}
	if v := magic[len(dumpMagic)]; v != dumpVersion {
		z.Close()
		return nil, fmt.Errorf("dump version %d is not known to this program", v)
	}
	text, err := d.bytes(maxDumpHeader)
	if err == nil {
		if jerr := json.Unmarshal(text, &d.DumpHeader); jerr != nil {
			err = fmt.Errorf("%w: header: %w", errDump, jerr)
		} else if verr := d.Format.Validate(); verr != nil {
			err = fmt.Errorf("%w: %w", errDump, verr)
		}
	}
	if err != nil {
		z.Close()
		return nil, err
	}
	return d, nil
}

func (d *dumpReader) close() { d.z.Close() }

// next returns the next record, or io.EOF at the end of a dump that is whole.
func (d *dumpReader) next() (key, value []byte, err error) {
	n, err := d.uvarint()
	if err != nil {
		return nil, nil, err
	}
	if n == 0 {
		return nil, nil, d.end()
	}
	if n > kv.MaxKey {
		return nil, nil, fmt.Errorf("%w: a key of %d bytes", errDump, n)
	}
	key = make([]byte, n)
	if err := d.full(key); err != nil {
		return nil, nil, err
	}
	if d.n > 0 && string(key) <= string(d.last) {
		return nil, nil, fmt.Errorf("%w: keys are not in order", errDump)
	}
	if value, err = d.bytes(kv.MaxValue); err != nil {
		return nil, nil, err
	}
	d.last = key
	d.n++
	return key, value, nil
}

// end checks count and checksum, and that nothing follows.
func (d *dumpReader) end() error {
	n, err := d.uvarint()
	if err != nil {
		return err
	}
	if n != d.n {
		return fmt.Errorf("%w: %d records instead of %d", errDump, d.n, n)
	}
	want := d.hash.Sum64()
	var sum [8]byte
	if _, err := io.ReadFull(d.r, sum[:]); err != nil {
		return d.broken(err)
	}
	if binary.LittleEndian.Uint64(sum[:]) != want {
		return fmt.Errorf("%w: the checksum does not fit", errDump)
	}
	if _, err := d.r.ReadByte(); err != io.EOF {
		return fmt.Errorf("%w: something follows its end", errDump)
	}
	return io.EOF
}

func (d *dumpReader) bytes(most uint64) ([]byte, error) {
	n, err := d.uvarint()
	if err != nil {
		return nil, err
	}
	if n > most {
		return nil, fmt.Errorf("%w: a length of %d", errDump, n)
	}
	p := make([]byte, n)
	return p, d.full(p)
}

func (d *dumpReader) full(p []byte) error {
	if _, err := io.ReadFull(d.r, p); err != nil {
		return d.broken(err)
	}
	d.hash.Write(p)
	return nil
}

func (d *dumpReader) uvarint() (uint64, error) {
	n, err := binary.ReadUvarint(hashingBytes{d})
	if err != nil {
		return 0, d.broken(err)
	}
	return n, nil
}

func (d *dumpReader) broken(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", errDump, err)
}

// hashingBytes reads bytes into the checksum.
type hashingBytes struct{ d *dumpReader }

func (h hashingBytes) ReadByte() (byte, error) {
	b, err := h.d.r.ReadByte()
	if err == nil {
		h.d.hash.Write([]byte{b})
	}
	return b, err
}
