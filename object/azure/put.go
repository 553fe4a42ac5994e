package azure

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"hash"
	"hash/crc64"
	"io"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
	"github.com/massif-fs/massif/object/wire"
)

// Put implements object.Store.
func (s *Store) Put(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	const op = "put"
	if err := s.begin(ctx, op, key); err != nil {
		return object.Info{}, err
	}
	if opts == nil {
		opts = &object.PutOptions{}
	}
	if err := opts.Validate(); err != nil {
		return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
	}
	if m, ok := body.(object.MemoryBody); ok && size <= 2*s.cfg.PartSize && int64(m.Len()) <= 2*s.cfg.PartSize {
		return s.putMemory(ctx, key, m, size, opts)
	}
	return s.putStream(ctx, key, object.Sized(body, size), size, opts)
}

// crcTable is that of Azure's CRC-64: the polynomial of CRC-64/NVME, reversed.
var crcTable = crc64.MakeTable(0x9a6c9329ac4bc9b5)

// checksum is the kind in use: MD5 instead of CRC-64 at a server that has turned out
// not to know that.
func (s *Store) checksum() Checksum {
	if s.cfg.Checksum == CRC64 && s.noCRC.Load() {
		return MD5
	}
	return s.cfg.Checksum
}

// payload is a body in memory with its checksum.
type payload struct {
	*wire.Payload
	transfer blob.TransferValidationType // the checksum as the SDK wants it
	kind     Checksum
}

func (s *Store) payload(m object.MemoryBody, size int64) (payload, error) {
	p := payload{kind: s.checksum()}
	var h hash.Hash
	switch p.kind {
	case CRC64:
		h = crc64.New(crcTable)
	case MD5:
		h = md5.New()
	}
	var err error
	if p.Payload, err = wire.NewPayload(m, size, h); err != nil {
		return payload{}, err
	}
	switch p.kind {
	case CRC64:
		p.transfer = blob.TransferValidationTypeCRC64(binary.BigEndian.Uint64(p.Sum))
	case MD5:
		p.transfer = blob.TransferValidationTypeMD5(p.Sum)
	}
	return p, nil
}

// withMD5 reports whether a request has failed for its CRC-64 and is to be made
// again without one. The body has been rewound then.
func (s *Store) withMD5(p payload, err error) bool {
	if p.kind != CRC64 || !errors.Is(err, object.ErrUnsupported) || p.Rewind() != nil {
		return false
	}
	s.noCRC.Store(true)
	return true
}

// putMemory puts the object in one request.
func (s *Store) putMemory(ctx context.Context, key string, m object.MemoryBody, size int64, opts *object.PutOptions) (object.Info, error) {
	p, err := s.payload(m, size)
	if err != nil {
		return object.Info{}, &object.Error{Op: "put", Key: key, Err: err}
	}
	info, err := s.putOnce(ctx, key, m, p, opts)
	if s.withMD5(p, err) {
		return s.putMemory(ctx, key, m, size, opts)
	}
	return info, err
}

func (s *Store) putOnce(ctx context.Context, key string, m object.MemoryBody, p payload, opts *object.PutOptions) (object.Info, error) {
	const op = "put"
	headers := s.headers(opts)
	if s.cfg.ContentMD5 {
		h := md5.New()
		if _, err := m.WriteTo(h); err != nil {
			return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
		}
		headers.BlobContentMD5 = h.Sum(nil)
		if err := p.Rewind(); err != nil {
			return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
		}
	}
	c, err := s.blob(key)
	if err != nil {
		return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
	}
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	body := p.Body(w)
	defer body.Stop()
	out, err := c.Upload(w.Context(), streaming.NopCloser(body), &blockblob.UploadOptions{
		Metadata:                encodeMetadata(opts.Metadata),
		Tier:                    s.tier(opts),
		TransactionalValidation: p.transfer,
		HTTPHeaders:             headers,
		CPKInfo:                 s.cpk,
		CPKScopeInfo:            s.cfg.scope(),
		AccessConditions:        conditions(opts),
	})
	if err == nil && etag(out.ETag) == "" {
		err = s.nonsense("no ETag")
	}
	if err != nil {
		return object.Info{}, conditionError(s.fail(op, key, w, err), opts)
	}
	return s.stored(key, p.Size, out.ETag, out.LastModified, opts), nil
}

// stored describes an object that was just made.
func (s *Store) stored(key string, size int64, tag *azcore.ETag, mod *time.Time, opts *object.PutOptions) object.Info {
	if mod == nil {
		now := time.Now()
		mod = &now
	}
	info := object.Info{Key: key, Size: size, ETag: etag(tag), ModTime: *mod, ContentType: opts.ContentType, Metadata: decodeMetadata(encodeMetadata(opts.Metadata))}
	if t := s.tier(opts); t != nil {
		info.StorageClass = string(*t)
	}
	return info
}

func etag(e *azcore.ETag) string {
	if e == nil {
		return ""
	}
	return strings.Trim(string(*e), `"`)
}

func (s *Store) headers(opts *object.PutOptions) *blob.HTTPHeaders {
	h := &blob.HTTPHeaders{}
	if opts.ContentType != "" {
		h.BlobContentType = &opts.ContentType
	}
	return h
}

func (s *Store) tier(opts *object.PutOptions) *blob.AccessTier {
	t := blob.AccessTier(opts.StorageClass)
	if t == "" {
		t = blob.AccessTier(s.cfg.Tier)
	}
	if t == "" {
		return nil
	}
	return &t
}

// conditions are those of opts as the service knows them.
func conditions(opts *object.PutOptions) *blob.AccessConditions {
	m := &blob.ModifiedAccessConditions{}
	switch {
	case opts.IfAbsent:
		any := azcore.ETagAny
		m.IfNoneMatch = &any
	case opts.IfMatch != "":
		tag := azcore.ETag(`"` + opts.IfMatch + `"`)
		m.IfMatch = &tag
	default:
		return nil
	}
	return &blob.AccessConditions{ModifiedAccessConditions: m}
}

// conditionHolds asks before the body of a long upload is sent; the service
// decides when it is complete.
func (s *Store) conditionHolds(ctx context.Context, op, key string, opts *object.PutOptions) error {
	return wire.ConditionHolds(op, key, opts, func() (object.Info, error) { return s.head(ctx, op, key) })
}

// putStream puts what body gives, in one request if it fits into a part.
func (s *Store) putStream(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	const op = "put"
	fail := func(err error) (object.Info, error) {
		var oe *object.Error
		if errors.As(err, &oe) {
			err = oe.Err
		}
		return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
	}
	first, whole, err := s.buffers.First(ctx, body, size, s.partSize(1, size))
	if err != nil {
		return fail(err)
	}
	if whole {
		defer first.Free()
		return s.putMemory(ctx, key, bytes.NewReader(first.P), -1, opts)
	}
	if err := s.conditionHolds(ctx, op, key, opts); err != nil {
		first.Free()
		return object.Info{}, err
	}
	var sum hash.Hash
	if s.cfg.ContentMD5 {
		sum = md5.New()
		_, _ = sum.Write(first.P)
		body = io.TeeReader(body, sum)
	}
	up := s.newUpload(key, opts)
	all := wire.Parts{
		Buffers: s.buffers, Concurrency: s.cfg.Concurrency, Most: maxBlocks,
		Size: func(n int) int64 { return s.partSize(n, size) },
		Send: func(ctx context.Context, n int, part *bytes.Reader) (object.Part, error) {
			return up.putMemory(ctx, n, part, -1)
		},
	}
	parts, err := all.SendAll(ctx, first, body)
	if err != nil {
		return fail(err)
	}
	if sum != nil {
		up.md5 = sum.Sum(nil)
	}
	info, err := up.Complete(ctx, parts)
	if err != nil {
		return fail(err)
	}
	return info, nil
}

// partSize returns the size of block n of an object of the given size, -1 if that
// is unknown. Then blocks double every five thousand, so that 50,000 of them hold
// the largest object.
func (s *Store) partSize(n int, size int64) int64 {
	if size < 0 {
		return min(s.cfg.PartSize<<((n-1)/5000), maxBlock)
	}
	part := s.cfg.PartSize
	for part*maxBlocks < size {
		part *= 2
	}
	return part
}
