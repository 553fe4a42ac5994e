package block

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// replay reads the segments that an earlier process left and queues their blocks.
func (g *stage) replay(ctx context.Context) error {
	entries, err := os.ReadDir(g.dir)
	if err != nil {
		return err
	}
	var nums []uint64
	for _, e := range entries {
		hex, ok := strings.CutPrefix(e.Name(), "segment-")
		if num, err := strconv.ParseUint(hex, 16, 64); ok && err == nil && len(hex) == 16 {
			nums = append(nums, num)
		}
	}
	slices.Sort(nums)
	settled := make(map[ID]bool) // by notes
	var found []*staged
	for _, num := range nums {
		if err := ctx.Err(); err != nil {
			return err
		}
		g.nextSeg = num + 1
		f, err := os.OpenFile(g.segmentPath(num), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		seg := &segment{num: num, file: f, busy: true}
		blocks, keep, err := g.scan(seg, settled)
		if err != nil {
			f.Close()
			return err
		}
		if !keep {
			f.Close()
			if err := os.Remove(f.Name()); err != nil {
				return err
			}
			continue
		}
		g.segments[num] = seg
		g.used += seg.size
		found = append(found, blocks...)
	}
	for _, e := range found {
		if !settled[e.id] {
			g.enter(e)
		}
	}
	for _, seg := range g.segments {
		seg.busy = false
		g.sweep(seg)
	}
	if n := len(g.blocks); n > 0 {
		g.log.Info("write-back stage: blocks of an earlier mount are uploaded now", "blocks", n, "bytes", g.bytes, "dir", g.dir)
	}
	return nil
}

// scan reads the records of a segment. keep is false for a segment that never got
// as far as its header.
func (g *stage) scan(seg *segment, settled map[ID]bool) (blocks []*staged, keep bool, err error) {
	st, err := seg.file.Stat()
	if err != nil {
		return nil, false, err
	}
	size := st.Size()
	head := make([]byte, segmentHeader)
	n, err := seg.file.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, false, err
	}
	if n < segmentHeader || string(head) != string(g.segmentHead(seg.num)) {
		return nil, false, g.foreign(seg, head[:n], size)
	}
	seg.size, seg.durab = size, size

	type unit struct {
		record
		off int64
	}
	var records []unit
	var gaps [][2]int64 // ranges without a valid record
	synced := int64(segmentHeader)
	buf := make([]byte, recordHeader)
	for off := int64(segmentHeader); off+recordHeader <= size; {
		if _, err := seg.file.ReadAt(buf, off); err != nil {
			return nil, false, err
		}
		rec, ok := g.parseRecord(buf, seg.num, off)
		if !ok {
			next, err := g.resync(seg, off+8, size)
			if err != nil {
				return nil, false, err
			}
			gaps = append(gaps, [2]int64{off, next})
			off = next
			continue
		}
		synced = max(synced, rec.synced)
		records = append(records, unit{rec, off})
		off += recordSize(rec.length)
	}
	for _, gap := range gaps {
		if gap[0] < synced {
			g.damaged++
			name := fmt.Sprintf("segment-%016x-at-%d", seg.num, gap[0])
			err := g.aside(seg.file, gap[0], gap[1]-gap[0], name)
			g.log.Error("write-back stage: a part of a segment is damaged and was set aside; blocks in it are lost",
				"segment", seg.file.Name(), "offset", gap[0], "bytes", gap[1]-gap[0], "error", err)
		}
	}
	for _, u := range records {
		if u.kind != recordBlock {
			settled[u.id] = true
			continue
		}
		delete(settled, u.id) // written again
		e := &staged{id: u.id, r: Ref{u.id, u.plain}, seg: seg, off: u.off + recordHeader, length: u.length, since: u.time, done: make(chan struct{})}
		if u.off >= synced {
			// Perhaps never acknowledged: it counts if it is whole.
			err := errDamaged
			if e.off+e.length <= size {
				seg.refs++
				err = g.s.verify(g.s.ctx, stageSource{g, e}, e.r, false)
				seg.refs--
			}
			if errors.Is(err, errDamaged) {
				g.log.Info("write-back stage: the unfinished end of a segment is dropped", "block", uint64(u.id), "segment", seg.file.Name())
				continue
			}
			if err != nil {
				return nil, false, err
			}
		}
		blocks = append(blocks, e)
	}
	return blocks, true, nil
}

// foreign decides about a file without a fitting header: one that was never
// finished is dropped, that of another volume is an error.
func (g *stage) foreign(seg *segment, head []byte, size int64) error {
	if size <= segmentHeader {
		return nil // the crash came before its first record
	}
	if len(head) == segmentHeader && string(head[:8]) == segmentMagic && string(head[16:32]) != string(g.s.volume[:]) {
		return fmt.Errorf("%s holds blocks of another volume: %w", seg.file.Name(), syscall.EINVAL)
	}
	g.damaged++
	dir := filepath.Join(g.dir, "damaged")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	name := filepath.Join(dir, filepath.Base(seg.file.Name()))
	g.log.Error("write-back stage: a segment has no valid header and was set aside; blocks in it are lost", "segment", name)
	return os.Link(seg.file.Name(), name)
}

// resync looks for the next valid record from off on, and returns its offset, or
// the end.
func (g *stage) resync(seg *segment, off, size int64) (int64, error) {
	const window = 1 << 20
	buf := make([]byte, window+recordHeader)
	for off+recordHeader <= size {
		n, err := seg.file.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		if err != nil && err != io.EOF {
			return 0, err
		}
		if n < recordHeader {
			return size, nil
		}
		p := buf[:n]
		i := 0
		for ; i+recordHeader <= n; i += 8 {
			if binary.LittleEndian.Uint32(p[i:]) != recordMagic {
				continue
			}
			if _, ok := g.parseRecord(p[i:], seg.num, off+int64(i)); ok {
				return off + int64(i), nil
			}
		}
		off += int64(i)
	}
	return size, nil
}
