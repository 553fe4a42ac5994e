package block

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/massif-fs/massif/internal/crashpoint"
	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"
)

// A segment file is a header and records, each aligned to 8 bytes:
//
//	segment: magic "MASSIFST", version u32 = 1, 0 u32, volume [16], number u64, sum u64
//	record:  magic u32, kind u8, 0 [3], id u64, length u64, plain size u32, 0 u32,
//	         time i64 (ns), synced u64, sum u64; then length bytes, the object
//
// The sums are xxh3 of what precedes them in the header, made to fit only this
// volume, segment and offset. The object needs none: it verifies itself.
// synced is the length of the segment that was durable when the record was
// written: what is damaged beyond the greatest of them was never acknowledged.
const (
	segmentMagic  = "MASSIFST"
	segmentHeader = 48
	recordMagic   = 0x3152534d // "MSR1"
	recordHeader  = 56

	recordBlock  = 1
	noteUploaded = 2
	noteDeleted  = 3
	noteDamaged  = 4
)

func recordSize(length int64) int64 { return recordHeader + (length+7)&^7 }

type record struct {
	kind   byte
	id     ID
	length int64
	plain  uint32
	time   time.Time
	synced int64
}

func (g *stage) segmentSum(num uint64, off int64, p []byte) uint64 {
	return xxh3.Hash(p) ^ identity(&g.s.volume, ID(num), uint64(off)|1<<63)
}

func (g *stage) appendRecord(dst []byte, r record, num uint64, off int64) []byte {
	le := binary.LittleEndian
	start := len(dst)
	dst = le.AppendUint32(dst, recordMagic)
	dst = append(dst, r.kind, 0, 0, 0)
	dst = le.AppendUint64(dst, uint64(r.id))
	dst = le.AppendUint64(dst, uint64(r.length))
	dst = le.AppendUint32(dst, r.plain)
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint64(dst, uint64(r.time.UnixNano()))
	dst = le.AppendUint64(dst, uint64(r.synced))
	return le.AppendUint64(dst, g.segmentSum(num, off, dst[start:]))
}

func (g *stage) parseRecord(p []byte, num uint64, off int64) (record, bool) {
	le := binary.LittleEndian
	if len(p) < recordHeader || le.Uint32(p) != recordMagic || le.Uint64(p[recordHeader-8:]) != g.segmentSum(num, off, p[:recordHeader-8]) {
		return record{}, false
	}
	r := record{kind: p[4], id: ID(le.Uint64(p[8:])), length: int64(le.Uint64(p[16:])), plain: le.Uint32(p[24:]),
		time: time.Unix(0, int64(le.Uint64(p[32:]))), synced: int64(le.Uint64(p[40:]))}
	if r.length < 0 || r.length > MaxObject || r.kind < recordBlock || r.kind > noteDamaged || r.id == 0 {
		return record{}, false
	}
	return r, true
}

// committer writes and syncs what Put brings.
func (g *stage) committer() {
	defer g.wg.Done()
	for {
		select {
		case <-g.ctx.Done():
			g.mu.Lock()
			batch, notes := g.take(), g.notes
			g.notes = nil
			g.mu.Unlock()
			for _, req := range batch {
				g.fail(req, errors.New("write-back stage is closed"))
			}
			g.noteDown(notes) // lest the next process upload what was deleted
			return
		case <-g.wakeCommit:
		}
		g.mu.Lock()
		batch, notes := g.take(), g.notes
		g.notes = nil
		g.mu.Unlock()
		if len(batch) > 0 {
			g.commit(batch, notes)
		} else {
			g.noteDown(notes)
		}
	}
}

// noteDown writes notes without a batch. Without an active segment they are lost,
// which is allowed.
func (g *stage) noteDown(notes []note) {
	if len(notes) == 0 {
		return
	}
	g.mu.Lock()
	seg := g.active
	if seg != nil {
		seg.busy = true
	}
	g.mu.Unlock()
	if seg == nil {
		return
	}
	g.writeNotes(seg, notes)
	g.mu.Lock()
	seg.busy = false
	g.retire()
	g.mu.Unlock()
}

func (g *stage) take() []*stageRequest {
	batch := g.pending
	g.pending = nil
	for _, r := range batch {
		r.taken = true
	}
	return batch
}

func (g *stage) fail(req *stageRequest, err error) {
	g.mu.Lock()
	g.giveRoom(recordSize(req.body.Size()))
	g.mu.Unlock()
	req.done <- err
}

// commit makes a batch durable, as far as it fits into the segment together.
func (g *stage) commit(batch []*stageRequest, notes []note) {
	for len(batch) > 0 {
		seg, err := g.openSegment()
		if err != nil {
			for _, req := range batch {
				g.fail(req, err)
			}
			return
		}
		g.writeNotes(seg, notes)
		notes = nil
		var written []*staged
		var reqs []*stageRequest
		for len(batch) > 0 && (len(written) == 0 || seg.size+recordSize(batch[0].body.Size()) <= g.segmentSize()) {
			req := batch[0]
			batch = batch[1:]
			e, err := g.write(seg, req)
			if err != nil && len(written) == 0 && isFull(err) && g.discard(seg) {
				// The segment held nothing but what is in the store: without it
				// there may be room.
				if seg, err = g.openSegment(); err == nil {
					e, err = g.write(seg, req)
				}
			}
			if err != nil {
				g.fail(req, err)
				if seg == nil {
					break
				}
				continue
			}
			written, reqs = append(written, e), append(reqs, req)
			crashpoint.Hit("stage.write.after")
		}
		if len(written) == 0 {
			if seg != nil {
				g.mu.Lock()
				seg.busy = false
				g.mu.Unlock()
			}
			continue
		}
		if err := unix.Fdatasync(int(seg.file.Fd())); err != nil {
			g.abandon(seg, reqs, &os.PathError{Op: "fdatasync", Path: seg.file.Name(), Err: err})
			continue
		}
		crashpoint.Hit("stage.sync.after")
		g.mu.Lock()
		seg.durab, seg.busy = seg.size, false
		for _, e := range written {
			g.enter(e)
		}
		if seg.size >= g.segmentSize() {
			g.active = nil
		}
		g.mu.Unlock()
		wake(g.wakeUpload)
		for _, req := range reqs {
			req.done <- nil
		}
	}
}

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// discard removes the active segment if nobody needs anything in it.
func (g *stage) discard(seg *segment) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if seg.live > 0 || seg.size <= segmentHeader {
		return false
	}
	seg.busy = false
	g.active = nil
	g.sweep(seg)
	return true
}

// enter makes a durable block known. g.mu is held.
func (g *stage) enter(e *staged) {
	e.seg.live++ // before an older copy in the same segment goes
	old := g.blocks[e.id]
	g.blocks[e.id] = e
	g.bytes += e.length
	e.elem = g.queue.PushBack(e)
	if old == nil {
		return
	}
	// The same block again, after a Put that its caller took for failed.
	old.superseded = true
	if old.elem != nil {
		g.queue.Remove(old.elem)
		old.elem = nil
		g.finish(old, 0)
	}
}

// openSegment returns the segment to append to, marked busy.
func (g *stage) openSegment() (*segment, error) {
	g.mu.Lock()
	seg := g.active
	if seg != nil && seg.size < g.segmentSize() {
		seg.busy = true
		g.mu.Unlock()
		return seg, nil
	}
	g.active = nil
	if seg != nil {
		g.sweep(seg)
	}
	num := g.nextSeg
	g.nextSeg++
	g.mu.Unlock()
	f, err := os.OpenFile(g.segmentPath(num), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	head := g.segmentHead(num)
	crashpoint.Hit("stage.segment.create")
	if _, err = f.Write(head); err == nil {
		if err = f.Sync(); err == nil {
			err = syncDir(g.dir)
		}
	}
	if err != nil {
		f.Close()
		os.Remove(f.Name())
		return nil, err
	}
	seg = &segment{num: num, file: f, size: segmentHeader, durab: segmentHeader, busy: true}
	g.mu.Lock()
	g.active = seg
	g.segments[num] = seg
	g.used += segmentHeader
	g.mu.Unlock()
	return seg, nil
}

func (g *stage) segmentPath(num uint64) string {
	return filepath.Join(g.dir, fmt.Sprintf("segment-%016x", num))
}

func (g *stage) segmentHead(num uint64) []byte {
	le := binary.LittleEndian
	head := append(make([]byte, 0, segmentHeader), segmentMagic...)
	head = le.AppendUint32(head, 1)
	head = le.AppendUint32(head, 0)
	head = append(head, g.s.volume[:]...)
	head = le.AppendUint64(head, num)
	return le.AppendUint64(head, g.segmentSum(num, 0, head))
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

var zeros [8]byte

// write appends a block to the segment. After an error the segment is as before.
func (g *stage) write(seg *segment, req *stageRequest) (*staged, error) {
	length := req.body.Size()
	now := time.Now()
	var head [recordHeader]byte
	rec := g.appendRecord(head[:0], record{kind: recordBlock, id: req.id, length: length, plain: req.h.size, time: now, synced: seg.durab},
		seg.num, seg.size)
	_, err := seg.file.Write(rec)
	if err == nil {
		_, err = req.body.Seek(0, io.SeekStart)
	}
	if err == nil {
		var n int64
		if n, err = req.body.WriteTo(seg.file); err == nil && n != length {
			err = fmt.Errorf("%d bytes of %d were written", n, length)
		}
	}
	if pad := int(-length & 7); err == nil && pad > 0 {
		_, err = seg.file.Write(zeros[:pad])
	}
	if err != nil {
		if terr := g.cut(seg); terr != nil {
			err = errors.Join(err, terr)
		}
		return nil, err
	}
	e := &staged{id: req.id, r: Ref{req.id, req.h.size}, seg: seg, off: seg.size + recordHeader, length: length, since: now, done: make(chan struct{})}
	start := seg.size
	seg.size += recordSize(length)
	if length >= 1<<20 {
		// Lets the disk work while the next block is copied; Fdatasync waits for it.
		_ = unix.SyncFileRange(int(seg.file.Fd()), start, seg.size-start, unix.SYNC_FILE_RANGE_WRITE)
	}
	return e, nil
}

// cut takes back what was written behind the segment's end.
func (g *stage) cut(seg *segment) error {
	if err := seg.file.Truncate(seg.size); err != nil {
		return err
	}
	_, err := seg.file.Seek(seg.size, 0)
	return err
}

// writeNotes records what became of blocks. It is not synced: a note that is lost
// costs a second upload.
func (g *stage) writeNotes(seg *segment, notes []note) {
	if len(notes) == 0 {
		return
	}
	var p []byte
	now := time.Now()
	for _, n := range notes {
		p = g.appendRecord(p, record{kind: n.kind, id: n.id, time: now, synced: seg.durab}, seg.num, seg.size+int64(len(p)))
	}
	if _, err := seg.file.Write(p); err != nil {
		g.log.Warn("write-back stage: notes cannot be written", "error", err)
		// What is cut off is not missed; if it cannot be, the next records are
		// found behind it nevertheless.
		if err := g.cut(seg); err != nil {
			g.log.Warn("write-back stage: a segment cannot be cut", "error", err)
		}
		return
	}
	crashpoint.Hit("stage.note.after")
	seg.size += int64(len(p))
	g.mu.Lock()
	g.used += int64(len(p))
	g.mu.Unlock()
}

// abandon fails a batch that could not be synced. What the disk has of it is
// unknown, and nothing may follow it: the segment ends where it was durable.
func (g *stage) abandon(seg *segment, reqs []*stageRequest, err error) {
	g.log.Error("write-back stage: the local disk failed", "error", err)
	var lost int64
	for _, req := range reqs {
		lost += recordSize(req.body.Size())
	}
	g.mu.Lock()
	// The rest (notes) is given back with the segment.
	seg.size -= lost
	seg.busy = false
	g.active = nil
	g.giveRoom(lost)
	if terr := seg.file.Truncate(seg.durab); terr != nil {
		g.log.Error("write-back stage: a segment cannot be cut", "error", terr)
	}
	g.sweep(seg)
	g.mu.Unlock()
	for _, req := range reqs {
		req.done <- err
	}
}
