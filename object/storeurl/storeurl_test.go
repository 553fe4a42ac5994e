package storeurl

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/file"
	"github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/object/s3"
)

func TestParseS3(t *testing.T) {
	l, err := Parse("s3://bucket/some/prefix?endpoint=http://127.0.0.1:9000&region=eu-1&path-style=true&profile=p" +
		"&sse=aws:kms&sse-kms-key-id=k&storage-class=STANDARD_IA&checksum=crc64nvme&conditional-put=false" +
		"&part-size=16MiB&concurrency=3&stall-timeout=5s&credentials-file=/etc/creds")
	if err != nil {
		t.Fatal(err)
	}
	c := l.S3
	if l.Scheme != "s3" || c.Bucket != "bucket" || c.Prefix != "some/prefix/" || c.Endpoint != "http://127.0.0.1:9000" || c.Region != "eu-1" ||
		!c.PathStyle || c.Profile != "p" || c.SSE != "aws:kms" || c.SSEKMSKeyID != "k" || c.StorageClass != "STANDARD_IA" ||
		c.Checksum != s3.CRC64NVME || !c.NoConditionalPut || c.PartSize != 16<<20 || c.Concurrency != 3 ||
		c.StallTimeout != 5*time.Second || len(c.CredentialFiles) != 1 {
		t.Errorf("parsed %+v", c)
	}
	l, err = Parse("s3://bucket?anonymous=yes&sse=true&path-style=false")
	if err != nil {
		t.Fatal(err)
	}
	if c := l.S3; c.Prefix != "" || c.PathStyle || !c.VirtualHost || !c.Anonymous || c.SSE != "AES256" || c.NoConditionalPut {
		t.Errorf("parsed %+v", c)
	}
}

func TestRefused(t *testing.T) {
	for in, want := range map[string]string{
		"":                                   "is not a URL",
		"/srv/objects":                       "is not a URL",
		"ftp://x/y":                          "unknown kind of store",
		"file://relative/dir":                "absolute path",
		"file:relative":                      "absolute path",
		"file:///a%00b":                      "NUL",
		"file:///a?create=true":              `unknown parameter "create"`,
		"file:///a?sync=maybe":               "true or false",
		"file:///a#b":                        "fragment",
		"s3://":                              "no bucket",
		"s3:bucket":                          "no bucket",
		"s3://bucket:9000/x":                 "endpoint",
		"s3://key:hunter2@bucket/x":          "holds credentials",
		"s3://b?endpoint=http://u:hunter2@h": "holds credentials",
		"s3://b?secret-key=hunter2":          "must not hold secrets",
		"s3://b?hunter=1&color=2":            `unknown parameter "color", "hunter"`,
		"s3://b?region=a&region=b":           "twice",
		"s3://b?region=":                     "empty",
		"s3://b?part-size=1MiB":              "part size",
		"s3://b?part-size=hunter2":           "write a size",
		"s3://b?stall-timeout=-1s":           "write a duration",
		"s3://b?concurrency=0":               "1 or more",
		"s3://b?sse=rot13":                   "encryption",
		"s3://b?checksum=parity":             "checksum",
		"s3://b?sse-kms-key-id=k":            "KMS",
		"s3://b?endpoint=ftp://x":            "http or https",
		"s3://key:hunter2@b%zz":              "not a URL",
		"mem://":                             "mem://NAME",
		"mem://a/b":                          "mem://NAME",
		"mem://a?x=1":                        `unknown parameter "x"`,
	} {
		_, err := Parse(in)
		if err == nil {
			t.Errorf("%q was accepted", in)
			continue
		}
		if !errors.Is(err, object.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the error shows the secret: %v", in, err)
		}
	}
}

func TestOpen(t *testing.T) {
	ctx := t.Context()
	dir := filepath.Join(t.TempDir(), "with space", "ü")
	url := "file://" + strings.ReplaceAll(dir, " ", "%20")
	if _, err := Open(ctx, url, Options{}); !errors.Is(err, object.ErrNotFound) {
		t.Errorf("missing directory: %v", err)
	}
	s, err := Open(ctx, url+"?sync=false", Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if f := s.(*file.Store); f.Path() != dir {
		t.Errorf("path %q, want %q", f.Path(), dir)
	}
	if err := Check(ctx, s, true); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
	defer mem.Forget("storeurl")
	m, err := Open(ctx, "mem://storeurl", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if m.(*mem.Store) != mem.Named("storeurl") {
		t.Error("not the named store")
	}
	b, err := Open(ctx, "s3://bucket/p?endpoint=http://127.0.0.1:1", Options{S3Credentials: &s3.Credentials{AccessKey: "a", SecretKey: "hunter2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if strings.Contains(b.String(), "hunter2") || !strings.HasPrefix(b.String(), "s3://bucket/p/") {
		t.Errorf("named %s", b)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"file:///a", "s3://b/p?region=x&sse=true", "mem://x", "s3://a:b@c", "s3://b?part-size=16MiB", "file:///%zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := Parse(s)
		if (l == nil) == (err == nil) {
			t.Fatalf("%q: %v, %v", s, l, err)
		}
		if err == nil && l.Scheme == "file" && !filepath.IsAbs(l.Path) {
			t.Errorf("%q: path %q", s, l.Path)
		}
	})
}
