package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/metered"
	"github.com/massif-fs/massif/object/objecttest"
	"github.com/massif-fs/massif/object/prefixed"
	"github.com/massif-fs/massif/object/retry"
)

var presignCases = []string{"Presign", "PresignExpired"}

// trusting returns an HTTP client that knows the server's certificate.
func trusting(t testing.TB, caFile string) *http.Client {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// TestPresignThroughWrappers: a signature is made for the key that the object has
// in the bucket.
func TestPresignThroughWrappers(t *testing.T) {
	f := factory(serverConfig(t))
	f.Only = presignCases[:1]
	below := f.New
	f.New = func(t testing.TB) object.Store {
		return retry.New(metered.New(prefixed.New(below(t), "a volume/of mine/"), &metered.Counters{}), retry.Options{})
	}
	objecttest.Run(t, f)
}

func TestPresignedHeaders(t *testing.T) {
	cfg := Config{Bucket: "bucket", Region: "eu-west-1", SSE: "aws:kms", SSEKMSKeyID: "a-key", StorageClass: "STANDARD_IA",
		Credentials: &Credentials{AccessKey: "a", SecretKey: "s", SessionToken: "the-session-token"}}
	s := mustOpen(t, cfg)
	sum := uint32(0x01020304)
	r, err := s.PresignPut(t.Context(), "k", 7, &sum, time.Minute, &object.PutOptions{IfAbsent: true})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"x-amz-server-side-encryption":                "aws:kms",
		"x-amz-server-side-encryption-aws-kms-key-id": "a-key",
		"x-amz-storage-class":                         "STANDARD_IA",
		"x-amz-checksum-crc32c":                       "AQIDBA==",
		"if-none-match":                               "*",
	} {
		found := false
		for have, v := range r.Header {
			found = found || strings.EqualFold(have, name) && len(v) == 1 && v[0] == want
		}
		if !found {
			t.Errorf("header %s: %q is not there to be sent: %v", name, want, r.Header)
		}
		if !strings.Contains(strings.ToLower(r.URL), name) {
			t.Errorf("header %s is not signed", name)
		}
	}
	if !strings.Contains(r.URL, "content-length") {
		t.Error("the length is not signed")
	}
	if !strings.HasPrefix(r.URL, "https://bucket.s3.eu-west-1.amazonaws.com/k?") {
		t.Errorf("virtual host: %v", r)
	}
	if strings.Contains(r.String(), "session-token") || !strings.Contains(r.URL, "session-token") {
		t.Error("the session token is printed, or not in the URL")
	}
	cfg.PathStyle = true
	if r, err = mustOpen(t, cfg).PresignGet(t.Context(), "k", time.Minute); err != nil || !strings.HasPrefix(r.URL, "https://s3.eu-west-1.amazonaws.com/bucket/k?") {
		t.Errorf("path style: %v, %v", r, err)
	}
}

// passing are credentials that end.
type passing struct{ end time.Time }

func (p passing) Retrieve(context.Context) (aws.Credentials, error) {
	return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "s", CanExpire: true, Expires: p.end}, nil
}

func TestPresignNoLongerThanCredentials(t *testing.T) {
	s := mustOpen(t, Config{Bucket: "b", Credentials: &Credentials{AccessKey: "a", SecretKey: "s"}})
	try := func(left time.Duration) (time.Duration, error) {
		return s.lifeBy(t.Context(), passing{time.Now().Add(left)}, time.Hour)
	}
	if life, err := try(10 * time.Minute); err != nil || life > 10*time.Minute || life < 9*time.Minute {
		t.Errorf("credentials for ten more minutes: %v, %v", life, err)
	}
	if _, err := try(-time.Minute); !errors.Is(err, object.ErrUnavailable) {
		t.Errorf("expired credentials: %v", err)
	}
	if _, err := mustOpen(t, Config{Bucket: "b", Anonymous: true}).PresignGet(t.Context(), "k", time.Minute); !errors.Is(err, object.ErrUnsupported) {
		t.Errorf("anonymous: %v", err)
	}
}
