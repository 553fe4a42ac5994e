package s3

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
)

// Buckets lists the names of the buckets that belong to the credentials' owner.
// cfg.Bucket may be empty. Credentials that may not ask that give ErrAccess.
func Buckets(ctx context.Context, cfg Config) ([]string, error) {
	const op = "list buckets"
	if cfg.Bucket == "" {
		cfg.Bucket = "unnamed" // no request names it
	}
	s, err := open(ctx, cfg)
	if err != nil {
		return nil, &object.Error{Op: op, Err: err}
	}
	defer s.Close()
	s.where = "Amazon S3 in " + s.cfg.Region
	if s.cfg.Endpoint != "" {
		s.where = s.cfg.Endpoint
	}
	var names []string
	for in := (&s3.ListBucketsInput{}); ; {
		out, err := s.bucketPage(ctx, in)
		if err != nil {
			return nil, err
		}
		for _, b := range out.Buckets {
			names = append(names, aws.ToString(b.Name))
		}
		if aws.ToString(out.ContinuationToken) == "" {
			return names, nil
		}
		in.ContinuationToken = out.ContinuationToken
	}
}

func (s *Store) bucketPage(ctx context.Context, in *s3.ListBucketsInput) (*s3.ListBucketsOutput, error) {
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	out, err := s.client.ListBuckets(w.Context(), in)
	return out, s.fail("list buckets", "", w, err)
}
