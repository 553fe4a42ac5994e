package s3

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"math/rand/v2"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
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
	if err := s.checkPut(opts); err != nil {
		return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
	}
	if m, ok := body.(object.MemoryBody); ok && size <= 2*s.cfg.PartSize && int64(m.Len()) <= 2*s.cfg.PartSize {
		p, err := newPayload(m, size, s.cfg.Checksum)
		if err != nil {
			return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
		}
		return s.putPayload(ctx, key, p, opts)
	}
	return s.putStream(ctx, key, object.Sized(body, size), size, opts)
}

// payload is what a request sends, with its checksum as S3 writes it: the base64
// of the big-endian value, nil for none.
type payload struct {
	*wire.Payload
	sum *string
}

func newPayload(m object.MemoryBody, size int64, kind Checksum) (payload, error) {
	var h hash.Hash
	if kind != NoChecksum {
		h = newHash(kind)
	}
	p, err := wire.NewPayload(m, size, h)
	if err != nil || h == nil {
		return payload{p, nil}, err
	}
	sum := base64.StdEncoding.EncodeToString(p.Sum)
	return payload{p, &sum}, nil
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	nvme       = crc64.MakeTable(0x9a6c9329ac4bc9b5) // CRC-64/NVME, reversed
)

func newHash(kind Checksum) hash.Hash {
	if kind == CRC64NVME {
		return crc64.New(nvme)
	}
	return crc32.New(castagnoli)
}

// putPayload puts the object in one request.
func (s *Store) putPayload(ctx context.Context, key string, p payload, opts *object.PutOptions) (object.Info, error) {
	info, err := s.putOnce(ctx, key, p, opts)
	// Servers answer a conditional request with a conflict while another one is
	// under way; who wins is known only when that one has ended.
	for round := 0; round < conflictRounds && errors.Is(err, errConflict) && (opts.IfAbsent || opts.IfMatch != ""); round++ {
		if err := sleep(ctx, rand.N(20*time.Millisecond<<round)); err != nil {
			return object.Info{}, &object.Error{Op: "put", Key: key, Err: err}
		}
		info, err = s.putOnce(ctx, key, p, opts)
	}
	return info, err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) putOnce(ctx context.Context, key string, p payload, opts *object.PutOptions) (object.Info, error) {
	if err := p.Rewind(); err != nil {
		return object.Info{}, &object.Error{Op: "put", Key: key, Err: err}
	}
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	body := p.Body(w)
	defer body.Stop()
	in := &s3.PutObjectInput{
		Bucket:               &s.cfg.Bucket,
		Key:                  s.key(key),
		Body:                 body,
		ContentLength:        &p.Size,
		Metadata:             encodeMetadata(opts.Metadata),
		ContentType:          text(opts.ContentType),
		StorageClass:         s.storageClass(opts),
		ServerSideEncryption: types.ServerSideEncryption(s.cfg.SSE),
		SSEKMSKeyId:          text(s.cfg.SSEKMSKeyID),
		IfMatch:              quoted(opts.IfMatch),
	}
	if opts.IfAbsent {
		in.IfNoneMatch = aws.String("*")
	}
	switch s.cfg.Checksum {
	case CRC32C:
		in.ChecksumCRC32C = p.sum
	case CRC64NVME:
		in.ChecksumCRC64NVME = p.sum
	}
	out, err := s.client.PutObject(w.Context(), in, s.bodyOptions)
	if err == nil && aws.ToString(out.ETag) == "" {
		err = s.nonsense("no ETag")
	}
	if err != nil {
		return object.Info{}, conditionError(s.fail("put", key, w, err), opts)
	}
	return s.stored(key, p.Size, out.ETag, opts), nil
}

// stored describes an object that was just made. The time is ours, the server's
// answer has none.
func (s *Store) stored(key string, size int64, etag *string, opts *object.PutOptions) object.Info {
	now := time.Now()
	return describe(key, size, etag, &now, text(opts.ContentType), encodeMetadata(opts.Metadata), string(s.storageClass(opts)))
}

// bodyOptions: over HTTPS, and with a checksum of our own, the body need not be
// hashed for the signature.
func (s *Store) bodyOptions(o *s3.Options) {
	if s.secure && s.cfg.Checksum != NoChecksum {
		o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
	}
}

func (s *Store) storageClass(opts *object.PutOptions) types.StorageClass {
	if opts.StorageClass != "" {
		return types.StorageClass(opts.StorageClass)
	}
	return types.StorageClass(s.cfg.StorageClass)
}

// text returns nil for an empty string.
func text(v string) *string {
	if v == "" {
		return nil
	}
	return &v
}

// quoted returns an ETag as it stands in headers.
func quoted(etag string) *string {
	if etag == "" {
		return nil
	}
	return aws.String(`"` + etag + `"`)
}

// conditionError says what a failed condition means for the caller's options.
func conditionError(err error, opts *object.PutOptions) error {
	var oe *object.Error
	if !errors.As(err, &oe) {
		return err
	}
	switch {
	case opts.IfAbsent && errors.Is(err, object.ErrPrecondition):
		oe.Err = object.ErrExists
	case opts.IfMatch != "" && (errors.Is(err, object.ErrPrecondition) || errors.Is(err, object.ErrNotFound)):
		oe.Err = object.ErrPrecondition // some servers say "not found" of a missing object
	}
	return err
}

// conditionHolds asks before the body of a long upload is sent; the server
// decides when it is complete.
func (s *Store) conditionHolds(ctx context.Context, op, key string, opts *object.PutOptions) error {
	return wire.ConditionHolds(op, key, opts, func() (object.Info, error) { return s.head(ctx, op, key) })
}

// putStream puts what body gives, in one request if it fits into a part.
func (s *Store) putStream(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	const op = "put"
	first, whole, err := s.buffers.First(ctx, body, size, s.partSize(1, size))
	if err != nil {
		return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
	}
	if whole {
		defer first.Free()
		p, err := newPayload(bytes.NewReader(first.P), -1, s.cfg.Checksum)
		if err != nil {
			return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
		}
		return s.putPayload(ctx, key, p, opts)
	}
	if err := s.conditionHolds(ctx, op, key, opts); err != nil {
		first.Free()
		return object.Info{}, err
	}
	return s.putParts(ctx, key, first, body, size, opts)
}

// partSize returns the size of part n of an object of the given size, -1 if that
// is unknown. Then parts double every thousand, so that the 10,000 parts that S3
// allows hold its largest object.
func (s *Store) partSize(n int, size int64) int64 {
	if size < 0 {
		return min(s.cfg.PartSize<<((n-1)/1000), maxPart)
	}
	part := s.cfg.PartSize
	for part*maxParts < size {
		part *= 2
	}
	return part
}

// putParts is a multipart upload of first and what body still has.
func (s *Store) putParts(ctx context.Context, key string, first *wire.Buffer, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	up, err := s.create(ctx, key, opts, s.cfg.Checksum)
	if err != nil {
		first.Free()
		return object.Info{}, &object.Error{Op: "put", Key: key, Err: errors.Unwrap(err)}
	}
	all := wire.Parts{
		Buffers: s.buffers, Concurrency: s.cfg.Concurrency, Most: maxParts,
		Size: func(n int) int64 { return s.partSize(n, size) },
		Send: func(ctx context.Context, n int, part *bytes.Reader) (object.Part, error) {
			return up.putMemory(ctx, n, part, -1)
		},
	}
	parts, err := all.SendAll(ctx, first, body)
	var info object.Info
	if err == nil {
		info, err = up.Complete(ctx, parts)
	}
	if err == nil {
		return info, nil
	}
	up.abandon(ctx)
	var oe *object.Error
	if errors.As(err, &oe) {
		err = oe.Err
	}
	return object.Info{}, &object.Error{Op: "put", Key: key, Err: err}
}
