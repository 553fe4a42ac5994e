package s3

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"slices"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/massif-fs/massif/object"
)

// customerKey is a key that the server encrypts objects with and does not keep
// (SSE-C). It is never printed.
type customerKey struct{ text, sum string }

// String hides the key.
func (*customerKey) String() string { return "customer's key" }

// readCustomerKey reads 32 bytes, raw, in base64 or in hex.
func readCustomerKey(file string) (*customerKey, error) {
	p, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w: the customer's key: %w", object.ErrInvalid, err)
	}
	text := bytes.TrimSpace(p)
	key := p
	if k, err := base64.StdEncoding.DecodeString(string(text)); err == nil && len(k) == 32 {
		key = k
	} else if k, err := hex.DecodeString(string(text)); err == nil && len(k) == 32 {
		key = k
	}
	if len(key) != 32 {
		return nil, invalid("%s holds no key of 256 bits (raw, base64 or hex)", file)
	}
	sum := md5.Sum(key) // as the protocol wants it
	return &customerKey{base64.StdEncoding.EncodeToString(key), base64.StdEncoding.EncodeToString(sum[:])}, nil
}

// Operations that the key goes with, and those that need it for their source too.
var (
	keyed  = []string{"PutObject", "GetObject", "HeadObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "CopyObject", "UploadPartCopy"}
	copies = []string{"CopyObject", "UploadPartCopy"}
)

// addHeaders gives every request the headers that the configuration asks for in
// all of them, before it is signed.
func (s *Store) addHeaders(stack *middleware.Stack) error {
	return stack.Build.Add(middleware.BuildMiddlewareFunc("MassifHeaders", func(ctx context.Context, in middleware.BuildInput, next middleware.BuildHandler) (middleware.BuildOutput, middleware.Metadata, error) {
		req, ok := in.Request.(*smithyhttp.Request)
		if !ok {
			return next.HandleBuild(ctx, in)
		}
		if s.cfg.RequesterPays {
			req.Header.Set("x-amz-request-payer", "requester")
		}
		op := awsmiddleware.GetOperationName(ctx)
		if k := s.key256; k != nil && slices.Contains(keyed, op) {
			k.set(req, "x-amz-server-side-encryption-customer-")
			if slices.Contains(copies, op) {
				k.set(req, "x-amz-copy-source-server-side-encryption-customer-")
			}
		}
		return next.HandleBuild(ctx, in)
	}), middleware.After)
}

func (k *customerKey) set(req *smithyhttp.Request, prefix string) {
	req.Header.Set(prefix+"algorithm", "AES256")
	req.Header.Set(prefix+"key", k.text)
	req.Header.Set(prefix+"key-MD5", k.sum)
}
