package bucket

import (
	"bytes"
	"context"
	"errors"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/massif-fs/massif/object"
)

// piece is a part of a new object: a range of the old one, or bytes that are here.
type piece struct {
	span
	copied bool
}

// plan divides an object of size bytes into parts: what was not changed of the old one's first
// baseEnd bytes is copied inside the store, the rest is sent. Every part but the last has the
// least size at least. nil: sending all of it is better.
func plan(size, baseEnd int64, dirty spans, minPart, maxPart int64, maxParts int) (parts []piece, sent spans) {
	sent = dirty.within(span{0, size}).add(span{min(baseEnd, size), size})
	for grown := true; grown; {
		grown = false
		at := int64(0)
		for _, s := range sent {
			more := s
			if s.off-at < minPart {
				more.off = at // too little to be copied as a part of its own
			}
			if more.len() < minPart {
				more.end = min(more.off+minPart, size)
				more.end = max(more.end, s.end)
			}
			if more != s {
				sent, grown = sent.add(more), true
				break
			}
			at = s.end
		}
	}
	emit := func(s span, copied bool) {
		n := (s.len() + maxPart - 1) / maxPart
		for i := range n {
			parts = append(parts, piece{span{s.off + s.len()*i/n, s.off + s.len()*(i+1)/n}, copied})
		}
	}
	at, copied := int64(0), int64(0)
	for _, s := range append(sent[:len(sent):len(sent)], span{size, size}) {
		emit(span{at, s.off}, true)
		copied += s.off - at
		emit(s, false)
		at = s.end
	}
	if copied == 0 || len(parts) > maxParts {
		return nil, nil
	}
	return parts, sent
}

// uploadChanges makes the new object of ranges of the old one and of what was changed, where
// the store can. done is false where it cannot, or where that does not pay.
func (fs *FS) uploadChanges(ctx context.Context, key string, c *content, size int64, s snapshot, opts *object.PutOptions) (info object.Info, done bool, err error) {
	composer, ok := object.As[object.Composer](fs.store)
	m, multi := object.As[object.Multipart](fs.store)
	if !ok || !multi || s.etag == "" {
		return info, false, nil
	}
	minPart, maxPart, maxParts := m.PartLimits()
	c.mu.RLock()
	base := c.base
	parts, send := plan(size, c.baseEnd, c.dirty, max(minPart, 1), min(maxPart, partMost), maxParts)
	var fetch spans
	for _, x := range send {
		fetch = append(fetch, c.absent(x)...)
	}
	c.mu.RUnlock()
	if parts == nil || base.etag == "" {
		return info, false, nil
	}
	for _, x := range fetch {
		if err := fs.bring(ctx, nil, c, x); err != nil {
			return info, false, err
		}
	}
	body, err := c.reader()
	if err != nil {
		return info, false, err
	}
	up, err := composer.CreateComposed(ctx, key, opts)
	if errors.Is(err, object.ErrUnsupported) {
		return info, false, nil
	}
	if err != nil {
		return info, false, err
	}
	results := make([]object.Part, len(parts))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(max(fs.cfg.Parallel/fs.cfg.Uploads, 2))
	for i, p := range parts {
		group.Go(func() (err error) {
			if p.copied {
				results[i], err = up.CopyPart(gctx, i+1, base.key, base.etag, p.off, p.len())
				return err
			}
			r := io.Reader(io.NewSectionReader(body, p.off, p.len()))
			if p.len() <= smallPut {
				data := make([]byte, p.len())
				if _, err := io.ReadFull(r, data); err != nil {
					return err
				}
				r = bytes.NewReader(data)
			}
			results[i], err = up.PutPart(gctx, i+1, r, p.len())
			return err
		})
	}
	if err = group.Wait(); err == nil {
		info, err = up.Complete(ctx, results)
	}
	if err != nil {
		if aerr := up.Abort(context.WithoutCancel(ctx)); aerr != nil {
			fs.log.Warn("an upload could not be aborted", "key", key, "err", aerr)
		}
		if errors.Is(err, object.ErrNotFound) { // the old object is gone
			err = errors.Join(object.ErrPrecondition, err)
		}
		if errors.Is(err, object.ErrUnsupported) {
			return info, false, nil
		}
		return info, false, err
	}
	for _, p := range parts {
		if p.copied {
			fs.stats.copied.Add(p.len())
		} else {
			fs.stats.uploaded.Add(p.len())
		}
	}
	return info, true, nil
}

// zeroTail reads zeros behind the end of a file up to where its size was set.
type zeroTail struct{ r io.ReaderAt }

func (z zeroTail) ReadAt(p []byte, off int64) (int, error) {
	n, err := z.r.ReadAt(p, off)
	if err == io.EOF {
		clear(p[n:])
		return len(p), nil
	}
	return n, err
}

// reader returns the bytes that are here.
func (c *content) reader() (io.ReaderAt, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.open(true); err != nil {
		return nil, err
	}
	return zeroTail{c.f}, nil
}
