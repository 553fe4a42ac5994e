package fsx

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Op is one operation. Which of its numbers mean something depends on the kind.
type Op struct {
	N    int // its place in the run, from 1
	Kind Kind
	File int   // index of the file
	Off  int64 // bytes
	Len  int64
	Size int64 // of the file, before
	// To and ToFile are the target of a copy.
	To     int64
	ToFile int
	Flag   bool // keep-size of fallocate, msync after a mapped write, data only of a sync
}

func (o Op) String() string {
	at := fmt.Sprintf("file %d %s", o.File, o.Kind)
	span := fmt.Sprintf(" %#x..%#x (%d bytes)", o.Off, o.Off+o.Len, o.Len)
	switch o.Kind {
	case opTruncate:
		return fmt.Sprintf("%s %#x -> %#x", at, o.Size, o.Off)
	case opCopy:
		return fmt.Sprintf("%s%s to file %d %#x, size %#x", at, span, o.ToFile, o.To, o.Size)
	case opFalloc, opZero:
		if o.Flag {
			span += " keeping the size"
		}
	case opMapWrite:
		if o.Flag {
			span += " and msync"
		}
	case opSync, opDrop, opReopen, opSeek, opRemount:
		return fmt.Sprintf("%s, size %#x", at, o.Size)
	}
	return fmt.Sprintf("%s%s, size %#x", at, span, o.Size)
}

// touches tells whether the operation concerns bytes from up to to of its file, or
// the file as a whole.
func (o Op) touches(from, to int64) bool {
	switch o.Kind {
	case opTruncate:
		return min(o.Off, o.Size) < to
	case opSync, opDrop, opReopen, opSeek, opRemount, opCopy:
		return true
	}
	return o.Off < to && o.Off+o.Len > from
}

// Kind is a kind of operation.
type Kind uint8

const (
	opRead Kind = iota
	opReadVec
	opWrite
	opAppend
	opTruncate
	opMapRead
	opMapWrite
	opPunch
	opZero
	opFalloc
	opCopy
	opSeek
	opSync
	opDrop
	opReopen
	opDirectRead
	opDirectWrite
	opRemount
)

var kindNames = [...]string{"read", "readv", "write", "append", "truncate", "mapread", "mapwrite", "punch", "zero",
	"falloc", "copy", "seek", "sync", "drop", "reopen", "directread", "directwrite", "remount"}

func (k Kind) String() string { return kindNames[k] }

// needs names the probe that must have succeeded, "" if none.
func (k Kind) needs() string {
	switch k {
	case opPunch, opZero, opFalloc, opCopy, opSeek:
		return k.String()
	case opDirectRead, opDirectWrite:
		return "direct"
	}
	return ""
}

func (k Kind) mapped() bool   { return k == opMapRead || k == opMapWrite }
func (k Kind) isDirect() bool { return k == opDirectRead || k == opDirectWrite }

type weighted struct {
	kind   Kind
	weight int
}

// weights is how often kinds are drawn, relative to each other. Syncs and
// remounts are drawn apart: they cost a thousand times more.
var weights = []weighted{
	{opRead, 20}, {opReadVec, 4}, {opWrite, 20}, {opAppend, 4}, {opTruncate, 8},
	{opMapRead, 10}, {opMapWrite, 12}, {opPunch, 6}, {opZero, 4}, {opFalloc, 4},
	{opCopy, 6}, {opSeek, 2}, {opDrop, 1}, {opReopen, 1}, {opDirectRead, 8}, {opDirectWrite, 8},
}

// choose draws the next operation.
func (r *runner) choose() Op {
	op := Op{File: r.rng.IntN(len(r.files))}
	size := r.files[op.File].size()
	switch {
	case r.cfg.Remount != nil && r.rng.IntN(r.cfg.RemountEvery) == 0:
		op.Kind = opRemount
		return op
	case r.cfg.SyncEvery > 0 && r.rng.IntN(r.cfg.SyncEvery) == 0:
		op.Kind, op.Flag = opSync, r.rng.IntN(2) == 0
		return op
	}
	op.Kind = r.drawKind()
	op.Flag = r.rng.IntN(2) == 0
	switch op.Kind {
	case opRead, opReadVec, opMapRead, opDirectRead:
		r.within(&op, size)
	case opTruncate:
		op.Off = r.aligned(r.rng.Int64N(r.cfg.MaxSize + 1))
	case opPunch:
		// Often within, now and then beyond the end.
		if r.rng.IntN(8) == 0 {
			r.anywhere(&op)
		} else {
			r.within(&op, size)
		}
	case opAppend:
		op.Off = size
		op.Len = min(r.length(), r.cfg.MaxSize-size)
	case opCopy:
		r.within(&op, size)
		op.ToFile = r.rng.IntN(len(r.files))
		op.To = r.aligned(r.rng.Int64N(r.cfg.MaxSize))
		op.Len = min(op.Len, r.cfg.MaxSize-op.To)
		if op.ToFile == op.File {
			// A copy that makes its own source longer would find more to copy.
			op.Len = min(op.Len, max(size-op.Off, 0))
		}
		if op.ToFile == op.File && op.To < op.Off+op.Len && op.Off < op.To+op.Len {
			// Overlapping ranges are refused by the call: move the source's end.
			if op.To > op.Off {
				op.Len = op.To - op.Off
			} else {
				op.Len = op.Off - op.To
			}
		}
	default:
		r.anywhere(&op)
	}
	if op.Kind.isDirect() {
		const sector = 4096
		op.Off &^= sector - 1
		op.Len = min((op.Len+sector-1)&^(sector-1), r.cfg.MaxLen&^(sector-1), (r.cfg.MaxSize-op.Off)&^(sector-1))
	}
	return op
}

func (r *runner) drawKind() Kind {
	total := 0
	for _, w := range r.table {
		total += w.weight
	}
	n := r.rng.IntN(total)
	for _, w := range r.table {
		if n -= w.weight; n < 0 {
			return w.kind
		}
	}
	panic("unreachable: weights sum up to total")
}

// length draws a length: one in four is small, one in eight ends at a page.
func (r *runner) length() int64 {
	n := 1 + r.rng.Int64N(r.cfg.MaxLen)
	switch r.rng.IntN(8) {
	case 0, 1:
		n = 1 + r.rng.Int64N(min(r.cfg.MaxLen, 300))
	case 2:
		n = max(n&^4095, 1)
	}
	return max(r.aligned(n), r.cfg.Align)
}

func (r *runner) aligned(n int64) int64 { return n - n%r.cfg.Align }

// anywhere draws a range within MaxSize.
func (r *runner) anywhere(op *Op) {
	op.Off = r.aligned(r.rng.Int64N(r.cfg.MaxSize))
	if r.rng.IntN(4) == 0 {
		op.Off &^= 4095
	}
	op.Len = min(r.length(), r.cfg.MaxSize-op.Off)
}

// within draws a range that begins within the file, and mostly ends there.
func (r *runner) within(op *Op, size int64) {
	if size == 0 {
		op.Len = 1
		return
	}
	op.Off = r.aligned(r.rng.Int64N(size))
	op.Len = r.length()
	if r.rng.IntN(8) != 0 {
		op.Len = min(op.Len, size-op.Off)
	}
	op.Len = min(op.Len, r.cfg.MaxSize-op.Off)
}

// unsupported tells whether err says that the file system has no such operation.
func unsupported(err error) bool {
	switch err {
	case unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL:
		return true
	}
	return false
}

// probes are the operations that a file system may lack. EINVAL counts as lacking
// for O_DIRECT and SEEK_DATA, which older file systems refuse so.
var probes = []struct {
	name string
	try  func(f *file, dir string) error
}{
	{"punch", func(f *file, _ string) error {
		return unix.Fallocate(f.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
	}},
	{"zero", func(f *file, _ string) error {
		return unix.Fallocate(f.fd, unix.FALLOC_FL_ZERO_RANGE, 0, 4096)
	}},
	{"falloc", func(f *file, _ string) error { return unix.Fallocate(f.fd, 0, 0, 8192) }},
	{"copy", func(f *file, _ string) error {
		if err := unix.Ftruncate(f.fd, 8192); err != nil {
			return err
		}
		in, out := int64(0), int64(4096)
		_, err := unix.CopyFileRange(f.fd, &in, f.fd, &out, 4096, 0)
		return err
	}},
	{"seek", func(f *file, _ string) error {
		_, err := unix.Seek(f.fd, 0, unix.SEEK_HOLE)
		return err
	}},
	{"direct", func(f *file, _ string) error {
		if !f.direct {
			return nil
		}
		return f.openDirect()
	}},
}
