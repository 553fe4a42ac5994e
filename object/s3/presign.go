package s3

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/massif-fs/massif/object"
)

// PresignGet implements object.Presigner.
func (s *Store) PresignGet(ctx context.Context, key string, life time.Duration) (object.SignedRequest, error) {
	in := &s3.GetObjectInput{Bucket: &s.cfg.Bucket, Key: s.key(key)}
	return s.presign(ctx, "sign get", key, life, func(o func(*s3.PresignOptions)) (*v4.PresignedHTTPRequest, error) {
		return s.signer.PresignGetObject(ctx, in, o)
	})
}

// PresignPut implements object.Presigner. Length, encryption, storage class,
// conditions and checksum are headers that are signed. The content type stays the
// server's default. Metadata would be readable in the request and is refused.
func (s *Store) PresignPut(ctx context.Context, key string, size int64, sum *uint32, life time.Duration, opts *object.PutOptions) (object.SignedRequest, error) {
	const op = "sign put"
	if opts == nil {
		opts = &object.PutOptions{}
	}
	err := s.checkPut(opts)
	switch {
	case err != nil:
	case size <= 0 || size > maxPart: // an empty object has no length that could be signed
		err = invalid("an object of %d bytes cannot be put by a signed request (1 byte to 5 GiB)", size)
	case opts.ContentType != "" || len(opts.Metadata) > 0:
		err = fmt.Errorf("%w: content type and metadata of a signed request", object.ErrUnsupported)
	}
	if err != nil {
		return object.SignedRequest{}, &object.Error{Op: op, Key: key, Err: err}
	}
	in := &s3.PutObjectInput{
		Bucket:               &s.cfg.Bucket,
		Key:                  s.key(key),
		ContentLength:        &size,
		StorageClass:         s.storageClass(opts),
		ServerSideEncryption: types.ServerSideEncryption(s.cfg.SSE),
		SSEKMSKeyId:          text(s.cfg.SSEKMSKeyID),
		IfMatch:              quoted(opts.IfMatch),
	}
	if opts.IfAbsent {
		in.IfNoneMatch = aws.String("*")
	}
	if sum != nil && s.cfg.Checksum != NoChecksum {
		in.ChecksumCRC32C = aws.String(base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, *sum)))
	}
	return s.presign(ctx, op, key, life, func(o func(*s3.PresignOptions)) (*v4.PresignedHTTPRequest, error) {
		return s.signer.PresignPutObject(ctx, in, o)
	})
}

func newSigner(c *s3.Client) *s3.PresignClient {
	return s3.NewPresignClient(c, func(o *s3.PresignOptions) { o.Presigner = headerSigner{v4.NewSigner()} })
}

// headerSigner signs with all headers: the SDK moves those that begin with x-amz-
// into the query, where servers other than Amazon's look for none of them.
type headerSigner struct{ signer *v4.Signer }

func (h headerSigner) PresignHTTP(ctx context.Context, credentials aws.Credentials, r *http.Request, payloadHash, service, region string,
	signingTime time.Time, optFns ...func(*v4.SignerOptions)) (string, http.Header, error) {
	return h.signer.PresignHTTP(ctx, credentials, r, payloadHash, service, region, signingTime, append(optFns, func(o *v4.SignerOptions) {
		o.DisableHeaderHoisting = true
		o.DisableURIPathEscaping = true // S3's own way
	})...)
}

func (s *Store) presign(ctx context.Context, op, key string, life time.Duration, sign func(func(*s3.PresignOptions)) (*v4.PresignedHTTPRequest, error)) (object.SignedRequest, error) {
	if err := s.begin(ctx, op, key); err != nil {
		return object.SignedRequest{}, err
	}
	if s.key256 != nil {
		err := fmt.Errorf("%w: a signed request would hold the customer's key", object.ErrUnsupported)
		return object.SignedRequest{}, &object.Error{Op: op, Key: key, Err: err}
	}
	life, err := s.lifeBy(ctx, s.client.Options().Credentials, life)
	if err != nil {
		return object.SignedRequest{}, &object.Error{Op: op, Key: key, Err: err}
	}
	r, err := sign(s3.WithPresignExpires(life))
	if err != nil {
		return object.SignedRequest{}, s.fail(op, key, nil, err)
	}
	header := r.SignedHeader.Clone()
	header.Del("Host") // of the URL
	for name := range header {
		if strings.EqualFold(name, "content-length") {
			delete(header, name) // the length of the body that is sent
		}
	}
	return object.SignedRequest{Method: r.Method, URL: r.URL, Header: header, Life: life}, nil
}

// lifeBy is how long a signature made now is good for: no longer than the
// credentials are.
func (s *Store) lifeBy(ctx context.Context, credentials aws.CredentialsProvider, life time.Duration) (time.Duration, error) {
	if err := object.ValidLife(life); err != nil {
		return 0, err
	}
	if s.cfg.Anonymous {
		return 0, fmt.Errorf("%w: without credentials nothing can be signed", object.ErrUnsupported)
	}
	c, err := credentials.Retrieve(ctx)
	if err != nil {
		return 0, s.explain(nil, err)
	}
	if c.CanExpire {
		life = min(life, time.Until(c.Expires))
	}
	life = life.Truncate(time.Second)
	if life < object.MinSignedLife {
		return 0, fmt.Errorf("%w: the store's own credentials have expired", object.ErrUnavailable)
	}
	return life, nil
}
