package block

import (
	"context"

	"github.com/massif-fs/massif/cache"
)

// The disk cache holds blocks as they are in the store: slot 0 is the header, slot
// i+1 frame i. So a cache of sealed blocks is as unreadable as the bucket.

// diskHeader returns the header from the disk cache, nil if it is not there.
func (s *Store) diskHeader(ctx context.Context, src source, r Ref) *header {
	if s.disk == nil || src.local() {
		return nil
	}
	b, err := s.bufs.Get(ctx, s.share, int(maxHeaderLength(r.Size, s.enc.frameShift)))
	if err != nil {
		return nil
	}
	defer b.Release()
	n, ok := s.disk.Read(uint64(r.ID), 0, b.Bytes())
	if !ok {
		return nil
	}
	h, err := s.parse(b.Bytes()[:n], r)
	if err != nil {
		return nil // the store decides
	}
	return h
}

// diskFetch fills stored with the frames i to last-1 from the disk cache, and from
// src what is missing there. It returns the rows of frames that were missing.
func (s *Store) diskFetch(ctx context.Context, src source, h *header, i, last int, stored []byte) (missing [][2]int, err error) {
	base := h.frames[i].off
	for k := i; k < last; k++ {
		f := h.frames[k]
		in := stored[f.off-base : f.end()-base]
		if n, ok := s.disk.Read(uint64(h.id), k+1, in); ok && n == len(in) {
			continue
		}
		if m := len(missing); m > 0 && missing[m-1][1] == k {
			missing[m-1][1]++
		} else {
			missing = append(missing, [2]int{k, k + 1})
		}
	}
	for _, m := range missing {
		start, end := h.frames[m[0]].off, h.frames[m[1]-1].end()
		if err := readFull(ctx, src, stored[start-base:end-base], int64(start)); err != nil {
			return nil, err
		}
	}
	return missing, nil
}

// diskAdd gives the header, if header is true, and the frames i to last-1 to the
// disk cache. stored lies in b and begins with the header, or with frame i.
func (s *Store) diskAdd(src source, h *header, b *cache.Buffer, stored []byte, header bool, i, last int) {
	if s.disk == nil || src.local() || s.cfg.Budget.Pressed() {
		return
	}
	// The queue holds buffers of the transfers, which must not wait for a disk.
	if s.disk.Queued() > s.share.Limit()/4 {
		return
	}
	ranges := make([]cache.Range, 0, last-i+1)
	base := uint32(0)
	if header {
		if int(h.length) > len(stored) {
			return
		}
		ranges = append(ranges, cache.Range{Slot: 0, Data: stored[:h.length]})
	} else {
		base = h.frames[i].off
	}
	for k := i; k < last; k++ {
		f := h.frames[k]
		ranges = append(ranges, cache.Range{Slot: k + 1, Data: stored[f.off-base : f.end()-base]})
	}
	s.disk.Add(uint64(h.id), len(h.frames)+1, ranges, b)
}
