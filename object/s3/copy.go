package s3

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
	"golang.org/x/sync/errgroup"
)

// Copy implements object.Store: inside the server, by one request up to 5 GiB and
// by parts above.
func (s *Store) Copy(ctx context.Context, dst, src string, opts *object.PutOptions) (object.Info, error) {
	const op = "copy"
	if err := s.begin(ctx, op, src, dst); err != nil {
		return object.Info{}, err
	}
	var o object.PutOptions
	if opts != nil {
		o = *opts
	}
	err := s.checkPut(&o)
	if dst == src {
		err = invalid("copy onto itself")
	}
	if err != nil {
		return object.Info{}, &object.Error{Op: op, Key: src, Err: err}
	}
	from, err := s.head(ctx, op, src)
	if err != nil {
		return object.Info{}, err
	}
	// Not every server takes conditions for copies, so ask as well.
	if err := s.conditionHolds(ctx, op, dst, &o); err != nil {
		return object.Info{}, err
	}
	asItIs := o.ContentType == "" && o.Metadata == nil
	if o.ContentType == "" {
		o.ContentType = from.ContentType
	}
	if o.Metadata == nil {
		o.Metadata = from.Metadata
	}
	if from.Size > s.maxSingleCopy() {
		return s.copyParts(ctx, dst, src, from, &o)
	}
	return s.copyWhole(ctx, dst, src, from, &o, asItIs)
}

// singleCopyLimit is changed by tests only.
var singleCopyLimit int64 = maxSingleCopy

func (s *Store) maxSingleCopy() int64 { return singleCopyLimit }

func (s *Store) copyWhole(ctx context.Context, dst, src string, from object.Info, o *object.PutOptions, asItIs bool) (object.Info, error) {
	w := watchdog.Watch(ctx, s.cfg.SlowTimeout)
	defer w.End()
	in := &s3.CopyObjectInput{
		Bucket:               &s.cfg.Bucket,
		Key:                  s.key(dst),
		CopySource:           s.copySource(src),
		CopySourceIfMatch:    quoted(from.ETag), // what the head said must be what is copied
		StorageClass:         s.storageClass(o),
		ServerSideEncryption: types.ServerSideEncryption(s.cfg.SSE),
		SSEKMSKeyId:          text(s.cfg.SSEKMSKeyID),
		IfMatch:              quoted(o.IfMatch),
	}
	if o.IfAbsent {
		in.IfNoneMatch = aws.String("*")
	}
	if !asItIs {
		in.MetadataDirective = types.MetadataDirectiveReplace
		in.ContentType = text(o.ContentType)
		in.Metadata = encodeMetadata(o.Metadata)
	}
	out, err := s.client.CopyObject(w.Context(), in)
	if err == nil && (out.CopyObjectResult == nil || out.CopyObjectResult.ETag == nil) {
		err = s.nonsense("no ETag of the copy")
	}
	if err != nil {
		return object.Info{}, conditionError(s.fail("copy", dst, w, err), o)
	}
	return s.stored(dst, from.Size, out.CopyObjectResult.ETag, o), nil
}

func (s *Store) copyParts(ctx context.Context, dst, src string, from object.Info, o *object.PutOptions) (object.Info, error) {
	up, err := s.create(ctx, dst, o, NoChecksum) // servers have their own ideas of checksums of copied parts
	if err != nil {
		return object.Info{}, err
	}
	part := int64(copyPart)
	if s.maxSingleCopy() < part { // in tests
		part = s.maxSingleCopy()
	}
	for part*maxParts < from.Size {
		part *= 2
	}
	parts := make([]object.Part, (from.Size+part-1)/part)
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * s.cfg.Concurrency) // they cost the server, not us
	for i := range parts {
		off := int64(i) * part
		group.Go(func() (err error) {
			parts[i], err = up.copyPart(gctx, i+1, src, from.ETag, off, min(part, from.Size-off))
			return err
		})
	}
	err = group.Wait()
	if cerr := ctx.Err(); cerr != nil && err != nil {
		err = &object.Error{Op: "copy", Key: src, Err: cerr}
	}
	var info object.Info
	if err == nil {
		info, err = up.Complete(ctx, parts)
	}
	if err != nil {
		up.abandon(ctx)
		return object.Info{}, err
	}
	return info, nil
}

func (u *upload) copyPart(ctx context.Context, n int, src, etag string, off, size int64) (object.Part, error) {
	s := u.s
	w := watchdog.Watch(ctx, s.cfg.SlowTimeout)
	defer w.End()
	out, err := s.client.UploadPartCopy(w.Context(), &s3.UploadPartCopyInput{
		Bucket:            &s.cfg.Bucket,
		Key:               s.key(u.key),
		UploadId:          &u.id,
		PartNumber:        aws.Int32(int32(n)),
		CopySource:        s.copySource(src),
		CopySourceIfMatch: quoted(etag),
		CopySourceRange:   aws.String(fmt.Sprintf("bytes=%d-%d", off, off+size-1)),
	})
	if err == nil && (out.CopyPartResult == nil || out.CopyPartResult.ETag == nil) {
		err = s.nonsense("no ETag of the copied part")
	}
	if err != nil {
		return object.Part{}, s.fail("copy", src, w, err)
	}
	return object.Part{Number: n, Size: size, ETag: strings.Trim(*out.CopyPartResult.ETag, `"`)}, nil
}

// copySource names an object in a header, URL encoded. All but letters, digits
// and a few signs are escaped, because servers differ in what else they decode.
func (s *Store) copySource(key string) *string {
	var b strings.Builder
	b.WriteString(s.cfg.Bucket)
	b.WriteByte('/')
	for _, c := range []byte(s.cfg.Prefix + key) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-_.~/", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return aws.String(b.String())
}
