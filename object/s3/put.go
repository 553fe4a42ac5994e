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

// payload is the body of a request, in memory. It can be sent several times, one
// after the other.
type payload struct {
	r     io.ReadSeeker
	start int64 // of the body in r
	size  int64
	sum   *string // its checksum as S3 writes it, nil for none
}

func newPayload(m object.MemoryBody, size int64, kind Checksum) (*payload, error) {
	if err := object.CheckLength(m, size); err != nil {
		return nil, err
	}
	start, err := m.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	p := &payload{r: m, start: start, size: int64(m.Len())}
	if kind != NoChecksum {
		h := newHash(kind)
		if _, err := m.WriteTo(h); err != nil {
			return nil, err
		}
		sum := base64.StdEncoding.EncodeToString(h.Sum(nil)) // of the big-endian value
		p.sum = &sum
	}
	return p, p.rewind()
}

func (p *payload) rewind() error {
	_, err := p.r.Seek(p.start, io.SeekStart)
	return err
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
func (s *Store) putPayload(ctx context.Context, key string, p *payload, opts *object.PutOptions) (object.Info, error) {
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

func (s *Store) putOnce(ctx context.Context, key string, p *payload, opts *object.PutOptions) (object.Info, error) {
	if err := p.rewind(); err != nil {
		return object.Info{}, &object.Error{Op: "put", Key: key, Err: err}
	}
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	body := w.Send(p.r, p.start)
	defer body.Stop()
	in := &s3.PutObjectInput{
		Bucket:               &s.cfg.Bucket,
		Key:                  s.key(key),
		Body:                 body,
		ContentLength:        &p.size,
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
	return s.stored(key, p.size, out.ETag, opts), nil
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
	if !opts.IfAbsent && opts.IfMatch == "" {
		return nil
	}
	info, err := s.head(ctx, op, key)
	missing := errors.Is(err, object.ErrNotFound)
	switch {
	case err != nil && !missing:
		return err
	case opts.IfAbsent && !missing:
		return &object.Error{Op: op, Key: key, Err: object.ErrExists}
	case opts.IfMatch != "" && (missing || info.ETag != opts.IfMatch):
		return &object.Error{Op: op, Key: key, Err: object.ErrPrecondition}
	}
	return nil
}

// buffer returns a buffer for a part of n bytes when memory for it is free.
func (s *Store) buffer(ctx context.Context, n int64) (*partBuffer, error) {
	weight := min(max(n, s.cfg.PartSize), s.cfg.PartSize*int64(s.cfg.Concurrency))
	if err := s.memory.Acquire(ctx, weight); err != nil {
		return nil, err
	}
	b := &partBuffer{s: s, weight: weight}
	if n <= s.cfg.PartSize {
		b.pooled = s.buffers.Get().(*[]byte)
		b.p = (*b.pooled)[:n]
	} else {
		b.p = make([]byte, n)
	}
	return b, nil
}

type partBuffer struct {
	s      *Store
	weight int64
	pooled *[]byte
	p      []byte
}

func (b *partBuffer) free() {
	if b.pooled != nil {
		b.s.buffers.Put(b.pooled)
	}
	b.s.memory.Release(b.weight)
}

// fill reads until the buffer is full or the body ends, which last says.
func (b *partBuffer) fill(ctx context.Context, body io.Reader) (last bool, err error) {
	n := 0
	for n < len(b.p) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		m, err := body.Read(b.p[n:])
		n += m
		if err == io.EOF {
			b.p = b.p[:n]
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// putStream puts what body gives, in one request if it fits into a part.
func (s *Store) putStream(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	const op = "put"
	first, err := s.buffer(ctx, s.partSize(1, size))
	if err != nil {
		return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
	}
	last, err := first.fill(ctx, body)
	if err == nil && !last && size == int64(len(first.p)) {
		last, err = ended(body)
	}
	if err != nil {
		first.free()
		return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
	}
	if last {
		defer first.free()
		p, err := newPayload(bytes.NewReader(first.p), -1, s.cfg.Checksum)
		if err != nil {
			return object.Info{}, &object.Error{Op: op, Key: key, Err: err}
		}
		return s.putPayload(ctx, key, p, opts)
	}
	if err := s.conditionHolds(ctx, op, key, opts); err != nil {
		first.free()
		return object.Info{}, err
	}
	return s.putParts(ctx, key, first, body, size, opts)
}

// ended finds that a body of the announced length is at its end.
func ended(body io.Reader) (bool, error) {
	n, err := io.ReadFull(body, make([]byte, 1))
	if n > 0 {
		return false, nil
	}
	if err == io.EOF {
		return true, nil
	}
	return false, err
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
func (s *Store) putParts(ctx context.Context, key string, first *partBuffer, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	up, err := s.create(ctx, key, opts, s.cfg.Checksum)
	if err != nil {
		first.free()
		return object.Info{}, &object.Error{Op: "put", Key: key, Err: errors.Unwrap(err)}
	}
	parts, err := up.sendAll(ctx, first, body, size)
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

// sendAll uploads first and the rest of body as parts, as many at once as there
// are buffers.
func (u *upload) sendAll(ctx context.Context, first *partBuffer, body io.Reader, size int64) ([]object.Part, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	type result struct {
		part object.Part
		err  error
	}
	results := make(chan result)
	running := 0
	var parts []object.Part
	var failed error
	collect := func(r result) {
		running--
		if r.err != nil {
			if failed == nil {
				failed = r.err
				cancel(r.err)
			}
			return
		}
		parts = append(parts, r.part)
	}
	start := func(n int, b *partBuffer) {
		running++
		go func() {
			part, err := u.putMemory(ctx, n, bytes.NewReader(b.p), -1)
			b.free()
			results <- result{part, err}
		}()
	}
	b, last := first, false
	for n := 1; failed == nil; n++ {
		start(n, b)
		if last {
			break
		}
		if n == maxParts {
			failed = invalid("the object has more than %d parts of up to %d bytes", maxParts, len(b.p))
			cancel(failed)
			break
		}
		for running >= u.s.cfg.Concurrency {
			collect(<-results)
		}
		if failed != nil {
			break
		}
		var err error
		if b, err = u.s.buffer(ctx, u.s.partSize(n+1, size)); err == nil {
			last, err = b.fill(ctx, body)
			if err == nil && last && len(b.p) == 0 { // the body ended with the part before
				b.free()
				break
			}
			if err != nil {
				b.free()
			}
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
				err = cause
			}
			if failed == nil {
				failed = err
			}
			cancel(err)
		}
	}
	for running > 0 {
		collect(<-results)
	}
	return parts, failed
}
