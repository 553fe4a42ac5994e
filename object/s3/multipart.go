package s3

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
	"github.com/massif-fs/massif/object/wire"
)

// PartLimits implements object.Multipart.
func (s *Store) PartLimits() (minSize, maxSize int64, mostParts int) {
	return minPart, maxPart, maxParts
}

// upload is a multipart upload. It remembers the checksums of its parts, which
// the server wants to see again at the end.
type upload struct {
	s    *Store
	key  string
	id   string
	opts object.PutOptions
	kind Checksum // of parts

	mu   sync.Mutex
	sums map[sumKey]string
}

type sumKey struct {
	number int
	etag   string
}

// CreateMultipart implements object.Multipart.
func (s *Store) CreateMultipart(ctx context.Context, key string, opts *object.PutOptions) (object.Upload, error) {
	if err := s.begin(ctx, "create upload", key); err != nil {
		return nil, err
	}
	if opts == nil {
		opts = &object.PutOptions{}
	}
	if err := s.checkPut(opts); err != nil {
		return nil, &object.Error{Op: "create upload", Key: key, Err: err}
	}
	u, err := s.create(ctx, key, opts, s.cfg.Checksum)
	if err != nil {
		return nil, err
	}
	return u, nil
}

// create begins an upload whose parts carry checksums of the given kind.
func (s *Store) create(ctx context.Context, key string, opts *object.PutOptions, kind Checksum) (*upload, error) {
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	in := &s3.CreateMultipartUploadInput{
		Bucket:               &s.cfg.Bucket,
		Key:                  s.key(key),
		Metadata:             encodeMetadata(opts.Metadata),
		ContentType:          text(opts.ContentType),
		StorageClass:         s.storageClass(opts),
		ServerSideEncryption: types.ServerSideEncryption(s.cfg.SSE),
		SSEKMSKeyId:          text(s.cfg.SSEKMSKeyID),
	}
	switch kind {
	case CRC32C:
		in.ChecksumAlgorithm, in.ChecksumType = types.ChecksumAlgorithmCrc32c, types.ChecksumTypeComposite
	case CRC64NVME:
		in.ChecksumAlgorithm, in.ChecksumType = types.ChecksumAlgorithmCrc64nvme, types.ChecksumTypeFullObject
	}
	out, err := s.client.CreateMultipartUpload(w.Context(), in, func(o *s3.Options) {
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired // or the SDK chooses one
	})
	if err == nil && aws.ToString(out.UploadId) == "" {
		err = s.nonsense("no upload ID")
	}
	if err != nil {
		return nil, s.fail("create upload", key, w, err)
	}
	return &upload{s: s, key: key, id: *out.UploadId, opts: *opts, kind: kind, sums: make(map[sumKey]string)}, nil
}

// PutPart implements object.Upload.
func (u *upload) PutPart(ctx context.Context, n int, body io.Reader, size int64) (object.Part, error) {
	fail := func(err error) (object.Part, error) {
		return object.Part{}, &object.Error{Op: "put part", Key: u.key, Err: err}
	}
	switch {
	case n < 1 || n > maxParts:
		return fail(invalid("part number %d", n))
	case size < 0 || size > maxPart:
		return fail(invalid("part of %d bytes", size))
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if m, ok := body.(object.MemoryBody); ok {
		return u.putMemory(ctx, n, m, size)
	}
	if size > u.s.cfg.PartSize*int64(u.s.cfg.Concurrency) {
		return u.putReader(ctx, n, object.Sized(body, size), size)
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

func (u *upload) partInput(n int, body io.Reader, size int64) *s3.UploadPartInput {
	return &s3.UploadPartInput{
		Bucket:        &u.s.cfg.Bucket,
		Key:           u.s.key(u.key),
		UploadId:      &u.id,
		PartNumber:    aws.Int32(int32(n)),
		Body:          body,
		ContentLength: &size,
	}
}

func (u *upload) putMemory(ctx context.Context, n int, m object.MemoryBody, size int64) (object.Part, error) {
	p, err := newPayload(m, size, u.kind)
	if err != nil {
		return object.Part{}, &object.Error{Op: "put part", Key: u.key, Err: err}
	}
	w := watchdog.Watch(ctx, u.s.cfg.StallTimeout)
	defer w.End()
	body := p.Body(w)
	defer body.Stop()
	in := u.partInput(n, body, p.Size)
	switch u.kind {
	case CRC32C:
		in.ChecksumCRC32C = p.sum
	case CRC64NVME:
		in.ChecksumCRC64NVME = p.sum
	}
	out, err := u.s.client.UploadPart(w.Context(), in, u.s.bodyOptions)
	return u.sent(w, n, p.Size, out, p.sum, err)
}

// putReader sends a part too long for the buffers as it comes: without a checksum
// of its own, and not signed, because both would need a second reading.
func (u *upload) putReader(ctx context.Context, n int, r io.Reader, size int64) (object.Part, error) {
	w := watchdog.Watch(ctx, u.s.cfg.StallTimeout)
	defer w.End()
	body := w.Stream(r)
	defer body.Stop()
	out, err := u.s.client.UploadPart(w.Context(), u.partInput(n, body, size), func(o *s3.Options) {
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
	})
	return u.sent(w, n, size, out, nil, err)
}

func (u *upload) sent(w *watchdog.Dog, n int, size int64, out *s3.UploadPartOutput, sum *string, err error) (object.Part, error) {
	if err == nil && aws.ToString(out.ETag) == "" {
		err = u.s.nonsense("no ETag of the part")
	}
	if err != nil {
		return object.Part{}, u.s.fail("put part", u.key, w, err)
	}
	part := object.Part{Number: n, Size: size, ETag: strings.Trim(*out.ETag, `"`)}
	if sum != nil {
		u.mu.Lock()
		u.sums[sumKey{n, part.ETag}] = *sum
		u.mu.Unlock()
	}
	return part, nil
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
	if len(parts) == 0 {
		return fail(invalid("no parts"))
	}
	parts = slices.SortedFunc(slices.Values(parts), func(a, b object.Part) int { return a.Number - b.Number })
	in := &s3.CompleteMultipartUploadInput{
		Bucket:          &u.s.cfg.Bucket,
		Key:             u.s.key(u.key),
		UploadId:        &u.id,
		IfMatch:         quoted(u.opts.IfMatch),
		MultipartUpload: &types.CompletedMultipartUpload{},
	}
	if u.opts.IfAbsent {
		in.IfNoneMatch = aws.String("*")
	}
	var size int64
	for i, p := range parts {
		if i > 0 && parts[i-1].Number == p.Number {
			return fail(invalid("part %d is named twice", p.Number))
		}
		size += p.Size
		done := types.CompletedPart{PartNumber: aws.Int32(int32(p.Number)), ETag: quoted(p.ETag)}
		u.mu.Lock()
		sum, ok := u.sums[sumKey{p.Number, p.ETag}]
		u.mu.Unlock()
		if ok {
			switch u.kind {
			case CRC32C:
				done.ChecksumCRC32C = &sum
			case CRC64NVME:
				done.ChecksumCRC64NVME = &sum
			}
		}
		in.MultipartUpload.Parts = append(in.MultipartUpload.Parts, done)
	}
	if u.kind == CRC64NVME {
		in.ChecksumType = types.ChecksumTypeFullObject
	}
	out, err := u.complete(ctx, in)
	if err != nil {
		return object.Info{}, conditionErrorOfUpload(err, &u.opts)
	}
	return u.s.stored(u.key, size, out.ETag, &u.opts), nil
}

func (u *upload) complete(ctx context.Context, in *s3.CompleteMultipartUploadInput) (*s3.CompleteMultipartUploadOutput, error) {
	w := watchdog.Watch(ctx, u.s.cfg.SlowTimeout)
	defer w.End()
	out, err := u.s.client.CompleteMultipartUpload(w.Context(), in)
	if err == nil && aws.ToString(out.ETag) == "" {
		err = u.s.nonsense("no ETag")
	}
	if err != nil {
		return nil, u.s.fail("complete upload", u.key, w, err)
	}
	return out, nil
}

// conditionErrorOfUpload is conditionError, but that "not found" is said of the
// upload and not of the object.
func conditionErrorOfUpload(err error, opts *object.PutOptions) error {
	var re interface{ ErrorCode() string }
	if errors.As(err, &re) && re.ErrorCode() == "NoSuchUpload" {
		return err
	}
	return conditionError(err, opts)
}

// Abort implements object.Upload.
func (u *upload) Abort(ctx context.Context) error {
	return u.s.abort(ctx, u.key, u.s.key(u.key), u.id)
}

// abandon aborts an upload that failed, also when that was because ctx ended.
// What cannot be aborted AbortStale will find.
func (u *upload) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	_ = u.Abort(ctx)
}

func (s *Store) abort(ctx context.Context, key string, full *string, id string) error {
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	_, err := s.client.AbortMultipartUpload(w.Context(), &s3.AbortMultipartUploadInput{Bucket: &s.cfg.Bucket, Key: full, UploadId: &id})
	err = s.fail("abort upload", key, w, err)
	if errors.Is(err, object.ErrNotFound) { // completed or aborted before
		return nil
	}
	return err
}

// AbortStale implements object.Multipart.
func (s *Store) AbortStale(ctx context.Context, prefix string, before time.Time) (int, error) {
	const op = "abort stale uploads"
	n := 0
	in := &s3.ListMultipartUploadsInput{Bucket: &s.cfg.Bucket, Prefix: text(s.cfg.Prefix + prefix)}
	for {
		out, err := s.listUploads(ctx, op, prefix, in)
		if err != nil {
			return n, err
		}
		for _, u := range out.Uploads {
			full := aws.ToString(u.Key)
			key, ok := strings.CutPrefix(full, s.cfg.Prefix)
			if !ok || !strings.HasPrefix(key, prefix) || !aws.ToTime(u.Initiated).Before(before) {
				continue
			}
			if err := s.abort(ctx, key, &full, aws.ToString(u.UploadId)); err != nil {
				return n, err
			}
			n++
		}
		same := aws.ToString(out.NextKeyMarker) == aws.ToString(in.KeyMarker) &&
			aws.ToString(out.NextUploadIdMarker) == aws.ToString(in.UploadIdMarker)
		if !aws.ToBool(out.IsTruncated) || same {
			return n, nil
		}
		in.KeyMarker, in.UploadIdMarker = out.NextKeyMarker, out.NextUploadIdMarker
	}
}

func (s *Store) listUploads(ctx context.Context, op, prefix string, in *s3.ListMultipartUploadsInput) (*s3.ListMultipartUploadsOutput, error) {
	if err := ctx.Err(); err != nil {
		return nil, &object.Error{Op: op, Key: prefix, Err: err}
	}
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	out, err := s.client.ListMultipartUploads(w.Context(), in)
	if err != nil {
		return nil, s.fail(op, prefix, w, err)
	}
	return out, nil
}
