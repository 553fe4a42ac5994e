package s3

import (
	"errors"
	"slices"
	"testing"

	"github.com/massif-fs/massif/internal/testserver"
	"github.com/massif-fs/massif/object"
)

func TestBuckets(t *testing.T) {
	endpoint, bucket, creds := testserver.S3(t)
	cfg := Config{Endpoint: endpoint, Credentials: &Credentials{AccessKey: creds.AccessKey, SecretKey: creds.SecretKey}}
	names, err := Buckets(t.Context(), cfg)
	if err != nil || !slices.Equal(names, []string{bucket}) {
		t.Errorf("%q, %v", names, err)
	}
	cfg.Credentials.SecretKey += "x"
	if _, err := Buckets(t.Context(), cfg); !errors.Is(err, object.ErrAccess) {
		t.Errorf("wrong key: %v", err)
	}
}
