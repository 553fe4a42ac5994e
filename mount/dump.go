package mount

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/massif-fs/massif/meta"
)

// A dump file is a dump of the metadata engine (meta.Engine.Dump: text, one JSON
// object a line), compressed with zstd. It holds the names of files and small files
// whole, so it is as private as the volume. Blocks are not in it: they are
// immutable, and a dump stays good as long as the store keeps the blocks that it
// names.

// errDump is wrapped by the errors of a file that is no dump, or a damaged one.
var errDump = errors.New("not a dump of a volume, or a damaged one")

// maxDumpHeader bounds the first line of a dump, in bytes.
const maxDumpHeader = 1 << 20

type dumpArgs struct {
	File string `json:"file"`
}

// DumpResult tells what a dump holds.
type DumpResult struct {
	meta.DumpStats
	Bytes int64 `json:"bytes"` // of the file
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
		release, err := v.FS.HoldPending(ctx) // a dump has no data
		if err != nil {
			return nil, fmt.Errorf("dump: what is written cannot be stored: %w", err)
		}
		defer release()
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
	z, err := zstd.NewWriter(f, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return r, err
	}
	o := meta.DumpOptions{History: true, Progress: func(s meta.DumpStats) {
		progress(Progress{Stage: "dump", Unit: "records", Done: dumpRecords(s)})
	}}
	if r.DumpStats, err = v.Engine.Dump(ctx, z, o); err != nil {
		return r, errors.Join(err, z.Close())
	}
	if err := errors.Join(z.Close(), f.Sync()); err != nil {
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

func dumpRecords(s meta.DumpStats) int64 {
	return s.Blocks + s.Inodes + s.Xattrs + s.Chunks + s.Names + s.Quotas + s.Snapshots + s.History
}

// dumpReader reads a dump file as what the engine loads.
type dumpReader struct {
	io.Reader
	z      *zstd.Decoder
	Time   time.Time
	Format meta.Format
}

// keyID names the key that the dumped volume is encrypted with; empty: it is not.
func (d *dumpReader) keyID() string {
	if d.Format.Seal == nil {
		return ""
	}
	return d.Format.Seal.KeyID
}

// openDump begins to read a dump file and finds out whose it is.
func openDump(from io.Reader) (*dumpReader, error) {
	z, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDump, err)
	}
	r := bufio.NewReaderSize(z, maxDumpHeader)
	d := &dumpReader{Reader: &dumpErrors{r}, z: z}
	line, err := peekLine(r)
	if err == nil {
		err = d.readHeader(line)
	}
	if err != nil {
		z.Close()
		return nil, fmt.Errorf("%w: %w", errDump, err)
	}
	return d, nil
}

func (d *dumpReader) close() { d.z.Close() }

func (d *dumpReader) readHeader(line []byte) error {
	var head struct {
		Massif *struct {
			Time   time.Time   `json:"time"`
			Format meta.Format `json:"format"`
		} `json:"massif"`
	}
	if err := json.Unmarshal(line, &head); err != nil {
		return err
	}
	if head.Massif == nil {
		return errors.New("its first line is no header")
	}
	d.Time, d.Format = head.Massif.Time, head.Massif.Format
	return d.Format.Validate()
}

// peekLine returns the first line without taking it.
func peekLine(r *bufio.Reader) ([]byte, error) {
	for n := 4096; ; n *= 2 {
		p, err := r.Peek(min(n, maxDumpHeader))
		if i := bytes.IndexByte(p, '\n'); i >= 0 {
			return p[:i], nil
		}
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if n >= maxDumpHeader {
			return nil, errors.New("its first line is too long")
		}
	}
}

// dumpErrors says of errors of the compression that the dump is damaged.
type dumpErrors struct{ r io.Reader }

func (e *dumpErrors) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", errDump, err)
	}
	return n, err
}
