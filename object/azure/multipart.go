package azure

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
	"github.com/massif-fs/massif/object/wire"
)

// PartLimits implements object.Multipart.
func (s *Store) PartLimits() (minSize, maxSize int64, mostParts int) {
	return 1, maxBlock, maxBlocks
}

// upload is a set of blocks that becomes an object when a list names them. The
// service knows nothing of it as a whole; blocks of different uploads of one object
// are told apart by what their names begin with.
type upload struct {
	s    *Store
	key  string
	opts object.PutOptions
	id   [16]byte
	md5  []byte // of the whole, if known
	seq  atomic.Uint32
	done atomic.Bool // aborted or complete
}

func (s *Store) newUpload(key string, opts *object.PutOptions) *upload {
	u := &upload{s: s, key: key, opts: *opts}
	_, _ = rand.Read(u.id[:]) // never fails
	return u
}

// blockID names a block: upload, part, and a number of its own, because a part may
// be put again. 48 bytes, as the SDKs name theirs: all blocks of a blob must have
// names of one length.
func (u *upload) blockID(n int) string {
	p := make([]byte, 48)
	copy(p, u.id[:])
	binary.BigEndian.PutUint32(p[16:], uint32(n))
	binary.BigEndian.PutUint32(p[20:], u.seq.Add(1))
	return base64.StdEncoding.EncodeToString(p)
}

// owns reports whether id names a block of part n of the upload.
func (u *upload) owns(id string, n int) bool {
	p, err := base64.StdEncoding.DecodeString(id)
	return err == nil && len(p) == 48 && [16]byte(p) == u.id && binary.BigEndian.Uint32(p[16:]) == uint32(n)
}

// CreateMultipart implements object.Multipart. It sends nothing.
func (s *Store) CreateMultipart(ctx context.Context, key string, opts *object.PutOptions) (object.Upload, error) {
	const op = "create upload"
	if err := s.begin(ctx, op, key); err != nil {
		return nil, err
	}
	if opts == nil {
		opts = &object.PutOptions{}
	}
	if err := opts.Validate(); err != nil {
		return nil, &object.Error{Op: op, Key: key, Err: err}
	}
	return s.newUpload(key, opts), nil
}

// PutPart implements object.Upload.
func (u *upload) PutPart(ctx context.Context, n int, body io.Reader, size int64) (object.Part, error) {
	fail := func(err error) (object.Part, error) {
		return object.Part{}, &object.Error{Op: "put part", Key: u.key, Err: err}
	}
	switch {
	case n < 1 || n > maxBlocks:
		return fail(invalid("part number %d", n))
	case size < 0 || size > maxBlock:
		return fail(invalid("part of %d bytes", size))
	case u.done.Load():
		return fail(object.ErrNotFound)
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if m, ok := body.(object.MemoryBody); ok {
		return u.putMemory(ctx, n, m, size)
	}
	b, err := u.s.buffers.Get(ctx, size)
	if err != nil {
		return fail(err)
	}
	defer b.Free()
	sized := object.Sized(body, size)
	last, err := b.Fill(ctx, sized)
	if err == nil && !last {
		_, err = wire.Ended(sized)
	}
	if err != nil {
		return fail(err)
	}
	return u.putMemory(ctx, n, bytes.NewReader(b.P), -1)
}

func (u *upload) putMemory(ctx context.Context, n int, m object.MemoryBody, size int64) (object.Part, error) {
	p, err := u.s.payload(m, size)
	if err != nil {
		return object.Part{}, &object.Error{Op: "put part", Key: u.key, Err: err}
	}
	part, err := u.putOnce(ctx, n, p)
	if u.s.withMD5(p, err) {
		return u.putMemory(ctx, n, m, size)
	}
	return part, err
}

func (u *upload) putOnce(ctx context.Context, n int, p payload) (object.Part, error) {
	const op = "put part"
	s := u.s
	id := u.blockID(n)
	if p.Size == 0 { // no block is empty
		return object.Part{Number: n, ETag: id}, nil
	}
	c, err := s.blob(u.key)
	if err != nil {
		return object.Part{}, &object.Error{Op: op, Key: u.key, Err: err}
	}
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	body := p.Body(w)
	defer body.Stop()
	_, err = c.StageBlock(w.Context(), id, streaming.NopCloser(body), &blockblob.StageBlockOptions{
		CPKInfo: s.cpk, CPKScopeInfo: s.cfg.scope(), TransactionalValidation: p.transfer,
	})
	if err != nil {
		return object.Part{}, s.fail(op, u.key, w, err)
	}
	return object.Part{Number: n, Size: p.Size, ETag: id}, nil
}

// Complete implements object.Upload.
func (u *upload) Complete(ctx context.Context, parts []object.Part) (object.Info, error) {
	const op = "complete upload"
	fail := func(err error) (object.Info, error) {
		return object.Info{}, &object.Error{Op: op, Key: u.key, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if u.done.Load() {
		return fail(object.ErrNotFound)
	}
	if len(parts) == 0 {
		return fail(invalid("no parts"))
	}
	parts = slices.SortedFunc(slices.Values(parts), func(a, b object.Part) int { return a.Number - b.Number })
	var ids []string
	var size int64
	for i, p := range parts {
		if i > 0 && parts[i-1].Number == p.Number {
			return fail(invalid("part %d is named twice", p.Number))
		}
		if !u.owns(p.ETag, p.Number) {
			return fail(invalid("part %d is not the one that was uploaded", p.Number))
		}
		if p.Size > 0 {
			ids = append(ids, p.ETag)
		}
		size += p.Size
	}
	info, err := u.commit(ctx, op, ids, size)
	if err == nil {
		u.done.Store(true)
	}
	return info, err
}

// commit makes the object of blocks.
func (u *upload) commit(ctx context.Context, op string, ids []string, size int64) (object.Info, error) {
	s := u.s
	c, err := s.blob(u.key)
	if err != nil {
		return object.Info{}, &object.Error{Op: op, Key: u.key, Err: err}
	}
	headers := s.headers(&u.opts)
	headers.BlobContentMD5 = u.md5
	w := watchdog.Watch(ctx, s.cfg.SlowTimeout)
	defer w.End()
	out, err := c.CommitBlockList(w.Context(), ids, &blockblob.CommitBlockListOptions{
		Metadata:         encodeMetadata(u.opts.Metadata),
		Tier:             s.tier(&u.opts),
		HTTPHeaders:      headers,
		CPKInfo:          s.cpk,
		CPKScopeInfo:     s.cfg.scope(),
		AccessConditions: conditions(&u.opts),
	})
	if err == nil && etag(out.ETag) == "" {
		err = s.nonsense("no ETag")
	}
	if err != nil {
		return object.Info{}, conditionError(s.fail(op, u.key, w, err), &u.opts)
	}
	return s.stored(u.key, size, out.ETag, out.LastModified, &u.opts), nil
}

// Abort implements object.Upload. The blocks are the service's to drop.
func (u *upload) Abort(context.Context) error {
	u.done.Store(true)
	return nil
}

// AbortStale implements object.Multipart: there is nothing to do, see the package
// comment.
func (s *Store) AbortStale(ctx context.Context, prefix string, _ time.Time) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, &object.Error{Op: "abort stale uploads", Key: prefix, Err: err}
	}
	return 0, nil
}
